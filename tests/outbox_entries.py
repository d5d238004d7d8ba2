"""Events as an outbox stores them, for tests that do not care what they say."""

from __future__ import annotations

from revoker import record
from revoker.events import Revocation, Session
from revoker.expiry import Lifetimes
from revoker.outbox.file import Entry
from revoker.publisher import compose

__all__ = ["NOW_S", "entry", "event"]

NOW_S = 1_800_000_000
_LIFETIMES = Lifetimes(longest_token_life_s=3600, leeway_s=30, clock_margin_s=300)


def event(event_id: str) -> Revocation:
    """A session's revocation of this id."""
    return compose(
        selector=Session(iss="", sid=event_id),
        lifetimes=_LIFETIMES,
        now_s=NOW_S,
        event_id=event_id,
    )


def entry(event_id: str) -> Entry:
    """It, encoded."""
    revocation = event(event_id)
    key, value, headers = record.encode(revocation)
    return Entry(event_id=event_id, key=key, value=value, headers=headers, expires_at=revocation.expires_at)

"""A shared deny list, its writer and its readers, in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.denylist.shared import SharedDenyList
from consumers.guard import Status
from revoker.errors import DenyListUnreadable
from revoker.events import Revocation, Selector, Token
from tests.property.test_guard import guard_over

ISS = "https://issuer.example"
STRANGER = {"iss": ISS, "jti": "stranger", "sid": "stranger", "sub": "stranger", "iat": 90}
SECRET = bytes(range(100, 132))


def event(selector: Selector, *, until: int = 1000, number: int = 0) -> Revocation:
    cutoff = None if selector.exact else 50
    return Revocation(id=f"event-{number}", selector=selector, revoked_at=0, expires_at=until, cutoff=cutoff)


def token(jti: str, *, until: int = 1000) -> Revocation:
    return event(Token(iss=ISS, jti=jti), until=until)


def listed(store: SharedDenyList, jti: str) -> bool:
    """Whether a token is listed, by both ways of asking, which must agree."""
    found = store.listed(("token", ISS, jti))
    store.suspects({**STRANGER, "jti": jti}, None)
    assert store.suspects({**STRANGER, "jti": jti}, None) == found
    return found


def renew(writer: SharedDenyList) -> int:
    """Have the writer go on to a new generation, which is returned."""
    writer.writer.renew(writer.writer.about)
    writer.reached({})
    return writer.writer.table.generation


def opened(directory: Path, *, monotonic: Callable[[], float] = lambda: 0.0) -> SharedDenyList:
    return SharedDenyList(directory, max_entries=100_000, epoch_s=0, secret=lambda: SECRET, monotonic=monotonic)


def knows_nothing(store: SharedDenyList, *, reason: str = "cannot read its deny list") -> None:
    """Every question is answered by DenyListUnreadable, and a guard admits nobody, whatever the policy."""
    for ask in (
        lambda: store.listed(("token", ISS, "j")),
        lambda: store.cutoff(("all",)),
        lambda: store.cutoff(("subject", ISS, "u"), sid="s", jti="j"),
        lambda: store.key_cutoff(ISS),
        lambda: store.claim_names,
    ):
        with pytest.raises(DenyListUnreadable, match=reason):
            ask()
    decision = guard_over(store).check({**STRANGER, "exp": 100}, when_unknown="accept")
    assert (decision.status, decision.admitted) == (Status.UNKNOWN, False)
    with contextlib.suppress(DenyListUnreadable):
        assert store.suspects(STRANGER, None)

"""Tokens, settings and nodes as the adapters' tests use them; the parts are the real ones."""

from __future__ import annotations

import itertools
import time
from typing import Any

from consumers.freshness import State
from consumers.node import Node
from consumers.testing import MemoryTopic, TickClock
from revoker.events import Revocation
from revoker.publisher import compose
from revoker.settings import Settings
from revoker.tokens import Verified, sign

SECRET = "s3cr3t-for-tests, long enough for HS256"
_ids = itertools.count()


def settings(**changes: object) -> Settings:
    """Settings that verify what `token` signs. They read no environment."""
    return Settings(**({"algorithms": ("HS256",), "key_secret": SECRET} | changes))  # type: ignore[arg-type]


def token(*, secret: str = SECRET, **claims: Any) -> str:
    """A token of user alice, valid for ten minutes, unlike any other; ``claims`` override."""
    now = int(time.time())
    own: dict[str, Any] = {"sub": "alice", "jti": f"token-{next(_ids)}", "iat": now, "exp": now + 600}
    return sign(own | claims, key=secret, algorithm="HS256")


def revocation_of(verified: Verified) -> Revocation:
    """The event that revokes this one token."""
    return compose(
        selector=verified.selector,
        lifetimes=settings().lifetimes,
        now_s=int(time.time()),
        event_id=f"event-{next(_ids)}",
        exp=verified.exp,
    )


def live_topic() -> tuple[MemoryTopic, TickClock]:
    """A topic in memory and the clock it runs on."""
    clock = TickClock()
    return MemoryTopic(clock=clock), clock


def state_of(node: Node) -> State:
    """Where the node stands now; a call, so that type checkers expect it to change."""
    return node.freshness.state

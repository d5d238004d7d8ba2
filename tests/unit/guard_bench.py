"""A guard over a real deny list and a real state machine, on a clock moved by hand."""

from __future__ import annotations

from typing import Any

from consumers.denylist.memory import MemoryDenyList
from consumers.freshness import Freshness
from consumers.guard import Decision, Guard, Status
from revoker.events import Revocation, Selector
from revoker.expiry import Lifetimes
from revoker.tokens import Verified

NOW = 1_800_000_000
ISS = "https://issuer.example"
LIFETIMES = Lifetimes(longest_token_life_s=3600, leeway_s=30, clock_margin_s=300)
RAW = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln"
SURROGATE = "\ud800"


def short(value: object) -> str:
    """A test id for any value: huge ones have no text, or too much."""
    return (
        f"{type(value).__name__}-{ascii(value)[:12]}"
        if not isinstance(value, int)
        else f"int-{value.bit_length()}-bits"
    )


def claims(**changes: Any) -> dict[str, Any]:
    """An ordinary token's claims, issued a minute ago, with some changed; ``...`` leaves one out."""
    ordinary = {"iss": ISS, "jti": "j", "sid": "s", "sub": "u", "client_id": "c", "iat": NOW - 60, "exp": NOW + 600}
    return {name: value for name, value in (ordinary | changes).items() if value is not ...}


class Bench:
    """A guard over a real deny list and a real state machine, on a clock moved by hand."""

    def __init__(self, *, live: bool = True, **kwargs: Any) -> None:
        self.now = 0.0
        self.denylist = MemoryDenyList(max_entries=1000)
        self.freshness = Freshness(bound_s=10, monotonic=lambda: self.now, wall=lambda: NOW + self.now)
        self.guard = Guard(
            denylist=self.denylist, freshness=self.freshness, lifetimes=LIFETIMES, wall=lambda: NOW + self.now, **kwargs
        )
        self.events = 0
        if live:
            self.prove()

    def prove(self) -> None:
        """Become live, the way a follower does."""
        self.freshness.connecting("test")
        self.freshness.begin(starts={0: 0}, barriers={0: 0})
        for stamp in range(1, 4):
            self.now += 0.1
            self.freshness.polled(0, leader=1, stamp_ms=stamp, position=0, highwater=0)
        self.freshness.confirmed(self.freshness.asking())

    def revoke(self, selector: Selector, *, cutoff: int | None = None, event_id: str | None = None) -> None:
        self.events += 1
        self.denylist.apply(
            Revocation(
                id=event_id or f"event-{self.events}",
                selector=selector,
                revoked_at=NOW,
                expires_at=NOW + LIFETIMES.keep_s,
                cutoff=cutoff,
            )
        )

    def check(self, *, kid: str | None = "k", token: str | Verified | None = None, **changes: Any) -> Decision:
        return self.guard.check(claims(**changes), kid=kid, token=token)


def kind_of(decision: Decision) -> str | None:
    """The kind that refused, None if the token is active; anything else is an error."""
    assert decision.status is (Status.ACTIVE if decision.kind is None else Status.REVOKED)
    assert decision.admitted is (decision.kind is None)
    return decision.kind

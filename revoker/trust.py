"""Whom a node believes, and how far: publishers, their keys and their scopes. Pure: no I/O, no clock.

A record counts if a trusted key signed it, for this topic, within the key's dates, and if its publisher's scope covers
what it says. Each answer follows from the record and the trust alone, never from other records, so order and
duplicates cannot matter.

Withdrawals name a rule by its event id, which may arrive later than they do. So ids are kept apart by publisher
(`Trust.filed`): a rule is filed under its publisher's name, and a withdrawal under the names of all those whose rules
its publisher may take back: its own, and those of every publisher whose scope lies within its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from revoker.events import KINDS, Claim, Everything, Revocation, Selector, Withdrawal
from revoker.signature import Claimed, VerifyingKey

__all__ = [
    "NARROW_KINDS",
    "REASONS",
    "Reason",
    "Refusal",
    "Scope",
    "Trust",
    "TrustedKey",
    "TrustedPublisher",
    "filed_under",
]

#: Why a record was not applied. Used as a metric's label: no identifiers.
Reason = Literal[
    "unsigned",
    "malformed",
    "wrong_topic",
    "unknown_publisher",
    "unknown_key",
    "key_not_valid",
    "bad_signature",
    "out_of_scope",
]
REASONS: Final[tuple[Reason, ...]] = (
    "unsigned",
    "malformed",
    "wrong_topic",
    "unknown_publisher",
    "unknown_key",
    "key_not_valid",
    "bad_signature",
    "out_of_scope",
)

#: What a logout needs. Wide rules and withdrawals are granted by name.
NARROW_KINDS: Final = frozenset(kind for kind, cls in KINDS.items() if not cls.wide and not issubclass(cls, Withdrawal))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a record is not applied. ``detail`` quotes nothing but the publisher's name. ``kid``: of the key it claims,
    where another trust might decide otherwise, else None.
    """

    reason: Reason
    detail: str
    kid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a publisher may revoke.

    ``issuers``: None = tokens of every issuer. ``claims``: the claims that revocations of kind ``claim`` may name, each
    with its values, None = all of them.
    """

    kinds: frozenset[str] = NARROW_KINDS
    issuers: frozenset[str] | None = None
    claims: Mapping[str, frozenset[str] | None] | None = None

    def outside(self, selector: Selector) -> str | None:
        """Why ``selector`` lies outside this scope, as the end of a sentence; None if it lies within."""
        kind = selector.kind
        if kind not in self.kinds:
            return f"may not publish events of kind {kind}"
        if isinstance(selector, Withdrawal):
            return None
        if isinstance(selector, Everything):
            return None if self.issuers is None else "may revoke tokens of some issuers only, not all"
        if self.issuers is not None and selector.iss not in self.issuers:
            return f"may not publish events of kind {kind} for this issuer"
        if isinstance(selector, Claim) and self.claims is not None:
            values = self.claims.get(selector.claim, frozenset())
            if values is not None and selector.value not in values:
                return "may not revoke by this claim or this value of it"
        return None

    def covers(self, other: Scope) -> bool:
        """Whether every wide rule within ``other`` lies within this scope as well."""
        wide = {kind for kind in other.kinds if KINDS[kind].wide}
        if not wide <= self.kinds:
            return False
        if self.issuers is not None and (other.issuers is None or not other.issuers <= self.issuers):
            return False
        if "claim" not in wide or self.claims is None:
            return True
        return other.claims is not None and all(
            name in self.claims and _within(values, self.claims[name]) for name, values in other.claims.items()
        )


def _within(values: frozenset[str] | None, allowed: frozenset[str] | None) -> bool:
    return allowed is None or (values is not None and values <= allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedPublisher:
    """A publisher, by its id."""

    id: str
    scope: Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A key, whose it is, and for records of which time it counts: from ``not_before_ms`` on, until before
    ``not_after_ms`` (Unix milliseconds of the record's own timestamp; None = unlimited).
    """

    publisher: TrustedPublisher
    key: VerifyingKey
    not_before_ms: int | None = None
    not_after_ms: int | None = None

    def counts_at(self, timestamp_ms: int) -> bool:
        """Whether the key counts for a record of this time. A record without a time (-1) is outside any limits."""
        if self.not_before_ms is not None and timestamp_ms < self.not_before_ms:
            return False
        return self.not_after_ms is None or 0 <= timestamp_ms < self.not_after_ms


@dataclass(frozen=True, kw_only=True)
class Trust:
    """All trusted keys, by kid."""

    keys: Mapping[str, TrustedKey]
    _takes_back: dict[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        publishers = {one.publisher.id: one.publisher for one in self.keys.values()}
        with_rules = [one for one in publishers.values() if any(KINDS[kind].wide for kind in one.scope.kinds)]
        takes_back = {
            one.id: tuple(
                sorted(other.id for other in with_rules if other.id == one.id or one.scope.covers(other.scope))
            )
            for one in publishers.values()
        }
        object.__setattr__(self, "_takes_back", takes_back)

    @property
    def digest(self) -> str:
        """SHA-256, hex: equal for two that let the same records count. A kid has its key's thumbprint in it."""
        keys = [
            (
                kid,
                one.publisher.id,
                one.not_before_ms,
                one.not_after_ms,
                sorted(one.publisher.scope.kinds),
                None if one.publisher.scope.issuers is None else sorted(one.publisher.scope.issuers),
                None
                if one.publisher.scope.claims is None
                else sorted(
                    (name, None if values is None else sorted(values))
                    for name, values in one.publisher.scope.claims.items()
                ),
            )
            for kid, one in sorted(self.keys.items())
        ]
        return hashlib.sha256(repr(keys).encode()).hexdigest()

    @property
    def publishers(self) -> tuple[TrustedPublisher, ...]:
        """Every publisher, each once, in the order of their ids."""
        found = {one.publisher.id: one.publisher for one in self.keys.values()}
        return tuple(found[name] for name in sorted(found))

    def signer(self, claimed: Claimed | None, *, value: bytes, topic: str, timestamp_ms: int) -> TrustedKey | Refusal:
        """The key that signed a record. ``claimed``: its signature, None = it has none; ``timestamp_ms``: its own."""
        if claimed is None:
            return Refusal(reason="unsigned", detail="the record has no signature")
        name = claimed.publisher_id
        if claimed.topic != topic:
            return Refusal(reason="wrong_topic", detail=f"signed in the name of {name}, for another topic")
        trusted = self.keys.get(claimed.kid)
        if trusted is None:
            if any(one.publisher.id == name for one in self.keys.values()):
                return Refusal(
                    reason="unknown_key", detail=f"signed with a key that {name} does not have", kid=claimed.kid
                )
            return Refusal(
                reason="unknown_publisher", detail=f"signed by {name}, which is no trusted publisher", kid=claimed.kid
            )
        if not trusted.key.verifies(claimed, value=value):
            return Refusal(reason="bad_signature", detail=f"forged in the name of {name}, or altered")
        if not trusted.counts_at(timestamp_ms):
            return Refusal(
                reason="key_not_valid",
                detail=f"signed by {name} with a key that does not count at the record's time",
                kid=claimed.kid,
            )
        return trusted

    def filed(self, event: Revocation, *, publisher: TrustedPublisher) -> tuple[Revocation, ...]:
        """What to merge into a deny list for an event within its publisher's scope: usually the event itself; rules
        and withdrawals under ids that name the publisher, see the module.
        """
        selector = event.selector
        if isinstance(selector, Withdrawal):
            return tuple(
                msgspec.structs.replace(event, selector=Withdrawal(event_id=f"{name}/{selector.event_id}"))
                for name in self._takes_back[publisher.id]
            )
        if selector.wide:
            return (msgspec.structs.replace(event, id=f"{publisher.id}/{event.id}"),)
        return (event,)


def filed_under(event_id: str) -> tuple[str, str]:
    """Publisher and event id of a rule filed by `Trust.filed`."""
    name, _, own_id = event_id.partition("/")  # a publisher's id has no slash
    return name, own_id

"""The deny list: not a cache that may forget. Nothing unexpired is ever evicted; at its bound it says so instead.

The interface is small because two stores stand behind it: `consumers.denylist.memory` here, a table shared by all
processes of a host later. One conformance suite and one state machine (tests/property) hold for both.

The merge is monotone: union for the exact kinds, the maximum for cut-offs and expiries, and for wide rules "published
minus withdrawn". So order, duplicates and replays from any offset cannot change an answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

from revoker.events import Revocation, SelectorKey

__all__ = ["FOREVER", "DenyList", "Entry", "covers"]

#: The cut-off of a rule without one: no token was issued after it.
FOREVER = 2**62


def covers(cutoff: int | None, *, iat: float | None) -> bool:
    """Whether a cut-off refuses a token issued at ``iat``: whole seconds on both sides; one that lacks ``iat`` it does.

    ``iat`` rarely has a fraction, and a token issued later in the cut-off's own second is refused rather than let
    through: the old token, Keycloak's logout and the next login shared their second in six of six runs.
    """
    return cutoff is not None and (iat is None or math.floor(iat) <= cutoff)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing in force, for people to read. ``cutoff`` is None for the exact kinds; ``event_id`` is set for wide
    rules only.
    """

    key: SelectorKey
    expires_at: int
    cutoff: int | None = None
    spared: str | None = None
    event_id: str | None = None


class DenyList(Protocol):
    """What every store offers. Look-ups may come from any thread; `apply` and `advance` come from one, the follower's.

    Look-ups use no clock: an entry that has outlived its need can only match a token that has expired as well.
    """

    @property
    def kinds(self) -> AbstractSet[str]:
        """Kinds with at least one entry. A kind that is not here need not be asked for."""
        ...

    @property
    def claim_names(self) -> Mapping[str, AbstractSet[str]]:
        """For each issuer, the claims that rules of kind ``claim`` name."""
        ...

    def listed(self, key: SelectorKey) -> bool:
        """For the exact kinds: is it revoked? Presence alone decides."""
        ...

    def cutoff(self, key: SelectorKey, *, sid: str | None = None, jti: str | None = None) -> int | None:
        """For the other kinds: the latest cut-off in force, or None if there is none.

        A subject's rule that spares ``sid`` or ``jti`` does not count. A token is refused if it was issued at or before
        the cut-off.
        """
        ...

    def key_cutoff(self, iss: str) -> int | None:
        """The latest cut-off in force of any key of one issuer, or None: for a token that does not name its key."""
        ...

    def suspects(self, claims: Mapping[str, Any], kid: str | None, /) -> bool:
        """Whether a token needs a proper look: False = certainly nothing in force matches it, True = ask `listed` and
        `cutoff`, which may still find nothing.

        ``claims`` and ``kid`` are those of a token that `revoker.tokens.Verifier` has passed; of other claims it may
        say anything, or raise. May be an attribute that holds a function, replaced when the kinds change: fetch it
        anew for each token.
        """
        ...

    def apply(self, revocation: Revocation) -> bool:
        """Merge one event; True if it changed anything.

        Raises DenyListFull, changing nothing, if it needs a new entry and the bound is reached.
        """
        ...

    def apply_all(self, revocations: Sequence[Revocation]) -> bool:
        """Merge events in one stroke; True if they changed anything.

        Raises DenyListFull as `apply` does; those before the refused one are in.
        """
        ...

    def reached(self, positions: Mapping[int, int], *, unread: int = 0) -> None:
        """Everything before these offsets, by partition, has been applied, but for ``unread`` records that could not be
        read and may matter: for a store that outlives its process.
        """
        ...

    def advance(self, *, now_s: float) -> None:
        """Move the purge clock, which never goes back, and forget what has expired by it."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Entries by kind, every kind named. Call from the thread that applies."""
        ...

    def in_force(self) -> Iterator[Entry]:
        """Everything in force. Call from the thread that applies."""
        ...

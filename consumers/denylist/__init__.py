"""The deny list: not a cache that may forget. Nothing unexpired is ever evicted; at its bound it says so instead.

The interface is small because two stores stand behind it: `consumers.denylist.memory` here, a table shared by all
processes of a host later. One conformance suite and one state machine (tests/property) hold for both.

The merge is monotone: union for the exact kinds, the maximum for cut-offs and expiries, and for wide rules "published
minus withdrawn". So order, duplicates and replays from any offset cannot change an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from revoker.events import Revocation, SelectorKey

__all__ = ["FOREVER", "DenyList", "Entry"]

#: The cut-off of a rule without one: no token was issued after it.
FOREVER = 2**62


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

    def apply(self, revocation: Revocation) -> None:
        """Merge one event. Raises DenyListFull, changing nothing, if it needs a new entry and the bound is reached."""
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

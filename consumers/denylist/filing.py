"""Which slots of the table events take, for many at once; what goes beside the table is sorted out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from consumers.denylist.fingerprint import TABLE_KINDS, Fingerprints, hashed
from consumers.denylist.table import SECONDS_MAX
from revoker.events import KINDS, Revocation, Session, Subject, Token

if TYPE_CHECKING:
    from consumers.denylist.table import U32, U64

__all__ = ["Filed", "filed"]

_EVEN: Final = 2**64 - 2

_SLOTTED: Final = frozenset(KINDS[kind] for kind in TABLE_KINDS)

#: Fingerprints, and seconds since the epoch of the table.
_Column: TypeAlias = tuple[list[int], list[int]]


@dataclass(slots=True)
class Filed:
    """Events as a table takes them: fingerprints and times, by kind as numbered in ``TABLE_KINDS``."""

    #: Exact kinds, by number.
    exact: tuple[_Column, _Column, _Column] = field(default_factory=lambda: (([], []), ([], []), ([], [])))
    subjects: list[int] = field(default_factory=list)
    expiries: list[int] = field(default_factory=list)
    cutoffs: list[int] = field(default_factory=list)
    #: What no slot can carry.
    rules: list[Revocation] = field(default_factory=list)

    @property
    def kinds(self) -> set[int]:
        """Numbers of the kinds that take slots."""
        found = {number for number, (keys, _) in enumerate(self.exact) if keys}
        return found | {3} if self.subjects else found

    @property
    def slots(self) -> int:
        """How many slots they take at most."""
        return sum(len(keys) for keys, _ in self.exact) + 2 * len(self.subjects)

    def strokes(self) -> list[tuple[U64, U32]]:
        """Slots to store, in this order: the expiries of subjects before the cut-offs, for a cut-off that shows has
        one.
        """
        keys = [np.array(some, dtype=np.uint64) for some, _ in self.exact]
        times = [_times(seconds, number) for number, (_, seconds) in enumerate(self.exact)]
        subjects = np.array(self.subjects, dtype=np.uint64)
        keys.append(subjects | np.uint64(1))
        times.append(_times(self.expiries, 3))
        found = [(np.concatenate(keys), np.concatenate(times)), (subjects, _times(self.cutoffs, 3))]
        return [stroke for stroke in found if len(stroke[0])]


def _times(seconds: list[int], number: int) -> U32:
    clamped = np.clip(np.array(seconds, dtype=np.int64), 0, SECONDS_MAX)
    return ((clamped + 1) << 2 | number).astype(np.uint32)


def filed(
    revocations: Iterable[Revocation],
    *,
    prints: Fingerprints,
    epoch_s: int,
    now: float,
    known: Callable[[int], int],
) -> Filed:
    """Sort out events. What has expired by ``now`` (seconds since ``epoch_s``) is left out unless it is ``known``.

    Raises UnicodeEncodeError for a lone surrogate, which no record can name.
    """
    found = Filed()
    (add_token, token_expires), (add_digest, digest_expires), (add_session, session_expires) = (
        (keys.append, seconds.append) for keys, seconds in found.exact
    )
    last: str | None = None
    of_token = of_digest = of_session = of_subject = 0
    for revocation in revocations:
        selector = revocation.selector
        cls = type(selector)
        if cls not in _SLOTTED:
            found.rules.append(revocation)
            continue
        if selector.iss != last:  # type: ignore[union-attr]
            last = selector.iss  # type: ignore[union-attr]
            of_token, of_digest, of_session, of_subject = prints.seeds(last)
        expiry = revocation.expires_at - epoch_s
        if cls is Token:
            key = hashed(selector.jti.encode(), of_token) or 1  # type: ignore[union-attr]
            if expiry > now or known(key):
                add_token(key)
                token_expires(expiry)
        elif cls is Session:
            key = hashed(selector.sid.encode(), of_session) or 1  # type: ignore[union-attr]
            if expiry > now or known(key):
                add_session(key)
                session_expires(expiry)
        elif cls is Subject:
            cutoff = revocation.cutoff
            if (
                cutoff is None
                or selector.spare_sid is not None  # type: ignore[union-attr]
                or selector.spare_jti is not None  # type: ignore[union-attr]
                or not 0 <= cutoff - epoch_s <= SECONDS_MAX
                or not 0 <= expiry <= SECONDS_MAX
            ):
                found.rules.append(revocation)
                continue
            key = hashed(selector.sub.encode(), of_subject) & _EVEN or 2  # type: ignore[union-attr]
            if expiry > now or known(key):
                found.subjects.append(key)
                found.expiries.append(expiry)
                found.cutoffs.append(cutoff - epoch_s)
        else:
            key = hashed(selector.digest.encode(), of_digest) or 1  # type: ignore[union-attr]
            if expiry > now or known(key):
                add_digest(key)
                digest_expires(expiry)
    return found

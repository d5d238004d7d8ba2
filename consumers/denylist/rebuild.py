"""A new generation of a table from the old one: purge, growth and shrinking are the same copy.

Homes rise with fingerprints, in the old table and in the new one. So the old one is read from its first slot to its
last, and what is still needed is written behind what was written before: no search, no random access. In steps, so that
the event loop turns in between; what is stored meanwhile goes to the old table and, at the end, to the new one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumers.denylist.table import FULL_ABOVE, U32, U64, Table, seconds_of

__all__ = ["STEP_SLOTS", "CrowdedError", "Rebuild"]

#: Slots of the old table per step: 0.3 ms.
STEP_SLOTS: Final = 16384


class CrowdedError(Exception):
    """More was stored meanwhile than the new table has room for: it has to be begun anew, larger."""


class Rebuild:
    """One copy of ``old`` into ``new``, which nobody else sees yet.

    ``now_s``: the purge clock, seconds since the epoch of the table. What had expired by then is left behind.
    """

    def __init__(self, old: Table, new: Table, *, now_s: float) -> None:
        self.old: Table = old
        self.new: Table = new
        self._now_s = now_s
        self._at = 0
        self._free = 0
        self._keys: list[int] = []
        self._times: list[int] = []
        self._batches: list[tuple[U64, U32]] = []
        #: Kinds met that stay.
        self.kinds: set[int] = set()

    def put(self, key: int, time: int) -> None:
        """This was stored in the old table meanwhile."""
        self._keys.append(key)
        self._times.append(time)

    def put_all(self, keys: U64, times: U32) -> None:
        """These were stored in the old table meanwhile."""
        self._batches.append((keys, times))

    @property
    def pending(self) -> int:
        """Entries stored meanwhile."""
        return len(self._keys) + sum(len(keys) for keys, _ in self._batches)

    def step(self, slots: int = STEP_SLOTS) -> bool:
        """Copy the next slots. True once all are copied. Raises CrowdedError, changing nothing."""
        old = self.old
        if self._at >= old.slots:
            return True
        # Up to an empty slot: whatever has its home here also has its place here.
        end = old.run_end(min(self._at + slots, old.slots))
        keys, times = old.span(self._at, end)
        # What spilled in from before was stored after those slots were copied, and is pending.
        own = (keys >> np.uint64(34)) // np.uint64(old.divisor) >= np.uint64(self._at)
        keys, times = keys[own], times[own]
        order = np.argsort(keys, kind="stable")
        keys, times = keys[order], times[order]
        stays = self._stays(keys, times)
        keys, times = keys[stays], times[stays]
        if len(keys):
            self._need(len(keys))
            self._append(keys, times)
        self._at = end
        return end >= old.slots

    def finish(self) -> None:
        """Store what is pending. The new table then holds all that the old one does, and may take its place.

        Call it after `step` returned True (RuntimeError otherwise). Raises CrowdedError, changing nothing. What is
        pending stays so until all of it is stored, so that it may be called again after any error.
        """
        if self._at < self.old.slots:
            raise RuntimeError(f"only {self._at} of {self.old.slots} slots are copied")
        self._need(self.pending)
        batches = list(self._batches)
        if self._keys:
            batches.append((np.array(self._keys, dtype=np.uint64), np.array(self._times, dtype=np.uint32)))
        for keys, times in batches:
            self.new.put_all(keys, times)
            self.kinds.update(np.unique(times & np.uint32(3)).tolist())
        self._keys, self._times, self._batches = [], [], []

    def _need(self, slots: int) -> None:
        if self.new.used + slots > FULL_ABOVE * self.new.capacity:
            raise CrowdedError(f"{self.new.used} slots are taken, {slots} are to come, of {self.new.capacity}")

    def _stays(self, keys: U64, times: U32) -> NDArray[np.bool_]:
        stays = seconds_of(times) > self._now_s
        cutoffs = np.flatnonzero(((times & np.uint32(3)) == 3) & ((keys & np.uint64(1)) == 0))
        if len(cutoffs):
            # A subject's cut-off stays as long as its expiry, the next key. One without an expiry is half an event that
            # will be read again.
            after = np.minimum(cutoffs + 1, len(keys) - 1)
            paired = keys[after] == (keys[cutoffs] | np.uint64(1))
            stays[cutoffs] = np.where(paired, stays[after], True)
        return stays

    def _append(self, keys: U64, times: U32) -> None:
        homes = ((keys >> np.uint64(34)) // np.uint64(self.new.divisor)).astype(np.int64)
        steps = np.arange(len(keys), dtype=np.int64)
        at = np.maximum.accumulate(np.maximum(homes, self._free) - steps) + steps
        if at[-1] >= self.new.slots - 1:
            raise OverflowError("the tail of the new table is full")
        self.new.place(at, keys, times)
        self._free = int(at[-1]) + 1
        self.kinds.update(np.unique(times & np.uint32(3)).tolist())

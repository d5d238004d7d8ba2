"""The shared table and its copies against a dict: whatever is stored, copied, purged and opened again, in any order."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import consumers.denylist.table
from consumers.denylist.rebuild import CrowdedError, Rebuild
from consumers.denylist.table import FULL_ABOVE, Table

#: Fingerprints crowd at a few homes, the last one among them, so that they run into each other.
_KEYS = st.builds(
    lambda home, low: min(max(home << 58 | low, 2), 2**64 - 2),
    st.sampled_from([0, 0, 1, 2, 30, 61, 62, 63]),
    st.integers(0, 12),
)
_SECONDS = st.integers(0, 60)
#: No two identifiers share a fingerprint here: those of exact kinds have a bit that those of subjects have not.
_EXACT = st.builds(lambda key, seconds: (key | 1 << 40, (seconds + 1) << 2 | key % 3), _KEYS, _SECONDS)
_SUBJECTS = st.builds(
    lambda key, expiry, cutoff: [(key | 1, (expiry + 1) << 2 | 3), (key & 2**64 - 2, (cutoff + 1) << 2 | 3)],
    _KEYS,
    _SECONDS,
    _SECONDS,
)
_LEAST = 64


class TableMachine(RuleBasedStateMachine):
    """One table after the other, as the writer goes from generation to generation."""

    @initialize(vectorised=st.booleans())
    def begin(self, vectorised: bool) -> None:
        self.patched = pytest.MonkeyPatch()
        if vectorised:
            self.patched.setattr(consumers.denylist.table, "_BATCH_LEAST", 1)
            self.patched.setattr(consumers.denylist.table, "_FEW", 2)
        self.directory = Path(tempfile.mkdtemp(prefix="revoker-table-"))
        self.table = self._make(1)
        self.model: dict[int, int] = {}
        self.rebuild: Rebuild | None = None
        self.purged_s = -math.inf
        self.expired: set[int] = set()
        self.again: dict[int, int] = {}
        self.places: dict[int, int] = {}
        self.times: dict[int, int] = {}

    def _make(self, generation: int, *, capacity: int = _LEAST) -> Table:
        path = self.directory / f"table.{generation}"
        return Table.make(path, generation=generation, capacity=capacity, about=b"")

    def _note(self, pairs: list[tuple[int, int]]) -> None:
        for key, time in pairs:
            self.model[key] = max(self.model.get(key, 0), time)
            self.again[key] = max(self.again.get(key, 0), time)

    def _room(self, slots: int) -> bool:
        return self.table.used + slots <= FULL_ABOVE * self.table.capacity

    @rule(pair=_EXACT)
    def put(self, pair: tuple[int, int]) -> None:
        """One entry; what is returned tells a new one from a raised one."""
        if not self._room(1):
            return
        before = self.model.get(pair[0], 0)
        assert self.table.put(*pair) == (2 if not before else int(pair[1] > before))
        if self.rebuild is not None:
            self.rebuild.put(*pair)
        self._note([pair])

    @rule(pairs=_SUBJECTS)
    def put_subject(self, pairs: list[tuple[int, int]]) -> None:
        """A subject: its expiry, and then its cut-off."""
        if not self._room(2):
            return
        for pair in pairs:
            self.table.put(*pair)
            if self.rebuild is not None:
                self.rebuild.put(*pair)
        self._note(pairs)

    @rule(exact=st.lists(_EXACT, max_size=12), subjects=st.lists(_SUBJECTS, max_size=4))
    def put_many(self, exact: list[tuple[int, int]], subjects: list[list[tuple[int, int]]]) -> None:
        """A batch, with repetitions and in any order."""
        pairs = exact + [pair for subject in subjects for pair in reversed(subject)]
        if not pairs or not self._room(len(pairs)):
            return
        keys = np.array([key for key, _ in pairs], dtype=np.uint64)
        times = np.array([time for _, time in pairs], dtype=np.uint32)
        assert self.table.put_all(keys, times) == len({key for key, _ in pairs} - self.model.keys())
        if self.rebuild is not None:
            self.rebuild.put_all(keys, times)
        self._note(pairs)

    @precondition(lambda self: self.rebuild is None)
    @rule(seconds=st.integers(-1, 50), capacity=st.sampled_from([_LEAST, 4 * _LEAST]))
    def begin_copy(self, seconds: int, capacity: int) -> None:
        """A copy begins, with the purge clock where it is now; into a table of another size, perhaps too small."""
        self.purged_s = max(self.purged_s, seconds)
        self._begin(capacity)

    def _begin(self, capacity: int) -> None:
        new = self._make(self.table.generation + 1, capacity=capacity)
        self.rebuild = Rebuild(self.table, new, now_s=self.purged_s)
        #: What this copy leaves behind, and what was stored since it began.
        self.expired = {
            key
            for key, time in self.model.items()
            if (self.model[key | 1 if time & 3 == 3 else key] >> 2) - 1 <= self.purged_s
        }
        self.again = {}

    def _larger(self) -> None:
        assert self.rebuild is not None
        used, pending = self.rebuild.old.used, self.rebuild.pending
        self.rebuild.new.close()
        (self.directory / f"table.{self.table.generation + 1}").unlink()
        self._begin((used + pending) * 2)

    @precondition(lambda self: self.rebuild is not None)
    @rule(slots=st.sampled_from([1, 3, 20, 200]), complete=st.booleans())
    def step(self, slots: int, complete: bool) -> None:
        """The copy goes on, perhaps to its end, where it becomes the table."""
        assert self.rebuild is not None
        while True:
            try:
                copied = self.rebuild.step(slots)
                if copied:
                    self.rebuild.finish()
            except CrowdedError:
                self._larger()
                continue
            if copied:
                self._published(self.rebuild)
                return
            if not complete:
                return

    def _published(self, rebuild: Rebuild) -> None:
        """Nothing alive was dropped; of what had expired only what came again is there.

        A subject that comes again before its slots are copied may bring its old, later cut-off along: the two merge.
        """
        new: dict[int, int] = {}
        for keys, times in rebuild.new.chunks():
            new.update(zip(keys.tolist(), times.tolist(), strict=True))
        gone = self.expired - self.again.keys()
        assert new.keys() == self.model.keys() - gone
        for key, time in new.items():
            least = self.again[key] if key in self.expired else self.model[key]
            assert least <= time <= self.model[key]
        assert rebuild.kinds == {time & 3 for time in new.values()}
        rebuild.old.close()
        (self.directory / f"table.{rebuild.old.generation}").unlink()
        self.table, self.model, self.rebuild = rebuild.new, new, None
        self.places, self.times = {}, {}

    @precondition(lambda self: self.rebuild is None)
    @rule()
    def reopen(self) -> None:
        """Another process takes over."""
        path = self.directory / f"table.{self.table.generation}"
        used = self.table.used
        self.table.close()
        self.table = Table.open(path, writable=True)
        assert self.table.used == used

    @invariant()
    def readers_may_rely_on_it(self) -> None:
        """Each key has one place, which it keeps; its time only rises; no gap before it; the last slot is empty."""
        keys, times = self.table.keys.tolist(), self.table.times.tolist()
        assert not keys[-1]
        places = {key: index for index, key in enumerate(keys) if key}
        assert len(places) == self.table.used == len(self.model)
        assert self.places.items() <= places.items(), "a key has moved or changed"
        for key, index in places.items():
            assert times[index] == self.model[key] == self.table.find(key)
            assert times[index] >= self.times.get(key, 0)
            assert all(keys[(key >> 34) // self.table.divisor : index]), "a gap before a key"
        self.places, self.times = places, {key: times[index] for key, index in places.items()}

    @invariant()
    def counts_agree(self) -> None:
        """Entries alive and slots that are not, as the model has them."""
        alive = [0, 0, 0, 0]
        dead = 0
        for key, time in self.model.items():
            if time & 3 == 3 and not key & 1:
                continue
            if (time >> 2) - 1 > 30:
                alive[time & 3] += 1
            else:
                dead += 1
        assert self.table.counts(now_s=30) == (alive, dead)

    def teardown(self) -> None:
        """Files and mappings end with the machine."""
        if hasattr(self, "directory"):
            if self.rebuild is not None:
                self.rebuild.new.close()
            self.table.close()
            self.patched.undo()
            shutil.rmtree(self.directory)


TestTable = pytest.mark.filterwarnings("error")(TableMachine.TestCase)
TableMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

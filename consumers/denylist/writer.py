"""The one process of a host that writes the shared deny list.

What is stored becomes visible in this order, so that a kill between any two steps loses nothing that was acknowledged:
the slots, or the bytes of a rule and then their length; WORD, if a kind or a rule is new; and only then the offsets.
Whoever takes over reads on from the offsets, and merging twice changes nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from consumers.denylist.control import Control, pack_word
from consumers.denylist.fingerprint import HASH_NAME, TABLE_KINDS, Fingerprints
from consumers.denylist.journal import Journal
from consumers.denylist.memory import MemoryDenyList
from consumers.denylist.rebuild import STEP_SLOTS, Rebuild
from consumers.denylist.table import FULL_ABOVE, LOAD, REBUILD_ABOVE, SECONDS_MAX, Table
from revoker.errors import DenyListFull
from revoker.events import Revocation, Subject

__all__ = ["CAPACITY_LEAST", "About", "Origin", "Writer"]

#: A table never has fewer homes: 50 KB.
CAPACITY_LEAST: Final = 4096

#: A table with at most so many slots is counted at every turn of the purge clock, a larger one once in so many seconds.
_SMALL: Final = 8192
_COUNT_EVERY_S: Final = 60

#: Slots copied for each entry stored while a rebuild runs, so that it ends before the old table is full.
_PACE: Final = 20

#: Records of the journal that are no longer needed, of which so many are worth a new generation.
_STALE_RULES: Final = 1024

_NUMBER: Final = {kind: number for number, kind in enumerate(TABLE_KINDS)}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The log a table was filled from."""

    cluster_id: str | None
    topic: str
    topic_id: str
    partitions: int


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the header of a table and never changes in it."""

    secret: str
    boot: str
    trust: str
    epoch_s: int
    hash_name: str = HASH_NAME
    origin: Origin | None = None

    def __repr__(self) -> str:  # the secret shows nowhere
        return f"About(boot={self.boot!r}, origin={self.origin!r})"


class Writer:
    """Holds the current table and its journal, and publishes the next. Whoever makes one holds the host's lock."""

    def __init__(
        self,
        directory: Path,
        *,
        control: Control,
        table: Table,
        journal: Journal,
        rules: list[Revocation],
        about: About,
        max_entries: int,
    ) -> None:
        self.control: Control = control
        self.table: Table = table
        self.about: About = about
        self.prints: Fingerprints = Fingerprints(bytes.fromhex(about.secret))
        #: The rules, in this process's memory; see `consumers.denylist.shared`.
        self.side: MemoryDenyList = MemoryDenyList(max_entries=max_entries)
        self._directory = directory
        self._journal = journal
        self._rules: list[Revocation] = []
        self._records = 0  # in the journal of this generation; only ever more
        self._max_entries = max_entries
        self._now = float(table.purged_s) if table.purged_s else -math.inf  # since the epoch of the table
        self._counted_at = -math.inf
        self._rebuild: Rebuild | None = None
        self._rebuild_about = about
        self.kinds: set[int] = set()
        if self._now > -math.inf:
            self.side.advance(now_s=self._now + about.epoch_s)
        for rule in rules:
            self.side.apply(rule)
            self._rules.append(rule)
            self._records += 1
        self._held = self._count()

    @property
    def word(self) -> int:
        """WORD for the table and the journal as they stand."""
        return pack_word(
            generation=self.table.generation,
            rules=self._records,
            kinds=sum(1 << number for number in self.kinds),
        )

    @property
    def rebuilding(self) -> bool:
        """Whether a new generation is being made."""
        return self._rebuild is not None

    def apply_all(self, revocations: Sequence[Revocation]) -> bool:
        """Merge events. True if anything changed. Raises DenyListFull; those before the refused one are in."""
        keys: list[int] = []
        times: list[int] = []
        changed = False
        try:
            if self._held + len(revocations) <= self._max_entries:
                for revocation in revocations:
                    if not self._file(revocation, keys, times):
                        changed |= self._rule(revocation)
            else:
                for revocation in revocations:
                    some: tuple[list[int], list[int]] = ([], [])
                    if self._file(revocation, *some):
                        if some[0] and not self.table.find(some[0][-1]):
                            self._store(keys, times)
                            keys, times = [], []
                            if not self.table.find(some[0][-1]):
                                self._make_room()
                        keys += some[0]
                        times += some[1]
                    else:
                        changed |= self._rule(revocation)
        finally:
            changed |= self._store(keys, times)
        return changed

    def _file(self, revocation: Revocation, keys: list[int], times: list[int]) -> bool:
        """Whether an event goes into slots; if so, which. None if it has expired and nothing of it is known."""
        selector = revocation.selector
        epoch_s = self.about.epoch_s
        expiry = revocation.expires_at - epoch_s
        if selector.exact:
            kind, iss, value = selector.key
            number = _NUMBER[kind]
            key = self.prints.of(number, iss, value)
            if expiry > self._now or self.table.find(key):
                keys.append(key)
                times.append((min(max(expiry, 0), SECONDS_MAX) + 1) << 2 | number)
            return True
        if not isinstance(selector, Subject) or selector.spare_sid or selector.spare_jti or revocation.cutoff is None:
            return False
        cutoff = revocation.cutoff - epoch_s
        if not (0 <= cutoff <= SECONDS_MAX and 0 <= expiry <= SECONDS_MAX):
            return False
        key = self.prints.of(3, selector.iss, selector.sub)
        if expiry > self._now or self.table.find(key):
            # The expiry first: a cut-off that shows has one.
            keys += (key | 1, key)
            times += ((expiry + 1) << 2 | 3, (cutoff + 1) << 2 | 3)
        return True

    def _store(self, keys: list[int], times: list[int]) -> bool:
        if not keys:
            return False
        self._make_space(len(keys))
        table, rebuild = self.table, self._rebuild
        before = table.used
        if len(keys) < 64:
            changed = False
            for key, time in zip(keys, times, strict=True):
                changed |= bool(table.put(key, time))
                if rebuild is not None:
                    rebuild.put(key, time)
        else:
            some_keys, some_times = np.array(keys, dtype=np.uint64), np.array(times, dtype=np.uint32)
            table.put_all(some_keys, some_times)
            if rebuild is not None:
                rebuild.put_all(some_keys, some_times)
            changed = True
        self._held += table.used - before
        kinds = {time & 3 for time in times} - self.kinds if len(self.kinds) < 4 else set()
        if kinds:
            self.kinds |= kinds
            self.control.word = self.word
        if rebuild is not None:
            self.step(max(1, len(keys) * _PACE // STEP_SLOTS))
        elif table.used > REBUILD_ABOVE * table.capacity:
            self._begin()
        return changed

    def _rule(self, revocation: Revocation) -> bool:
        if self._held >= self._max_entries:
            self._held = self._count()
        # What is known already needs no room; the side store tells.
        self.side.max_entries = max(0, self._max_entries - self._held) + sum(self.side.counts().values())
        try:
            changed = self.side.apply(revocation)
        except DenyListFull:
            raise self._full() from None
        if not changed:
            return False
        self._held += 1
        self.table.rules_bytes = self._journal.append(revocation)
        self._rules.append(revocation)
        self._records += 1
        self.control.word = self.word
        return True

    def _make_room(self) -> None:
        if self._held >= self._max_entries:
            self._held = self._count()
            if self._held >= self._max_entries:
                raise self._full()

    def _full(self) -> DenyListFull:
        return DenyListFull(
            f"the deny list holds {self._held} entries and may hold {self._max_entries} (setting max_entries); "
            "none is dropped to make room, so this host cannot take further revocations"
        )

    def _make_space(self, slots: int) -> None:
        if self.table.used + slots > FULL_ABOVE * self.table.capacity:
            if self._rebuild is not None:
                self.finish()
            if self.table.used + slots > FULL_ABOVE * self.table.capacity:
                self._begin(extra=slots)
                self.finish()

    def counts(self) -> Mapping[str, int]:
        """Entries by kind."""
        alive, _ = self.table.counts(now_s=self._now)
        found = dict(self.side.counts())
        for kind, number in zip(TABLE_KINDS, alive, strict=True):
            found[kind] += number
        return found

    def _count(self) -> int:
        alive, _ = self.table.counts(now_s=self._now)
        self.kinds |= {number for number, count in enumerate(alive) if count}
        return sum(alive) + sum(self.side.counts().values())

    def advance(self, *, now_s: float) -> None:
        """Move the purge clock, Unix seconds, and leave behind what has expired, at once or in steps."""
        now = now_s - self.about.epoch_s
        if now <= self._now:
            return
        self._now = now
        self.side.advance(now_s=now_s)
        self._rules = [rule for rule in self._rules if rule.expires_at > now_s] if self._due(now) else self._rules
        self.table.purged_s = max(0, int(now))
        if self._rebuild is not None:
            self.step(4)
        elif self._due(now):
            self._counted_at = now
            alive, dead = self.table.counts(now_s=now)
            self._held = sum(alive) + sum(self.side.counts().values())
            stale_rules = self._records - len(self._rules) > max(_STALE_RULES, len(self._rules))
            if stale_rules or (dead and (self.table.slots <= _SMALL or dead * 4 > sum(alive))):
                self._begin()
                if self.table.slots <= _SMALL:
                    self.finish()

    def _due(self, now: float) -> bool:
        return self.table.slots <= _SMALL or now >= self._counted_at + _COUNT_EVERY_S

    def step(self, steps: int = 1) -> None:
        """Copy on, if a new generation is being made; publish it when it is complete."""
        for _ in range(steps):
            if self._rebuild is None:
                return
            if self._rebuild.step():
                self.finish()

    def _begin(self, *, extra: int = 0, about: About | None = None) -> None:
        alive, _ = self.table.counts(now_s=self._now)
        wanted = sum(alive) + alive[3] + extra
        generation = self.table.generation % (2**24 - 1) + 1
        self._rebuild_about = about or self.about
        path = self._directory / f"table.{generation}"
        path.unlink(missing_ok=True)
        new = Table.make(
            path,
            generation=generation,
            capacity=max(CAPACITY_LEAST, math.ceil(wanted / LOAD)),
            about=msgspec.json.encode(self._rebuild_about),
        )
        self._rebuild = Rebuild(self.table, new, now_s=self._now)

    def finish(self) -> None:
        """Complete the new generation now, and publish it. Nothing if none is being made."""
        rebuild = self._rebuild
        if rebuild is None:
            return
        while not rebuild.step():
            pass
        rebuild.finish()
        old, new = self.table, rebuild.new
        journal = self._written_anew(new)
        new.purged_s, new.unread = old.purged_s, old.unread
        if self._rebuild_about.origin == self.about.origin:
            new.reached(old.offsets)
        self._rebuild = None
        closed, self._journal = self._journal, journal
        self.table, self.about, self.kinds = new, self._rebuild_about, set(rebuild.kinds)
        # From here on every process looks into the new one.
        self.control.word = self.word
        closed.close()
        self._unlink(old.generation)

    def _written_anew(self, new: Table) -> Journal:
        path = self._directory / f"rules.{new.generation}"
        path.unlink(missing_ok=True)
        journal = Journal(path, length=0)
        for rule in self._rules:
            journal.append(rule)
        self._records = len(self._rules)
        new.rules_bytes = journal.length
        return journal

    def _unlink(self, generation: int) -> None:
        for name in ("table", "rules"):
            (self._directory / f"{name}.{generation}").unlink(missing_ok=True)

    def adopt(self, origin: Origin) -> None:
        """From here on the offsets are those of this log. Entries stay; offsets of another are forgotten."""
        if origin == self.about.origin:
            return
        self.finish()
        self._begin(about=msgspec.structs.replace(self.about, origin=origin))
        self.finish()

    def reached(self, positions: Mapping[int, int], *, unread: int) -> None:
        """See `consumers.denylist.DenyList`."""
        if unread or self.table.unread:
            self.table.unread = unread
        self.table.reached(positions)

    def close(self) -> None:
        """Give up what only a writer holds."""
        if self._rebuild is not None:
            (self._directory / f"table.{self._rebuild.new.generation}").unlink(missing_ok=True)
            self._rebuild = None
        self._journal.close()
        if self.control.writer_pid == os.getpid():
            self.control.writer_pid = 0

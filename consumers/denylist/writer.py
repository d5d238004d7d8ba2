"""The one process of a host that writes the shared deny list.

What is stored becomes visible in this order, so that a kill between any two steps loses nothing that was acknowledged:
the slots, or the bytes of a rule and then their length; WORD, if a kind or a rule is new; and only then the offsets.
Whoever takes over reads on from the offsets, and merging twice changes nothing.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from consumers.denylist.about import About, Origin
from consumers.denylist.control import Control, pack_word
from consumers.denylist.filing import Filed, filed
from consumers.denylist.fingerprint import TABLE_KINDS, Fingerprints
from consumers.denylist.journal import Journal
from consumers.denylist.memory import MemoryDenyList
from consumers.denylist.rebuild import STEP_SLOTS, CrowdedError, Rebuild
from consumers.denylist.table import FULL_ABOVE, LOAD, REBUILD_ABOVE, U32, U64, Table
from revoker.errors import DenyListFull
from revoker.events import Revocation

__all__ = ["CAPACITY_LEAST", "Writer"]

log: logging.Logger = logging.getLogger(__name__)

#: A table never has fewer homes: 50 KB.
CAPACITY_LEAST: Final = 4096

#: A table with at most so many slots is counted at every turn of the purge clock, a larger one once in so many seconds.
_SMALL: Final = 8192
_COUNT_EVERY_S: Final = 60

#: Slots copied for each entry stored while a rebuild runs, so that it ends before the old table is full.
_PACE: Final = 20

#: Up to so many slots taken a table may have twice the room: half the steps of a look-up, for a megabyte at most.
_ROOMY: Final = 1 << 15

#: How long the purge clock goes on before room for a new table is asked for again.
_ASK_AGAIN_S: Final = 5

#: Records of the journal that are no longer needed, of which so many are worth a new generation.
_STALE_RULES: Final = 1024


class Writer:
    """Holds the current table and its journal, and publishes the next. Its process holds the host's lock."""

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
        #: Why there is no room for a new table; None if there was, or if none was wanted yet.
        self.cramped: str | None = None
        self._ask_again_at = -math.inf
        self._owed: list[Revocation] = []  # rules in the side store that could not be written
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
        kinds = sum(1 << number for number in self.kinds)
        return pack_word(generation=self.table.generation, rules=self._records, kinds=kinds)

    @property
    def rebuilding(self) -> bool:
        """Whether a new generation is being made."""
        return self._rebuild is not None

    def apply_all(self, revocations: Sequence[Revocation]) -> bool:
        """Merge events. True if anything changed. Raises DenyListFull; those before the refused one are in."""
        changed = False
        if self._held + len(revocations) <= self._max_entries:
            try:
                return self._merge(self._filed(revocations))
            except DenyListFull:
                changed = True  # there is no room for all of them, but perhaps for some
        for revocation in revocations:  # near the bound, one by one: each may be the one too many
            some = self._filed((revocation,))
            strokes = some.strokes()
            if strokes and not self.table.find(int(strokes[-1][0][0])):
                self._make_room()
            changed |= self._merge(some)
        return changed

    def _merge(self, some: Filed) -> bool:
        changed = False
        for keys, times in some.strokes():
            changed |= self._store(keys, times)
        for rule in some.rules:
            changed |= self._rule(rule)
        return changed

    def _filed(self, revocations: Sequence[Revocation]) -> Filed:
        return filed(revocations, prints=self.prints, epoch_s=self.about.epoch_s, now=self._now, known=self.table.find)

    def _store(self, keys: U64, times: U32) -> bool:
        self._make_space(keys)
        table, rebuild = self.table, self._rebuild
        before = table.used
        if len(keys) < 64:
            changed = False
            for key, time in zip(keys.tolist(), times.tolist(), strict=True):
                changed |= bool(table.put(key, time))
                if rebuild is not None:
                    # Changed or not: of a subject whose expiry rises, an expired cut-off may be left behind already.
                    rebuild.put(key, time)
        else:
            table.put_all(keys, times)
            if rebuild is not None:
                rebuild.put_all(keys, times)
            changed = True
        self._held += table.used - before
        kinds = set((times & np.uint32(3)).tolist()) - self.kinds if len(self.kinds) < 4 else set()
        if kinds:
            self.kinds |= kinds
            self.control.word = self.word
        if rebuild is not None:
            self.step(max(1, len(keys) * _PACE // STEP_SLOTS))
        elif table.used > REBUILD_ABOVE * table.capacity / (2 if table.used <= _ROOMY else 1):
            self._begin_if_room()
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
        if changed:
            self._owed.append(revocation)
            self._held += 1
        # A rule that could not be written is not new when it comes again, and must be written all the same.
        changed = bool(self._owed)
        self._write_owed()
        return changed

    def _write_owed(self) -> None:
        while self._owed:
            try:
                self.table.rules_bytes = self._journal.append(self._owed[0])
            except OSError as error:
                raise DenyListFull(f"no rule can be added to {self._journal.path}: {error.strerror}") from None
            self._rules.append(self._owed.pop(0))
            self._records += 1
            self.control.word = self.word

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

    def _make_space(self, keys: U64) -> None:
        """See that so many fit. Raises DenyListFull if they do not and there is no room for a larger table."""
        if self._fits(len(keys)) or self._fits(self._new(keys)):
            return
        try:
            self.finish()
            new = self._new(keys)
            if self._fits(new):
                return
            if self.cramped is None or self._now >= self._ask_again_at:
                self._begin(extra=new)
                self.finish()
                return
        except OSError as error:
            self._give_up(error)
        raise DenyListFull(
            f"{self.table.used} of {self.table.capacity} places of the deny list are taken, which is as full as it may "
            f"be, and {self.cramped}; nothing was dropped, so this host cannot take further revocations"
        )

    def _fits(self, slots: int) -> bool:
        return self.table.used + slots <= FULL_ABOVE * self.table.capacity

    def _new(self, keys: U64) -> int:
        """How many of these have no slot yet. A log that is read again brings none."""
        return sum(not self.table.find(key) for key in set(keys.tolist()))

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
                self._begin_if_room()
                if self.table.slots <= _SMALL:
                    self.step(self.table.slots)

    def _due(self, now: float) -> bool:
        return self.table.slots <= _SMALL or now >= self._counted_at + _COUNT_EVERY_S

    def step(self, steps: int = 1) -> None:
        """Copy on, if a new generation is being made; publish it when it is complete."""
        for _ in range(steps):
            if self._rebuild is None:
                return
            try:
                if self._copied(self._rebuild):
                    self.finish()
            except OSError as error:
                self._give_up(error)

    def _copied(self, rebuild: Rebuild) -> bool:
        """One step. If too much was stored meanwhile, the copy begins anew, with room for it."""
        try:
            return rebuild.step()
        except CrowdedError:
            self._begin(extra=rebuild.pending, about=self._rebuild_about)
            return False

    def _begin_if_room(self) -> None:
        if self.cramped is None or self._now >= self._ask_again_at:
            try:
                self._begin()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Go on with the table there is. It still has places, or expired entries will have to make room elsewhere."""
        self._discard()
        if self.cramped is None:
            log.warning("the shared deny list goes on in the table it has: %s", error)
        self.cramped = error.strerror or str(error)
        self._ask_again_at = self._now + _ASK_AGAIN_S

    def _discard(self) -> None:
        if self._rebuild is not None:
            rebuild, self._rebuild = self._rebuild, None
            rebuild.new.close()
            self._unlink(rebuild.new.generation)

    def _begin(self, *, extra: int = 0, about: About | None = None) -> None:
        self._discard()
        alive, _ = self.table.counts(now_s=self._now)
        wanted = sum(alive) + alive[3] + extra
        roomy = wanted * (2 if wanted <= _ROOMY else 1)
        meanwhile = self.table.slots // _PACE  # So many may be stored while the copy runs.
        generation = self.table.generation % (2**24 - 1) + 1
        self._rebuild_about = about or self.about
        path = self._directory / f"table.{generation}"
        path.unlink(missing_ok=True)
        new = Table.make(
            path,
            generation=generation,
            capacity=max(CAPACITY_LEAST, math.ceil(roomy / LOAD), math.ceil((wanted + meanwhile) / FULL_ABOVE)),
            about=msgspec.json.encode(self._rebuild_about),
        )
        self._rebuild = Rebuild(self.table, new, now_s=self._now)

    def finish(self) -> None:
        """Complete the new generation now, and publish it. Nothing if none is being made."""
        while (rebuild := self._rebuild) is not None and not self._completed(rebuild):
            pass
        if rebuild is None:
            return
        old, new = self.table, rebuild.new
        journal = self._written_anew(new)
        new.purged_s, new.unread = old.purged_s, old.unread
        if (self._rebuild_about.origin, self._rebuild_about.trust) == (self.about.origin, self.about.trust):
            new.reached(old.offsets)
        self._rebuild = self.cramped = None
        closed, self._journal = self._journal, journal
        self.table, self.about, self.kinds = new, self._rebuild_about, set(rebuild.kinds)
        # From here on every process looks into the new one.
        self.control.word = self.word
        closed.close()
        self._unlink(old.generation)

    def _completed(self, rebuild: Rebuild) -> bool:
        try:
            while not rebuild.step():
                pass
            rebuild.finish()
        except CrowdedError:
            self._begin(extra=rebuild.pending, about=self._rebuild_about)
            return False
        return True

    def _written_anew(self, new: Table) -> Journal:
        path = self._directory / f"rules.{new.generation}"
        path.unlink(missing_ok=True)
        journal = Journal(path, length=0)
        try:
            for rule in self._rules:
                journal.append(rule)
        except OSError as error:
            journal.close()
            raise OSError(error.errno, f"{path} has no room for the rules: {error.strerror}") from None
        self._records = len(self._rules)
        new.rules_bytes = journal.length
        return journal

    def _unlink(self, generation: int) -> None:
        for name in ("table", "rules"):
            (self._directory / f"{name}.{generation}").unlink(missing_ok=True)

    def adopt(self, origin: Origin, *, trust: str | None = None) -> None:
        """From here on offsets are those of this log, read under this trust; None = as before. Entries stay."""
        about = msgspec.structs.replace(self.about, origin=origin, trust=self.about.trust if trust is None else trust)
        if about != self.about:
            self.renew(about)

    def renew(self, about: About) -> None:
        """Copy what is in force into a new generation about which this is said."""
        self.finish()
        self._begin(about=about)
        self.finish()

    def reached(self, positions: Mapping[int, int], *, unread: int) -> None:
        """See `consumers.denylist.DenyList`."""
        self._write_owed()
        # More before the offsets, fewer after: a kill in between must not leave offsets beyond a record forgotten.
        if unread > self.table.unread:
            self.table.unread = unread
        self.table.reached(positions)
        if unread < self.table.unread:
            self.table.unread = unread

    def close(self) -> None:
        """Give up what only a writer holds."""
        self._discard()
        self._journal.close()
        if self.control.writer_pid == os.getpid():
            self.control.writer_pid = 0

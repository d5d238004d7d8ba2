"""What one process sees of a shared deny list, as of one WORD."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from consumers.denylist import Entry
from consumers.denylist.about import About
from consumers.denylist.control import Control, unpack_word
from consumers.denylist.fingerprint import HASH_NAME, TABLE_KINDS, Fingerprints
from consumers.denylist.journal import JournalRefused, rules_in
from consumers.denylist.memory import MemoryDenyList
from consumers.denylist.table import Table, TableRefused
from revoker.errors import DenyListUnreadable

__all__ = ["View", "look"]

#: How often a table is looked for that was replaced between reading its name and opening it.
_TRIES: Final = 100


@dataclass(frozen=True, slots=True)
class View:
    """What one look-up needs. ``side``: the rules, in this process's memory, up to ``rules_bytes`` of the journal."""

    control: Control
    word: int
    table: Table
    about: About
    prints: Fingerprints
    side: MemoryDenyList
    rules_bytes: int
    kinds: frozenset[str]

    @property
    def epoch_s(self) -> int:
        """Unix time from which the table counts."""
        return self.about.epoch_s

    @property
    def _now(self) -> float:
        return self.table.purged_s or -math.inf

    def counts(self) -> Mapping[str, int]:
        """Entries by kind. Goes through the whole table: some 10 ms for each million."""
        found = dict(self.side.counts())
        alive, _ = self.table.counts(now_s=self._now)
        for kind, number in zip(TABLE_KINDS, alive, strict=True):
            found[kind] += number
        return found

    def in_force(self) -> Iterator[Entry]:
        """Of what is in slots only the fingerprint is known: the key is the kind and ``#`` with it."""
        now = self._now
        cutoffs: dict[int, int] = {}
        expiries: dict[int, int] = {}
        for keys, times in self.table.chunks():
            for key, time in zip(keys.tolist(), times.tolist(), strict=True):
                seconds = (time >> 2) - 1
                if time & 3 != 3:
                    if seconds > now:
                        yield Entry(key=(TABLE_KINDS[time & 3], f"#{key:016x}"), expires_at=seconds + self.epoch_s)
                elif key & 1:
                    expiries[key - 1] = seconds
                else:
                    cutoffs[key] = seconds
        for key, cutoff in cutoffs.items():
            if expiries.get(key, now) > now:
                yield Entry(
                    key=("subject", f"#{key:016x}"),
                    expires_at=expiries[key] + self.epoch_s,
                    cutoff=cutoff + self.epoch_s,
                )
        yield from self.side.in_force()


def look(directory: Path, control: Control, view: View | None) -> View:
    """What WORD names now. ``view``: what was seen before; its rules are gone on with.

    Raises DenyListUnreadable, and nothing else: requests wait for the answer.
    """
    for _ in range(_TRIES):
        word = control.word
        generation, _, mask = unpack_word(word)
        if not generation:
            raise DenyListUnreadable(f"no table was made in {directory} yet")
        kinds = frozenset(kind for number, kind in enumerate(TABLE_KINDS) if mask & 1 << number)
        try:
            if view is not None and view.table.generation == generation:
                table, about, prints = view.table, view.about, view.prints
                side, start = view.side, view.rules_bytes
            else:
                table = Table.open(directory / f"table.{generation}", writable=False)
                about = _about(table)
                prints = Fingerprints(bytes.fromhex(about.secret))
                side, start = MemoryDenyList(max_entries=2**62), 0
                if table.purged_s:
                    side.advance(now_s=table.purged_s + about.epoch_s)
            end = table.rules_bytes
            for rule in rules_in(directory / f"rules.{generation}", start=start, end=end):
                side.apply(rule)
        except (TableRefused, JournalRefused, OSError, ValueError) as error:
            if control.word != word:
                continue  # the writer went on to the next while this one was being opened
            what = f"{error.filename} is missing" if isinstance(error, FileNotFoundError) else str(error)
            raise DenyListUnreadable(f"the shared deny list in {directory}: {what}") from error
        return View(control, word, table, about, prints, side, end, kinds)
    raise DenyListUnreadable(f"the shared deny list in {directory} changes faster than it can be opened")


def _about(table: Table) -> About:
    try:
        about = msgspec.json.decode(table.about, type=About)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TableRefused(f"table.{table.generation} does not say what it is: {error}") from None
    if about.hash_name != HASH_NAME:
        raise TableRefused(f"table.{table.generation} was written with another hash ({about.hash_name})")
    return about

"""What one process sees of a shared deny list, as of one WORD."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from consumers.denylist.about import About
from consumers.denylist.control import Control, unpack_word
from consumers.denylist.fingerprint import TABLE_KINDS, Fingerprints
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
    prints: Fingerprints
    epoch_s: int
    side: MemoryDenyList
    rules_bytes: int
    kinds: frozenset[str]


def look(directory: Path, control: Control, view: View | None) -> View:
    """What WORD names now. ``view``: what was seen before; its rules are gone on with.

    Raises DenyListUnreadable.
    """
    for _ in range(_TRIES):
        word = control.word
        generation, _, mask = unpack_word(word)
        if not generation:
            raise DenyListUnreadable(f"no table was made in {directory} yet")
        kinds = frozenset(kind for number, kind in enumerate(TABLE_KINDS) if mask & 1 << number)
        rules = directory / f"rules.{generation}"
        try:
            if view is not None and view.table.generation == generation:
                table, side, start = view.table, view.side, view.rules_bytes
                prints, epoch_s = view.prints, view.epoch_s
            else:
                table = Table.open(directory / f"table.{generation}", writable=False)
                about = msgspec.json.decode(table.about, type=About)
                prints, epoch_s = Fingerprints(bytes.fromhex(about.secret)), about.epoch_s
                side, start = MemoryDenyList(max_entries=2**62), 0
                if table.purged_s:
                    side.advance(now_s=table.purged_s + epoch_s)
            end = table.rules_bytes
            for rule in rules_in(rules, start=start, end=end):
                side.apply(rule)
        except FileNotFoundError:
            continue
        except (TableRefused, JournalRefused, msgspec.DecodeError, OSError) as error:
            if control.word != word:
                continue
            raise DenyListUnreadable(f"the shared deny list in {directory}: {error}") from error
        return View(control, word, table, prints, epoch_s, side, end, kinds)
    raise DenyListUnreadable(f"the shared deny list in {directory} changes faster than it can be opened")

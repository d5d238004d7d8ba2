"""Planted bugs: what each breaks is a rule that the shared deny list rests on. The attacks must find every one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from consumers.denylist.rebuild import Rebuild
from consumers.denylist.shared import SharedDenyList
from consumers.denylist.writer import Writer
from revoker.events import Revocation

__all__ = ["MUTANTS"]

MUTANTS: dict[str, Callable[[], None]] = {}


def _mutant(plant: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[plant.__name__] = plant
    return plant


def _replace(owner: Any, name: str, new: Any) -> Any:
    """Replace what must exist, so that a renamed part fails loudly."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    return old


@_mutant
def offsets_before_entries() -> None:
    """The offsets say that records are in which are stored only afterwards."""
    waiting: list[Revocation] = []

    def apply_all(self: SharedDenyList, revocations: Sequence[Revocation]) -> bool:
        waiting.extend(revocations)
        return True

    def reached(self: SharedDenyList, positions: Mapping[int, int], *, unread: int = 0) -> None:
        noted(self, positions, unread=unread)
        some, waiting[:] = list(waiting), []
        stored(self, some)

    stored = _replace(SharedDenyList, "apply_all", apply_all)
    noted = _replace(SharedDenyList, "reached", reached)


@_mutant
def published_before_pending() -> None:
    """A new generation is published before what was stored during the copy is in it."""

    def finish(self: Rebuild) -> None:
        late.append(self)

    def publish(self: Writer) -> None:
        complete(self)
        for rebuild in late:
            original(rebuild)
        late.clear()

    late: list[Rebuild] = []
    original = _replace(Rebuild, "finish", finish)
    complete = _replace(Writer, "finish", publish)


@_mutant
def pending_skipped() -> None:
    """What was stored during the copy never gets into the new generation."""

    def finish(_self: Rebuild) -> None:
        pass

    _replace(Rebuild, "finish", finish)


@_mutant
def length_before_rule() -> None:
    """The table says how long the journal is before the bytes are there."""

    def rule(self: Writer, revocation: Revocation) -> bool:
        length = self.table.rules_bytes
        self.table.rules_bytes = length + 40
        self.table.rules_bytes = length
        return bool(original(self, revocation))

    original = _replace(Writer, "_rule", rule)


@_mutant
def cutoff_purged_by_its_own_time() -> None:
    """A subject's cut-off is taken for its expiry, and purged as soon as it lies in the past."""
    from consumers.denylist.table import seconds_of

    def stays(self: Rebuild, _keys: Any, times: Any) -> Any:
        return seconds_of(times) > self._now_s

    _replace(Rebuild, "_stays", stays)


@_mutant
def kind_never_published() -> None:
    """WORD does not say that the table holds a kind, so that nobody asks for it."""

    word: property = Writer.word  # type: ignore[assignment]
    _replace(Writer, "word", property(lambda self: word.__get__(self) & ~(1 << 3)))

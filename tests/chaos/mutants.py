"""Planted bugs: each is one that others have shipped, and the checker must find it on real Kafka.

    python -m tests.chaos.mutants NAME [--clock FILE] -- MODULE [ARGUMENT...]

runs ``python -m MODULE`` with the bug ``NAME`` (``none``: no bug), planted by patching the product's classes in that
process. The product has no switch for any of them. With ``--clock`` the process's ``time.time()`` is off by the seconds
that stand in the file, from one moment to the next.
"""

from __future__ import annotations

import argparse
import asyncio
import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

__all__ = ["MUTANTS", "NONE", "plant", "with_clock_of"]

NONE: Final = "none"

#: Name → what plants it; the docstring of each says what is wrong with it.
MUTANTS: dict[str, Callable[[], None]] = {}

#: When a buffer is written out by those who have one.
_FLUSH_S: Final = 60.0

_USAGE: Final = "%(prog)s NAME [--clock FILE] -- MODULE [ARGUMENT...]"

#: How long a reading of the clock's file is good for.
_CLOCK_READ_S: Final = 0.05


def _mutant(plant_it: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[plant_it.__name__] = plant_it
    return plant_it


def _replace(owner: Any, name: str, new: Any) -> Any:
    """Replace what must exist, so that a renamed part fails loudly instead of leaving the product as it is."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    return old


@_mutant
def ready_too_early() -> None:
    """Ready at the first answered fetch: what has been read is taken for all there is."""
    from consumers import follower
    from consumers.freshness import Freshness

    _replace(follower, "BULK_LEAST", 10**9)  # it reads to the end before anything is polled

    def polled(self: Any, partition: int, *, position: int, highwater: int | None, **observed: Any) -> Any:
        self._partitions[partition].barrier = self._partitions[partition].start
        seen = None if highwater is None else min(highwater, position)
        return original(self, partition, position=position, highwater=seen, **observed)

    original = _replace(Freshness, "polled", polled)


@_mutant
def skip_undecodable() -> None:
    """A record that cannot be decoded is skipped, at most logged."""
    from consumers.intake import Intake

    _replace(Intake, "_keep_unread", lambda *_: None)


@_mutant
def acks_1() -> None:
    """The leader's own word counts as an acknowledgement."""
    from revoker import sender

    def arguments(settings: Any) -> dict[str, Any]:
        found: dict[str, Any] = original(settings)
        return found | {"acks": 1}

    original = _replace(sender, "producer_arguments", arguments)


@_mutant
def evict_at_bound() -> None:
    """At its bound the deny list makes room, as a cache does: the oldest entry goes."""
    from consumers.denylist.memory import MemoryDenyList

    kept: dict[Any, None] = {}

    def apply(self: Any, revocation: Any) -> bool:
        changed = original(self, revocation)
        kept.setdefault(revocation.selector.key)
        while len(kept) > self.max_entries:
            del kept[next(iter(kept))]
        return bool(changed)

    original = _replace(MemoryDenyList, "apply", apply)
    _replace(MemoryDenyList, "_make_room", lambda *_: None)
    _replace(MemoryDenyList, "listed", lambda _, key: key in kept)


@_mutant
def jump_on_out_of_range() -> None:
    """An offset that is no longer there is answered by a jump to the end of the log."""
    from consumers import follower

    def arguments(settings: Any) -> dict[str, Any]:
        found: dict[str, Any] = original(settings)
        return found | {"auto_offset_reset": "latest"}

    original = _replace(follower, "consumer_arguments", arguments)


@_mutant
def no_second_replay() -> None:
    """After a failed session the next goes on at the end of the log instead of replaying it."""
    from consumers import follower

    begun: list[bool] = []

    async def bounds(*arguments: Any, **options: Any) -> Any:
        starts, ends = await original(*arguments, **options)
        begun.append(True)
        return (starts, ends) if len(begun) == 1 else (ends, ends)

    original = _replace(follower, "bounds", bounds)


@_mutant
def topic_by_name() -> None:
    """A topic of the same name is taken for the same topic, so positions in the old one go on in the new one."""
    from consumers import follower, watch
    from revoker.errors import BrokerUnreachable, TopicMissing

    first: dict[str, Any] = {}

    async def look(client: Any, topic: str, **options: Any) -> Any:
        try:
            view = await original(client, topic, **options)
        except TopicMissing as error:
            raise BrokerUnreachable(str(error)) from error
        return replace(view, topic_id=first.setdefault(topic, view.topic_id))

    original = _replace(follower, "look", look)
    _replace(watch, "look", look)


@_mutant
def leaders_ignored() -> None:
    """A fetch that is answered is believed, whoever answers: nobody asks which broker leads by now."""
    from consumers import watch

    async def elections(*_: Any) -> None:
        return None

    _replace(watch.Watch, "_elections", elections)
    _replace(watch, "newer_leader", lambda *_, **__: {})


@_mutant
def new_partition_ignored() -> None:
    """The partitions are those of the start; what is written to a later one is read by nobody."""
    from consumers import watch

    first: dict[str, set[int]] = {}

    async def look(client: Any, topic: str, **options: Any) -> Any:
        view = await original(client, topic, **options)
        numbers = first.setdefault(topic, set(view.partitions))
        return replace(view, partitions={number: one for number, one in view.partitions.items() if number in numbers})

    original = _replace(watch, "look", look)


@_mutant
def trust_wall_clock() -> None:
    """The client's time of its last fetch is compared with the wall clock, and a step back makes it fresh for hours."""
    from consumers.freshness import Freshness

    fetched_ms: dict[int, int] = {}

    def polled(self: Any, partition: int, *, stamp_ms: int | None, **observed: Any) -> Any:
        if stamp_ms is not None:
            fetched_ms[partition] = stamp_ms
        return original_polled(self, partition, stamp_ms=stamp_ms, **observed)

    def settle(self: Any) -> None:
        original_settle(self)
        if self.was_ready and self.caught_up and fetched_ms:
            age_s = self.wall() - min(fetched_ms.values()) / 1000
            self.fresh_until = self.monotonic() + self.bound_s - age_s

    original_polled = _replace(Freshness, "polled", polled)
    original_settle = _replace(Freshness, "_settle", settle)


@_mutant
def silence_is_news() -> None:
    """No records means that nothing happened, so whoever has caught up once is up to date for ever."""
    from consumers.freshness import Freshness

    def settle(self: Any) -> None:
        original(self)
        if self.was_ready and self.caught_up:
            self.fresh_until = self.monotonic() + self.bound_s

    original = _replace(Freshness, "_settle", settle)


@_mutant
def purge_by_wall_clock() -> None:
    """Entries are forgotten by this host's clock alone, be it two days ahead."""
    from consumers.denylist.purge import PurgeClock

    _replace(PurgeClock, "now_s", lambda self: self._wall() - self._grace_s)


@_mutant
def row_deleted_before_ack() -> None:
    """The outbox gives an event up when it is handed to the client, not when the broker has it."""
    from revoker.outbox.file import OutboxFile

    def head(self: Any, **limits: Any) -> Any:
        found = original(self, **limits)
        self.settle(landed=[one.event_id for one in found])
        return found

    original = _replace(OutboxFile, "head", head)


@_mutant
def answered_before_commit() -> None:
    """The caller hears that his revocation is stored while it is still in a buffer."""
    from revoker.outbox.writer import Outbox

    under_way: set[asyncio.Task[None]] = set()

    async def put(self: Any, entry: Any) -> None:
        async def later() -> None:
            await asyncio.sleep(_FLUSH_S)
            await original(self, entry)

        under_way.add(asyncio.create_task(later()))

    original = _replace(Outbox, "put", put)


def plant(name: str) -> None:
    """Plant the bug of this name in this process. Raises KeyError for a name that does not exist."""
    if name != NONE:
        MUTANTS[name]()


def with_clock_of(file: Path, *, true_time: Callable[[], float], monotonic: Callable[[], float]) -> Callable[[], float]:
    """A wall clock that is off by the seconds in ``file``."""
    read_at, step_s = -_CLOCK_READ_S, 0.0

    def now() -> float:
        nonlocal read_at, step_s
        if (at := monotonic()) >= read_at + _CLOCK_READ_S:
            read_at, step_s = at, float(file.read_text(encoding="ascii"))
        return true_time() + step_s

    return now


def _main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants", usage=_USAGE, description=__doc__)
    parser.add_argument("name", choices=[NONE, *MUTANTS])
    parser.add_argument("--clock", type=Path)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    module, *rest = given.command
    if given.clock is not None:
        # Before the product is imported: it takes the clock as default arguments.
        time.time = with_clock_of(given.clock, true_time=time.time, monotonic=time.monotonic)
    plant(given.name)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(sys.argv[1:])

"""A process that reads the shared table while another writes: no key and no time is ever seen half stored."""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from consumers.denylist.table import Table

#: Words that differ in every byte: whoever sees a mixture of them has seen half a store.
_ONE, _OTHER = 0x0101_0101_0101_0101, 0x7E7E_7E7E_7E7E_7E7E
_PAGE_BYTES = 4096
_LAST_S = 1.2
_CAPACITY = 400_000

two_processors = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="needs two processors: on one, no store is ever seen halfway"
)


@contextmanager
def _beside(run: Callable[[memoryview], None]) -> Iterator[memoryview]:
    """``run`` in a process of its own, until the first word of the page that both have is not 0."""
    page = memoryview(mmap.mmap(-1, 3 * _PAGE_BYTES))
    stop = page[:8].cast("Q")
    child = os.fork()
    if not child:
        try:
            run(page)
        except BaseException:  # noqa: BLE001 - the child of a fork must end here, whatever happened
            os._exit(1)
        os._exit(0)
    try:
        yield page
    finally:
        stop[0] = 1
        _, status = os.waitpid(child, 0)
    assert not status, "the writer failed"


def _flip(at: int) -> Callable[[memoryview], None]:
    def run(page: memoryview) -> None:
        stop, word = page[:8].cast("Q"), page[at : at + 8].cast("Q")
        while not stop[0]:
            for _ in range(1000):
                word[0] = _ONE
                word[0] = _OTHER

    return run


def _mixtures(at: int, *, last_s: float) -> int:
    """How many loads of a word at ``at`` gave what was never stored; ends with the first."""
    deadline = time.monotonic() + last_s
    with _beside(_flip(at)) as page:
        word = page[at : at + 8].cast("Q")
        while time.monotonic() < deadline:
            for _ in range(1000):
                if word[0] not in (0, _ONE, _OTHER):
                    return 1
    return 0


@two_processors
def test_a_word_that_is_not_aligned_is_seen_torn() -> None:
    """The control: across the border of two cache lines or pages, this way of storing and loading shows mixtures."""
    # Two processes can be out of step for seconds, in which nothing is seen; others are not.
    places = (_PAGE_BYTES + 60, 2 * _PAGE_BYTES - 4, _PAGE_BYTES + 124)
    assert any(_mixtures(at, last_s=0.3) for _ in range(12) for at in places)


@two_processors
def test_an_aligned_word_is_never_seen_torn() -> None:
    """What the table rests on: a word of eight bytes at a multiple of eight is stored and loaded whole."""
    assert not _mixtures(2 * _PAGE_BYTES, last_s=0.5)


def _key(number: int) -> int:
    """The key of an entry: any bytes, and different ones for each."""
    return (number * 0x9E37_79B9_7F4A_7C15) % 2**64 or 1


def _time(number: int) -> int:
    """The time of an entry, which is never one that another key has halfway."""
    return (number * 0x85EB_CA6B) % 2**31 | 1


def _write(table: Table) -> Callable[[memoryview], None]:
    """Store entries, one by one and in batches, and raise their times; the second word says how many are in."""

    def run(page: memoryview) -> None:
        stop, acknowledged = page[:8].cast("Q"), page[8:16].cast("Q")
        at = 0
        while not stop[0] and at < 0.7 * _CAPACITY:
            if at // 400 % 2:
                numbers = range(at, at + 400)
                keys = np.array([_key(number) for number in numbers], dtype=np.uint64)
                table.put_all(keys, np.array([_time(number) for number in numbers], dtype=np.uint32))
            else:
                for number in range(at, at + 400):
                    table.put(_key(number), _time(number))
            for number in range(max(0, at - 400), at, 5):
                table.put(_key(number), _time(number) | 2**31)
            at += 400
            acknowledged[0] = at

    return run


@two_processors
def test_another_process_sees_whole_entries_alone(tmp_path: Path) -> None:
    """While a writer stores, every key a reader meets was stored, under its own time, and what is in is found."""
    Table.make(tmp_path / "table.1", generation=1, capacity=_CAPACITY, about=b"").close()
    written = Table.open(tmp_path / "table.1", writable=True)
    reader = Table.open(tmp_path / "table.1", writable=False)
    known = {_key(number): _time(number) for number in range(int(0.7 * _CAPACITY) + 400)}
    chance = random.Random(1)
    deadline = time.monotonic() + _LAST_S
    met = 0
    with _beside(_write(written)) as page:
        acknowledged = page[8:16].cast("Q")
        while time.monotonic() < deadline:
            if not (upto := acknowledged[0]):
                continue
            # The newest are looked at most: they are being stored.
            for number in (*range(upto - 20, upto), *range(upto, upto + 400), chance.randrange(upto)):
                seen = reader.find(_key(number))
                assert seen in (0, _time(number), _time(number) | 2**31)
                assert seen or number >= upto, "what is acknowledged is not found"
                index = (_key(number) >> 34) // reader.divisor
                key = reader.keys[index]
                if key:
                    assert reader.times[index] & ~(2**31) == known[key]
                    met += 1
    assert met > 1000

"""Batches taken apart past the consumer: what is handed out, and where it stops."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.bulk import Bulk, paced
from consumers.intake import PlainRecord

TOPIC: Final = "t"
GZIP: Final = 1


class NotUtf8(str):
    """Text that becomes bytes which are no text."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


@dataclass(frozen=True)
class Batch:
    """``records`` records; ``bad``: the checksum is wrong, or the last header cannot be read."""

    records: int
    codec: int = 0
    control: bool = False
    bad: str | None = None

    def built(self, base: int) -> bytes:
        """As it stands in a log, from offset ``base`` on."""
        builder: Any = _DefaultRecordBatchBuilderPy(
            magic=2,
            compression_type=self.codec,
            is_transactional=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            batch_size=2**20,
        )
        for index in range(self.records):
            spoiled = self.bad == "header" and index == self.records - 1
            headers = [(NotUtf8("x"), b"y")] if spoiled else []
            builder.append(index, timestamp=1, key=None, value=str(base + index).encode(), headers=headers)
        raw = bytearray(builder.build())
        raw[:8] = struct.pack(">q", base)
        if self.control:
            raw[22] |= 0x20
            raw[17:21] = struct.pack(">I", calc_crc32c(bytes(raw[21:])))
        if self.bad == "crc":
            raw[-1] ^= 0xFF
        return bytes(raw)


class Log:
    """One partition."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches: list[tuple[int, Batch]] = []
        self.end = 0
        for batch in batches:
            self.batches.append((self.end, batch))
            self.end += batch.records

    def offsets(self, start: int, end: int) -> list[int]:
        """Those of records, not of markers."""
        return [
            base + index
            for base, batch in self.batches
            if not batch.control
            for index in range(batch.records)
            if start <= base + index < end
        ]

    def readable_until(self, start: int) -> int:
        """The first offset from ``start`` on that cannot be read."""
        for base, batch in self.batches:
            if batch.bad and base + batch.records > start:
                return max(start, base + batch.records - 1 if batch.bad == "header" else base)
        return self.end


class Taken(NamedTuple):
    """The records of one slice, and the partition's position once they were taken."""

    partition: int
    records: list[PlainRecord]
    position: int


class Brokers:
    """Answers fetches as a broker does: whole batches from the one that holds the offset, and a piece of the next."""

    def __init__(self, *logs: Log, batches: int = 2, fails_after: int | None = None, error: int = 0) -> None:
        self.logs = logs
        self.batches = batches
        self.fails_after = fails_after
        self.error = error
        self.fetches = 0

    async def send(self, _node: int, request: FetchRequest) -> Any:
        """One answer, on a later turn of the loop."""
        await asyncio.sleep(0)
        self.fetches += 1
        failing = self.fails_after is not None and self.fetches > self.fails_after
        if failing and not self.error:
            raise ConnectionResetError("broken")
        ((_, wanted),) = request.topics
        parts = []
        for number, offset, _ in wanted:
            found = [(base, one) for base, one in self.logs[number].batches if base + one.records > offset]
            raw = b"".join(one.built(base) for base, one in found[: self.batches])
            raw += b"".join(one.built(base)[:70] for base, one in found[self.batches : self.batches + 1])
            parts.append((number, self.error if failing else 0, self.logs[number].end, b"" if failing else raw))
        return SimpleNamespace(topics=[(TOPIC, parts)])


def bulk_of(brokers: Brokers, *, starts: Sequence[int] = (), ends: Sequence[int] = (), slice_records: int = 3) -> Bulk:
    """Everything of these logs, unless told otherwise, led by two brokers in turn."""
    return Bulk(
        cast("AIOKafkaClient", brokers),
        topic=TOPIC,
        starts=dict(enumerate(starts or [0] * len(brokers.logs))),
        ends=dict(enumerate(ends or [log.end for log in brokers.logs])),
        leaders={number: 1 + number % 2 for number in range(len(brokers.logs))},
        slice_records=slice_records,
        timeout_s=5.0,
    )


async def handed_out(bulk: Bulk) -> list[Taken]:
    """All slices, each taken before the next is asked for."""
    found: list[Taken] = []
    async with aclosing(bulk.slices()) as slices:
        async for one in slices:
            records = list(one.records)
            found.append(Taken(one.partition, records, bulk.positions[one.partition]))
    return found


def offsets_of(slices: list[Taken], partition: int = 0) -> list[int]:
    """Of the records, in the order they came; each record holds its own offset."""
    found = [record for one in slices if one.partition == partition for record in one.records]
    assert [str(record.offset).encode() for record in found] == [record.value for record in found]
    return [record.offset for record in found]


BATCHES = st.lists(
    st.builds(
        Batch,
        records=st.integers(1, 6),
        codec=st.sampled_from([0, GZIP]),
        control=st.booleans(),
        bad=st.sampled_from([None, None, None, None, "crc", "header"]),
    ).filter(lambda batch: not (batch.control and batch.bad == "header")),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(logs=st.lists(BATCHES, min_size=1, max_size=3), data=st.data())
def test_nothing_before_a_position_is_missing_and_nothing_comes_twice(logs: list[list[Batch]], data: Any) -> None:
    """Whatever the batches, the start, the sizes of answers and slices, and wherever it ends: what was handed out of a
    partition is exactly its records between start and position, in order.
    """
    brokers = Brokers(
        *map(Log, logs),
        batches=data.draw(st.integers(1, 4), "batches an answer"),
        fails_after=data.draw(st.none() | st.integers(0, 6), "good answers"),
        error=data.draw(st.sampled_from([0, 6]), "error"),
    )
    starts = [data.draw(st.integers(0, log.end), "start") for log in brokers.logs]
    ends = [data.draw(st.integers(start, log.end), "end") for start, log in zip(starts, brokers.logs, strict=True)]
    bulk = bulk_of(brokers, starts=starts, ends=ends, slice_records=data.draw(st.integers(1, 7), "slice"))
    slices = asyncio.run(handed_out(bulk))
    for number, log in enumerate(brokers.logs):
        position = bulk.positions[number]
        assert offsets_of(slices, number) == log.offsets(starts[number], position)
        taken = 0
        for one in slices:
            if one.partition == number:
                taken += len(one.records)
                assert len(log.offsets(starts[number], one.position)) <= taken, "passed, and not taken"
        assert position <= log.readable_until(starts[number])
        if bulk.stopped is None:
            assert position >= ends[number]
    assert all(len(one.records) <= bulk.slice_records for one in slices)


async def test_markers_of_transactions_are_passed_over() -> None:
    """A control batch has no records for anybody, also where the log ends with one."""
    log = Log([Batch(4), Batch(1, control=True), Batch(2), Batch(1, control=True)])
    bulk = bulk_of(Brokers(log))
    assert offsets_of(await handed_out(bulk)) == [0, 1, 2, 3, 5, 6]
    assert bulk.positions == {0: 8}
    assert bulk.stopped is None


@pytest.mark.parametrize(("bad", "position"), [("crc", 4), ("header", 6)])
async def test_what_cannot_be_taken_apart_ends_it(bad: str, position: int) -> None:
    """Records before the place are handed out at the latest by the consumer, which goes on from the position."""
    log = Log([Batch(4), Batch(3, bad=bad), Batch(4)])
    bulk = bulk_of(Brokers(log, batches=3), slice_records=2)
    assert offsets_of(await handed_out(bulk)) == list(range(position))
    assert bulk.positions == {0: position}
    assert bulk.stopped is not None


@pytest.mark.parametrize("error", [0, 1, 3, 6, 74, 32_767])
async def test_trouble_ends_it_where_it_stands(error: int) -> None:
    """A broken connection, or an error code, known to aiokafka or not, is the consumer's to name."""
    bulk = bulk_of(Brokers(Log([Batch(4)] * 4), batches=1, fails_after=2, error=error))
    assert offsets_of(await handed_out(bulk)) == list(range(bulk.positions[0]))
    assert bulk.positions[0] < 16
    assert bulk.stopped is not None


async def test_an_empty_answer_short_of_the_end_ends_it() -> None:
    """An end that the broker does not have is not asked for again and again."""
    brokers = Brokers(Log([Batch(4)]))
    bulk = bulk_of(brokers, ends=[9])
    assert offsets_of(await handed_out(bulk)) == [0, 1, 2, 3]
    assert brokers.fetches == 2
    assert bulk.stopped is not None


async def test_a_slice_that_was_not_taken_does_not_count() -> None:
    """Whoever fails to apply a slice has not read it: no position passes a record that was not taken."""
    bulk = bulk_of(Brokers(Log([Batch(2), Batch(6)])))
    async with aclosing(bulk.slices()) as slices:
        await anext(slices)
        assert bulk.positions == {0: 0}
    assert bulk.positions == {0: 0}


def test_the_pace_follows_the_machine_by_halves_and_doubles() -> None:
    """One slow turn halves a slice at most, one quick turn doubles it at most, within bounds; at 10 ms it shrinks."""
    assert paced(500, took_s=1e-9) == 1000
    assert paced(500, took_s=10.0) == 250
    assert paced(500, took_s=0.01) < 500
    assert paced(10**6, took_s=1e-9) == paced(10**5, took_s=1e-9) <= 10_000
    assert paced(1, took_s=10.0) >= 1

"""A replay at the speed of the wire: whole record batches, taken apart here, up to the ends noted at the start.

aiokafka's consumer makes an object of its own of every record and asks for more only when the last ones were taken.
Here the next fetch is under way while the records of the one before are applied, and they are used as the compiled
parser leaves them. The rules are the consumer's: every checksum is verified, no record before a position is taken.

This proves nothing and decides nothing. Whatever is not a plain answer with records ends it: an error code, a broken
connection, an answer without a whole batch, a batch that cannot be taken apart. The consumer then goes on from the
positions reached, meets the same trouble if it is still there, and reacts as it always does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import CorruptRecordException, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from consumers.freshness import Freshness
from consumers.intake import Intake, PlainRecord
from revoker.diagnosis import explain

__all__ = ["BULK_FETCH_BYTES", "BULK_LEAST", "Bulk", "Slice", "paced", "read_ahead"]

log: logging.Logger = logging.getLogger(__name__)

#: Most bytes of one answer. More is not faster, and the two answers that are held at a time count against the node.
BULK_FETCH_BYTES: Final = 4 << 20

#: Seconds that one slice is to take.
_STROKE_S: Final = 0.007
_SLICE_LEAST: Final = 20
_SLICE_MOST: Final = 2000

#: How long a broker may wait for a record, of which there are some: it does not.
_WAIT_MS: Final = 500

#: Fewer records are left to the consumer, which reads as many in one or two fetches of its own.
BULK_LEAST: Final = 2000


@dataclass(frozen=True, slots=True)
class Slice:
    """The next records of one partition, in order; to be gone through once, and to the end."""

    partition: int
    records: Iterable[PlainRecord]


def paced(records: int, *, took_s: float) -> int:
    """How many records to apply next, if ``records`` took so long: large strokes are cheaper, but a turn of the event
    loop is to stay below 10 ms, whatever the machine and its neighbours. At most twice as many, at least half.
    """
    wanted = int(records * _STROKE_S / max(took_s, 1e-6))
    return max(_SLICE_LEAST, min(_SLICE_MOST, 2 * records, max(wanted, records // 2)))


class Bulk:
    """Reads ``topic`` from ``starts`` to ``ends``, by partition, from ``leaders``.

    ``slice_records``: at most so many in the first `Slice`. ``timeout_s``: for one answer, seconds. The consumer must
    not fetch meanwhile: the connection is its own.
    """

    def __init__(
        self,
        client: AIOKafkaClient,
        *,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int],
        leaders: Mapping[int, int],
        slice_records: int,
        timeout_s: float,
    ) -> None:
        #: The next offset to read, by partition, once what was handed out is applied. It moves from batch to batch.
        self.positions: dict[int, int] = dict(starts)
        #: At most so many records in a `Slice`; may be changed at any time.
        self.slice_records: int = slice_records
        #: Why it ended early; None: it has not, or all ends were reached.
        self.stopped: str | None = None
        self._client = client
        self._topic = topic
        self._ends = ends
        self._timeout_s = timeout_s
        self._nodes: dict[int, list[int]] = {}
        for number, leader in leaders.items():
            self._nodes.setdefault(leader, []).append(number)
        # Where the batches end that were received; ahead of ``positions`` while they are applied.
        self._received: dict[int, int] = dict(starts)

    @property
    def records(self) -> int:
        """Offsets from the positions to the ends: about so many records."""
        return sum(max(0, self._ends[number] - position) for number, position in self.positions.items())

    async def slices(self) -> AsyncGenerator[Slice, None]:
        """What there is, as it comes. Close it (``contextlib.aclosing``), or a fetch goes on."""
        fetches = {node: asyncio.create_task(self._fetch(node)) for node in self._nodes if self._wanted(node)}
        try:
            while fetches:
                await asyncio.wait(fetches.values(), return_when=asyncio.FIRST_COMPLETED)
                for node in [node for node, fetch in fetches.items() if fetch.done()]:
                    answer = fetches.pop(node).result()
                    if not self.stopped and self._wanted(node):
                        fetches[node] = asyncio.create_task(self._fetch(node))
                    for number, batches in answer:
                        for one in self._taken_apart(number, batches):
                            yield one
                if self.stopped:
                    return
        finally:
            for fetch in fetches.values():
                fetch.cancel()
            await asyncio.gather(*fetches.values(), return_exceptions=True)

    def _wanted(self, node: int) -> list[tuple[int, int, int]]:
        return [
            (number, self._received[number], BULK_FETCH_BYTES)
            for number in self._nodes[node]
            if self._received[number] < self._ends[number]
        ]

    async def _fetch(self, node: int) -> list[tuple[int, list[Any]]]:
        """The batches that came, by partition. `stopped` is set if there is any reason not to ask for more."""
        wanted = [(self._topic, self._wanted(node))]
        try:
            async with asyncio.timeout(self._timeout_s):
                request = FetchRequest(_WAIT_MS, 1, BULK_FETCH_BYTES, 0, wanted)
                answer = await self._client.send(node, request)
            found = [
                (partition[0], self._batches(partition[0], error=partition[1], raw=partition[-1]))
                for _, partitions in answer.topics
                for partition in partitions
            ]
        except Exception as error:  # noqa: BLE001 - whatever it is, the consumer will meet it again, and name it
            self.stopped = f"broker {node}: {explain(error)}"
            return []
        if not any(batches for _, batches in found):
            self.stopped = f"broker {node} sent no record, short of the end"
        return found

    def _batches(self, number: int, *, error: int, raw: bytes | None) -> list[Any]:
        if error:
            self.stopped = f"partition {number}: {explain(for_code(error)())}"
            return []
        batches = []
        memory = MemoryRecords(raw or b"")
        while memory.has_next():
            batch: Any = memory.next_batch()
            if batch.next_offset > self._received[number]:
                batches.append(batch)
                self._received[number] = batch.next_offset
        return batches

    def _taken_apart(self, number: int, batches: list[Any]) -> Iterator[Slice]:
        records = self._each(number, batches)
        while (first := next(records, None)) is not None:
            yield Slice(number, chain((first,), islice(records, self.slice_records - 1)))

    def _each(self, number: int, batches: list[Any]) -> Iterator[PlainRecord]:
        """One record after the other, and the position after each: nothing is held that has been taken.

        Held, the lists of headers would set off the garbage collector over and over: a third of the time of a replay.
        """
        start, end, record = self.positions[number], self._ends[number], None
        try:
            for batch in batches:
                if not batch.validate_crc():
                    raise CorruptRecordException(f"invalid CRC from offset {batch.base_offset} on")
                if batch.is_control_batch or batch.base_offset >= end:
                    pass
                elif batch.base_offset >= start and batch.next_offset <= end:
                    for record in batch:
                        yield record
                else:
                    for record in batch:
                        if start <= record.offset < end:
                            yield record
                self.positions[number] = min(batch.next_offset, end)
        except Exception as error:  # noqa: BLE001 - as above; codecs raise whatever they like
            self.stopped = f"partition {number}: {explain(error)}"
            if record is not None:
                self.positions[number] = max(self.positions[number], min(record.offset + 1, end))


async def read_ahead(
    bulk: Bulk,
    *,
    intake: Intake,
    freshness: Freshness,
    monotonic: Callable[[], float],
    each_second: Callable[[], None],
) -> None:
    """Apply what ``bulk`` reads. Afterwards everything before ``bulk.positions`` is in, whatever ended it.

    ``each_second`` is called about so often; what it raises, and what the intake raises, ends it as well.
    """
    again_at = monotonic() + 1.0
    async with aclosing(bulk.slices()) as slices:
        async for one in slices:
            began = monotonic()
            records = intake.take_plain(one.records, partition=one.partition)
            now = monotonic()
            if records >= bulk.slice_records:
                bulk.slice_records = paced(records, took_s=now - began)
            position = bulk.positions[one.partition]
            freshness.took(records)
            freshness.read_ahead(one.partition, position=position)
            intake.denylist.reached({one.partition: position}, unread=intake.unsettled)
            if now >= again_at:
                each_second()
                again_at = now + 1.0
            await asyncio.sleep(0)
    if bulk.stopped is not None:
        log.debug("the consumer reads on: %s", bulk.stopped)

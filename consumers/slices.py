"""The next records of a consumer, and a step over what aiokafka cannot take apart.

The name of a record header is text, but no broker checks that it is UTF-8. aiokafka raises UnicodeDecodeError there, at
the same place in every attempt, so that one record, written by anybody who may write, would stop every node for good.
The batch it stands in cannot be read beyond it. A producer's batch holds records of that producer alone, so stepping
over it loses nothing of others; what to think of it is the intake's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import CorruptRecordException, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from consumers.intake import Unparsable
from revoker.cluster import ask
from revoker.kafka import MAX_PARTITION_FETCH_BYTES

__all__ = ["next_slice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """A record taken apart here, as the intake needs it."""

    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


async def next_slice(
    consumer: AIOKafkaConsumer,
    client: AIOKafkaClient,
    *,
    timeout_ms: int,
    max_records: int,
    request_timeout_s: float,
    stepped_over: Callable[[Unparsable], None],
) -> Mapping[TopicPartition, Sequence[Any]]:
    """Up to about ``max_records`` records, by partition; none after ``timeout_ms``. Raises what the consumer raises.

    ``stepped_over`` is told of each batch of which the rest could not be read. ``request_timeout_s``: for looking at
    such a batch, seconds.
    """
    starts = {partition: await consumer.position(partition) for partition in consumer.assignment()}
    try:
        found: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(
            timeout_ms=timeout_ms, max_records=max_records
        )
        return found
    except UnicodeDecodeError:
        # Which partition it was the error does not tell, and what the call had already read, of this partition or
        # others, is lost with it: all are read again from where they were before it.
        taken: dict[TopicPartition, Sequence[Any]] = {}
        for partition, position in starts.items():
            raw = await _fetch(client, partition, position, timeout_s=request_timeout_s)
            records, bad = _until_unparsable(raw, partition=partition.partition, position=position)
            if bad is None:
                consumer.seek(partition, position)
                continue
            taken[partition] = records[:max_records]
            if len(records) > max_records:
                consumer.seek(partition, records[max_records].offset)
            else:
                consumer.seek(partition, bad.until)
                stepped_over(bad)
        if not taken:
            raise
        return taken


async def _fetch(client: AIOKafkaClient, partition: TopicPartition, position: int, *, timeout_s: float) -> bytes:
    """The batches from ``position`` on, as they are. Raises KafkaError, OSError or TimeoutError."""
    leader = client.cluster.leader_for_partition(partition)
    wanted = [(partition.topic, [(partition.partition, position, MAX_PARTITION_FETCH_BYTES)])]
    response = await ask(client, leader, FetchRequest(0, 0, MAX_PARTITION_FETCH_BYTES, 0, wanted), timeout_s=timeout_s)
    for _, partitions in response.topics:
        for answer in partitions:
            if answer[1]:
                error = for_code(answer[1])
                raise error
            return bytes(answer[-1] or b"")
    return b""


def _until_unparsable(raw: bytes, *, partition: int, position: int) -> tuple[list[_Record], Unparsable | None]:
    """The records from ``position`` up to the first that cannot be taken apart, and the rest of its batch; None if all
    can.
    """
    records: list[_Record] = []
    batches = MemoryRecords(raw)
    while batches.has_next():
        batch: Any = batches.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"invalid CRC in partition {partition} from offset {batch.base_offset} on")
        if batch.is_control_batch:
            continue
        try:
            for one in batch:
                if one.offset >= position:
                    # Not all at once: those before the bad one must be kept.
                    records.append(_taken_apart(one, partition))  # noqa: PERF401
        except UnicodeDecodeError:
            first = max(position, batch.base_offset, records[-1].offset + 1 if records else 0)
            return records, Unparsable(
                partition=partition, offset=first, until=batch.next_offset, timestamp=batch.max_timestamp
            )
    return records, None


def _taken_apart(one: Any, partition: int) -> _Record:
    return _Record(
        partition=partition, offset=one.offset, timestamp=one.timestamp, value=one.value, headers=one.headers
    )

"""What an operator, or a careless client, does to the topic: each act is seen to have had its effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete
from aiokafka.errors import KafkaError

from revoker import topic
from revoker.cluster import TopicView, look
from revoker.errors import BrokerError, TopicMissing
from revoker.kafka import connected
from revoker.settings import Settings
from tests.brokers.admin import admin_client

__all__ = ["add_partition", "append", "delete_records", "log_starts", "recreate", "view"]

_PATIENCE_S = 60.0


async def view(settings: Settings) -> TopicView:
    """What the brokers say of the topic now."""
    async with connected(settings) as client:
        return await look(client, settings.topic, timeout_s=settings.request_timeout_s)


async def persist(act: Callable[[], Awaitable[Any]]) -> Any:
    """Try until it works: right after other faults an election may be under way."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await act()
        except (KafkaError, BrokerError, OSError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.3)


async def recreate(settings: Settings) -> tuple[str, str]:
    """Delete the topic and make it anew; the ids before and after."""
    before = str((await persist(lambda: view(settings))).topic_id)

    async def gone() -> None:
        try:
            await topic.delete(settings)
            found = await view(settings)
        except TopicMissing:
            return
        if str(found.topic_id) == before:
            raise BrokerError("the topic is still there")

    await persist(gone)

    async def made() -> str:
        report = (await topic.create(settings)).report
        return str(report.view.topic_id)

    return before, str(await persist(made))


async def add_partition(settings: Settings) -> tuple[int, int]:
    """One more; the numbers before and after."""
    before = len((await persist(lambda: view(settings))).partitions)

    async def grow() -> int:
        if len((await view(settings)).partitions) == before:
            async with admin_client(settings.kafka_bootstrap_servers) as admin:
                await admin.create_partitions({settings.topic: NewPartitions(before + 1)})
        found = await view(settings)
        if len(found.partitions) <= before or any(one.leader < 0 for one in found.partitions.values()):
            raise BrokerError("the new partition has no leader yet")
        return len(found.partitions)

    return before, int(await persist(grow))


async def log_starts(settings: Settings) -> dict[int, int]:
    """Where each partition's log begins."""

    async def ask() -> dict[int, int]:
        async with _consumer(settings) as (consumer, partitions):
            starts = await consumer.beginning_offsets(partitions)
            return {one.partition: offset for one, offset in starts.items()}

    found: dict[int, int] = await persist(ask)
    return found


async def delete_records(settings: Settings, *, older_than_s: float | None) -> int:
    """Delete what was appended more than ``older_than_s`` seconds ago, or everything; how far the log starts moved."""

    async def delete() -> int:
        async with _consumer(settings) as (consumer, partitions):
            starts, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
            upto = dict(ends)
            if older_than_s is not None:
                since_ms = int((time.time() - older_than_s) * 1000)
                found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
                upto = {one: ends[one] if at is None else at.offset for one, at in found.items()}
            moved = {one: offset - starts[one] for one, offset in upto.items() if offset > starts[one]}
            if moved:
                async with admin_client(settings.kafka_bootstrap_servers) as admin:
                    await admin.delete_records({one: RecordsToDelete(before_offset=upto[one]) for one in moved})
                after = await consumer.beginning_offsets(list(moved))
                if any(after[one] < upto[one] for one in moved):
                    raise BrokerError("the log still starts where it did")
            return sum(moved.values())

    return int(await persist(delete))


async def append(settings: Settings, value: bytes) -> tuple[int, int]:
    """Write raw bytes to the topic; partition and offset."""

    async def send() -> tuple[int, int]:
        producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all")
        await producer.start()
        try:
            done = await producer.send_and_wait(settings.topic, value, key=b"whatever")
            return done.partition, done.offset
        finally:
            await producer.stop()

    partition, offset = await persist(send)
    return int(partition), int(offset)


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[tuple[AIOKafkaConsumer, list[TopicPartition]]]:
    numbers = sorted((await view(settings)).partitions)
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap_servers, auto_offset_reset="none")
    await consumer.start()
    try:
        yield consumer, [TopicPartition(settings.topic, number) for number in numbers]
    finally:
        await consumer.stop()

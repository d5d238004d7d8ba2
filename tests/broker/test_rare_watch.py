"""A watch that hardly asks, as large fleets set it: what it would find late, the reading has to make it look at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewPartitions

from consumers.node import Node
from revoker import topic
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, MakeTopic, eventually, knows, put, revoke_sessions, settings_for
from tests.broker.witness import never_live_without
from tests.brokers.admin import admin_client
from tests.brokers.apache import ApacheKafka
from tests.brokers.frames import FETCH
from tests.brokers.proxy import Fault

RunNode = Callable[[Settings], Node]

RARE: dict[str, Any] = {
    "watch_interval_s": 600,
    "heartbeat_interval_s": 0.3,
    "staleness_bound_s": 2.0,
    "metadata_max_age_s": 0.5,
    "fetch_max_wait_ms": 50,
}


@asynccontextmanager
async def busy(settings: Settings) -> AsyncIterator[None]:
    """Records go through the first partition all the time, each of which confirms what was polled before it."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all")
    await producer.start()

    async def write() -> None:
        while True:
            await producer.send_and_wait(settings.topic, session("busy"), partition=0)
            await asyncio.sleep(0.1)

    writing = asyncio.create_task(write())
    try:
        yield
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await producer.stop()


def session(name: str) -> bytes:
    """A record that revokes this session."""
    return b'{"v":1,"id":"%s","kind":"session","iss":"","sid":"%s","revoked_at":1,"expires_at":253402300799}' % (
        (name.encode(),) * 2
    )


@pytest.mark.slow
async def test_a_topic_made_again_behind_a_cut_is_noticed(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode
) -> None:
    """While no fetch was answered the topic was made again, and has outgrown the old position: fetches go on as if
    nothing had been, records confirm them, and the question that would tell is ten minutes away.
    """
    changes = RARE | {"staleness_bound_s": 10.0, "request_timeout_s": 1.0, "metadata_max_age_s": 300}
    settings = settings_for(kafka.bootstrap, topic_name, **changes)
    await topic.create(settings)
    node = run_node(settings)
    await revoke_sessions(settings, "old0")
    await node.wait_ready(timeout_s=PATIENCE_S)
    await eventually(lambda: knows(node, "old0"), "it arrives")
    kafka.proxy(1).set(Fault(kind="mute", apis=frozenset({FETCH})))
    async with admin_client(settings.kafka_bootstrap_servers) as client:
        await client.delete_topics([settings.topic])
    await topic.create(settings)
    names = [f"new{number}" for number in range(5)]
    await put(settings, *(session(name) for name in names))
    kafka.join()
    async with busy(settings):
        await never_live_without(node, *names, bound_s=settings.staleness_bound_s)


async def test_a_partition_added_is_noticed(make_apache_topic: MakeTopic, run_node: RunNode) -> None:
    """While records keep the old partition fresh, a revocation goes to a new one."""
    settings = await make_apache_topic(**RARE)
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    async with busy(settings), admin_client(settings.kafka_bootstrap_servers) as client:
        await client.create_partitions({settings.topic: NewPartitions(total_count=2)})
        await put(settings, session("s1"), partition=1)
        await never_live_without(node, "s1", bound_s=settings.staleness_bound_s)

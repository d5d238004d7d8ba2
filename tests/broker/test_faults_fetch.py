"""Answers that are wrong, and logs that change under a reading node: what it says, and that it is never fooled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import kafka_errors

from consumers.freshness import State
from consumers.node import Node
from revoker import topic
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, eventually, knows, put, revoke_sessions, settings_for
from tests.broker.witness import Witness, never_live_without
from tests.broker.zstd import put_zstd
from tests.brokers.admin import admin_client
from tests.brokers.apache import ApacheKafka
from tests.brokers.frames import FETCH
from tests.brokers.proxy import Fault

RunNode = Callable[[Settings], Node]

#: Every code aiokafka has a class for, and some it has none for.
CODES: Final = sorted({*kafka_errors, 74, 75, 76, 78, 87, 89, 97, 100, 103, 106, 113, 32_767} - {0})

FETCHES: Final = frozenset({FETCH})


def quick(kafka: ApacheKafka, name: str, **changes: Any) -> Settings:
    """Settings under which a node notices within about a second."""
    values: dict[str, Any] = {"staleness_bound_s": 1.0, "request_timeout_s": 1.0, "metadata_max_age_s": 1.0}
    return settings_for(kafka.bootstrap, name, **values | changes)


async def followed(settings: Settings, run_node: RunNode) -> Node:
    """A live node on a new topic."""
    await topic.create(settings)
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    return node


def session(name: str) -> bytes:
    """A record that revokes this session."""
    return b'{"v":1,"id":"%s","kind":"session","iss":"","sid":"%s","revoked_at":1,"expires_at":253402300799}' % (
        (name.encode(),) * 2
    )


@pytest.mark.parametrize("codes", [CODES[first::5] for first in range(5)], ids="from {0[0]}".format)
async def test_no_error_of_a_fetch_is_taken_for_silence(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, codes: list[int]
) -> None:
    """Whatever code the brokers answer fetches with, a node is not live beyond its bound, keeps its entries, and knows
    what was acknowledged meanwhile as soon as the errors end. aiokafka raises for two of them and is silent about the
    rest.
    """
    # A node for each, and not all in one loop: with a hundred in it a slow machine is late for all their deadlines.
    everybody = {code: quick(kafka, f"{topic_name}-{code}", fetch_max_wait_ms=200) for code in codes}
    first = next(iter(everybody.values()))
    async with admin_client(first.kafka_bootstrap_servers) as client:
        goal = topic.wanted(first)
        await client.create_topics([NewTopic(one.topic, 1, 1, topic_configs=goal) for one in everybody.values()])
    await put_everywhere(everybody, session("before"))
    nodes = {code: run_node(settings) for code, settings in everybody.items()}
    for node in nodes.values():
        await node.wait_ready(timeout_s=PATIENCE_S)
    kafka.proxy(1).set(Fault(kind="error", codes={settings.topic: code for code, settings in everybody.items()}))
    await put_everywhere(everybody, session("during"))
    acknowledged_at = time.monotonic()
    blind = dict(nodes)
    while blind:
        late = time.monotonic() - acknowledged_at > first.staleness_bound_s
        for code, node in list(blind.items()):
            assert knows(node, "before"), code
            assert not (late and node.freshness.state is State.LIVE and not knows(node, "during")), code
            if node.freshness.state is not State.LIVE:
                assert node.freshness.why(), code
                del blind[code]
        assert time.monotonic() < acknowledged_at + PATIENCE_S, f"live under {sorted(blind)}"
        await asyncio.sleep(0.02)
    kafka.join()
    for code, node in nodes.items():
        await node.wait_ready(timeout_s=PATIENCE_S)
        assert knows(node, "during"), code


async def put_everywhere(everybody: dict[int, Settings], value: bytes) -> None:
    """The same record to every topic."""
    (bootstrap,) = {settings.kafka_bootstrap_servers for settings in everybody.values()}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        await asyncio.gather(*(producer.send_and_wait(one.topic, value, key=b"k") for one in everybody.values()))
    finally:
        await producer.stop()


@pytest.mark.parametrize(("kind", "names"), [("corrupt", "CRC"), ("length", "RecordTooLarge")])
async def test_a_spoiled_batch_is_never_jumped_over(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, kind: Any, names: str
) -> None:
    """A flipped byte, or a batch cut short, which aiokafka itself would skip: the node names it and reads it again."""
    settings = quick(kafka, topic_name)
    node = await followed(settings, run_node)
    async with Witness(node, settings) as witness:
        before = kafka.proxy(1).counts[kind]
        kafka.proxy(1).set(Fault(kind=kind))
        await eventually(lambda: node.follower.failures_total >= 2, "the node tries again")
        assert kafka.proxy(1).counts[kind] >= before + 2
        kafka.join()
    assert witness.said(names), witness.reasons


async def test_a_batch_of_a_missing_codec_is_named(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a topic that keeps batches as they come, a node without the codec is not ready and names it, also
    after trying again. A topic as we make it has the brokers unpack the batch, and the node reads it.
    """
    monkeypatch.setattr("aiokafka.codec.cramjam", None)
    unpacking = quick(kafka, f"{topic_name}-unpacking")
    content = await followed(unpacking, run_node)
    await put_zstd(unpacking, session("compressed"))
    await never_live_without(content, "compressed", bound_s=unpacking.staleness_bound_s)
    settings = quick(kafka, topic_name)
    node = await followed(settings, run_node)
    await alter(settings, "compression.type", "producer")
    await revoke_sessions(settings, "before")
    await put_zstd(settings, session("compressed"))
    await revoke_sessions(settings, "after")
    await eventually(lambda: "zstd" in node.freshness.why(), "the reason names the codec")
    await eventually(lambda: node.follower.failures_total >= 2, "it tries again")
    assert node.freshness.state < State.LIVE
    assert knows(node, "before")


async def test_a_head_deleted_before_it_was_read_is_told(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode
) -> None:
    """Records deleted that the node had not read yet: the fetch is out of range below, and the node replays what is
    left rather than going on at the end.
    """
    settings = quick(kafka, topic_name)
    node = await followed(settings, run_node)
    async with Witness(node, settings) as witness:
        await witness.acknowledges(5)
    start = node.freshness.positions[0]
    kafka.proxy(1).set(Fault(kind="mute", apis=FETCHES))
    await revoke_sessions(settings, "lost", "kept")
    async with admin_client(settings.kafka_bootstrap_servers) as client:
        await client.delete_records({TopicPartition(topic_name, 0): RecordsToDelete(before_offset=start + 1)})
    failures = node.follower.failures_total
    kafka.join()
    await eventually(lambda: knows(node, "kept"), "what is left is read")
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert node.follower.failures_total > failures
    assert not knows(node, "lost")
    assert knows(node, "w0")


@pytest.mark.parametrize("records", [1, 2, 5])
async def test_a_topic_made_again_at_once_fools_nobody(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, records: int
) -> None:
    """Deleted and made again with fewer, as many and more records than before: all of the new ones are read, from the
    first, and the old entries stay.
    """
    settings = quick(kafka, topic_name)
    node = await followed(settings, run_node)
    await revoke_sessions(settings, "old0", "old1")
    await eventually(lambda: knows(node, "old1"), "the old ones arrive")
    async with admin_client(settings.kafka_bootstrap_servers) as client:
        await client.delete_topics([topic_name])
    await topic.create(settings)
    names = [f"new{number}" for number in range(records)]
    await put(settings, *(session(name) for name in names))
    await never_live_without(node, *names, bound_s=settings.staleness_bound_s)
    assert knows(node, "old0")
    assert knows(node, "old1")


async def test_a_retention_shortened_while_live_is_noticed(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode
) -> None:
    """The contract is looked at again now and then: a strict node stops being live and names the setting, a lenient one
    goes on and shows it; mended, both are live.
    """
    settings = quick(kafka, topic_name)
    node = await followed(settings, run_node)
    lenient = run_node(quick(kafka, topic_name, topic_check="lenient"))
    await revoke_sessions(settings, "s1")
    await eventually(lambda: knows(node, "s1") and knows(lenient, "s1"), "it arrives")
    await alter(settings, "retention.ms", "5000")
    await eventually(lambda: "retention.ms is '5000'" in node.freshness.why(), "the reason names the setting")
    await eventually(lambda: "retention.ms" in str(list(lenient.checks())), "the lenient one shows it")
    assert lenient.freshness.state is State.LIVE
    assert knows(node, "s1")
    await alter(settings, "retention.ms", "-1")
    await node.wait_ready(timeout_s=PATIENCE_S)


async def alter(settings: Settings, name: str, value: str) -> None:
    """Alter one of the topic's settings; aiokafka's request resets all that it does not name."""
    goal = topic.wanted(settings) | {name: value}
    async with admin_client(settings.kafka_bootstrap_servers) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.topic, goal)])


async def test_a_topic_made_by_a_careless_client_is_not_trusted(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode
) -> None:
    """Somebody else's producer made the topic with the broker's defaults: it keeps records too short a time, and a
    strict node says so instead of becoming ready.
    """
    settings = quick(kafka, topic_name, longest_token_life_s=30 * 86_400)
    node = run_node(settings)
    await eventually(lambda: "does not exist" in node.freshness.why(), "the topic is missing")
    await put(settings, session("careless"))
    await eventually(lambda: "retention.ms is '604800000'" in node.freshness.why(), "the reason names the setting")
    assert node.freshness.state is State.CONNECTING

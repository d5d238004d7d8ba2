"""What the broker tests share: settings that fit the broker, topics that keep the contract, nodes and raw records."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from consumers.node import Node
from revoker import topic
from revoker.events import Session
from revoker.publisher import Publisher
from revoker.settings import Settings
from tests.brokers.apache import ApacheKafka
from tests.conftest import Broker

if TYPE_CHECKING:
    from tests.brokers.secure import SecureKafka

SECRET = "s3cr3t-that-is-long-enough-for-hs256"

#: Long enough for a busy machine; a passing test never waits for it.
PATIENCE_S = 30.0

MakeTopic = Callable[..., Awaitable[Settings]]


def settings_for(bootstrap: str, name: str, **changes: Any) -> Settings:
    """Settings for one broker of whichever kind, quick to notice what happens."""
    values: dict[str, Any] = {
        "kafka_bootstrap_servers": bootstrap,
        "topic": name,
        "topic_replication_factor": 1,
        "topic_min_insync_replicas": 1,
        "algorithms": ("HS256",),
        "key_secret": SECRET,
        "staleness_bound_s": 3.0,
        "request_timeout_s": 3.0,
        "publish_timeout_s": 5.0,
    }
    return Settings(**values | changes)


@pytest.fixture
def make_topic(broker: Broker, topic_name: str) -> MakeTopic:
    """Creates this test's topic on either kind of broker; returns the settings that lead to it."""

    async def make(**changes: Any) -> Settings:
        if broker.name == "embedded":
            changes.setdefault("topic_check", "lenient")  # it answers for few of a topic's settings
        settings = settings_for(broker.bootstrap, topic_name, **changes)
        await topic.create(settings)
        return settings

    return make


@pytest.fixture
def make_apache_topic(apache: Broker, topic_name: str) -> MakeTopic:
    """As `make_topic`, on Apache Kafka alone."""

    async def make(**changes: Any) -> Settings:
        settings = settings_for(apache.bootstrap, topic_name, **changes)
        await topic.create(settings)
        return settings

    return make


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """Apache Kafka with TLS, logins and an authorizer, shared by the session: tests make their own users and topics."""
    from tests.brokers.secure import SecureKafka

    with SecureKafka(tmp_path_factory.mktemp("secure")) as kafka:
        yield kafka


#: For tests of TLS connections that fail: aiokafka drops those without waiting for their end, and the loop of a short
#: test ends first. Without the fixture the complaint would hit whichever test runs when they are collected.
DROPS_CONNECTIONS = [
    pytest.mark.filterwarnings("ignore:.*unclosed transport:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("dropped_connections"),
]


@pytest.fixture
def dropped_connections() -> Iterator[None]:
    """Collects, at the end of the test that dropped them, connections that nobody closed."""
    yield
    gc.collect()


@pytest.fixture
async def run_node() -> AsyncIterator[Callable[[Settings], Node]]:
    """Starts nodes that end with the test."""
    nodes: list[Node] = []

    def run(settings: Settings) -> Node:
        node = Node(settings)
        node.start()
        nodes.append(node)
        return node

    yield run
    for node in nodes:
        await node.close()


@pytest.fixture(scope="session")
def proxied_apache() -> Iterator[ApacheKafka]:
    """One broker behind a proxy, which makes topics for anybody who asks, as Kafka does by default."""
    if os.environ.get("REVOKER_TEST_BOOTSTRAP"):
        pytest.skip("needs a proxy before its broker")
    with ApacheKafka(proxied=True, properties={"auto.create.topics.enable": "true"}) as kafka:
        yield kafka


@pytest.fixture
def kafka(proxied_apache: ApacheKafka) -> Iterator[ApacheKafka]:
    """The proxied broker, to do anything to on the wire; after each test nothing is wrong with it."""
    yield proxied_apache
    proxied_apache.join()


async def put(settings: Settings, *values: bytes | None, partition: int | None = None, **producer_changes: Any) -> None:
    """Append raw values to the topic, as any other producer could."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all", **producer_changes)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(settings.topic, value, key=b"k", partition=partition)
    finally:
        await producer.stop()


async def everything_in(settings: Settings) -> list[ConsumerRecord[Any, Any]]:
    """All records of the topic, by partition and offset."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap_servers, auto_offset_reset="none")
    await consumer.start()
    try:
        wanted = [TopicPartition(settings.topic, number) for number in range(settings.topic_partitions)]
        ends = await consumer.end_offsets(wanted)
        consumer.assign(wanted)
        for partition, start in (await consumer.beginning_offsets(wanted)).items():
            consumer.seek(partition, start)
        found: list[ConsumerRecord[Any, Any]] = []
        while any([await consumer.position(partition) < ends[partition] for partition in wanted]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found.extend(records)
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        await consumer.stop()


def knows(node: Node, name: str) -> bool:
    """Whether the node's deny list holds this session."""
    return node.denylist.listed(("session", "", name))


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for ``condition``, for `PATIENCE_S` at most."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.01)


async def revoke_sessions(settings: Settings, *names: str) -> None:
    """Publish one session revocation for each name."""
    async with Publisher(settings) as publisher:
        for name in names:
            await publisher.revoke(selector=Session(iss="", sid=name))

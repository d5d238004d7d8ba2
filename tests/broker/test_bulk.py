"""A replay in bulk on Apache Kafka: the same deny list and the same obstacles as without it, whatever cuts it short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

from consumers import bulk, follower
from consumers.bulk import Bulk, Slice
from consumers.freshness import State
from consumers.node import Node
from revoker import topic
from revoker.events import Client, Everything, Revocation, Selector, Session, Subject, Token
from revoker.record import encode
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, eventually, knows, put, revoke_sessions, settings_for
from tests.broker.test_slices import put_batch
from tests.brokers.admin import admin_client
from tests.brokers.apache import ApacheKafka
from tests.brokers.proxy import PASS, Fault

RunNode = Callable[[Settings], Node]


class Bulks:
    """Those that were begun; while ``held``, each waits after its first slice."""

    def __init__(self) -> None:
        self.begun: list[Bulk] = []
        self.go = asyncio.Event()
        self.go.set()

    @property
    def first(self) -> Bulk:
        """The one of the only node."""
        return self.begun[0]

    def hold(self) -> None:
        """Let none go beyond its first slice."""
        self.go.clear()


@pytest.fixture
def bulks(monkeypatch: pytest.MonkeyPatch) -> Bulks:
    """Every replay is in bulk, by many small fetches, so that there is always something left to ask for."""
    noted = Bulks()

    class Noted(Bulk):
        async def slices(self) -> AsyncGenerator[Slice, None]:
            async with aclosing(super().slices()) as slices:
                async for one in slices:
                    yield one
                    if self not in noted.begun:
                        noted.begun.append(self)
                    await noted.go.wait()

    monkeypatch.setattr(follower, "Bulk", Noted)
    monkeypatch.setattr(follower, "BULK_LEAST", 1)
    monkeypatch.setattr(bulk, "BULK_FETCH_BYTES", 65536)
    return noted


def names(word: str, count: int) -> list[str]:
    """So many sessions."""
    return [f"{word}-{number}" for number in range(count)]


async def filled(kafka: ApacheKafka, name: str, *, batches: int, **changes: object) -> tuple[Settings, list[str]]:
    """A topic with so many batches of 400 sessions in partition 0."""
    settings = settings_for(kafka.bootstrap, name, **changes)
    await topic.create(settings)
    every = names("s", 400 * batches)
    for first in range(0, len(every), 400):
        await put_batch(settings, *every[first : first + 400], spoiled=-1)
    return settings, every


async def put_mixed(settings: Settings) -> None:
    """Revocations of many kinds, in each partition, compressed and not, and a transaction."""
    selectors: list[tuple[Selector, int | None]] = [
        *((Token(iss="i", jti=f"j{number}"), None) for number in range(300)),
        *((Session(iss="i", sid=f"s{number}"), None) for number in range(300)),
        *((Subject(iss="i", sub=f"u{number}"), 1_000 + number) for number in range(300)),
        (Subject(iss="i", sub="spared", spare_sid="s"), 1_000),
        (Client(iss="i", client_id="c"), 1_000),
        (Everything(), 1_000),
    ]
    values = [
        encode(Revocation(id="e", selector=selector, cutoff=cutoff, revoked_at=1, expires_at=2**33))[1]
        for selector, cutoff in selectors
    ]
    for codec in (None, "gzip"):
        producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, compression_type=codec)
        await producer.start()
        await asyncio.gather(
            *[
                await producer.send(settings.topic, value, partition=index % settings.topic_partitions)
                for index, value in enumerate(values)
            ]
        )
        await producer.stop()
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, transactional_id=settings.topic)
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait(settings.topic, encode_session("in-transaction"), partition=0)
    await producer.stop()


def encode_session(name: str) -> bytes:
    """The value that revokes it."""
    return encode(Revocation(id="e", selector=Session(iss="", sid=name), revoked_at=1, expires_at=2**33))[1]


async def caught_up(run_node: RunNode, settings: Settings, state: State = State.LIVE) -> Node:
    """A node that has read everything there is."""
    node = run_node(settings)
    await node.follower.wait_for(state, timeout_s=PATIENCE_S)
    return node


async def test_the_deny_list_is_the_same_as_without_it(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many kinds, three partitions, compressed batches, a transaction's marker, a log whose head was deleted."""
    settings = settings_for(kafka.bootstrap, topic_name, topic_partitions=3)
    await topic.create(settings)
    await put_mixed(settings)
    async with admin_client(settings.kafka_bootstrap_servers) as client:
        await client.delete_records({TopicPartition(settings.topic, 1): RecordsToDelete(before_offset=17)})
    node = await caught_up(run_node, settings)
    assert bulks.first.stopped is None
    assert bulks.first.records == 0
    monkeypatch.setattr(follower, "BULK_LEAST", 10**9)
    other = await caught_up(run_node, settings)
    assert len(bulks.begun) == 1
    assert node.intake.applied == other.intake.applied
    assert node.denylist.counts() == other.denylist.counts()
    assert set(node.denylist.in_force()) == set(other.denylist.in_force())
    assert node.freshness.positions == other.freshness.positions
    assert knows(node, "in-transaction")


async def test_what_is_appended_meanwhile_is_read_too(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, bulks: Bulks
) -> None:
    """It reads to the end noted at the start, and the consumer from there."""
    settings, every = await filled(kafka, topic_name, batches=4)
    bulks.hold()
    node = run_node(settings)
    await eventually(lambda: bool(bulks.begun), "the first slice is applied")
    await revoke_sessions(settings, "late")
    assert node.freshness.state is State.REPLAYING
    bulks.go.set()
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert all(knows(node, name) for name in (*every, "late"))


async def test_a_broker_lost_in_the_middle_loses_nothing(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, bulks: Bulks
) -> None:
    """The node is not ready before the broker is back and everything was read."""
    settings, every = await filled(kafka, topic_name, batches=6)
    bulks.hold()
    node = run_node(settings)
    await eventually(lambda: bool(bulks.begun), "the first slice is applied")
    kafka.proxy(1).set(Fault(kind="refuse"))
    bulks.go.set()
    await eventually(lambda: bulks.first.stopped is not None, "it has ended")
    assert bulks.first.records > 0
    assert not node.freshness.was_ready
    kafka.proxy(1).set(PASS)
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert all(knows(node, name) for name in every)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="error", code=6, times=1),
        Fault(kind="error", code=1, times=1),
        Fault(kind="corrupt", times=1),
        Fault(kind="length", times=1),
    ],
    ids=["not-leader", "out-of-range", "corrupt", "length"],
)
async def test_a_bad_answer_hands_over_to_the_consumer(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, bulks: Bulks, fault: Fault
) -> None:
    """Whatever the answer was, nothing is lost."""
    settings, every = await filled(kafka, topic_name, batches=3)
    bulks.hold()
    node = run_node(settings)
    await eventually(lambda: bool(bulks.begun), "the first slice is applied")
    kafka.proxy(1).set(fault)
    bulks.go.set()
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert all(knows(node, name) for name in every)
    assert node.intake.missed == 0


async def unread_of(node: Node) -> Sequence[tuple[int, int, str]]:
    """Place and reason."""
    return sorted((one.partition, one.offset, one.detail) for one in node.intake.unread)


async def test_what_cannot_be_read_stands_in_the_way_as_without_it(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage, and a header that aiokafka cannot take apart, in the middle: the same places are named, what stands
    around them is applied.
    """
    settings, every = await filled(kafka, topic_name, batches=2)
    await put(settings, b"garbage")
    await put_batch(settings, "first", "bad", "lost", spoiled=1)
    await put_batch(settings, *names("after", 400), spoiled=-1)
    node = await caught_up(run_node, settings, State.STALE)
    assert bulks.begun
    assert bulks.first.stopped is not None
    monkeypatch.setattr(follower, "BULK_LEAST", 10**9)
    other = await caught_up(run_node, settings, State.STALE)
    assert len(bulks.begun) == 1
    for one in (node, other):
        assert all(knows(one, name) for name in (*every, "first", *names("after", 400)))
        assert "undecodable" in one.freshness.why()
        assert not one.freshness.was_ready
    assert await unread_of(node) == await unread_of(other)
    assert [offset for _, offset, _ in await unread_of(node)] == [800, 802]

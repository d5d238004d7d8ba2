"""The follower on a real broker: when a node is ready, what it then knows, and what it says when it cannot know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.records_to_delete import RecordsToDelete

from consumers.freshness import State
from consumers.intake import RawRecord
from consumers.node import Node
from revoker import topic
from revoker.errors import NotProven
from revoker.events import Revocation, Token
from revoker.publisher import Publisher
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, MakeTopic, eventually, knows, put, revoke_sessions, settings_for
from tests.conftest import StartApache

RunNode = Callable[[Settings], Node]


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_ready_node_knows_all_that_was_acknowledged_before(
    make_topic: MakeTopic, run_node: RunNode, partitions: int
) -> None:
    """At the moment a node becomes live it has applied every revocation of every partition."""
    settings = await make_topic(topic_partitions=partitions)
    async with Publisher(settings) as publisher:
        await asyncio.gather(*(publisher.revoke(selector=Token(iss="", jti=f"j{number}")) for number in range(500)))
    node = run_node(settings)
    assert node.freshness.state < State.LIVE
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert node.denylist.counts()["token"] == 500


async def test_an_empty_topic_makes_a_node_ready(make_topic: MakeTopic, run_node: RunNode) -> None:
    """There is nothing to read, and the node becomes live all the same."""
    node = run_node(await make_topic(topic_partitions=3))
    await node.wait_ready(timeout_s=PATIENCE_S)


async def test_a_live_node_takes_a_revocation_from_the_tail(make_topic: MakeTopic, run_node: RunNode) -> None:
    """What is published while a node is live is enforced by it, and it stays live."""
    settings = await make_topic()
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    await revoke_sessions(settings, "s1")
    await eventually(lambda: knows(node, "s1"), "the revocation arrives")
    assert node.freshness.state is State.LIVE


async def test_a_log_whose_head_was_deleted_is_read_from_what_is_left(
    make_apache_topic: MakeTopic, run_node: RunNode
) -> None:
    """Records before the log's start are no reason to wait, and those after it are all applied."""
    settings = await make_apache_topic()
    await revoke_sessions(settings, *(f"s{number}" for number in range(10)))
    await _delete_records_before(settings, 6)
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert [knows(node, f"s{number}") for number in range(10)] == [False] * 6 + [True] * 4


async def test_trailing_control_records_do_not_keep_a_node_waiting(
    make_apache_topic: MakeTopic, run_node: RunNode
) -> None:
    """A transaction's markers occupy offsets and are never delivered: readiness goes by position, not by the last
    record.
    """
    settings = await make_apache_topic()
    await revoke_sessions(settings, "s1")
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, transactional_id=settings.topic)
    await producer.start()
    for _ in range(3):
        async with producer.transaction():
            await producer.send_and_wait(settings.topic, _session_record("s2"))
    await producer.stop()
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert knows(node, "s1")
    assert knows(node, "s2")


async def test_a_missing_topic_is_waited_for_and_never_made(start_apache: StartApache, run_node: RunNode) -> None:
    """Where brokers create topics on demand, a node names the missing topic, creates nothing, and goes live once
    somebody makes it.
    """
    kafka = start_apache(properties={"auto.create.topics.enable": "true"})
    settings = settings_for(kafka.bootstrap, "later")
    node = run_node(settings)
    await eventually(lambda: "later" in node.freshness.missing()[0].reason, "the reason names the topic")
    with pytest.raises(NotProven, match="later"):
        await node.wait_ready(timeout_s=0.1)
    assert "later" not in await _topics(settings)
    await topic.create(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)


async def test_an_unreadable_record_keeps_a_node_from_being_live(make_topic: MakeTopic, run_node: RunNode) -> None:
    """Garbage in the topic may have been a revocation: the node names the place and is not live, also if it comes while
    live.
    """
    settings = await make_topic()
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    await put(settings, b"garbage")
    await eventually(lambda: node.freshness.state is State.STALE, "the node is stale")
    (missing,) = node.freshness.missing()
    assert missing.proof == "undecodable"
    assert "offset 0" in missing.reason
    await revoke_sessions(settings, "s1")
    await eventually(lambda: knows(node, "s1"), "what can be read is still applied")


async def test_an_operator_may_go_on_without_unreadable_records(make_topic: MakeTopic, run_node: RunNode) -> None:
    """With tolerate_undecodable the node is live, and still counts and shows them."""
    settings = await make_topic(tolerate_undecodable=True)
    await put(settings, b"garbage", b'{"v":2,"kind":"new"}', None)
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert [unread.category for unread in node.intake.unread] == ["not_json", "newer_version", "empty"]


async def test_a_topic_made_again_is_replayed_from_its_beginning(
    make_apache_topic: MakeTopic, run_node: RunNode
) -> None:
    """Even if the new log has grown past the old position, nothing of it is missed; entries of the old one stay."""
    settings = await make_apache_topic()
    await revoke_sessions(settings, "old1", "old2")
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    await admin.delete_topics([settings.topic])
    await admin.close()
    await eventually(lambda: node.freshness.state < State.STALE, "the node notices")
    await topic.create(settings)
    await revoke_sessions(settings, "new1", "new2", "new3", "new4")
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert all(knows(node, name) for name in ("old1", "old2", "new1", "new2", "new3", "new4"))


async def test_a_partition_added_while_live_is_read(make_apache_topic: MakeTopic, run_node: RunNode) -> None:
    """Revocations in a partition that did not exist at the start are enforced."""
    settings = await make_apache_topic()
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    await admin.create_partitions({settings.topic: NewPartitions(total_count=2)})
    await admin.close()
    await put(settings, _session_record("s1"), partition=1)
    await eventually(lambda: knows(node, "s1"), "the new partition's revocation arrives")
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert set(node.freshness.positions) == {0, 1}


async def test_records_deleted_under_a_reading_node_are_never_jumped_over(
    make_apache_topic: MakeTopic, run_node: RunNode
) -> None:
    """A deleted head that the node has not read yet ends in a new replay, not in a silent skip."""
    settings = await make_apache_topic()
    await revoke_sessions(settings, "s0", "s1")
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    await _delete_records_before(settings, 2)
    await revoke_sessions(settings, "s2")
    await eventually(lambda: knows(node, "s2"), "the tail is read")
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert knows(node, "s0")


async def test_a_strict_node_refuses_a_topic_that_loses_revocations(
    make_apache_topic: MakeTopic, run_node: RunNode
) -> None:
    """Retention shorter than tokens live: a strict node is never ready and names the setting; a lenient one is."""
    settings = await make_apache_topic(longest_token_life_s=60)
    demanding = settings_for(settings.kafka_bootstrap_servers, settings.topic, longest_token_life_s=86400)
    node = run_node(demanding)
    await eventually(lambda: "retention.ms" in node.freshness.missing()[0].reason, "the reason names retention.ms")
    lenient = settings_for(
        settings.kafka_bootstrap_servers, settings.topic, longest_token_life_s=86400, topic_check="lenient"
    )
    await run_node(lenient).wait_ready(timeout_s=PATIENCE_S)
    assert node.freshness.state is State.CONNECTING


async def test_a_replay_by_timestamp_reads_only_what_can_still_matter(
    make_apache_topic: MakeTopic, run_node: RunNode
) -> None:
    """replay_from longest_life starts after records older than any token; everything younger is applied."""
    settings = await make_apache_topic(longest_token_life_s=1, clock_margin_s=0, leeway_s=0)
    await revoke_sessions(settings, "s1")
    later = settings_for(
        settings.kafka_bootstrap_servers,
        settings.topic,
        longest_token_life_s=1,
        clock_margin_s=0,
        leeway_s=0,
        replay_from="longest_life",
    )
    now = time.time()
    young, old = Node(later, wall=lambda: now), Node(later, wall=lambda: now + 3600)
    async with young, old:
        await young.wait_ready(timeout_s=PATIENCE_S)
        await old.wait_ready(timeout_s=PATIENCE_S)
        assert knows(young, "s1")
        assert young.freshness.progress.records == 1
        assert old.freshness.progress.records == 0
        await revoke_sessions(settings, "s2")
        await eventually(lambda: old.freshness.progress.records == 1, "the tail is read")


async def test_a_full_deny_list_is_loud_and_forgets_nothing(make_topic: MakeTopic, run_node: RunNode) -> None:
    """At max_entries the node says which setting, is not live, and keeps what it has."""
    settings = await make_topic(max_entries=3)
    await revoke_sessions(settings, "s1", "s2", "s3")
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    await revoke_sessions(settings, "s4")
    await eventually(lambda: "max_entries" in str(node.freshness.missing()), "the reason names the setting")
    assert all(knows(node, name) for name in ("s1", "s2", "s3"))


async def test_a_full_deny_list_is_left_once_entries_have_expired(make_topic: MakeTopic, run_node: RunNode) -> None:
    """A session that fails at the bound in its first second forgets nothing; the next one does, before it begins."""
    settings = await make_topic(max_entries=2)
    dead = [_session_record(f"dead{number}").replace(b"253402300799", b"1") for number in range(3)]
    await put(settings, *dead, _session_record("s1"))
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert knows(node, "s1")
    assert not knows(node, "dead0")


async def test_a_failure_while_applying_is_seen_and_not_skipped(make_topic: MakeTopic, run_node: RunNode) -> None:
    """An exception raised while a record is applied makes the node unready and is named; the node does not go on
    without the record.
    """
    settings = await make_topic()
    await revoke_sessions(settings, "s1")
    node = Node(settings)

    def fail(revocation: Revocation, record: RawRecord) -> None:
        raise ZeroDivisionError("planted")

    node.intake.on_applied = fail
    async with node:
        await eventually(lambda: "planted" in node.freshness.missing()[0].reason, "the reason names the failure")
        with pytest.raises(NotProven):
            await node.wait_ready(timeout_s=0.5)
        node.intake.on_applied = None
        await node.wait_ready(timeout_s=PATIENCE_S)


async def test_a_follower_whose_task_dies_makes_the_node_unready(make_topic: MakeTopic, run_node: RunNode) -> None:
    """Whatever ends the background task, the node is stopped, says so, and fails its readiness check."""
    settings = await make_topic()
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "revoker-follower"]
    task.cancel()
    await eventually(lambda: node.freshness.state is State.STOPPED, "the node is stopped")
    assert not all(check.ok for check in node.checks())
    with pytest.raises(NotProven):
        await node.wait_ready()


async def test_a_slice_is_bounded(
    make_apache_topic: MakeTopic, run_node: RunNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much the consumer has to read, one turn of the loop applies 500 records at most."""
    monkeypatch.setattr("consumers.follower.BULK_LEAST", 10**9)
    settings = await make_apache_topic()
    record = _session_record("s1")
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, linger_ms=50, max_batch_size=1 << 18
    )
    await producer.start()
    await asyncio.gather(*[await producer.send(settings.topic, record) for _ in range(5000)])
    await producer.stop()
    with counted_slices() as slices:
        node = run_node(settings)
        await node.wait_ready(timeout_s=PATIENCE_S)
    assert sum(slices) == 5000
    assert max(slices) <= 500


@contextmanager
def counted_slices() -> Iterator[list[int]]:
    """The sizes of what every consumer hands out, while the block lasts."""
    sizes: list[int] = []
    getmany = AIOKafkaConsumer.getmany

    async def counted(self: AIOKafkaConsumer, *partitions: TopicPartition, **options: int) -> object:
        found = await getmany(self, *partitions, **options)
        sizes.append(sum(map(len, found.values())))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AIOKafkaConsumer, "getmany", counted)
        yield sizes


def _session_record(name: str) -> bytes:
    return (
        b'{"v":1,"id":"e","kind":"session","iss":"","sid":"%s","revoked_at":1,"expires_at":253402300799}'
        % name.encode()
    )


async def _delete_records_before(settings: Settings, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    await admin.delete_records({TopicPartition(settings.topic, 0): RecordsToDelete(before_offset=offset)})
    await admin.close()


async def _topics(settings: Settings) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()

"""Asking the brokers: what the answer says, that asking creates nothing, and that a broker gone wrong does not hide the
others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from revoker import topic
from revoker.cluster import NO_LEADER, TopicView, look, newer_leader
from revoker.diagnosis import QuietLogs
from revoker.errors import BrokerUnreachable, SettingsError, TopicMissing
from revoker.kafka import client_arguments, connected, consumer_arguments, prepare, producer_arguments
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, MakeTopic, settings_for
from tests.brokers.apache import ApacheKafka
from tests.conftest import Broker, StartApache

EVERYTHING = {"Read", "Write", "Create", "Delete", "Alter", "Describe", "DescribeConfigs", "AlterConfigs"}


async def seen(settings: Settings) -> TopicView:
    """The topic as a client of its own sees it."""
    async with connected(settings) as client:
        return await look(client, settings.topic, timeout_s=settings.request_timeout_s)


async def eventually(condition: Callable[[], Any], *, what: str) -> None:
    """Wait until ``condition`` holds, asking again and again."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:g} s: {what}"
        await asyncio.sleep(0.02)


async def look_until(client: AIOKafkaClient, name: str, condition: Callable[[TopicView], bool]) -> TopicView:
    """Look until the view is as wanted."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        view = await look(client, name, timeout_s=1.0)
        if condition(view):
            return view
        assert time.monotonic() < deadline_s, f"still {view}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """aiokafka's own admin client."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def topics(bootstrap: str) -> list[str]:
    """The names of all topics; asking for all of them creates none."""
    async with admin(bootstrap) as client:
        return await client.list_topics()


async def test_a_view_shows_id_partitions_and_leaders(make_topic: MakeTopic) -> None:
    """Every partition comes with a leader, its epoch and its replicas; the id is not zero."""
    view = await seen(await make_topic(topic_partitions=3))

    assert view.topic_id != UUID(int=0)
    assert list(view.partitions) == [0, 1, 2]
    assert all(partition.leader != NO_LEADER for partition in view.partitions.values())
    assert all(partition.leader_epoch == 0 for partition in view.partitions.values())
    assert all(partition.replicas == partition.isr for partition in view.partitions.values())
    assert (view.asked, view.answered, view.dissenting) == (1, 1, 0)
    assert newer_leader(view, {number: partition.leader for number, partition in view.partitions.items()}) == {}


async def test_rights_are_told_without_trying_them(make_topic: MakeTopic, broker: Broker) -> None:
    """Apache Kafka without an authorizer allows everything; the embedded broker does not tell, which is unknown."""
    view = await seen(await make_topic())

    assert view.rights == (frozenset(EVERYTHING) if broker.name == "apache" else None)


async def test_a_missing_topic_is_missing_and_stays_so(broker: Broker, topic_name: str) -> None:
    """Looking raises, and creates nothing, also on a broker that creates whatever it is asked for."""
    settings = settings_for(broker.bootstrap, topic_name)
    for _ in range(2):
        with pytest.raises(TopicMissing, match=topic_name):
            await seen(settings)

    assert topic_name not in await topics(broker.bootstrap)


async def test_an_illegal_name_is_told_as_such(apache: Broker) -> None:
    """A slash in the name is the settings' mistake, not a missing topic."""
    with pytest.raises(SettingsError, match="'a/b', which Kafka does not allow"):
        await seen(settings_for(apache.bootstrap, "a/b"))


async def test_a_topic_made_anew_has_another_id(make_apache_topic: MakeTopic) -> None:
    """Delete and create leave the name and change the id."""
    settings = await make_apache_topic()
    before = await seen(settings)
    async with admin(settings.kafka_bootstrap_servers) as client:
        await client.delete_topics([settings.topic])
    await topic.create(settings)

    assert (await seen(settings)).topic_id != before.topic_id


async def test_looking_does_not_wait_for_a_parked_fetch(make_apache_topic: MakeTopic) -> None:
    """The question has a connection of its own, so an idle fetch of many seconds does not hold it up."""
    settings = await make_apache_topic(fetch_max_wait_ms=9000, request_timeout_s=10, staleness_bound_s=60)
    consumer = AIOKafkaConsumer(**consumer_arguments(settings))
    prepare(consumer._client)
    await consumer.start()
    try:
        partition = TopicPartition(settings.topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        await eventually(lambda: (1, 0) in consumer._client._conns, what="the fetch is under way")
        asked_s = time.monotonic()
        for _ in range(5):
            await look(consumer._client, settings.topic, timeout_s=3.0)
        assert time.monotonic() - asked_s < 3.0
    finally:
        await consumer.stop()


async def test_a_client_that_knows_no_broker_is_unreachable(apache: Broker) -> None:
    """A client that was never told of a broker, as after a refused token, does not look like one with an empty
    topic."""
    client = AIOKafkaClient(**client_arguments(settings_for(apache.bootstrap, "t")))

    with pytest.raises(BrokerUnreachable, match="no broker is known"):
        await look(client, "t", timeout_s=1.0)


async def test_a_closed_port_is_unreachable_and_named() -> None:
    """The error names the address and the cause that aiokafka only logs."""
    with pytest.raises(BrokerUnreachable, match=r"no broker reached at 127\.0\.0\.1:1 .*Connect call failed"):
        async with connected(Settings(kafka_bootstrap_servers="127.0.0.1:1")):
            pass


async def test_no_answer_is_unreachable(start_apache: StartApache, topic_name: str) -> None:
    """With the only broker gone the error says so for that broker."""
    kafka = start_apache()
    settings = settings_for(kafka.bootstrap, topic_name)
    await topic.create(settings)
    async with connected(settings) as client:
        kafka.kill(1)
        with pytest.raises(BrokerUnreachable, match="none of 1 brokers answered: broker 1: "):
            await look(client, topic_name, timeout_s=1.0)


async def test_the_new_leader_is_seen_with_a_higher_epoch(start_apache: StartApache, topic_name: str) -> None:
    """After a leader's death the two others name its successor, and the watch tells whom to leave."""
    kafka = start_apache(nodes=3)
    settings = settings_for(kafka.bootstrap, topic_name, topic_replication_factor=3, topic_min_insync_replicas=2)
    await topic.create(settings)
    async with connected(settings) as client:
        before = (await look(client, topic_name, timeout_s=3.0)).partitions[0]
        kafka.kill(before.leader)
        view = await look_until(
            client,
            topic_name,
            lambda view: view.partitions[0].leader_epoch > before.leader_epoch and view.partitions[0].leader >= 0,
        )

        assert newer_leader(view, {0: before.leader}) == {0: view.partitions[0].leader}
        assert before.leader not in view.partitions[0].isr


async def test_a_broker_that_hangs_does_not_hide_the_others(start_apache: StartApache, topic_name: str) -> None:
    """A paused broker accepts connections and never answers; a client that has not yet met any broker sees the other
    two.

    Once it goes on, it answers again on a renewed connection.
    """
    kafka = start_apache(nodes=3, properties={"broker.session.timeout.ms": "60000"})
    settings = settings_for(kafka.bootstrap, topic_name, topic_replication_factor=3, topic_min_insync_replicas=2)
    await topic.create(settings)
    async with connected(settings) as client:
        kafka.pause(1)
        try:
            asked_s = time.monotonic()
            view = await look(client, topic_name, timeout_s=1.0)
            assert time.monotonic() - asked_s < 2.0
            assert (view.asked, view.answered) == (3, 2)
        finally:
            kafka.resume(1)
        await look_until(client, topic_name, lambda view: view.answered == 3)


async def test_a_flood_of_log_lines_is_held_back(caplog: pytest.LogCaptureFixture) -> None:
    """A client that tries a closed port a hundred times leaves one line of each kind, and the reason is known."""
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    with QuietLogs().installed() as logs:
        for _ in range(100):
            with pytest.raises(KafkaError):
                await client.bootstrap()

        assert len(caplog.records) == 1
        assert logs.suppressed_total == 99
        assert logs.last_problem is not None
        assert "Connect call failed" in logs.last_problem.text


# A broker that makes topics by itself, as Kafka does by default.


@pytest.fixture(scope="module")
def creating() -> Iterator[str]:
    """The address of an Apache Kafka with automatic topic creation."""
    with ApacheKafka(properties={"auto.create.topics.enable": "true"}) as kafka:
        yield kafka.bootstrap


@asynccontextmanager
async def consumer_of(settings: Settings, *, prepared: bool = True) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that reads the topic, whether or not it exists, and has asked for its metadata twice."""
    consumer = AIOKafkaConsumer(**consumer_arguments(settings))
    if prepared:
        prepare(consumer._client)
    await consumer.start()
    try:
        partition = TopicPartition(settings.topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        for _ in range(2):
            await consumer._client.force_metadata_update()
        yield consumer
    finally:
        await consumer.stop()


async def creation_had_its_time(bootstrap: str) -> None:
    """Wait until the broker has created a topic asked for only now, by aiokafka without our cure.

    Creation follows the request after a while; what was asked for earlier would be there by then.
    """
    barrier = f"barrier-{uuid4().hex}"
    async with consumer_of(settings_for(bootstrap, barrier), prepared=False):
        deadline_s = time.monotonic() + PATIENCE_S
        while barrier not in await topics(bootstrap):
            assert time.monotonic() < deadline_s, "this broker creates no topics: the test would prove nothing"
            await asyncio.sleep(0.05)


async def test_a_consumer_of_a_missing_topic_creates_nothing(creating: str, topic_name: str) -> None:
    """Neither its assignment nor its metadata refreshes make the topic; without our cure the same steps do."""
    async with consumer_of(settings_for(creating, topic_name)):
        await creation_had_its_time(creating)

    assert topic_name not in await topics(creating)


async def test_a_consumer_does_not_bring_a_deleted_topic_back(creating: str, topic_name: str) -> None:
    """A consumer that is reading when its topic is deleted leaves it deleted."""
    settings = settings_for(creating, topic_name)
    await topic.create(settings)
    async with consumer_of(settings) as consumer:
        async with admin(creating) as client:
            await client.delete_topics([topic_name])
        for _ in range(3):
            await consumer._client.force_metadata_update()
            await consumer.getmany(timeout_ms=50)
        await creation_had_its_time(creating)

        assert topic_name not in await topics(creating)
        with pytest.raises(TopicMissing):
            await look(consumer._client, topic_name, timeout_s=3.0)


async def test_a_producer_to_a_missing_topic_creates_nothing(creating: str, topic_name: str) -> None:
    """Sending fails within its timeout and leaves no topic behind."""
    producer = AIOKafkaProducer(**producer_arguments(settings_for(creating, topic_name, publish_timeout_s=0.5)))
    prepare(producer.client)
    await producer.start()
    try:
        with pytest.raises(KafkaError):
            await producer.send_and_wait(topic_name, b"{}")
    finally:
        await producer.stop()
    await creation_had_its_time(creating)

    assert topic_name not in await topics(creating)


async def test_the_report_points_brokers_out_that_create_topics(creating: str, topic_name: str) -> None:
    """Automatic creation on the broker is advice: it concerns other clients than ours."""
    result = await topic.create(settings_for(creating, topic_name))

    assert [(violation.severity, violation.setting) for violation in result.report.violations] == [
        ("advice", "auto.create.topics.enable")
    ]

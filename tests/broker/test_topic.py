"""Creating and checking the topic on real brokers: the broker takes any setting, the report does not."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from revoker import topic
from revoker.cluster import look
from revoker.errors import BrokerUnreachable, ContractViolated, SettingsError, TopicMissing
from revoker.kafka import consumer_arguments, prepare
from revoker.settings import Settings
from revoker.topic import wanted
from tests.broker.conftest import PATIENCE_S, settings_for
from tests.conftest import Broker, StartApache


async def make_badly(settings: Settings, **changes: str) -> None:
    """Make the topic as `create` does, but for ``changes``, in which ``_`` stands for ``.``."""
    configs = wanted(settings) | {name.replace("_", "."): value for name, value in changes.items()}
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        response: Any = await admin.create_topics([NewTopic(settings.topic, 1, 1, topic_configs=configs)])
        assert [code for _, code, *_ in response.topic_errors] == [0]
    finally:
        await admin.close()


async def check_once_known(settings: Settings) -> topic.Report:
    """`topic.check`, once the broker shows the topic: it answers "created" a moment before its metadata know of it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await topic.check(settings)
        except TopicMissing:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


def summary(report: topic.Report) -> list[tuple[str, str]]:
    """Severity and setting of each violation."""
    return [(violation.severity, violation.setting) for violation in report.violations]


async def test_a_created_topic_keeps_the_contract(apache: Broker, topic_name: str) -> None:
    """Read back from Apache Kafka, the new topic has every wanted setting and no violation."""
    settings = settings_for(apache.bootstrap, topic_name, topic_partitions=3)
    result = await topic.create(settings)

    assert result.created
    assert len(result.report.view.partitions) == 3
    assert {name: result.report.configs[name] for name in wanted(settings)} == wanted(settings)
    assert result.report.violations == ()


async def test_what_the_embedded_broker_does_not_tell_is_shown(embedded: Broker, topic_name: str) -> None:
    """It tells only what was set, so the rest is unproven; nothing it tells is a loss."""
    result = await topic.create(settings_for(embedded.bootstrap, topic_name))

    assert result.created
    assert result.report.losing == ()
    assert ("unproven", "segment.bytes") in summary(result.report)
    assert ("unproven", "auto.create.topics.enable") in summary(result.report)


async def test_an_existing_topic_is_left_as_it_is(apache: Broker, topic_name: str) -> None:
    """Creating again with other settings alters nothing, and says what the topic would now lose."""
    settings = settings_for(apache.bootstrap, topic_name)
    before = await topic.create(settings)
    longer = settings_for(apache.bootstrap, topic_name, longest_token_life_s=10 * 86_400, topic_partitions=2)
    again = await topic.create(longer)

    assert not again.created
    assert again.report.view.topic_id == before.report.view.topic_id
    assert again.report.configs == before.report.configs
    assert summary(again.report) == [("loss", "retention.ms")]


async def test_too_few_brokers_name_the_setting(apache: Broker, topic_name: str) -> None:
    """The refusal stands inside the response; it becomes an error with the setting, the numbers and the cure."""
    settings = settings_for(apache.bootstrap, topic_name, topic_replication_factor=9)
    with pytest.raises(SettingsError, match="topic_replication_factor is 9, but the cluster has 1 broker: add brokers"):
        await topic.create(settings)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 250])
async def test_an_illegal_name_is_refused_before_any_broker_is_asked(name: str) -> None:
    """The message says which characters are allowed."""
    with pytest.raises(SettingsError, match="must be 1 to 249 of the characters"):
        await topic.create(Settings(kafka_bootstrap_servers="127.0.0.1:1", topic=name))


async def test_nobody_there_is_unreachable() -> None:
    """Creating against a closed port names the address."""
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1"):
        await topic.create(Settings(kafka_bootstrap_servers="127.0.0.1:1"))


async def test_checking_a_missing_topic_says_how_to_make_it(broker: Broker, topic_name: str) -> None:
    """The command stands in the message."""
    with pytest.raises(TopicMissing, match="revoker topic create"):
        await topic.check(settings_for(broker.bootstrap, topic_name))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cleanup_policy": "compact"}, [("loss", "cleanup.policy")]),
        ({"cleanup_policy": ""}, [("advice", "cleanup.policy")]),
        ({"retention_ms": "0"}, [("loss", "retention.ms")]),
        ({"retention_ms": "-1"}, []),
        ({"retention_bytes": "1000000"}, [("loss", "retention.bytes")]),
        ({"message_timestamp_type": "CreateTime"}, [("loss", "message.timestamp.type")]),
        ({"unclean_leader_election_enable": "true"}, [("loss", "unclean.leader.election.enable")]),
        ({"min_insync_replicas": "2"}, [("loss", "min.insync.replicas"), ("advice", "replicas in sync now")]),
        ({"max_message_bytes": "100000"}, [("loss", "max.message.bytes")]),
        ({"segment_ms": "604800000"}, [("advice", "segment.ms")]),
        ({"compression_type": "gzip"}, []),
    ],
)
async def test_kafka_takes_what_the_check_reports(
    apache: Broker, topic_name: str, changes: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    """Apache Kafka makes a topic with such a setting without a word; the check has one."""
    settings = settings_for(apache.bootstrap, topic_name)
    await make_badly(settings, **changes)

    assert summary(await check_once_known(settings)) == expected


async def test_every_breach_is_reported_at_once(apache: Broker, topic_name: str) -> None:
    """Against the default settings a topic with Kafka's own defaults shows all that it would lose; strict refuses
    it."""
    settings = Settings(kafka_bootstrap_servers=apache.bootstrap, topic=topic_name, longest_token_life_s=30 * 86_400)
    admin = AIOKafkaAdminClient(bootstrap_servers=apache.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic_name, 1, 1)])
    finally:
        await admin.close()
    report = await check_once_known(settings)

    assert {violation.setting for violation in report.losing} == {
        "retention.ms",
        "message.timestamp.type",
        "min.insync.replicas",
        "replication factor",
    }
    with pytest.raises(ContractViolated) as caught:
        topic.enforce(report, mode="strict")
    assert caught.value.violations == report.losing


async def test_lenient_goes_on_and_says_so(apache: Broker, topic_name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The loss is in the log with its cure."""
    settings = settings_for(apache.bootstrap, topic_name)
    await make_badly(settings, retention_ms="1000")
    with caplog.at_level(logging.WARNING, logger="revoker.topic"):
        topic.enforce(await check_once_known(settings), mode="lenient")

    assert "--add-config retention.ms=" in caplog.text


async def test_a_running_consumer_can_check(broker: Broker, topic_name: str) -> None:
    """A node asks through the client it reads with; no second connection set is needed."""
    settings = settings_for(broker.bootstrap, topic_name)
    await topic.create(settings)
    consumer = AIOKafkaConsumer(**consumer_arguments(settings))
    prepare(consumer._client)
    await consumer.start()
    try:
        view = await look(consumer._client, topic_name, timeout_s=3.0)
        report = await topic.check_with(consumer._client, settings=settings, view=view)
    finally:
        await consumer.stop()

    assert report.losing == ()
    assert report.view is view


async def test_a_cluster_of_three_keeps_the_default_contract(start_apache: StartApache, topic_name: str) -> None:
    """With the default settings three replicas, two in sync, are made and proven."""
    kafka = start_apache(nodes=3)
    result = await topic.create(Settings(kafka_bootstrap_servers=kafka.bootstrap, topic=topic_name))

    assert result.created
    assert result.report.violations == ()
    assert result.report.view.answered == 3


def test_settings_need_no_broker(topic_name: str) -> None:
    """What is wanted follows from the settings alone."""
    options: dict[str, Any] = {"topic": topic_name, "topic_segment_s": 60}

    assert wanted(Settings(**options))["segment.ms"] == "60000"

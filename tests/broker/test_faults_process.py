"""Faults inside the node's own process: a dead client, a stalled loop, a clock that jumps, a flood of log lines."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup

from consumers.denylist.memory import MemoryDenyList
from consumers.follower import Follower
from consumers.freshness import Freshness, State
from consumers.intake import Intake
from consumers.node import Node
from revoker import topic
from revoker.blocking import BlockingPublisher
from revoker.cli.children import free_ports
from revoker.diagnosis import quiet_logs
from revoker.events import Session
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, eventually, knows, revoke_sessions, settings_for
from tests.broker.witness import Witness, never_live_without
from tests.brokers.apache import ApacheKafka
from tests.brokers.frames import FETCH
from tests.brokers.proxy import Fault
from tests.conftest import StartApache

RunNode = Callable[[Settings], Node]


async def followed(kafka: ApacheKafka, name: str, run_node: RunNode, **changes: Any) -> tuple[Node, Settings]:
    """A live node on a new topic that knows the session "before"."""
    values: dict[str, Any] = {"staleness_bound_s": 1.0, "request_timeout_s": 1.0, "metadata_max_age_s": 1.0}
    settings = settings_for(kafka.bootstrap, name, **values | changes)
    await topic.create(settings)
    await revoke_sessions(settings, "before")
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    return node, settings


async def test_a_client_that_died_inside_is_replaced(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """An error aiokafka does not expect kills its fetch and metadata tasks, and it never says so: the node names the
    dead task and makes a new client, long before its bound would tell.
    """
    made: list[AIOKafkaConsumer] = []
    start = AIOKafkaConsumer.start

    async def started(self: AIOKafkaConsumer) -> None:
        made.append(self)
        await start(self)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(AIOKafkaConsumer, "start", started)
    node, settings = await followed(kafka, topic_name, run_node, staleness_bound_s=60.0)

    connect = made[0]._client._get_conn

    async def planted(node: int, *, group: int = ConnectionGroup.DEFAULT, **options: Any) -> Any:
        if group == ConnectionGroup.DEFAULT:  # the questions beside the reading go on
            raise RuntimeError("planted")
        return await connect(node, group=group, **options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(made[0]._client, "_get_conn", planted)
    await eventually(lambda: len(made) > 1, "a new client")
    assert "task died of RuntimeError: planted" in caplog.text
    await revoke_sessions(settings, "after")
    await never_live_without(node, "after", bound_s=settings.staleness_bound_s)
    assert knows(node, "before")


async def test_a_cancellation_that_escapes_from_the_client_ends_no_follower(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka cancels its own fetches when it is stopped, and lets that out: it is not taken for the node's end."""
    node, settings = await followed(kafka, topic_name, run_node)
    stop = AIOKafkaConsumer.stop

    async def stopped(self: AIOKafkaConsumer) -> None:
        await stop(self)  # type: ignore[no-untyped-call]
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(AIOKafkaConsumer, "stop", stopped)
        kafka.proxy(1).set(Fault(kind="error", code=1))
        await eventually(lambda: node.follower.failures_total > 1, "sessions end, and new ones begin")
        kafka.join()
        await node.wait_ready(timeout_s=PATIENCE_S)
    await revoke_sessions(settings, "after")
    await never_live_without(node, "after", bound_s=settings.staleness_bound_s)


async def test_a_stalled_loop_is_not_fresh(kafka: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """The whole event loop stands still for longer than the bound while somebody revokes: the first question after it
    finds the node stale, and no answer that waited in a socket makes it fresh again.
    """
    node, settings = await followed(kafka, topic_name, run_node)
    acknowledged = threading.Event()

    def revoke() -> None:
        with BlockingPublisher(settings) as publisher:
            publisher.revoke(selector=Session(iss="", sid="meanwhile"))
        acknowledged.set()

    thread = threading.Thread(target=revoke)
    thread.start()
    time.sleep(settings.staleness_bound_s + 0.2)  # noqa: ASYNC251 - that is the fault
    assert acknowledged.wait(PATIENCE_S)
    assert node.freshness.state is State.STALE
    assert not knows(node, "meanwhile")
    await never_live_without(node, "meanwhile", bound_s=0.0)
    thread.join()


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
async def test_a_clock_that_jumps_makes_nothing_fresh(
    kafka: ApacheKafka, topic_name: str, run_node: RunNode, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """An hour back or forth, for the node and for the Kafka client: a healthy node stays live, a cut-off one turns
    stale by the bound, and no entry is forgotten.
    """
    offset_s = 0.0

    def wall() -> float:
        return time.time() + offset_s

    monkeypatch.setattr("aiokafka.consumer.fetcher.time", SimpleNamespace(time=wall, monotonic=time.monotonic))
    settings = settings_for(kafka.bootstrap, topic_name, staleness_bound_s=1.0, request_timeout_s=1.0)
    await topic.create(settings)
    await revoke_sessions(settings, "before")
    async with Node(settings, wall=wall) as node:
        await node.wait_ready(timeout_s=PATIENCE_S)
        offset_s = step_s
        before = node.freshness.fresh_until
        while node.freshness.fresh_until < before + settings.staleness_bound_s:
            assert node.freshness.state is State.LIVE, node.freshness.why()
            await asyncio.sleep(0.02)
        kafka.proxy(1).set(Fault(kind="mute", apis=frozenset({FETCH})))
        muted_at = time.monotonic()
        await eventually(lambda: node.freshness.state is State.STALE, "it turns stale")
        assert time.monotonic() - muted_at < settings.staleness_bound_s + 1.0
        offset_s = 0.0
        kafka.join()
        await node.wait_ready(timeout_s=PATIENCE_S)
        assert knows(node, "before")


async def test_an_outage_is_told_once(
    kafka: ApacheKafka,
    topic_name: str,
    run_node: RunNode,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """aiokafka's hundreds of lines become a few and a counter, the follower says each thing once and then how it ended,
    and readiness shows the client's last error.
    """
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(quiet_logs, "_telling", None)  # what an earlier test met
    node, settings = await followed(kafka, topic_name, run_node)
    caplog.clear()
    held_back = suppressed(node)
    async with Witness(node, settings) as witness:
        kafka.proxy(1).set(Fault(kind="refuse"))
        await eventually(lambda: node.follower.failures_total >= 4, "several attempts")
        checks = {check.name: check.detail for check in node.checks()}
        kafka.join()
    assert "127.0.0.1" in checks["kafka"]
    ours = [one for one in caplog.records if one.name == "consumers.follower"]
    assert [one.levelname for one in ours] == ["WARNING", "ERROR", "ERROR", "INFO"], caplog.text
    assert "starting over with a new consumer" in ours[1].getMessage()
    assert "no broker reached" in ours[2].getMessage()
    assert "failed attempts" in ours[3].getMessage()
    passed = [one for one in caplog.records if one.name.startswith("aiokafka")]
    assert suppressed(node) - held_back > 5 * len(passed)
    assert witness.said("no broker reached")


def suppressed(node: Node) -> float:
    """What the metric of held back lines says."""
    (family,) = [one for one in node.families() if one.name == "revoker_kafka_log_lines_suppressed"]
    return family.values[()]


async def test_attempts_back_off_and_never_end() -> None:
    """With nobody there the pauses double up to two seconds, and stay there."""
    settings = settings_for("127.0.0.1:1", "t")
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    follower = Follower(
        settings,
        intake=Intake(MemoryDenyList(max_entries=1), retention_ms=1),
        freshness=Freshness(bound_s=1.0),
        pause=pause,
        jitter=lambda: 1.0,
    )
    follower.start()
    await eventually(lambda: len(pauses) >= 50, "fifty attempts")
    await follower.close()
    assert pauses[:6] == [0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert set(pauses[6:]) == {2.0}


async def test_brokers_that_moved_are_found_through_the_list(
    start_apache: StartApache, topic_name: str, run_node: RunNode
) -> None:
    """Every broker comes back at another address: a client only tries those it knew, so the supervisor's new one asks
    the bootstrap list again.
    """
    kafka = start_apache()
    (port,) = free_ports(1)
    both = f"{kafka.bootstrap},127.0.0.1:{port}"
    settings = settings_for(both, topic_name, staleness_bound_s=1.0, request_timeout_s=1.0)
    await topic.create(settings)
    await revoke_sessions(settings, "before")
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    await kafka.stop_async(1)
    kafka.move(1, port=port)
    await kafka.start_async(1)
    await revoke_sessions(settings, "after")
    await never_live_without(node, "after", bound_s=settings.staleness_bound_s)
    assert knows(node, "before")

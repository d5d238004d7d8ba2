"""Faults of a cluster of three, while a node follows and somebody revokes: killed, hung, cut off, deposed leaders."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from consumers.freshness import State
from consumers.node import Node
from revoker import topic
from revoker.cli.embedded import known_brokers
from revoker.heartbeat import Heartbeats
from revoker.kafka import connected
from revoker.publisher import Publisher
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, eventually, settings_for
from tests.broker.elections import elect_preferred, reorder_replicas
from tests.broker.witness import Witness
from tests.brokers.apache import ApacheKafka
from tests.brokers.proxy import PRODUCE_ONLY, Fault

RunNode = Callable[[Settings], Node]


@pytest.fixture(scope="module")
def started() -> Iterator[ApacheKafka]:
    """Three brokers behind proxies; a killed one is replaced after two seconds."""
    if os.environ.get("REVOKER_TEST_BOOTSTRAP"):
        pytest.skip("needs brokers that it may kill")
    properties = {"broker.session.timeout.ms": "2000", "replica.lag.time.max.ms": "3000"}
    with ApacheKafka(nodes=3, proxied=True, properties=properties) as kafka:
        yield kafka


@pytest.fixture
def cluster(started: ApacheKafka) -> Iterator[ApacheKafka]:
    """The cluster, made whole again after each test."""
    yield started
    started.join()
    for node in (1, 2, 3):
        if not started.running(node):
            started.start(node, wait=False)
        started.resume(node)
    started.wait_ready()


async def followed(cluster: ApacheKafka, name: str, run_node: RunNode, **changes: Any) -> tuple[Node, Settings, int]:
    """A live node on a new topic with three copies, and who leads it."""
    values: dict[str, Any] = {
        "topic_replication_factor": 3,
        "topic_min_insync_replicas": 2,
        "staleness_bound_s": 1.5,
        "request_timeout_s": 1.0,
        "metadata_max_age_s": 300.0,  # so that it is the watch, not the client's luck, that finds out
        "publish_timeout_s": 6.0,
    }
    settings = settings_for(cluster.bootstrap, name, **values | changes)
    await topic.create(settings)
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert node.follower.view is not None
    return node, settings, node.follower.view.partitions[0].leader


def leader_of(node: Node) -> int:
    """Who leads the only partition, as the node was last told."""
    assert node.follower.view is not None
    return node.follower.view.partitions[0].leader


async def test_a_leader_killed(cluster: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """Killed by SIGKILL: the node says which proof it lacks, follows the new leader, and has lost nothing."""
    node, settings, leader = await followed(cluster, topic_name, run_node)
    async with Witness(node, settings) as witness:
        cluster.kill(leader)
        await eventually(lambda: leader_of(node) not in (leader, -1), "a new leader")
        await witness.recovered()
    assert witness.said("no fetch answered within")


async def test_a_failover_is_confirmed_at_once(cluster: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """A new leader's first polls do not wait for the next round of questions: a failover may have taken most of the
    bound already. The node stays live throughout.
    """
    node, settings, leader = await followed(cluster, topic_name, run_node, staleness_bound_s=120.0)
    async with Witness(node, settings) as witness:
        cluster.kill(leader)
        killed_at, killed_s = time.time(), time.monotonic()
        # What is confirmed of later than the death was answered by the successor.
        await eventually(lambda: (node.freshness.as_of or 0) > killed_at + 0.5, "a poll of the new leader is confirmed")
        assert time.monotonic() - killed_s < settings.watch_s / 2
        assert leader_of(node) not in (leader, -1)
    assert witness.reasons == []


async def test_a_leader_that_hangs_and_goes_on(cluster: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """Stopped by SIGSTOP its sockets stay open; the node is stale by the bound, and continues when it is told of the
    new leader. The old one, awake again, fools nobody.
    """
    node, settings, leader = await followed(cluster, topic_name, run_node)
    async with Witness(node, settings) as witness:
        cluster.pause(leader)
        await eventually(lambda: node.freshness.state is not State.LIVE, "the node notices")
        await eventually(lambda: leader_of(node) not in (leader, -1), "a new leader")
        await witness.recovered()
        cluster.resume(leader)
        await witness.acknowledges(20)
    assert witness.said("no fetch answered within")


async def test_a_leader_in_a_black_hole(cluster: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """The leader is well, but no packet of ours reaches it: stale by the bound however long it lasts, entries kept, and
    all is made up for afterwards.
    """
    node, settings, leader = await followed(cluster, topic_name, run_node)
    async with Witness(node, settings) as witness:
        cluster.proxy(leader).set(Fault(kind="stall"))
        await eventually(lambda: node.follower.failures_total > 0, "the supervisor makes a new client")
        assert cluster.proxy(leader).counts["stall"] > 0
        cluster.join()
    assert witness.said("no fetch answered within")
    assert witness.said("starting over with a new consumer")


async def test_a_leader_that_is_heard_by_nobody(cluster: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """Half-open: requests arrive and answers are lost. What was written all the same is known in the end."""
    node, settings, leader = await followed(cluster, topic_name, run_node)
    async with Witness(node, settings) as witness:
        cluster.proxy(leader).set(Fault(kind="mute"))
        await eventually(lambda: node.freshness.state is not State.LIVE, "the node notices")
        cluster.join()
        await witness.recovered()
        cluster.proxy(leader).set(Fault(kind="mute", apis=PRODUCE_ONLY, times=1))
        await eventually(lambda: cluster.proxy(leader).counts["mute"] > 0, "an acknowledgement is lost")
    assert witness.said("no fetch answered within")


async def test_a_zombie_leader_is_left(cluster: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """A leader cut off from its cluster but not from us goes on answering empty fetches; the epochs of the others give
    it away before anything is missed for longer than the bound.
    """
    node, settings, leader = await followed(cluster, topic_name, run_node)
    async with Witness(node, settings) as witness:
        cluster.cut_off(leader)
        await eventually(lambda: leader_of(node) not in (leader, -1), "the others elect another")
        assert known_brokers(cluster.address(leader), timeout_s=5) == 3, "the zombie answers, and notices nothing"
        await witness.recovered()
        cluster.join()
        await witness.acknowledges(20)


async def test_an_old_leader_that_became_a_follower_is_left(
    cluster: ApacheKafka, topic_name: str, run_node: RunNode
) -> None:
    """A preferred election keeps every socket open, and a follower may be read (KIP-392): the watch sees the higher
    epoch, and the node reads from the leader again without having been fooled.
    """
    node, settings, leader = await followed(cluster, topic_name, run_node)
    async with Witness(node, settings) as witness, connected(settings) as client:
        order = [number for number in (1, 2, 3) if number != leader] + [leader]
        await reorder_replicas(client, topic_name, replicas=order)
        await elect_preferred(client, topic_name)
        await eventually(lambda: leader_of(node) == order[0], "the preferred leader leads")
        await witness.acknowledges(20)
    assert node.follower.sessions_total == 1


async def test_every_broker_away_and_back(cluster: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """With all three unreachable the node is stale by the bound and names a broker; when they are back it goes on."""
    node, settings, _ = await followed(cluster, topic_name, run_node)
    async with Witness(node, settings) as witness:
        for number in (1, 2, 3):
            cluster.proxy(number).set(Fault(kind="refuse"))
        await eventually(lambda: node.follower.failures_total > 1, "the supervisor tries again and again")
        cluster.join()
    assert witness.said("no broker reached at 127.0.0.1:")


@pytest.mark.slow
async def test_a_rolling_restart(cluster: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """With the default time-outs, each broker in turn ends in order and comes back: the node is live throughout."""
    defaults = Settings()
    node, settings, _ = await followed(
        cluster,
        topic_name,
        run_node,
        staleness_bound_s=defaults.staleness_bound_s,
        request_timeout_s=defaults.request_timeout_s,
        metadata_max_age_s=defaults.metadata_max_age_s,
        publish_timeout_s=defaults.publish_timeout_s,
    )
    async with Witness(node, settings) as witness:
        for number in (1, 2, 3):
            await cluster.stop_async(number)
            await witness.acknowledges()
            await cluster.start_async(number)
            await witness.acknowledges()
    assert witness.reasons == []
    assert node.follower.sessions_total == 1


async def test_a_high_watermark_that_is_stuck(cluster: ApacheKafka, topic_name: str, run_node: RunNode) -> None:
    """No copy is made any more, and nothing can be written, while every broker answers and all agree on the leader:
    heartbeats alone show it, and the first one that gets through heals.
    """
    node, settings, leader = await followed(
        cluster, topic_name, run_node, heartbeat_interval_s=0.5, publish_timeout_s=1.0
    )
    async with Publisher(settings) as publisher:
        heartbeats = Heartbeats(publisher.sender, settings)
        beating = asyncio.create_task(heartbeats.run())
        try:
            await eventually(lambda: node.intake.heartbeats_total >= 2, "heartbeats arrive")
            cluster.starve_followers(leader)
            await eventually(lambda: node.freshness.state is State.STALE, "the node misses the heartbeats")
            assert [missing.proof for missing in node.freshness.missing()] == ["heartbeat"]
            assert leader_of(node) == leader
            cluster.join()
            await eventually(lambda: node.freshness.state is State.LIVE, "a heartbeat heals")
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
    assert node.follower.sessions_total == 1

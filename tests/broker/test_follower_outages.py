"""The follower while brokers die and come back: what a node says meanwhile, and that it misses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from consumers.freshness import State
from consumers.node import Node
from revoker import topic
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, eventually, knows, revoke_sessions, settings_for
from tests.conftest import StartApache

RunNode = Callable[[Settings], Node]


async def test_a_node_waits_for_its_first_broker(start_apache: StartApache, run_node: RunNode) -> None:
    """Started while the broker is down, a node says what it cannot reach and becomes live when the broker comes."""
    kafka = start_apache()
    settings = settings_for(kafka.bootstrap, "t")
    await topic.create(settings)
    await revoke_sessions(settings, "s1")
    kafka.stop(1)
    node = run_node(settings)
    await eventually(lambda: kafka.bootstrap in node.freshness.missing()[0].reason, "the reason names the broker")
    await kafka.start_async(1)
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert knows(node, "s1")


async def test_a_node_says_stale_within_its_bound_when_the_broker_dies(
    start_apache: StartApache, run_node: RunNode
) -> None:
    """Nothing raises when a broker is killed; the node turns stale by the bound all the same, keeps its entries, and
    recovers.
    """
    kafka = start_apache()
    settings = settings_for(kafka.bootstrap, "t", staleness_bound_s=1.5)
    await topic.create(settings)
    await revoke_sessions(settings, "s1")
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    kafka.kill(1)
    killed_at = time.monotonic()
    await eventually(lambda: node.freshness.state is State.STALE, "the node is stale")
    assert time.monotonic() - killed_at < settings.staleness_bound_s + 1.0
    assert {missing.proof for missing in node.freshness.missing()} <= {"poll", "leader"}
    assert knows(node, "s1")
    await kafka.start_async(1)
    await revoke_sessions(settings, "s2")
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert knows(node, "s2")


async def test_a_leader_elected_again_between_two_questions_is_proved_anew(
    start_apache: StartApache, run_node: RunNode
) -> None:
    """A broker killed and back within the bound leads in a higher epoch: the node stays live and its proofs go on."""
    kafka = start_apache()
    settings = settings_for(kafka.bootstrap, "t", staleness_bound_s=15.0)
    await topic.create(settings)
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    kafka.kill(1)
    await kafka.start_async(1)
    back_at = time.time()
    await eventually(lambda: (node.freshness.as_of or 0) > back_at, "a poll after the election is confirmed")
    view = node.follower.view
    assert view is not None
    assert view.partitions[0].leader_epoch > 0
    assert node.freshness.state is State.LIVE
    assert node.follower.sessions_total == 1

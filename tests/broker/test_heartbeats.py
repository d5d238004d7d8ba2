"""Heartbeats on a real broker: what a node misses without them, and how few are sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from consumers.freshness import State
from consumers.node import Node
from revoker.events import Heartbeat, Session
from revoker.heartbeat import Heartbeats
from revoker.publisher import Publisher
from revoker.record import decode
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, MakeTopic, eventually, everything_in, knows

RunNode = Callable[[Settings], Node]
QUICK = {"heartbeat_interval_s": 0.3, "staleness_bound_s": 2.0}


@asynccontextmanager
async def beating(settings: Settings) -> AsyncIterator[tuple[Publisher, Heartbeats]]:
    """A publisher that sends heartbeats."""
    async with Publisher(settings) as publisher:
        heartbeats = Heartbeats(publisher.sender, settings)
        task = asyncio.create_task(heartbeats.run())
        yield publisher, heartbeats
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_node_misses_the_heartbeats_and_is_live_again_with_them(
    make_topic: MakeTopic, run_node: RunNode
) -> None:
    """On a silent topic with three partitions a node says that heartbeats are missing, until somebody sends them."""
    settings = await make_topic(topic_partitions=3, **QUICK)
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)
    await eventually(lambda: node.freshness.state is State.STALE, "the node misses the heartbeats")
    assert [missing.proof for missing in node.freshness.missing()] == ["heartbeat"]
    async with beating(settings):
        await eventually(lambda: node.freshness.state is State.LIVE, "heartbeats make the node live")
        assert node.intake.heartbeats_total >= 3
        assert node.intake.missed == 0
        until = time.monotonic() + 2 * settings.staleness_bound_s
        while time.monotonic() < until:
            assert node.freshness.state is State.LIVE
            await asyncio.sleep(0.01)
    assert node.follower.sessions_total == 1


async def test_where_records_confirm_the_brokers_are_hardly_asked(make_topic: MakeTopic, run_node: RunNode) -> None:
    """With a watch thirty times as rare as the bound, a node stays live on heartbeats alone, and takes revocations."""
    settings = await make_topic(watch_interval_s=60, **QUICK)
    async with beating(settings) as (publisher, _):
        node = run_node(settings)
        await node.wait_ready(timeout_s=PATIENCE_S)
        until = time.monotonic() + 2 * settings.staleness_bound_s
        while time.monotonic() < until:
            assert node.freshness.state is State.LIVE
            await asyncio.sleep(0.01)
        await publisher.revoke(selector=Session(iss="", sid="s1"))
        await eventually(lambda: knows(node, "s1"), "the revocation arrives")
        assert node.freshness.state is State.LIVE


async def test_no_heartbeat_goes_through_a_topic_that_is_busy(make_topic: MakeTopic) -> None:
    """While somebody publishes more often than the interval, the log holds revocations alone."""
    settings = await make_topic(heartbeat_interval_s=0.5)
    async with beating(settings) as (publisher, heartbeats):
        for number in range(40):
            await publisher.revoke(selector=Session(iss="", sid=f"s{number}"))
            await asyncio.sleep(0.05)
        assert heartbeats.outcomes == {}
    assert not [one for one in await everything_in(settings) if isinstance(decode(one.value), Heartbeat)]


async def test_two_publishers_share_the_heartbeats(make_topic: MakeTopic) -> None:
    """Two processes that send heartbeats through one silent partition send hardly more than one would."""
    settings = await make_topic(heartbeat_interval_s=0.3)
    async with beating(settings) as (_, first), beating(settings) as (_, second):
        began = time.monotonic()
        await eventually(lambda: first.outcomes["sent"] + second.outcomes["sent"] >= 15, "fifteen heartbeats")
        each_alone = (time.monotonic() - began) / (0.9 * settings.heartbeat_interval_s)
    assert first.outcomes["sent"] + second.outcomes["sent"] <= 1.5 * each_alone + 1

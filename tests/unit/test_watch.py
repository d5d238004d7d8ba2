"""When the brokers are asked: one of them that swallows every question must not make the others' answers late."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from aiokafka.protocol.offset import OffsetRequest

from consumers.freshness import Freshness, State
from consumers.watch import Watch
from revoker.cluster import PartitionView, TopicView
from revoker.settings import Settings
from revoker.topic import Report

TOPIC_ID = uuid.UUID(int=7)
PARTITION = PartitionView(leader=1, leader_epoch=3, replicas=(1, 2, 3), isr=(1, 2, 3))
VIEW = TopicView(
    cluster_id="c", topic="t", topic_id=TOPIC_ID, partitions={0: PARTITION}, rights=None, asked=3, answered=3
)


class _Brokers:
    """Three brokers as the watch sees them through its client; the third one's answers never arrive.

    ``end_known``: whether the leader knows how far its log was acknowledged.
    """

    def __init__(self) -> None:
        self.epoch = 3
        self.end_known = True
        self.asked = 0
        self.cluster = SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=node) for node in (1, 2, 3)])
        self._conns: dict[Any, Any] = {}

    async def send(self, node: int, request: object, **_: object) -> Any:
        if isinstance(request, OffsetRequest):
            return SimpleNamespace(topics=[("t", [(0, 0 if self.end_known else 5, -1, 7 if self.end_known else -1)])])
        self.asked += 1
        if node == 3:
            await asyncio.Event().wait()
        partition: Any = (0, 0, 1, self.epoch, [1, 2, 3], [1, 2, 3], [], {})
        topic: Any = (0, "t", TOPIC_ID, False, [partition], -(2**31), {})
        return SimpleNamespace(cluster_id="c", topics=[topic])


@asynccontextmanager
async def watched(settings: Settings, brokers: _Brokers) -> AsyncIterator[tuple[Freshness, Watch]]:
    """A session's freshness and the watch that asks these brokers, for as long as it lasts."""
    freshness = Freshness.from_settings(settings)
    freshness.connecting("test")
    freshness.begin(starts={0: 0}, barriers={0: 0})
    watch = Watch(
        cast("Any", brokers),
        settings=settings,
        freshness=freshness,
        first=VIEW,
        report=Report(view=VIEW, configs={}, violations=()),
        noted=lambda _: None,
        checked=lambda _: None,
    )
    watching = asyncio.create_task(watch.run())
    try:
        yield freshness, watch
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_broker_in_a_black_hole_makes_no_node_stale() -> None:
    """With a time-out as long as the watch's interval, two questions still fit into one bound: an interval counts from
    question to question, not from the last silence.
    """
    settings = Settings(topic="t", staleness_bound_s=1.5, request_timeout_s=0.5, fetch_max_wait_ms=50)
    was_live, not_live_s = False, 0.0
    began = looked_at = time.monotonic()
    async with watched(settings, _Brokers()) as (freshness, _):
        for stamp in range(10**6):
            freshness.polled(0, leader=1, stamp_ms=stamp, position=0, highwater=0)
            now, state = time.monotonic(), freshness.state
            not_live_s += now - looked_at if was_live and state is not State.LIVE else 0.0
            was_live, looked_at = was_live or state is State.LIVE, now
            if now > began + 5:
                break
            await asyncio.sleep(0.02)
    assert was_live
    assert not_live_s == 0.0


async def test_a_new_leader_that_does_not_know_its_end_proves_nothing() -> None:
    """After an election its high watermark may stand below what was acknowledged before (KIP-207): polls count only
    once it tells where its log ends, and then only those asked afterwards.
    """
    settings = Settings(topic="t", staleness_bound_s=1.5, request_timeout_s=0.1, fetch_max_wait_ms=20)
    brokers = _Brokers()
    brokers.epoch, brokers.end_known = 4, False
    async with watched(settings, brokers) as (freshness, _):
        for stamp in range(40):
            freshness.polled(0, leader=1, stamp_ms=stamp, position=0, highwater=0)
            assert freshness.state is not State.LIVE
            await asyncio.sleep(0.02)
        assert "does not know yet what was acknowledged" in freshness.why()
        brokers.end_known = True
        deadline = time.monotonic() + 10
        for stamp in range(100, 10**6):
            freshness.polled(0, leader=1, stamp_ms=stamp, position=0, highwater=0)
            if freshness.state is State.LIVE:
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_the_first_question_waits_for_a_poll_that_it_can_confirm() -> None:
    """A node with nothing to replay is live by the first question, and waits for no second one."""
    settings = Settings(topic="t", staleness_bound_s=1.5, request_timeout_s=0.1, fetch_max_wait_ms=20)
    brokers = _Brokers()
    async with watched(settings, brokers) as (freshness, watch):
        for _ in range(10):
            await asyncio.sleep(0)
        assert brokers.asked == 0
        for stamp in range(2):
            freshness.polled(0, leader=1, stamp_ms=stamp, position=0, highwater=0)
        assert freshness.worth_asking()
        watch.ask_now.set()
        while freshness.state is not State.LIVE:
            await asyncio.sleep(0.01)
            assert brokers.asked <= 3


async def test_the_first_question_waits_no_longer_than_the_next_would() -> None:
    """During a replay nobody asks for it, and it comes all the same."""
    settings = Settings(topic="t", staleness_bound_s=1.5, request_timeout_s=0.1, fetch_max_wait_ms=20)
    brokers = _Brokers()
    async with watched(settings, brokers):
        deadline = time.monotonic() + 10
        while not brokers.asked:
            await asyncio.sleep(0.01)
            assert time.monotonic() < deadline

"""When the brokers are asked: one of them that swallows every question must not make the others' answers late."""

from __future__ import annotations

import asyncio
import time
import uuid
from types import SimpleNamespace
from typing import Any

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
    """Three brokers as the watch sees them through its client; the third one's answers never arrive."""

    def __init__(self) -> None:
        self.cluster = SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=node) for node in (1, 2, 3)])
        self._conns: dict[Any, Any] = {}

    async def send(self, node: int, *_: object, **__: object) -> Any:
        if node == 3:
            await asyncio.Event().wait()
        partition: Any = (0, 0, 1, 3, [1, 2, 3], [1, 2, 3], [], {})
        topic: Any = (0, "t", TOPIC_ID, False, [partition], -(2**31), {})
        return SimpleNamespace(cluster_id="c", topics=[topic])


async def test_a_broker_in_a_black_hole_makes_no_node_stale() -> None:
    """With a time-out as long as the watch's interval, two questions still fit into one bound: an interval counts from
    question to question, not from the last silence.
    """
    settings = Settings(topic="t", staleness_bound_s=1.5, request_timeout_s=0.5, fetch_max_wait_ms=50)
    freshness = Freshness.from_settings(settings)
    freshness.connecting("test")
    freshness.begin(starts={0: 0}, barriers={0: 0})
    client: Any = _Brokers()
    watch = Watch(
        client,
        settings=settings,
        freshness=freshness,
        first=VIEW,
        report=Report(view=VIEW, configs={}, violations=()),
        noted=lambda _: None,
        checked=lambda _: None,
    )
    watching = asyncio.create_task(watch.run())
    was_live, not_live_s = False, 0.0
    began = looked_at = time.monotonic()
    try:
        for stamp in range(10**6):
            freshness.polled(0, leader=1, stamp_ms=stamp, position=0, highwater=0)
            now, state = time.monotonic(), freshness.state
            not_live_s += now - looked_at if was_live and state is not State.LIVE else 0.0
            was_live, looked_at = was_live or state is State.LIVE, now
            if now > began + 5:
                break
            await asyncio.sleep(0.02)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert was_live
    assert not_live_s == 0.0

"""A follower without brokers, for as long as the outage lasts."""

from __future__ import annotations

import asyncio

from consumers.denylist.memory import MemoryDenyList
from consumers.follower import Follower
from consumers.freshness import Freshness, State
from consumers.intake import Intake
from revoker.errors import BrokerUnreachable
from revoker.settings import Settings


class _WithoutBrokers(Follower):
    """Every session fails at once, as when connections are refused."""

    async def _session(self) -> None:
        raise BrokerUnreachable("no broker reached")


async def test_it_outlives_any_number_of_failed_sessions() -> None:
    """An outage of hours costs thousands of sessions: the follower is still trying, at pauses that stay bounded."""
    pauses: list[float] = []
    enough = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2000:
            enough.set()
        await asyncio.sleep(0)

    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1")
    follower = _WithoutBrokers(
        settings,
        intake=Intake(MemoryDenyList(max_entries=10), retention_ms=1000),
        freshness=Freshness(bound_s=10.0),
        pause=pause,
        jitter=lambda: 1.0,
    )
    follower.start()
    try:
        async with asyncio.timeout(10):
            await enough.wait()
        assert follower.freshness.state is State.CONNECTING, follower.freshness.why()
        assert max(pauses) == pauses[-1] == 2.0
    finally:
        await follower.close()

"""What runs behind the service: a death is noticed, and Kafka's state is known without asking it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from consumers.testing import TickClock
from revoker.errors import BrokerUnreachable
from revoker.service.lifecycle import Background, BrokerWatch


class Broker:
    """Says what the test last told it to."""

    def __init__(self) -> None:
        self.down: Exception | None = None

    async def probe(self) -> None:
        if self.down is not None:
            raise self.down


async def test_a_task_that_dies_stays_on_record(caplog: pytest.LogCaptureFixture) -> None:
    """The error of a dead task is kept under its name and logged as critical; one that returns is no death."""

    async def die() -> None:
        raise ValueError("a defect")

    async def end() -> None:
        await asyncio.sleep(0)

    background = Background()
    background.start("dying", die())
    background.start("ending", end())
    for _ in range(3):  # turns of the loop: one to start, one to end, one for the callback
        await asyncio.sleep(0)
    await background.close()
    assert {name: str(error) for name, error in background.deaths.items()} == {"dying": "a defect"}
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


async def test_closing_ends_what_runs_and_records_no_death() -> None:
    """Cancelled tasks are waited for and are not dead by an error."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    background = Background()
    background.start("work", work())
    await asyncio.sleep(0)
    await background.close()
    assert ended.is_set()
    assert not background.deaths


async def test_the_watch_says_since_when_it_has_been_so(caplog: pytest.LogCaptureFixture) -> None:
    """Not ready before the first answer; then the last one with its age; logged when it changes and only then."""
    caplog.set_level(logging.INFO)
    clock, broker = TickClock(), Broker()
    watch = BrokerWatch(broker, every_s=1, monotonic=clock.monotonic)
    assert not watch.check().ok
    await watch.ask()
    clock.tick(5)
    assert (watch.check().ok, watch.check().detail) == (True, "revocations can be published, for 5 s")
    broker.down = BrokerUnreachable("nobody there")
    await watch.ask()
    clock.tick(3)
    await watch.ask()
    assert (watch.check().ok, watch.check().detail) == (False, "nobody there (for 3 s)")
    broker.down = None
    await watch.ask()
    assert watch.check().ok
    assert [record.getMessage() for record in caplog.records] == [
        "revocations can be published",
        "revocations cannot be published: nobody there",
        "revocations can be published",
    ]

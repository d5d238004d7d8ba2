"""What runs behind the service: the keys' refresher and the watch on Kafka.

Both have an owner that notices their death.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from revoker.errors import RevokerError
from revoker.health import Check

__all__ = ["Background", "BrokerWatch", "Probed"]

logger: logging.Logger = logging.getLogger(__name__)


class Probed(Protocol):
    """Something that can say whether revocations can be published now."""

    async def probe(self) -> None:
        """Return if so; raise BrokerError if not."""
        ...


class Background:
    """Tasks that live as long as the service.

    One that ends by an error stays on record: the service is to be restarted.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` under ``name`` until it returns or the service stops."""
        task = asyncio.create_task(work, name=f"revoker-{name}")
        task.add_done_callback(_say_if_dead)
        self._tasks[name] = task

    @property
    def deaths(self) -> Mapping[str, BaseException]:
        """The tasks that ended by an error, by name."""
        done = {name: task for name, task in self._tasks.items() if task.done() and not task.cancelled()}
        return {name: error for name, task in done.items() if (error := task.exception()) is not None}

    async def close(self) -> None:
        """Cancel all and wait for their end."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


class BrokerWatch:
    """Asks again and again whether revocations can be published, so that ``/readyz`` can answer from memory.

    ``every_s``: seconds between two questions. ``monotonic``: seconds, for the age of the last answer. ``storing``:
    revocations are accepted without Kafka as well, so that its absence is told and does not fail the check: traffic
    sent elsewhere would find the same Kafka.
    """

    def __init__(
        self, publisher: Probed, *, every_s: float, monotonic: Callable[[], float], storing: bool = False
    ) -> None:
        self._publisher = publisher
        self._storing = storing
        self.every_s: float = every_s
        self._monotonic = monotonic
        self._problem: str | None = "not asked yet"
        self._since = monotonic()

    async def run(self) -> None:
        """Ask until cancelled.

        The first question connects, so that a service without Kafka starts, says so, and recovers by itself.
        """
        while True:
            await self.ask()
            await asyncio.sleep(self.every_s)

    async def ask(self) -> None:
        """Ask once and remember the answer."""
        problem = None
        try:
            await self._publisher.probe()
        except (RevokerError, OSError) as error:
            problem = str(error) or type(error).__name__
        if problem != self._problem:
            if problem is not None:
                logger.warning("revocations cannot be published: %s", problem)
            else:
                logger.info("revocations can be published")
            self._since = self._monotonic()
        self._problem = problem

    def check(self) -> Check:
        """The last answer, and since when it has been the same."""
        age = f"for {self._monotonic() - self._since:.0f} s"
        if self._problem is None:
            return Check(name="broker", ok=True, detail=f"revocations can be published, {age}")
        if self._storing:
            return Check(name="broker", ok=True, detail=f"away, revocations are stored: {self._problem} ({age})")
        return Check(name="broker", ok=False, detail=f"{self._problem} ({age})")

    @property
    def reachable(self) -> bool:
        """Whether the last answer was that revocations can be published."""
        return self._problem is None


def _say_if_dead(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("the task %s died; restart the service", task.get_name(), exc_info=error)

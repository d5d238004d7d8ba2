"""Accept on disk, deliver in the background: an outbox and its relay, with one lifecycle and an owner for the task."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from revoker.errors import OutboxUnavailable
from revoker.events import Revocation
from revoker.health import Check, Family
from revoker.outbox.file import Entry
from revoker.outbox.writer import Outbox
from revoker.relay import Relay
from revoker.sender import Landed, Sender
from revoker.settings import Settings

__all__ = ["Delivery"]

logger: logging.Logger = logging.getLogger(__name__)


class Delivery:
    """The outbox of one publisher, ``settings.outbox_file``, and what delivers from it over ``sender``.

    ``on_accepted`` hears of each event once it is on disk, and at the start of what waits there.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        sender: Sender,
        on_accepted: Callable[[Revocation], None] | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if settings.outbox_file is None:
            raise ValueError("the setting outbox_file is unset")
        self._timeout_s = settings.publish_timeout_s
        self._on_accepted = on_accepted
        self._wall = wall
        self._monotonic = monotonic
        self._outbox = Outbox(
            Path(settings.outbox_file), max_events=settings.outbox_max_events, wall=wall, monotonic=monotonic
        )
        self._relay = Relay(self._outbox, sender, monotonic=monotonic)
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Open the outbox and begin to deliver, unless that is so already. Raises OutboxUnavailable; call it again."""
        async with self._changing:
            if self._task is None:
                await self._outbox.start()
                if self._on_accepted is not None:
                    await self._relay.recall(self._on_accepted)
                self._stopping = False
                self._task = asyncio.create_task(self._relay.run(), name="revoker-relay")
                self._task.add_done_callback(self._say_if_dead)

    async def stop(self) -> None:
        """Deliver no more. What waits stays on disk."""
        async with self._changing:
            await self._stop()

    async def close(self) -> None:
        """`stop`, and let go of the file. It may be opened again."""
        async with self._changing:
            await self._stop()
            self._task = None
            await self._outbox.close()

    async def _stop(self) -> None:
        if self._task is not None:
            self._stopping = True
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def death(self) -> BaseException | None:
        """What the relay, or the outbox's thread, died of, which only a defect can cause; None while they live, or were
        stopped.
        """
        task = self._task
        if self._outbox.death is not None or task is None or not task.done():
            return self._outbox.death
        if task.cancelled():
            return None if self._stopping else asyncio.CancelledError("not by its owner")
        return task.exception()

    async def accept(self, revocation: Revocation, entry: Entry) -> Landed | None:
        """Store one event; where it landed, or None if it did not within ``publish_timeout_s``: it will.

        In an outage that has lasted for so long already, None comes as soon as the event is on disk. Raises
        OutboxUnavailable if it is not on disk, and if nothing would deliver it.
        """
        began = self._monotonic()
        if self._task is None:
            await self.open()
        if (death := self.death) is not None:
            raise OutboxUnavailable(
                f"what delivers from the outbox died ({death!r}): restart this process", reason="its delivery stopped"
            )
        waiter = self._relay.expect(entry.event_id)
        try:
            await self._outbox.put(entry)
            if self._on_accepted is not None:
                self._on_accepted(revocation)
            self._relay.wake()
            since = self._relay.failing_since
            until = (began if since is None else min(began, since)) + self._timeout_s
            await asyncio.wait({waiter}, timeout=max(0.0, until - self._monotonic()))
            return waiter.result() if waiter.done() else None
        except BaseException:
            self._relay.wake()  # whoever gives up during the put does not take the event along: it gets to the disk
            raise
        finally:
            self._relay.forget(entry.event_id, waiter)

    async def probe(self) -> None:
        """Open the outbox if need be and see whether it can be written to; `check` tells."""
        with contextlib.suppress(OutboxUnavailable):  # the outbox remembers what is wrong with it
            await self.open()
            await self._outbox.probe()

    def check(self) -> Check:
        """For ``/readyz``. What waits, and why, is told; only an outbox that cannot store fails it."""
        check = self._outbox.check()
        if check.ok and self._task is None:  # what waits in it has not been told to ``on_accepted`` yet
            return Check(name=check.name, ok=False, detail="not opened yet")
        problem = self._relay.problem
        if check.ok and problem is not None and self._outbox.counts.waiting:
            check = Check(name=check.name, ok=True, detail=f"{check.detail}: {problem}")
        return check

    def families(self) -> Iterable[Family]:
        """For ``/metrics``."""
        counts = self._outbox.counts
        age_s = 0.0 if counts.oldest_at is None else max(0.0, self._wall() - counts.oldest_at)
        yield Family(
            name="revoker_outbox_events",
            help="Revocations that are accepted and not in the topic yet; aside: the broker refuses the record itself.",
            labels=("state",),
            values={
                ("waiting",): float(counts.waiting - counts.set_aside),
                ("aside",): float(counts.set_aside),
            },
        )
        yield Family(
            name="revoker_outbox_oldest_age_seconds", help="How long the oldest of them waits.", values={(): age_s}
        )
        yield Family(
            name="revoker_outbox_writable",
            help="1 while revocations can be stored.",
            values={(): float(self._outbox.check().ok)},
        )
        yield Family(
            name="revoker_outbox_deliveries",
            help="Revocations delivered from the outbox, and attempts that failed.",
            kind="counter",
            labels=("outcome",),
            values={("delivered",): float(self._relay.delivered), ("failed",): float(self._relay.failed)},
        )

    def _say_if_dead(self, task: asyncio.Task[None]) -> None:
        if not (task.cancelled() and self._stopping):
            error = asyncio.CancelledError("not by its owner") if task.cancelled() else task.exception()
            logger.critical("what delivers from the outbox died; restart this process", exc_info=error)

"""Outbox → topic: in order, again and again until it is there, under the same event id however often it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from revoker import record
from revoker.errors import NotAccepted, OutboxUnavailable, PublishError
from revoker.events import Revocation
from revoker.outbox.file import Waiting
from revoker.outbox.opening import DISK_FULL
from revoker.outbox.writer import Outbox
from revoker.sender import Landed, Sender

__all__ = ["Relay"]

logger: logging.Logger = logging.getLogger(__name__)

#: What is read and sent at once: below the longest batch a publisher sends, so that it goes as one.
_EVENTS: Final = 512
_BYTES: Final = 196_608

#: What is forgotten at once on a full disk.
_LITTLE: Final = 16

#: Seconds between two attempts: doubled after every failure, each shortened by up to half at random, so that the
#: publishers of a fleet do not come back as one.
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0

#: Failures in a row after which the producer is made anew.
_RENEW: Final = 3

#: Seconds between two attempts at what the broker refused: somebody may have mended the topic.
_ASIDE_S: Final = 60.0


class Relay:
    """Delivers what waits in the outbox. `run` has to run for as long as anything is to be delivered.

    An event is forgotten only after the broker acknowledged it, so that a crash in between sends it twice: records are
    idempotent. A timeout is "unknown", and it is sent again. A record the broker refuses for what it is, is set aside
    and does not hold up the others; it stays in the file, is shown, and is tried again every minute.
    """

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0),  # noqa: S311 - spreads load, guards no secret
    ) -> None:
        self._outbox = outbox
        self._sender = sender
        self._monotonic = monotonic
        self._jitter = jitter
        self._stored = asyncio.Event()
        self._waiters: dict[str, list[asyncio.Future[Landed]]] = {}
        #: In the topic, and not yet forgotten by the file: its disk may be in trouble.
        self._landed: dict[str, None] = {}
        self._after = 0
        self._opened = 0
        self._failures = 0
        self._stuck = False
        self._aside_at = monotonic() - _ASIDE_S
        #: Events delivered, and attempts that failed, since the start.
        self.delivered: int = 0
        self.failed: int = 0
        #: Why nothing gets through at the moment; None = nothing failed since the last success.
        self.problem: str | None = None
        #: Since when, in readings of ``monotonic``: the beginning of the first attempt that failed.
        self.failing_since: float | None = None

    def expect(self, event_id: str) -> asyncio.Future[Landed]:
        """A future for when the event is in the topic. Call it before the event is stored, and `forget` it after."""
        waiter: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(event_id, []).append(waiter)
        return waiter

    def forget(self, event_id: str, waiter: asyncio.Future[Landed]) -> None:
        """Nobody waits by this future any more. The event is delivered all the same."""
        waiters = self._waiters[event_id]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[event_id]

    def wake(self) -> None:
        """Something was stored."""
        self._stored.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            began = self._monotonic()
            try:
                again = await self._round(began)
            except OutboxUnavailable as error:  # the outbox has logged it
                self._failures += 1
                self.problem = str(error)
                again = False
            if self._failures:
                await asyncio.sleep(self._pause_s())
            elif not again:
                await self._until_stored()

    async def recall(self, hear: Callable[[Revocation], None]) -> None:
        """Tell ``hear`` of every event that waits: a process that starts again refuses what it accepted before."""
        after = 0
        while rows := await self._outbox.head(after=after, limit=_EVENTS, max_bytes=_BYTES, aside=True):
            for row in rows:
                after = row.seq
                event = record.decode(row.value)
                if isinstance(event, Revocation) and not row.damaged:
                    hear(event)

    async def _round(self, began: float) -> bool:
        """Send the oldest that wait. Returns whether more may wait."""
        if self._opened != self._outbox.opened:
            self._opened, self._after = self._outbox.opened, 0
        if self._outbox.counts.set_aside and began - self._aside_at >= _ASIDE_S:
            self._aside_at = began
            await self._outbox.bring_back()
            self._after = 0
        self._stored.clear()
        rows = await self._outbox.head(after=self._after, limit=_EVENTS, max_bytes=_BYTES)
        fresh = [row for row in rows if row.event_id not in self._landed and not row.damaged]
        if damaged := [row.event_id for row in rows if row.damaged]:
            logger.critical("%d events in the outbox are damaged and cannot be sent: %s", len(damaged), damaged)
            await self._outbox.settle(set_aside=dict.fromkeys(damaged, "damaged on disk"))
        if fresh:
            outcomes = await self._send(fresh)
            await self._settle(fresh, outcomes, began)
        elif self._landed:
            await self._forget({}, {})
        elif not rows:
            self._working()
        # What landed and could not be forgotten yet is passed over.
        self._after = rows[-1].seq if rows and self._landed else 0
        return bool(rows)

    async def _send(self, rows: Sequence[Waiting]) -> list[Landed | PublishError]:
        """The outcome of each. One that is ``lasting`` is about that very record, not about others of its batch."""
        try:
            outcomes = await self._sender.send_all(rows)
        except NotAccepted as error:
            return [error] * len(rows)
        if len(rows) == 1 or not any(isinstance(one, PublishError) and one.lasting for one in outcomes):
            return outcomes
        # One of them is refused for what it is, and took the others of its batch with it.
        blocked = NotAccepted("not sent: an event before it was not delivered")
        singly: list[Landed | PublishError] = []
        stopped = False
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, Landed):
                singly.append(outcome)
            elif stopped:
                singly.append(blocked)
            else:
                singly += await self._send([row])
                stopped = isinstance(singly[-1], PublishError) and not singly[-1].lasting
        return singly

    async def _settle(self, rows: Sequence[Waiting], outcomes: Sequence[Landed | PublishError], began: float) -> None:
        failed: dict[str, str] = {}
        aside: dict[str, str] = {}
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, Landed):
                self._landed[row.event_id] = None
                self.delivered += 1
                for waiter in self._waiters.get(row.event_id, ()):
                    if not waiter.done():
                        waiter.set_result(outcome)
            elif outcome.lasting:
                aside[row.event_id] = str(outcome)
                logger.error("event %s is set aside, and tried again every minute: %s", row.event_id, outcome)
            else:
                failed[row.event_id] = str(outcome)
        if aside:
            self._aside_at = began
        if failed:
            self._failing(next(iter(failed.values())), began)
        else:
            self._working()
        await self._forget(failed, aside)

    async def _forget(self, failed: Mapping[str, str], aside: Mapping[str, str]) -> None:
        """Forget what landed, and note why the others did not."""
        landed = list(self._landed)
        gone = 0
        try:
            gone += await self._outbox.settle(landed=landed, failed=failed, set_aside=aside)
        except OutboxUnavailable as error:
            if error.reason != DISK_FULL:
                raise
            # Forgetting takes space as well, for as long as it is being written: a little at a time may fit.
            for start in range(0, len(landed), _LITTLE):
                gone += await self._outbox.settle(landed=landed[start : start + _LITTLE])
        if gone >= len(landed):
            self._landed.clear()
        elif not self._stuck:
            # They are passed over from here on, or they would be sent again for ever.
            self._stuck = True
            logger.critical("the outbox does not forget %d events: its file is damaged", len(landed) - gone)

    def _failing(self, why: str, began: float) -> None:
        self._failures += 1
        self.failed += 1
        if self.failing_since is None:
            self.failing_since = began
            logger.warning("revocations wait in the outbox, which sends them until they are in the topic: %s", why)
        self.problem = why
        if self._failures % _RENEW == 0:
            self._sender.renew()

    def _working(self) -> None:
        if self.failing_since is not None:
            waited_s = self._monotonic() - self.failing_since
            logger.info("the outbox delivers again, after %.0f s", waited_s)
        self._failures = 0
        self.problem = self.failing_since = None

    def _pause_s(self) -> float:
        doubled = _FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 16)
        return min(_LONGEST_PAUSE_S, doubled) * self._jitter()

    async def _until_stored(self) -> None:
        limit_s = None
        if self._outbox.counts.set_aside:
            limit_s = max(0.0, self._aside_at + _ASIDE_S - self._monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._stored.wait()

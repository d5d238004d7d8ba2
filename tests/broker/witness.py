"""Watches one node through a fault: revokes all the time, and looks a hundred times a second whether it is fooled."""

from __future__ import annotations

import asyncio
import itertools
import time
from types import TracebackType
from typing import Self

from consumers.freshness import State
from consumers.node import Node
from revoker.errors import RevokerError
from revoker.events import Session
from revoker.publisher import Publisher
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, eventually, knows

__all__ = ["Witness", "never_live_without"]

_LOOK_EVERY_S = 0.01
_PUBLISH_EVERY_S = 0.05


class Witness:
    """Two promises are judged at every look: what was refused once stays refused, and a node that calls itself live
    refuses everything acknowledged longer ago than its bound.

    ``async with``: on the way out, unless an error is on its way already, the node must be live again and know all that
    was ever acknowledged, and no promise may have been broken. ``reasons``: every different answer to why it was not
    live. ``ack_gap_s``, ``not_live_s``: the longest time without an acknowledgement, and without being live.
    ``receive_gap_s``: the longest time from an acknowledgement to the entry.
    """

    def __init__(self, node: Node, settings: Settings) -> None:
        self.reasons: list[str] = []
        self.broken: list[str] = []
        self.acknowledged = 0
        self.refused: list[str] = []
        self.ack_gap_s = 0.0
        self.not_live_s = 0.0
        self.receive_gap_s = 0.0
        self._node = node
        self._settings = settings
        self._publisher = Publisher(settings)
        self._pending: dict[str, float] = {}
        self._known: list[str] = []
        self._live_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._publisher.connect()
        self._tasks = [asyncio.create_task(self._publish()), asyncio.create_task(self._look())]
        await eventually(lambda: len(self._known) > 0, "the first revocation arrives")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.recovered()
        finally:
            for task in self._tasks:
                task.cancel()
            outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._publisher.close()
        if error is None:
            assert self.broken == []
            assert [type(one) for one in outcomes] == [asyncio.CancelledError] * 2, outcomes

    def said(self, text: str) -> bool:
        """Whether any reason so far holds this text."""
        return any(text in reason for reason in self.reasons)

    async def recovered(self) -> None:
        """A revocation acknowledged from now on is known, with everything before it, to a live node."""
        after = self.acknowledged
        await eventually(lambda: self.acknowledged > after, f"another acknowledgement; {self.refused[-1:]}")
        mark = list(self._pending)
        await eventually(
            lambda: not any(name in self._pending for name in mark), f"all known; {self._node.freshness.why()}"
        )
        await self._node.wait_ready(timeout_s=PATIENCE_S)
        since = time.monotonic()
        await eventually(lambda: self._live_at > since, "a look at the live node")

    async def acknowledges(self, more: int = 1) -> None:
        """Return when so many more revocations have been acknowledged."""
        goal = self.acknowledged + more
        await eventually(lambda: self.acknowledged >= goal, f"an acknowledgement; {self.refused[-1:]}")

    async def _publish(self) -> None:
        acked_at = time.monotonic()
        for number in itertools.count():
            name = f"w{number}"
            try:
                await self._publisher.revoke(selector=Session(iss="", sid=name))
            except RevokerError as error:  # unknown: it may be in the log or not
                self.refused.append(str(error))
            else:
                now = time.monotonic()
                self.ack_gap_s = max(self.ack_gap_s, now - acked_at)
                acked_at = now
                self._pending[name] = now
                self.acknowledged += 1
            await asyncio.sleep(_PUBLISH_EVERY_S)

    async def _look(self) -> None:
        bound_s = self._settings.staleness_bound_s
        self._live_at = time.monotonic()
        while True:
            now = time.monotonic()
            live = self._node.freshness.state is State.LIVE
            if live:
                self.not_live_s = max(self.not_live_s, now - self._live_at)
                self._live_at = now
            elif (why := self._node.freshness.why()) not in self.reasons:
                self.reasons.append(why)
            for name in [name for name in self._pending if knows(self._node, name)]:
                self.receive_gap_s = max(self.receive_gap_s, now - self._pending.pop(name))
                self._known.append(name)
            late = [name for name, acked_at in self._pending.items() if live and now - acked_at > bound_s]
            self.broken += [f"live without {name}, acknowledged {now - self._pending[name]:.2f} s ago" for name in late]
            self.broken += [f"{name} is forgotten" for name in self._known if not knows(self._node, name)]
            await asyncio.sleep(_LOOK_EVERY_S)


async def never_live_without(node: Node, *names: str, bound_s: float) -> None:
    """These were just acknowledged: return when the node knows them and is live; fail if it is live without one of them
    for longer than its bound."""
    acknowledged_at = time.monotonic()
    deadline = acknowledged_at + PATIENCE_S
    while missing := [name for name in names if not knows(node, name)]:
        waited_s = time.monotonic() - acknowledged_at
        assert node.freshness.state is not State.LIVE or waited_s <= bound_s, f"live without {missing}"
        assert time.monotonic() < deadline, f"never came: {missing}; {node.freshness.why()}"
        await asyncio.sleep(_LOOK_EVERY_S)
    await node.wait_ready(timeout_s=PATIENCE_S)

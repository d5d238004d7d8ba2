"""A record now and then through every partition that would otherwise be silent.

A reader of an idle log cannot tell it from one in which nothing can be written any more: the high watermark stands
still in both. A record that arrives can. It costs one small record per partition and interval, whatever the number of
nodes, and only while nobody publishes anything else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from revoker.cluster import look
from revoker.diagnosis import explain
from revoker.ends import ends_of
from revoker.errors import RevokerError
from revoker.events import Heartbeat
from revoker.record import encode_heartbeat
from revoker.settings import Settings

__all__ = ["Heartbeats", "Line", "Silence"]

log: logging.Logger = logging.getLogger(__name__)


class Landed(Protocol):
    """Where a record is."""

    @property
    def offset(self) -> int: ...


class Line(Protocol):
    """What heartbeats are sent over."""

    async def client(self) -> AIOKafkaClient:
        """A client that is connected. Raises BrokerError."""
        ...

    async def send(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> Landed:
        """Send one record and wait for its acknowledgement. Raises PublishError."""
        ...


class Silence:
    """Which partitions did not move between two looks. Pure."""

    def __init__(self) -> None:
        self._ends: dict[int, int] = {}

    def partitions(self, ends: Mapping[int, int]) -> list[int]:
        """The partitions whose end, as given, is the one of the look before. ``ends``: by partition, those known now.

        One met for the first time may have been written to just now, and is looked at once more.
        """
        silent = [number for number, end in ends.items() if self._ends.get(number) == end]
        self._ends.update(ends)
        return silent

    def sent(self, partition: int, *, offset: int) -> None:
        """A heartbeat went to ``offset``: what it moved is no sign of life of others."""
        self._ends[partition] = offset + 1


class Heartbeats:
    """Sends them, for as long as `run` runs; several processes may, and then share the work.

    ``interval_s``: how often to look whether a partition is silent. ``sign``: further headers for a record's value.
    """

    def __init__(
        self,
        line: Line,
        settings: Settings,
        *,
        sign: Callable[[bytes], Sequence[tuple[str, bytes]]] | None = None,
        wall: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        pause: Callable[[float], Any] = asyncio.sleep,
        jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.0),  # noqa: S311 - spreads load, guards no secret
    ) -> None:
        self._line = line
        self._topic = settings.topic
        self._timeout_s = settings.request_timeout_s
        self._interval_s = settings.heartbeat_interval_s
        self._sign = sign
        self._wall = wall
        self._new_id = new_id
        self._pause = pause
        self._jitter = jitter
        self._silence = Silence()
        #: Heartbeats by outcome: ``sent``, ``failed``.
        self.outcomes: Counter[str] = Counter()
        #: Why the last look or heartbeat failed; None if it did not.
        self.problem: str | None = None

    async def run(self) -> None:
        """Look, send, wait, until cancelled. What Kafka refuses is tried again next time."""
        while True:
            # Processes that started together drift apart, and those that come later find the partition moved.
            await self._pause(self._interval_s * self._jitter())
            problem = None
            try:
                await self.beat()
            except (RevokerError, KafkaError, OSError) as error:
                self.outcomes["failed"] += 1
                problem = explain(error)
            if problem is not None and self.problem is None:
                log.warning("heartbeats cannot be sent: %s", problem)
            self.problem = problem

    async def beat(self) -> None:
        """One look, and a heartbeat through every partition that was silent since the last."""
        client = await self._line.client()
        view = await look(client, self._topic, timeout_s=self._timeout_s)
        silent = self._silence.partitions(await ends_of(client, view, timeout_s=self._timeout_s))
        for outcome in await asyncio.gather(*(self._send(number) for number in silent), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _send(self, partition: int) -> None:
        heartbeat = Heartbeat(id=self._new_id(), sent_at=math.floor(self._wall()))
        key, value, headers = encode_heartbeat(heartbeat)
        if self._sign is not None:
            headers = [*headers, *self._sign(value)]
        landed = await self._line.send(value, key=key, headers=headers, partition=partition)
        self._silence.sent(partition, offset=landed.offset)
        self.outcomes["sent"] += 1

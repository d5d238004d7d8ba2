"""From records to the deny list: decode, clamp, merge, and remember what could not be read. No I/O."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from consumers.denylist import DenyList
from consumers.denylist.purge import PurgeClock
from revoker.events import Heartbeat, Revocation
from revoker.expiry import FUTURE_CUTOFF_S
from revoker.record import Category, Undecodable, decode

__all__ = ["Intake", "RawRecord", "Unread"]

#: How many unread records are kept for people to look at; all are counted.
_KEPT = 100


class RawRecord(Protocol):
    """What the intake needs of a Kafka record; aiokafka's ConsumerRecord has it."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A record that could not be decoded: where it is, when it was appended (Unix ms), and why it could not be read."""

    partition: int
    offset: int
    timestamp_ms: int
    category: Category
    detail: str


class Intake:
    """Applies records to one deny list and counts them.

    ``retention_ms``: an unread record older than this cannot have held a revocation that still matters, and is no
    longer held against the node. ``on_applied``: called with each revocation after it is in force.
    """

    def __init__(
        self,
        denylist: DenyList,
        *,
        retention_ms: int,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        on_applied: Callable[[Revocation, RawRecord], None] | None = None,
    ) -> None:
        self.denylist = denylist
        self.purge_clock: PurgeClock = PurgeClock(wall=wall, monotonic=monotonic)
        self.applied: Counter[str] = Counter()
        self.unread_total: Counter[str] = Counter()
        self.clamped_total: int = 0
        self.heartbeats_total: int = 0
        self.newest_timestamp_ms: int | None = None
        self._retention_ms = retention_ms
        self.on_applied = on_applied
        self._unread: deque[Unread] = deque(maxlen=_KEPT)
        self._unread_newest_ms: float | None = None
        self._missed = 0

    @property
    def unread(self) -> tuple[Unread, ...]:
        """The last records that could not be read, oldest first."""
        return tuple(self._unread)

    @property
    def missed(self) -> int:
        """Unread records that may hold a revocation that still matters; 0 = nothing was missed."""
        return self._missed

    def restart(self) -> None:
        """The log is about to be read from its start again, and its unread records will be met again. Entries stay."""
        self._unread.clear()
        self._missed = 0
        self._unread_newest_ms = None

    def take(self, records: Iterable[RawRecord]) -> None:
        """Apply records. Raises DenyListFull at the bound: the rest is then unapplied, and the caller must not go on as
        if it were.
        """
        for record in records:
            if record.timestamp >= 0:
                self.purge_clock.saw(timestamp_ms=record.timestamp)
                self.newest_timestamp_ms = max(self.newest_timestamp_ms or 0, record.timestamp)
            event = decode(record.value)
            if isinstance(event, Undecodable):
                self._keep_unread(record, event)
                continue
            if isinstance(event, Heartbeat):
                self.heartbeats_total += 1
                continue
            event = self._clamped(event, record)
            self.denylist.apply(event)
            self.applied[event.selector.kind] += 1
            if self.on_applied is not None:
                self.on_applied(event, record)

    def take_local(self, revocation: Revocation) -> None:
        """Apply an event published by this very process, before the topic brings it round."""
        self.denylist.apply(revocation)

    def tidy(self) -> None:
        """Forget what has expired. Call it now and then; it moves the deny list's purge clock."""
        now_s = self.purge_clock.now_s()
        self.denylist.advance(now_s=now_s)
        if self._unread_newest_ms is not None and self._unread_newest_ms < now_s * 1000 - self._retention_ms:
            self.restart()

    def _clamped(self, event: Revocation, record: RawRecord) -> Revocation:
        # A cut-off in the far future would refuse every later login. The bound follows from the record alone, not from
        # this node's clock, so every node and every replay clamps alike.
        latest = record.timestamp // 1000 + FUTURE_CUTOFF_S
        if event.cutoff is None or record.timestamp < 0 or event.cutoff <= latest:
            return event
        self.clamped_total += 1
        return msgspec.structs.replace(event, cutoff=latest)

    def _keep_unread(self, record: RawRecord, why: Undecodable) -> None:
        self.unread_total[why.category] += 1
        self._missed += 1
        # Without a timestamp its age is unknown, so it may always hold something that matters.
        age_known = record.timestamp >= 0
        self._unread_newest_ms = max(self._unread_newest_ms or 0, record.timestamp if age_known else math.inf)
        self._unread.append(
            Unread(
                partition=record.partition,
                offset=record.offset,
                timestamp_ms=record.timestamp,
                category=why.category,
                detail=why.detail,
            )
        )

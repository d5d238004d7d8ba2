"""From records to the deny list: decode, clamp, merge, and remember what could not be read.

No I/O, except that `Intake.tidy` looks after the file of trusted publishers, if there is one.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Protocol, TypeVar

import msgspec

from consumers.denylist import DenyList
from consumers.denylist.purge import PurgeClock
from consumers.provenance import SLICE_SIGNED, Provenance, SignedRecord
from revoker.errors import DenyListFull
from revoker.events import Heartbeat, Revocation, Selector
from revoker.expiry import FUTURE_CUTOFF_S
from revoker.record import Category, Undecodable, decode
from revoker.trust import Refusal, TrustedKey

__all__ = ["SLICE_RECORDS", "Intake", "Placed", "PlainRecord", "RawRecord", "Unparsable", "Unread"]

#: Records applied in one turn of the event loop. Replay is as fast with 500 as with more (faster than all at once), and
#: a turn stays below 10 ms.
SLICE_RECORDS = 500

#: How many unread records are kept for people to look at; all are counted.
_KEPT = 100


_selector_of = attrgetter("selector")


class PlainRecord(Protocol):
    """A Kafka record as the compiled parser leaves it: it does not know its partition."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


_P = TypeVar("_P", bound=PlainRecord)


class RawRecord(SignedRecord, Protocol):
    """What the intake needs of a Kafka record; aiokafka's ConsumerRecord has it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A plain record and where it stands: a `RawRecord`."""

    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]

    @classmethod
    def at(cls, partition: int, record: PlainRecord) -> Placed:
        """``record``, which stands in ``partition``."""
        return cls(partition, record.offset, record.timestamp, record.value, record.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A record that could not be decoded: where it is, when it was appended (Unix ms), and why it could not be read."""

    partition: int
    offset: int
    timestamp_ms: int
    category: Category
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unparsable:
    """A batch that could not be taken apart into records, from ``offset`` on, until before ``until``.

    ``timestamp``: that of its newest record, Unix ms.
    """

    partition: int
    offset: int
    until: int
    timestamp: int
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class Intake:
    """Applies records to one deny list and counts them.

    ``retention_ms``: an unread record older than this cannot have held a revocation that still matters, and is no
    longer held against the node. ``on_applied``: called with each revocation after it is in force. ``provenance``: who
    may publish what; None = whoever can write to the topic.
    """

    def __init__(
        self,
        denylist: DenyList,
        *,
        retention_ms: int,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        on_applied: Callable[[Revocation, RawRecord], None] | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        self.denylist = denylist
        self.provenance: Provenance | None = provenance
        #: The most records to hand to `take` at once, so that a turn of the event loop stays below 10 ms.
        self.slice_records: int = SLICE_RECORDS if provenance is None else SLICE_SIGNED
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

    @property
    def unsettled(self) -> int:
        """0 = whoever reads this log on from here, in place of reading it all, misses nothing. Otherwise records could
        not be read, or were refused, or other publishers are trusted than at first.
        """
        return self._missed + (0 if self.provenance is None else self.provenance.unsettled)

    def restart(self) -> None:
        """The log is about to be read from its start again, and its unread records will be met again. Entries stay."""
        self._forget_unread()
        if self.provenance is not None:
            self.provenance.restart()

    def _forget_unread(self) -> None:
        self._unread.clear()
        self._missed = 0
        self._unread_newest_ms = None

    def take(self, records: Iterable[RawRecord]) -> int:
        """Apply records. Returns how many there were, whoever wrote them: each shows that the log moves.

        An intruder's count there as well. They keep publishers from sending heartbeats, since the partition is not
        silent, and would stop the fleet if nodes waited for those. Raises DenyListFull at the bound: the rest is then
        unapplied, and the caller must not go on as if it were.
        """
        if self.provenance is None and self.on_applied is None:
            return self._take_all(records, placed=lambda record: record)
        counted = 0
        for record in records:
            counted += 1
            signed_with = None if self.provenance is None else self.provenance.vouched(record)
            if isinstance(signed_with, Refusal):
                self._refuse(record, signed_with)
                continue
            if record.timestamp >= 0:
                self._note_time(record.timestamp)
            event = decode(record.value)
            if isinstance(event, Undecodable):
                self._keep_unread(record, event)
            elif isinstance(event, Heartbeat):
                self.heartbeats_total += 1
            else:
                self._merge(event, record, signed_with)
        return counted

    def take_plain(self, records: Iterable[PlainRecord], *, partition: int) -> int:
        """`take` for records of one partition as the compiled parser leaves them."""
        if self.provenance is None and self.on_applied is None:
            return self._take_all(records, placed=partial(Placed.at, partition))
        return self.take(Placed.at(partition, record) for record in records)

    def _take_all(self, records: Iterable[_P], *, placed: Callable[[_P], RawRecord]) -> int:
        """Where every record counts and nobody listens: the deny list gets all of them in one stroke."""
        counted, newest_ms = 0, -1
        events: list[Revocation] = []
        for record in records:
            counted += 1
            timestamp_ms = record.timestamp
            if timestamp_ms > newest_ms:
                newest_ms = timestamp_ms
            event = decode(record.value)
            if type(event) is Revocation:
                events.append(event if event.cutoff is None else self._clamped(event, timestamp_ms))
            elif isinstance(event, Undecodable):
                self._keep_unread(placed(record), event)
            else:
                self.heartbeats_total += 1
        if newest_ms >= 0:
            self._note_time(newest_ms)
        self._merge_all(events)
        return counted

    def _merge_all(self, events: list[Revocation]) -> None:
        try:
            self.denylist.apply_all(events)
        except DenyListFull:
            # Which one it was the error does not tell. Merging those before it again changes nothing.
            for event in events:
                self.denylist.apply(event)
                self.applied[event.selector.kind] += 1
        else:
            kinds: Counter[type[Selector]] = Counter(map(type, map(_selector_of, events)))
            for kind, count in kinds.items():
                self.applied[str(kind.__struct_config__.tag)] += count

    def _note_time(self, timestamp_ms: int) -> None:
        self.purge_clock.saw(timestamp_ms=timestamp_ms)
        self.newest_timestamp_ms = max(self.newest_timestamp_ms or 0, timestamp_ms)

    def _merge(self, event: Revocation, record: RawRecord, signed_with: TrustedKey | None) -> None:
        event = self._clamped(event, record.timestamp)
        filed: tuple[Revocation, ...] | Refusal = (event,)
        if self.provenance is not None and signed_with is not None:
            filed = self.provenance.filed(event, signed_with=signed_with)
        if isinstance(filed, Refusal):
            self._refuse(record, filed)
            return
        for one in filed:
            self.denylist.apply(one)
        self.applied[event.selector.kind] += 1
        if self.on_applied is not None:
            self.on_applied(event, record)

    def _refuse(self, record: RawRecord, why: Refusal) -> None:
        if self.provenance is not None:
            self.provenance.refuse(record, why)

    def stepped_over(self, batch: Unparsable) -> None:
        """The rest of a batch could not even be taken apart into records: unread, or refused where signatures are
        required, for no publisher of ours writes such a batch.
        """
        detail = f"the name of a record header is not UTF-8; nothing up to offset {batch.until - 1} can be read"
        if self.provenance is None:
            self._keep_unread(batch, Undecodable(category="invalid", detail=detail))
        else:
            self.provenance.refuse(batch, Refusal(reason="malformed", detail=detail))

    def take_local(self, revocation: Revocation) -> None:
        """Apply an event published by this very process, before the topic brings it round."""
        filed = (revocation,) if self.provenance is None else self.provenance.filed_locally(revocation)
        for one in filed:
            self.denylist.apply(one)

    def tidy(self) -> None:
        """Forget what has expired. Call it about once a second; it moves the deny list's purge clock."""
        if self.provenance is not None:
            self.provenance.tidy()
        now_s = self.purge_clock.now_s()
        self.denylist.advance(now_s=now_s)
        if self._unread_newest_ms is not None and self._unread_newest_ms < now_s * 1000 - self._retention_ms:
            self._forget_unread()

    def _clamped(self, event: Revocation, timestamp_ms: int) -> Revocation:
        # A cut-off in the far future would refuse every later login. The bound follows from the record alone, not from
        # this node's clock, so every node and every replay clamps alike.
        latest = timestamp_ms // 1000 + FUTURE_CUTOFF_S
        if event.cutoff is None or timestamp_ms < 0 or event.cutoff <= latest:
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

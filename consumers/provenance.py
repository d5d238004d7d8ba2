"""Who published a record, and whether that counts: in front of the deny list of a node that requires signatures.

What does not count is not applied, counted by reason, kept visible and alarmed in the log; but it does not keep the
node from being ready, or whoever can write to the topic could stop the fleet.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from revoker.events import Revocation
from revoker.health import Check, Family
from revoker.settings import Settings
from revoker.signature import Malformed, read_signature
from revoker.trust import REASONS, Reason, Refusal, Trust, TrustedKey
from revoker.trustfile import TrustFile, summary

__all__ = ["SLICE_SIGNED", "Provenance", "Refused", "SignedRecord"]

log: logging.Logger = logging.getLogger(__name__)

#: Records verified in one turn of the event loop. A verification takes 0.1 to 0.4 ms, so a turn stays below 10 ms.
SLICE_SIGNED: Final = 20

#: How many refused records are kept for people to look at; all are counted.
_KEPT: Final = 100

#: Seconds without a refusal after which the next one is news again.
_QUIET_S: Final = 60.0

#: Distinct keys of refused records that are remembered; beyond, any change of trust is followed by a replay.
_KIDS_KEPT: Final = 1000


class SignedRecord(Protocol):
    """What is needed of a Kafka record here; aiokafka's ConsumerRecord has it."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A record that was not applied: where it is, when it was appended (Unix ms), and why."""

    partition: int
    offset: int
    timestamp_ms: int
    reason: Reason
    detail: str


@dataclass(slots=True)
class _Episode:
    """Refusals for one reason without a long pause between them."""

    count: int
    last_at: float


class Provenance:
    """Judges the records of ``topic`` by the trust in a file.

    ``own_id``: the publisher that this very process is, for events it applies before the topic brings them round; None
    = it is none. Raises SettingsError if the file cannot be used.
    """

    def __init__(
        self,
        file: TrustFile,
        *,
        topic: str,
        own_id: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file: TrustFile = file
        #: Records refused so far, by reason; a replay counts them again.
        self.refused_total: Counter[str] = Counter()
        self._topic = topic
        self._own_id = own_id
        self._monotonic = monotonic
        self._refused: deque[Refused] = deque(maxlen=_KEPT)
        self._here: Counter[str] = Counter()
        self._kids: set[str] = set()
        self._episodes: dict[str, _Episode] = {}
        self._outdated: str | None = None
        self._changes = 0

    @classmethod
    def from_settings(cls, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> Provenance | None:
        """As ``trusted_publishers_file`` says; None if it is unset, so that every record counts."""
        if settings.trusted_publishers_file is None:
            return None
        return cls(
            TrustFile(settings.trusted_publishers_file, monotonic=monotonic),
            topic=settings.topic,
            own_id=settings.publisher_id,
            monotonic=monotonic,
        )

    @property
    def refused(self) -> tuple[Refused, ...]:
        """The last records that were refused, oldest first."""
        return tuple(self._refused)

    @property
    def refused_by_reason(self) -> dict[str, int]:
        """How many records were refused since the last start from the beginning, by reason; only reasons that occur."""
        return {reason: self._here[reason] for reason in REASONS if self._here[reason]}

    @property
    def unsettled(self) -> int:
        """Records refused since the last start from the beginning, and changes of trust since: each may make the next
        reading of the same log come out otherwise. 0 = none would.
        """
        return self._here.total() + self._changes

    @property
    def outdated(self) -> str | None:
        """Why the topic must be read from its start again: records refused before may count under the trust of now.
        None: they would not.
        """
        return self._outdated

    def restart(self) -> None:
        """The log is about to be read from its start again, and what is refused will be met again."""
        self._refused.clear()
        self._here.clear()
        self._kids.clear()
        self._outdated = None
        self._changes = 0

    def vouched(self, record: SignedRecord) -> TrustedKey | Refusal:
        """The trusted key that signed this record, or why it does not count. Changes nothing."""
        try:
            claimed = read_signature(record.headers)
        except Malformed as why:
            return Refusal(reason="malformed", detail=f"not the signature of a revocation: {why}")
        return self.file.trust.signer(
            claimed, value=record.value or b"", topic=self._topic, timestamp_ms=record.timestamp
        )

    def filed(self, event: Revocation, *, signed_with: TrustedKey) -> tuple[Revocation, ...] | Refusal:
        """What to merge into the deny list for an event signed with this key, or why nothing. Changes nothing."""
        publisher = signed_with.publisher
        why = publisher.scope.outside(event.selector)
        if why is not None:
            detail = f"signed by {publisher.id}, which {why}"
            return Refusal(reason="out_of_scope", detail=detail, kid=signed_with.key.kid)
        return self.file.trust.filed(event, publisher=publisher)

    def filed_locally(self, event: Revocation) -> tuple[Revocation, ...]:
        """What to merge for an event that this process has published itself; nothing if the fleet will not apply it
        either, which comes to light when the topic brings it round.
        """
        own = next((key for key in self.file.trust.keys.values() if key.publisher.id == self._own_id), None)
        found = None if own is None else self.filed(event, signed_with=own)
        return found if isinstance(found, tuple) else ()

    def refuse(self, record: SignedRecord, why: Refusal) -> None:
        """Count a record that is not applied, show it, and say so in the log, once per reason and outage."""
        self.refused_total[why.reason] += 1
        self._here[why.reason] += 1
        self._refused.append(
            Refused(
                partition=record.partition,
                offset=record.offset,
                timestamp_ms=record.timestamp,
                reason=why.reason,
                detail=why.detail,
            )
        )
        if why.kid is not None and len(self._kids) < _KIDS_KEPT:
            self._kids.add(why.kid)
        now = self._monotonic()
        episode = self._episodes.get(why.reason)
        if episode is not None:
            episode.count += 1
            episode.last_at = now
            return
        self._episodes[why.reason] = _Episode(count=1, last_at=now)
        log.error(
            "refused a record, partition %d offset %d: %s (%s); further ones are counted, see /readyz?verbose",
            record.partition,
            record.offset,
            why.detail,
            why.reason,
        )

    def tidy(self) -> None:
        """Look after the file, and close what is over in the log. Call it about once a second."""
        now = self._monotonic()
        for reason, episode in list(self._episodes.items()):
            if now - episode.last_at >= _QUIET_S:
                del self._episodes[reason]
                log.warning("%d records were refused as %s; none for %g s", episode.count, reason, _QUIET_S)
        before = self.file.trust
        if not self.file.refresh():
            return
        self._changes += 1
        if self._may_count_now(before, self.file.trust):
            self._outdated = f"{self.file.path} has changed, and records refused before may count now"

    def _may_count_now(self, before: Trust, after: Trust) -> bool:
        # Not at every change: while a node replays it is not ready, and a key added ahead of its use, the usual
        # rotation, must not cost that.
        return len(self._kids) >= _KIDS_KEPT or any(
            kid in after.keys and after.keys[kid] != before.keys.get(kid) for kid in self._kids
        )

    def checks(self) -> Iterable[Check]:
        """What ``/readyz?verbose`` reports. Never a reason not to be ready."""
        said = summary(self.file.trust)
        if self.file.problem is not None:
            said = f"{self.file.problem}; still in use: {said}"
        yield Check(name="publishers", ok=True, detail=said)
        if self._refused:
            last = self._refused[-1]
            counts = ", ".join(f"{count} {reason}" for reason, count in self.refused_by_reason.items())
            where = f"the last at partition {last.partition} offset {last.offset}: {last.detail}"
            yield Check(name="signatures", ok=True, detail=f"records refused: {counts}; {where}")

    def families(self) -> Iterable[Family]:
        """What ``/metrics`` reports."""
        yield Family(
            name="revoker_records_refused",
            help="Records not applied because of their signature or their publisher's scope.",
            kind="counter",
            labels=("reason",),
            values={(reason,): float(self.refused_total[reason]) for reason in REASONS},
        )
        yield Family(
            name="revoker_trust_stale",
            help="1 while the file of trusted publishers cannot be read and an earlier one is in use.",
            values={(): float(self.file.problem is not None)},
        )

"""The whole topic, read once or followed, without an API behind it: for operators' commands and the logout service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from consumers.denylist import Entry
from consumers.denylist.memory import MemoryDenyList
from consumers.follower import Follower
from consumers.freshness import Freshness, Progress, State
from consumers.guard import Decision, Guard, Status
from consumers.intake import Intake, Placed, PlainRecord, RawRecord
from consumers.provenance import Provenance
from revoker.cli.exits import Exit
from revoker.cli.output import rfc3339
from revoker.cluster import look, permitted
from revoker.errors import NotProven
from revoker.events import KINDS, Heartbeat, Revocation
from revoker.kafka import connected
from revoker.record import Undecodable, decode
from revoker.settings import Settings
from revoker.tokens import Verified
from revoker.trust import Refusal

__all__ = ["Printed", "Reading", "Tail", "decision_fields", "decision_words", "exit_of", "look_first"]

_SHOW_EVERY_S = 0.1

#: What `Tail` prints: the record, what is in it, and who signed it or why it does not count; None where signatures are
#: not required.
Printed = Callable[[RawRecord, Revocation | Heartbeat | Undecodable, str | Refusal | None], None]


@dataclass(kw_only=True, eq=False)
class Bounds(Freshness):
    """Freshness that keeps the offsets a replay started from and had to reach, by partition."""

    starts: dict[int, int] = field(default_factory=dict, init=False)
    ends: dict[int, int] = field(default_factory=dict, init=False)

    def begin(self, *, starts: Mapping[int, int], barriers: Mapping[int, int]) -> None:
        """See `Freshness.begin`."""
        self.starts, self.ends = dict(starts), dict(barriers)
        super().begin(starts=starts, barriers=barriers)


class Reading:
    """Follower, deny list and guard of one process. Use it as ``async with Reading(settings) as reading``.

    ``tail``: gets every record; None = the deny list does. The guard judges tokens by revocations alone: how long a
    token lives is its verifier's to say.
    """

    def __init__(self, settings: Settings, *, tail: Tail | None = None) -> None:
        self.settings = settings
        self.denylist: MemoryDenyList = MemoryDenyList(max_entries=settings.max_entries)
        self.freshness: Bounds = Bounds.from_settings(settings)
        retention_ms = settings.lifetimes.retention_ms
        self.intake: Intake | Tail = (
            Intake(self.denylist, retention_ms=retention_ms, provenance=Provenance.from_settings(settings))
            if tail is None
            else tail
        )
        self.follower: Follower = Follower(settings, intake=self.intake, freshness=self.freshness)
        if tail is not None:
            tail.follow(self.follower, self.freshness)
        self.guard: Guard = Guard(
            denylist=self.denylist, freshness=self.freshness, lifetimes=settings.lifetimes, long_lived_tokens="accept"
        )

    async def __aenter__(self) -> Self:
        self.follower.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.follower.close()

    def judge(self, token: Verified) -> Decision:
        """What the topic says about a token."""
        return self.guard.check(token.claims, kid=token.kid, token=token)

    def is_revoked(self, token: Verified) -> bool | None:
        """Whether the topic revokes a verified token; None if that cannot be said now."""
        decision = self.judge(token)
        if decision.status is Status.REVOKED and decision.kind in KINDS:
            return True
        return False if decision.status is Status.ACTIVE else None

    def in_force(self) -> Iterator[Entry]:
        """Everything in force now; what has expired is forgotten first."""
        self.intake.tidy()
        return self.denylist.in_force()

    async def until_live(self, *, timeout_s: float, show: Callable[[Progress], None]) -> None:
        """Return once the topic is read to its end and that is proved. Raises NotProven after ``timeout_s`` seconds.

        ``show`` is told how far it has come, several times a second.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            try:
                await self.follower.wait_for(State.LIVE, timeout_s=min(_SHOW_EVERY_S, max(left_s, 0.0)))
            except NotProven as error:
                show(self.follower.progress)
                if left_s <= 0:
                    raise NotProven(f"not read to the end within {timeout_s:g} s: {self.freshness.why()}") from error
            else:
                show(self.follower.progress)
                return


class Tail(Intake):
    """Hands every record on instead of applying it: each once, although every session of the follower reads them all.

    ``printed`` gets them. ``from_beginning``: those of the past as well, else those from the end found at the start.
    ``provenance``: who may publish what; None = nobody asks.
    """

    def __init__(self, *, printed: Printed, from_beginning: bool, provenance: Provenance | None = None) -> None:
        super().__init__(MemoryDenyList(max_entries=1), retention_ms=0, provenance=provenance)
        self._printed = printed
        self._from_beginning = from_beginning
        self._follower: Follower | None = None
        self._bounds: Bounds | None = None
        self._topic_id: Any = None
        self._next: dict[int, int] = {}

    def follow(self, follower: Follower, bounds: Bounds) -> None:
        """Whose records these are."""
        self._follower, self._bounds = follower, bounds

    def restart(self) -> None:
        """See `Intake.restart`."""
        super().restart()
        view = self._follower.view if self._follower is not None else None
        if view is not None and view.topic_id != self._topic_id:
            # Offsets of a topic made anew start over; nothing of it has been handed on.
            self._from_beginning = self._from_beginning or self._topic_id is not None
            self._topic_id, self._next = view.topic_id, {}

    def take(self, records: Iterable[RawRecord]) -> int:
        """See `Intake.take`; here every record counts."""
        records = tuple(records)
        for record in records:
            if record.offset >= self._next.get(record.partition, self._first(record.partition)):
                self._next[record.partition] = record.offset + 1
                event = decode(record.value)
                self._printed(record, event, self._origin(record, event))
        return len(records)

    def take_plain(self, records: Iterable[PlainRecord], *, partition: int) -> int:
        """See `Intake.take_plain`."""
        return self.take(Placed.at(partition, record) for record in records)

    def _origin(self, record: RawRecord, event: Revocation | Heartbeat | Undecodable) -> str | Refusal | None:
        if self.provenance is None:
            return None
        signed_with = self.provenance.vouched(record)
        if isinstance(signed_with, Refusal):
            return signed_with
        filed = self.provenance.filed(event, signed_with=signed_with) if isinstance(event, Revocation) else ()
        return filed if isinstance(filed, Refusal) else signed_with.publisher.id

    def _first(self, partition: int) -> int:
        return 0 if self._from_beginning or self._bounds is None else self._bounds.ends.get(partition, 0)


def exit_of(decision: Decision) -> Exit:
    """The exit code that says what was decided."""
    return {Status.ACTIVE: Exit.OK, Status.REVOKED: Exit.NO, Status.UNKNOWN: Exit.UNKNOWN}[decision.status]


def decision_fields(decision: Decision) -> dict[str, Any]:
    """A decision as a JSON object."""
    return {
        "status": str(decision.status),
        "kind": decision.kind,
        "reason": decision.reason,
        "as_of": rfc3339(decision.as_of),
    }


def decision_words(decision: Decision) -> str:
    """A decision in a line."""
    if decision.status is Status.ACTIVE:
        return f"not revoked, as of {rfc3339(decision.as_of)}"
    return f"{decision.status}: {decision.reason}"


async def look_first(settings: Settings) -> None:
    """Fail at once where a follower would keep trying. Raises a BrokerError, such as TopicMissing or NotPermitted."""
    async with connected(settings) as client:
        permitted(await look(client, settings.topic, timeout_s=settings.request_timeout_s), "Read")

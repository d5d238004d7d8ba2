"""When a node is ready, fresh or stale: pure rules over what was observed, with the clocks handed in.

*Ready* is about the past: every partition has been read up to the end it had when this node started. *Fresh* is about
now, and needs proof, because a Kafka client that lost its brokers and a topic on which nothing happens look alike from
outside (https://github.com/aio-libs/aiokafka/issues/1073). Three proofs, each within the bound, on every partition, and
a fourth where publishers send heartbeats:

1. *poll*: a fetch was answered, and the position had reached the high watermark;
2. *leader*: asked later, every broker that answers agrees that the broker read from is still the newest leader. An old
   leader cut off from its cluster, or one that became a follower, goes on answering empty fetches that look perfect;
3. *topic*: the same answers say it is still the same topic, with the same partitions. A topic deleted and made again
   restarts its offsets;
4. *heartbeat*: a record arrived, of whatever kind. It exposes what no question can: a high watermark that is stuck, a
   cluster in which all agree and nothing can be written.

A poll counts only once a later question has confirmed it; the node then knows everything acknowledged up to that poll.
A leader's ordinary failover leaves the last confirmed poll standing until it is older than the bound.

And nothing may stand in the way: an unread record, a full deny list.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from consumers.partition import Partition
from revoker.settings import Settings

__all__ = ["Freshness", "Missing", "Progress", "Question", "State"]


class State(IntEnum):
    """Ordered by health, so the worst partition decides and a caller can wait for "at least"."""

    STOPPED = 0
    """Not following: never started, closed, died, or a process that forked away from its follower."""
    CONNECTING = 1
    """Looking for brokers, the topic and its ends; also between two attempts."""
    REPLAYING = 2
    """Reading up to the ends noted at the start. Entries already known are enforced."""
    STALE = 3
    """Has caught up once, but a proof of freshness is missing: see `Freshness.missing`."""
    LIVE = 4
    """Caught up, and every proof is younger than the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A proof that is missing: which one, why, and for how many seconds."""

    proof: str
    reason: str
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a replay has come. ``fraction`` is 0 to 1, ``rate`` records per second, ``eta_s`` None while unknown."""

    records: int
    fraction: float
    rate: float
    eta_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is known when the brokers are asked who leads: the polls that a good answer confirms, and the leaders they
    came from.
    """

    asked_at: float
    polled_at: Mapping[int, float]
    leaders: Mapping[int, int]


@dataclass(kw_only=True, eq=False)
class Freshness:
    """The state machine. Feed it observations; read ``state``, ``missing()`` and, on the request path, ``fresh_until``.

    ``bound_s``: the oldest proof that still counts. ``heartbeat_s``: publishers send a record through each partition
    that was silent for so many seconds; None: they do not. ``records_confirm``: a record that arrives confirms the
    polls before it, as an answer of all brokers does: for a watch that asks too rarely to confirm them all.
    ``monotonic`` times everything; ``wall`` only dates ``as_of``.
    """

    bound_s: float
    heartbeat_s: float | None = None
    records_confirm: bool = False
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    #: Called whenever the fields below may have changed: for those who show them elsewhere.
    on_change: Callable[[], None] | None = None

    #: Monotonic time until which this node is LIVE if nothing further is observed; minus infinity if it is not. One
    #: comparison answers a request, and goes on being right if the follower, or the whole event loop, has stopped.
    fresh_until: float = field(default=-math.inf, init=False)
    #: Whether this node was ever LIVE. Before, it knows nothing, and no policy may wave a request through.
    was_ready: bool = field(default=False, init=False)
    #: Monotonic time at which this node was last LIVE, or until which it is; minus infinity before the first time. An
    #: outage is counted from here.
    proved_until: float = field(default=-math.inf, init=False)
    #: The same moment on the monotonic clock as ``as_of``; minus infinity: nothing was ever proved.
    proved_at: float = field(default=-math.inf, init=False)
    #: Unix time up to which everything acknowledged is known here; None: nothing was ever proved.
    as_of: float | None = field(default=None, init=False)
    #: See `consumers.guard.Proof`. Attributes are as quick.
    times: memoryview[float] | None = field(default=None, init=False)

    _phase: State = field(default=State.STOPPED, init=False)
    _reason: str = field(default="not started", init=False)
    _since: float = field(default=0.0, init=False)
    _partitions: dict[int, Partition] = field(default_factory=dict, init=False)
    _watch_problem: str | None = field(default=None, init=False)
    _obstacle: tuple[str, str] | None = field(default=None, init=False)
    _records: int = field(default=0, init=False)
    _began_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._since = self.monotonic()

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> Self:
        """The rules as ``settings`` has them."""
        return cls(
            bound_s=settings.staleness_bound_s,
            heartbeat_s=settings.heartbeat_interval_s or None,
            records_confirm=settings.watch_s > settings.staleness_bound_s / 3,
            monotonic=monotonic,
            wall=wall,
        )

    def connecting(self, reason: str) -> None:
        """Looking for brokers, or about to try again; ``reason`` says why."""
        self._enter(State.CONNECTING, reason)

    def begin(self, *, starts: Mapping[int, int], barriers: Mapping[int, int]) -> None:
        """The log's start and end offsets are known: replay from ``starts`` until every position has reached its
        barrier.

        Call it before the first fetch is asked.
        """
        now = self._began_at = self.monotonic()
        self._partitions = {
            number: Partition(start=start, barrier=barriers[number], position=start, processed_after=now, heard_at=now)
            for number, start in starts.items()
        }
        self._watch_problem = None
        self._records = 0
        self._enter(State.REPLAYING, "replaying")

    def took(self, records: int) -> None:
        """So many further records were applied."""
        self._records += records

    def read_ahead(self, partition: int, *, position: int) -> None:
        """Everything before ``position`` was applied, read past the consumer, which fetches nothing meanwhile.

        A sign of life and progress, and no proof: whatever the consumer is told later it asks later than now.
        """
        self._partitions[partition].position = position
        now = self.monotonic()
        for one in self._partitions.values():
            one.processed_after = now

    def polled(
        self,
        partition: int,
        *,
        leader: int | None,
        stamp_ms: int | None,
        position: int,
        highwater: int | None,
        records: int = 0,
    ) -> int | None:
        """One turn of the read loop, for one partition, in which ``records`` of its records were applied.

        ``leader``: the broker fetches go to. Returns the one they went to before, if it has changed: close the
        connection to it, or its last answer, still under way, would pass for the new leader's. ``stamp_ms``: the
        client's time of the last answered fetch; only whether it *changed* counts, for its value is wall-clock time and
        jumps with it.

        An answer proves what the broker knew when it was *asked*, and it was asked after the answer before had been
        processed. So a loop that stalled for ten seconds cannot take an old answer for a new one. It counts once the
        position has reached the high watermark it came with, on a later turn if there is much to apply. The first
        answer after a change of leader proves nothing: it may be the old one's, received and not yet processed.
        """
        left = self._partitions[partition].polled(
            now=self.monotonic(),
            leader=leader,
            stamp_ms=stamp_ms,
            position=position,
            highwater=highwater,
            records=records,
            records_confirm=self.records_confirm and self._watch_problem is None,
        )
        self._settle()
        return left

    def asking(self) -> Question:
        """The brokers are about to be asked who leads."""
        return Question(
            asked_at=self.monotonic(),
            polled_at={number: one.polled_at for number, one in self._partitions.items()},
            leaders={number: one.leader for number, one in self._partitions.items() if one.leader is not None},
        )

    def confirmed(self, question: Question) -> None:
        """The brokers' answers agree with the leaders in ``question``, and it is the same topic: the polls named there
        count.
        """
        self._watch_problem = None
        for number in question.leaders:
            one = self._partitions[number]
            one.confirmed_at = max(one.confirmed_at, question.polled_at[number])
            if one.interrupted_at is not None and one.interrupted_at <= question.asked_at:
                one.interrupted_at = None
        self._settle()

    def interrupt(self) -> None:
        """Fetches met trouble: a broken connection, a topic unknown for a moment, other partitions than before.

        A topic deleted and made again meanwhile may have outgrown the old positions, and fetches then go on as if
        nothing had been. So records confirm nothing until the brokers have been asked, later than now.
        """
        for one in self._partitions.values():
            one.interrupted_at = self.monotonic()

    def elected(self, partition: int) -> None:
        """The partition's leader epoch has risen since the brokers were last asked, be the leader the same or another.

        What was polled since then may be the answer of a leader that had been deposed, and does not count.
        """
        self._partitions[partition].doubt()

    def unconfirmed(self, reason: str) -> None:
        """The brokers did not answer, or name another leader: polls since the last confirmation do not count yet."""
        self._watch_problem = reason

    def obstructed(self, proof: str | None, reason: str = "") -> None:
        """Something stands in the way of being ready, such as an unread record; None: nothing does."""
        self._obstacle = None if proof is None else (proof, reason)
        self._settle()

    def stop(self, reason: str) -> None:
        """The follower has ended and will not come back by itself."""
        self._enter(State.STOPPED, reason)

    def forget(self) -> None:
        """The entries that were proved to be complete are gone: nothing was ever proved."""
        self.was_ready = False
        self.proved_until = self.proved_at = -math.inf
        self.as_of = None
        self._enter(self._phase, self._reason)

    @property
    def state(self) -> State:
        """Where this node stands now; LIVE turns STALE by the passing of time alone."""
        if self._phase < State.STALE:
            return self._phase
        return State.LIVE if self.monotonic() < self.fresh_until else State.STALE

    def worth_asking(self) -> bool:
        """Whether asking the brokers now, rather than when it is due, could change the state: there is a poll they
        could confirm, and without it this node is STALE, or records confirm nothing.
        """
        now = self.monotonic()
        return self._phase >= State.STALE and any(
            one.polled_at > one.confirmed_at
            and (now >= one.confirmed_at + self.bound_s or (self.records_confirm and one.interrupted_at is not None))
            for one in self._partitions.values()
        )

    @property
    def caught_up(self) -> bool:
        """Whether every partition has been read up to the end it had at the start."""
        return bool(self._partitions) and all(one.caught_up for one in self._partitions.values())

    @property
    def positions(self) -> Mapping[int, int]:
        """The next offset to read, by partition."""
        return {number: one.position for number, one in self._partitions.items()}

    @property
    def lag(self) -> Mapping[int, int | None]:
        """Records between position and high watermark, by partition; None before the first answer."""
        return {
            number: None if one.highwater is None else max(0, one.highwater - one.position)
            for number, one in self._partitions.items()
        }

    @property
    def unproven_s(self) -> float:
        """Seconds since the last sign of life: while replaying an answered fetch, after it a confirmed poll, on the
        worst partition.
        """
        signs = [self._since]
        if self._partitions and self._phase == State.REPLAYING:
            signs.append(min(one.processed_after for one in self._partitions.values()))
        elif self._partitions:
            signs.append(min(one.confirmed_at for one in self._partitions.values()))
        return self.monotonic() - max(signs)

    @property
    def progress(self) -> Progress:
        """How far the replay has come; after it, 1.0."""
        total = sum(one.barrier - one.start for one in self._partitions.values())
        done = sum(min(one.position, one.barrier) - one.start for one in self._partitions.values())
        elapsed = max(self.monotonic() - self._began_at, 1e-9)
        fraction = (done / total if total > 0 else 1.0) if self._partitions else 0.0
        rate = self._records / elapsed
        eta_s = (total - done) / (done / elapsed) if done > 0 else (0.0 if total == done and self._partitions else None)
        return Progress(records=self._records, fraction=fraction, rate=rate, eta_s=eta_s)

    def missing(self) -> tuple[Missing, ...]:
        """Every proof that is missing now; empty exactly when the state is LIVE."""
        now = self.monotonic()
        if self._phase < State.STALE:
            return (Missing(proof=self._phase.name.lower(), reason=self._reason, since_s=now - self._since),)
        found = []
        by_reason: dict[tuple[str, str], list[int]] = {}
        for number, one in sorted(self._partitions.items()):
            if now >= one.confirmed_at + self.bound_s:  # the very sum of fresh_until: rounding must not part the two
                by_reason.setdefault(self._lacking(one, now), []).append(number)
        silent = [number for number, one in sorted(self._partitions.items()) if now >= self._heard_until(one)]
        if silent:
            reason = (
                f"no record has arrived, though publishers send one every {self.heartbeat_s:g} s "
                "(setting heartbeat_interval_s): is a publisher running, and can it write?"
            )
            by_reason["heartbeat", reason] = silent
        for (proof, reason), numbers in by_reason.items():
            since = min(
                self._partitions[number].heard_at if proof == "heartbeat" else self._partitions[number].confirmed_at
                for number in numbers
            )
            since_s = now - (since if math.isfinite(since) else self._since)
            named = f"partition{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
            found.append(Missing(proof=proof, reason=f"{named}: {reason}", since_s=since_s))
        if self._obstacle is not None:
            found.append(Missing(proof=self._obstacle[0], reason=self._obstacle[1], since_s=now - self._since))
        return tuple(found)

    def why(self) -> str:
        """What is `missing`, as one sentence; empty when LIVE."""
        return "; ".join(f"{missing.proof}: {missing.reason}" for missing in self.missing())

    def _lacking(self, one: Partition, now: float) -> tuple[str, str]:
        if one.highwater is not None and one.position < one.highwater:
            return "poll", f"read up to {one.position}, the high watermark is {one.highwater}"
        if now - one.polled_at >= self.bound_s:
            return "poll", f"no fetch answered within {self.bound_s:g} s"
        return "leader", self._watch_problem or "the leader is not confirmed yet"

    def _heard_until(self, one: Partition) -> float:
        return math.inf if self.heartbeat_s is None else one.heard_at + self.bound_s

    def _settle(self) -> None:
        if self._phase == State.REPLAYING and self.caught_up:
            self._enter(State.STALE, "caught up")
        if self._phase < State.STALE:
            return
        now = self.monotonic()
        proved_at = min(one.confirmed_at for one in self._partitions.values())
        if math.isfinite(proved_at):
            self.as_of = self.wall() - (now - proved_at)
            self.proved_at = proved_at
        heard_until = min(self._heard_until(one) for one in self._partitions.values())
        self.fresh_until = min(proved_at + self.bound_s, heard_until) if self._obstacle is None else -math.inf
        if now < self.fresh_until:
            self.was_ready = True
            self.proved_until = self.fresh_until
        else:
            self.proved_until = min(self.proved_until, now)
        if self.on_change is not None:
            self.on_change()

    def _enter(self, phase: State, reason: str) -> None:
        self.fresh_until = -math.inf
        self.proved_until = min(self.proved_until, self.monotonic())
        if phase != self._phase:
            self._since = self.monotonic()
        self._phase, self._reason = phase, reason
        if self.on_change is not None:
            self.on_change()

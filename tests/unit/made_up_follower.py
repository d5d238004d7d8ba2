"""A follower's observations made up by hand, on a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from consumers.freshness import Freshness, Question, State

BOUND_S = 10.0


@dataclass
class Clock:
    """A monotonic and a wall clock, moved by hand."""

    now: float = 1000.0
    offset: float = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset

    def tick(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Node:
    """A follower's observations, made up: brokers answer when the test says so."""

    clock: Clock = field(default_factory=Clock)
    starts: Mapping[int, int] = field(default_factory=lambda: {0: 0})
    ends: Mapping[int, int] = field(default_factory=lambda: {0: 0})
    begun: bool = True
    heartbeat_s: float | None = None
    records_confirm: bool = False

    def __post_init__(self) -> None:
        self.freshness = Freshness(
            bound_s=BOUND_S,
            heartbeat_s=self.heartbeat_s,
            records_confirm=self.records_confirm,
            monotonic=self.clock.monotonic,
            wall=self.clock.wall,
        )
        self.at = dict(self.starts)
        self.highwater: dict[int, int | None] = dict.fromkeys(self.starts)
        self.leader: dict[int, int | None] = dict.fromkeys(self.starts, 1)
        self.stamp: dict[int, int | None] = dict.fromkeys(self.starts)
        self._stamps = 0
        if self.begun:
            self.freshness.connecting("test")
            self.freshness.begin(starts=self.starts, barriers=self.ends)

    def turn(self, partition: int = 0, *, records: int = 0) -> int | None:
        """The read loop looks at one partition, having applied ``records`` of it."""
        return self.freshness.polled(
            partition,
            leader=self.leader[partition],
            stamp_ms=self.stamp[partition],
            position=self.at[partition],
            highwater=self.highwater[partition],
            records=records,
        )

    def answer(
        self, partition: int = 0, *, at: int | None = None, highwater: int | None = None, records: int = 0
    ) -> int | None:
        """A fetch is answered and the loop looks; by default nothing new, position at the high watermark."""
        self._stamps += 1
        self.stamp[partition] = self._stamps
        self.at[partition] = self.at[partition] if at is None else at
        self.highwater[partition] = self.at[partition] if highwater is None else highwater
        return self.turn(partition, records=records)

    def beat(self, partition: int = 0) -> None:
        """A record arrives at the end of the log."""
        self.answer(partition, at=self.at[partition] + 1, records=1)

    def idle(self, seconds: float, *, step: float = 0.1) -> None:
        """Fetches are answered for some seconds, and nobody asks the brokers who leads."""
        for _ in range(round(seconds / step)):
            self.clock.tick(step)
            for partition in self.starts:
                self.answer(partition)

    def watch(self) -> Question:
        """The brokers are asked, and agree at once."""
        question = self.freshness.asking()
        self.freshness.confirmed(question)
        return question

    def run(self, seconds: float, *, step: float = 0.1, partitions: tuple[int, ...] | None = None) -> None:
        """An idle, healthy topic for some seconds: fetches are answered, the watch agrees."""
        for _ in range(round(seconds / step)):
            self.clock.tick(step)
            for partition in self.starts if partitions is None else partitions:
                self.answer(partition)
            self.watch()

    def state(self) -> State:
        """The state now. A call, because a type checker would take a property for unchanged since the last look."""
        return self.freshness.state

    def proofs(self) -> list[str]:
        return [missing.proof for missing in self.freshness.missing()]


def live(**kwargs: object) -> Node:
    """A node that has caught up and is live."""
    node = Node(**kwargs)  # type: ignore[arg-type]
    for partition, end in node.ends.items():
        node.answer(partition, at=end)
    node.run(1.0)
    assert node.freshness.state is State.LIVE
    return node

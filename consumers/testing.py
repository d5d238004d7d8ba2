"""For the tests of those who use revoker: a topic in memory and a clock to tick, around the code that runs in
production.

::

    clock = TickClock()
    topic = MemoryTopic(clock=clock)
    node = topic.node(settings)  # live at once; no broker, no task, no socket
    topic.publish(revocation)  # refused by every node of this topic from now on
    clock.tick(60)  # nobody has proved anything for a minute: every node is stale
    topic.prove()  # and live again

Records pass through the real encoding, decoding, deny list and state machine; only Kafka itself is missing. Hand such
a node to an adapter with ``run_node=False``: nothing needs to be started.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumers.node import Node
from revoker.events import Revocation
from revoker.record import encode
from revoker.settings import Settings
from revoker.signature import Signer

__all__ = ["MemoryTopic", "TickClock"]

_LEADER = 1


class TickClock:
    """Time that passes when told to.

    ``start`` gives the Unix time to begin at: the real one, since the times in tokens are checked by the real clock.
    """

    def __init__(self, *, start: Callable[[], float] = time.time) -> None:
        self._wall_s = start()
        self._monotonic_s = 1000.0

    def tick(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self._wall_s += seconds
        self._monotonic_s += seconds

    def wall(self) -> float:
        """Unix seconds."""
        return self._wall_s

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self._monotonic_s


@dataclass(frozen=True, slots=True)
class _Record:
    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class MemoryTopic:
    """One partition, kept in memory, and the nodes that follow it."""

    def __init__(self, *, clock: TickClock) -> None:
        self._clock = clock
        self._records: list[_Record] = []
        self._nodes: list[Node] = []
        self._stamp = 0

    def node(self, settings: Settings) -> Node:
        """A node that has replayed this topic, follows it, and is live. It runs on the clock of the topic."""
        node = Node(settings, wall=self._clock.wall, monotonic=self._clock.monotonic)
        self.attach(node)
        return node

    def attach(self, node: Node) -> None:
        """Have ``node``, made on the same clock, replay this topic and follow it."""
        node.freshness.begin(starts={0: 0}, barriers={0: len(self._records)})
        self._nodes.append(node)
        self._deliver(node, self._records)

    def publish(self, revocation: Revocation, *, signer: Signer | None = None) -> None:
        """Append a revocation, signed if ``signer`` is given, and deliver it to every node."""
        _, value, headers = encode(revocation)
        self.append(value, headers=headers if signer is None else [*headers, *signer.headers(value)])

    def append(self, value: bytes | None, *, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Append a record's value, readable or not, and deliver it to every node."""
        record = _Record(0, len(self._records), int(self._clock.wall() * 1000), value, headers)
        self._records.append(record)
        for node in self._nodes:
            self._deliver(node, [record])

    def prove(self) -> None:
        """Prove to every node that it is up to date as of now, as an idle Kafka does several times a second."""
        for node in self._nodes:
            self._deliver(node, [])

    def _deliver(self, node: Node, records: list[_Record]) -> None:
        node.intake.take(records)
        freshness = node.freshness
        freshness.took(len(records))
        end = len(self._records)
        # The first answer may have been asked before now, the second was asked after the first; the third proves what
        # the second knew.
        for _ in range(3):
            self._stamp += 1
            freshness.polled(0, leader=_LEADER, stamp_ms=self._stamp, position=end, highwater=end)
        freshness.confirmed(freshness.asking())
        node.follower._note_obstacle()  # noqa: SLF001 - the rule of production, not a second one

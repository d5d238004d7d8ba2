"""The clock by which entries are forgotten. It may run late, never early: a wrong wall clock must not let revoked
tokens in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["PurgeClock"]


class PurgeClock:
    """The earlier of this host's wall clock and the brokers' time, less a grace; before the first record it stands
    still.

    Brokers' time is the newest record timestamp seen, carried on by the monotonic clock. A host whose clock jumps a
    year ahead would otherwise empty its deny list; so would a publisher with a wrong clock on a topic that keeps
    publishers' timestamps. Both must be wrong together to do harm. ``grace_s``: seconds by which both may be ahead of
    the verifiers' clocks.
    """

    def __init__(self, *, wall: Callable[[], float], monotonic: Callable[[], float], grace_s: float = 300.0) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._grace_s = grace_s
        self._broker_s = -math.inf
        self._seen_at = -math.inf

    def saw(self, *, timestamp_ms: int) -> None:
        """A record with this timestamp was read."""
        now = self._monotonic()
        if timestamp_ms / 1000 > self._broker_now(now):
            self._broker_s, self._seen_at = timestamp_ms / 1000, now

    def now_s(self) -> float:
        """Unix seconds; minus infinity before the first record."""
        return min(self._wall(), self._broker_now(self._monotonic())) - self._grace_s

    def _broker_now(self, now: float) -> float:
        return self._broker_s if self._broker_s == -math.inf else self._broker_s + (now - self._seen_at)

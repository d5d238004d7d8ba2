"""What the polls of one partition prove, and as of when. Pure; times are monotonic seconds, handed in."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Partition"]


@dataclass(slots=True, kw_only=True)
class Partition:
    """One partition being read, from ``start`` to ``barrier`` before it counts as caught up."""

    start: int
    barrier: int
    position: int
    processed_after: float
    heard_at: float
    leader: int | None = None
    highwater: int | None = None
    stamp_ms: int | None = None
    asked_after: float = -math.inf
    doubtful: bool = False
    turn_at: float = -math.inf
    polled_at: float = -math.inf
    confirmed_at: float = -math.inf
    interrupted_at: float | None = None

    @classmethod
    def beginning(cls, *, start: int, barrier: int, now: float) -> Partition:
        """A partition of which nothing has been asked yet."""
        return cls(start=start, barrier=barrier, position=start, processed_after=now, heard_at=now)

    @property
    def caught_up(self) -> bool:
        """Whether the end noted at the start has been reached."""
        # The first high watermark counts as well: a broker's answer to "where is the end" has been found too low (Tansu
        # 0.6 counts a batch of fifty as one).
        return self.highwater is not None and self.position >= self.barrier

    def polled(
        self,
        *,
        now: float,
        leader: int | None,
        stamp_ms: int | None,
        position: int,
        highwater: int | None,
        records: int,
        records_confirm: bool,
    ) -> int | None:
        """One turn of the read loop; see `consumers.freshness.Freshness.polled`."""
        left = None
        was_caught_up = self.caught_up
        if leader != self.leader:
            left, self.leader = self.leader, leader
            if left is not None:
                # The new leader was not known on the turn before, but may have been asked any time since.
                self.doubt()
                self.stamp_ms = stamp_ms
        self.position = position
        if highwater is not None:
            if self.highwater is None:
                self.barrier = max(self.barrier, highwater)
            self.highwater = highwater
        if stamp_ms != self.stamp_ms:
            self.stamp_ms = stamp_ms
            if self.doubtful:
                self.doubtful = False
            else:
                self.asked_after, self.processed_after = self.processed_after, max(self.processed_after, self.turn_at)
        if records and was_caught_up:
            self._heard(records_confirm=records_confirm)
        if highwater is not None and position >= highwater:
            self.polled_at = max(self.polled_at, self.asked_after)
        self.turn_at = now
        return left

    def _heard(self, *, records_confirm: bool) -> None:
        """A record arrived that was not there when this session began.

        Its answer is as old as its question, like any other. The record was committed after the answer before it was
        given, so all that was acknowledged until then stands before it in the log, and has been read. After a `doubt`
        both times are minus infinity, and it proves nothing.
        """
        self.heard_at = max(self.heard_at, self.asked_after)
        # After an interruption it may stand in another log.
        if records_confirm and self.interrupted_at is None:
            self.confirmed_at = max(self.confirmed_at, self.polled_at)

    def doubt(self) -> None:
        """No poll so far counts unless it is confirmed already, and the next answer, which may be under way, does not
        either.
        """
        self.polled_at = self.asked_after = -math.inf
        self.processed_after = self.turn_at
        self.doubtful = True

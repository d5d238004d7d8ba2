"""The freshness that one process of a host proves, as every other one sees it.

The writer's follower proves how fresh the shared deny list is, and publishes it in the control page. Every process
judges by that page, the writer as well: all say the same at the same moment. Times on the page are monotonic, one clock
for the whole host, so that a writer that is dead or stopped shows by the mere passing of time.
"""

from __future__ import annotations

import json
import math
import os
import time
from array import array
from collections.abc import Callable
from typing import Final

from consumers.denylist.control import Control
from consumers.denylist.shared import SharedDenyList
from consumers.freshness import Freshness, Missing, State

__all__ = ["Mirror", "from_another_clock", "publish", "told"]

#: How often, in seconds, a process that has nothing to look into looks for it on behalf of a request.
_LOOK_EVERY_S = 0.05

#: A sign of life further ahead than this comes from a clock that is not ours, such as that of another time namespace.
_AHEAD_S = 1.0

#: A writer gives a sign four times a second. One whose last sign is older than this, seconds, may be stopped.
_LIVES_S = 1.0

#: The words of a page that proves nothing. Not None: whoever has read a proof and finds these after its look-up must
#: not take them for "nothing to compare".
_NOTHING: Final[memoryview[float]] = memoryview(array("d", [-math.inf] * 16)).cast("B").cast("d")


class Mirror:
    """Implements `consumers.guard.Proof` over the page of one shared deny list.

    ``bound_s``: the oldest proof that this process's settings let count, seconds. A page whose writer goes by a larger
    bound is not gone by.
    """

    def __init__(
        self,
        store: SharedDenyList,
        *,
        bound_s: float = math.inf,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.monotonic: Callable[[], float] = monotonic
        self._bound_s = bound_s
        self._store = store
        self._looked_at = -math.inf
        self._nothing = "not started"
        self._closed: str | None = "not started"
        self._page_seen: Control | None = None  # and found to go by our clock
        self._foreign: Control | None = None  # and found not to
        self._proved_after = -math.inf
        #: See `consumers.guard.Proof`. While it is kept all that `fresh_until` asks has been asked and stays true: the
        #: page is the store's, goes by our clock, and has once proved what we want; a page that ends says so itself.
        self.times: memoryview[float] = _NOTHING
        store.on_control = self._let_go

    def started(self, *, writer_proved: bool) -> None:
        """From here on the page counts.

        Unless its writer lives, by its latest sign, and has proved something itself, only what is proved later than
        now: what was acknowledged while nobody read on is not in the table, and a node is not ready before it has all
        that was acknowledged before it started.
        """
        self._closed = None
        self._nothing = self._store.open() or self._nothing
        page, now = self._store.control, self.monotonic()
        lives = writer_proved and page is not None and now - page.beat <= _LIVES_S
        self._proved_after = -math.inf if lives else now
        self._let_go()

    def stop(self, reason: str) -> None:
        """From here on nothing does."""
        self._closed = reason
        self._let_go()

    def _let_go(self) -> None:
        self.times = _NOTHING

    def _keep(self, page: Control) -> None:
        self.times = page.doubles
        # Only now, since another thread may stop us at any moment: either it lets go later, or it is seen here.
        if self._closed is not None or page is not self._store.control or page.proved_at < self._proved_after:
            self._let_go()

    def _page(self) -> Control | None:
        page = self._store.control
        if page is None or page.replaced or page is self._foreign:
            now = self.monotonic()
            if now < self._looked_at + _LOOK_EVERY_S:
                return None
            self._looked_at = now
            nothing = self._store.open()
            if nothing is not None:
                self._nothing = nothing
                return None
            page, self._foreign = self._store.control, None
        if page is not None and page is not self._page_seen:
            now = self.monotonic()
            if from_another_clock(page, now=now):
                self._foreign = page
                self._nothing = (
                    f"process {page.writer_pid}, which writes the table, lives {page.beat - now:.0f} s ahead of this "
                    "process's monotonic clock: both must be in one time namespace"
                )
                return None
            if page.bound_s > self._bound_s:
                self._foreign = page
                self._nothing = (
                    f"process {page.writer_pid}, which writes the table, goes by staleness_bound_s={page.bound_s:g}, "
                    f"this one by {self._bound_s:g}: set the same in all processes of a host"
                )
                return None
            self._page_seen = page
        return page

    @property
    def fresh_until(self) -> float:
        page = self._page() if self._closed is None else None
        if page is None or page.proved_at < self._proved_after:
            return -math.inf
        if self.times is _NOTHING:
            self._keep(page)
        return -math.inf if self.times is _NOTHING else page.fresh_until

    @property
    def proved_until(self) -> float:
        page = self._page()
        return -math.inf if page is None else min(page.proved_until, page.beat + 86400)

    @property
    def as_of(self) -> float | None:
        page = self._store.control
        return None if page is None else page.as_of

    @property
    def was_ready(self) -> bool:
        page = self._page()
        return page is not None and page.was_ready and page.proved_at >= self._proved_after

    @property
    def state(self) -> State:
        """Where this host stands now."""
        if self._closed is not None:
            return State.STOPPED
        page = self._page()
        if page is None or not page.state:
            return State.CONNECTING
        if self.monotonic() < self.fresh_until:
            return State.LIVE
        # What is not fresh is not live, whatever the writer said last.
        return State.STALE if page.state == State.LIVE else State(page.state)

    def missing(self) -> tuple[Missing, ...]:
        """Every proof that is missing now; empty exactly when the state is LIVE."""
        if self._closed is not None:
            return (Missing(proof="stopped", reason=self._closed, since_s=0.0),)
        page = self._page()
        if page is None:
            return (Missing(proof="table", reason=self._nothing, since_s=0.0),)
        now = self.monotonic()
        if now < self.fresh_until:
            return ()
        since_s = max(0.0, now - page.beat) if math.isfinite(page.beat) else 0.0
        if since_s > 2.0 or not page.writer_pid:
            who = f"process {page.writer_pid}" if page.writer_pid else "the process that wrote it"
            return (Missing(proof="writer", reason=f"{who} gives no sign of life", since_s=since_s),)
        try:
            said = json.loads(page.said() or "[]")
        except ValueError:
            said = []
        found = tuple(
            Missing(proof=str(one["proof"]), reason=str(one["reason"]), since_s=float(one["since_s"])) for one in said
        )
        return found or (Missing(proof="poll", reason="a proof has just ended", since_s=0.0),)

    def why(self) -> str:
        """What is `missing`, as one sentence; empty when LIVE."""
        return "; ".join(f"{missing.proof}: {missing.reason}" for missing in self.missing())


def publish(own: Freshness, page: Control, *, now: float) -> None:
    """Have the page say what the writer's follower has proved.

    A process that has just taken over has proved nothing itself yet. What its predecessor proved is still true, until
    it ends: the entries are those in the table. After that, or once it has proved anything itself, its own word counts.
    """
    page.beat = now
    page.bound_s = own.bound_s
    page.writer_pid = os.getpid()
    if not own.was_ready and page.was_ready and now < page.fresh_until:
        return
    page.publish(
        fresh_until=own.fresh_until,
        proved_until=max(own.proved_until, min(page.proved_until, now)) if not own.was_ready else own.proved_until,
        proved_at=max(own.proved_at, page.proved_at),
        as_of=page.as_of if own.as_of is None else own.as_of,
        was_ready=own.was_ready or page.was_ready,
        state=int(own.state),
    )


def told(own: Freshness) -> str:
    """What the page tells people: the writer's missing proofs."""
    return json.dumps(
        [
            {"proof": one.proof, "reason": one.reason[:500], "since_s": round(one.since_s, 1)}
            for one in own.missing()[:4]
        ]
    )


def from_another_clock(page: Control, *, now: float) -> bool:
    """Whether the writer's times cannot be compared with ours: it beats in our future."""
    return page.beat > now + _AHEAD_S

"""One value that is fetched again and again off the event loop, of which the last good one is kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from revoker.errors import RevokerError

__all__ = ["Fetched", "Refreshed", "retry_after_s"]

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Fetched(Generic[T]):
    """A value and when its fetch began, in seconds of the clock: what it says may be as old as that."""

    value: T
    asked_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    reason: str
    at: float
    count: int


def retry_after_s(failures: int, *, longest_s: float, jitter: float) -> float:
    """The wait after so many failures in a row: 1, 2, 4 … ``longest_s``, half of it left to ``jitter`` (0 to 1)."""
    return min(_FIRST_RETRY_S * 2.0 ** min(failures - 1, 16), longest_s) * (0.5 + jitter / 2)


class Refreshed(Generic[T]):
    """Keeps a value fresh: `run` fetches it at its start, every ``refresh_s``, after a failure, and when `ask`ed.

    ``fetch``: blocking, run on a thread, one at a time; whatever it raises is a failed fetch. ``what``: names the
    value in messages. ``timeout_s``: longest fetch in all. ``cooldown_s``: least time between two fetches caused by
    `ask`. ``clock``: monotonic seconds. ``jitter``: numbers in [0, 1), which keep a fleet from asking in step.

    Readers may be on any thread: the value is swapped in as one reference.
    """

    def __init__(
        self,
        *,
        fetch: Callable[[], T],
        what: str,
        refresh_s: float,
        timeout_s: float,
        cooldown_s: float,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._fetch = fetch
        self._what = what
        self._refresh_s = refresh_s
        self._timeout_s = timeout_s
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._jitter = jitter
        self._failure: _Failure | None = None
        self._next_at = clock()
        self._fetching = False
        self._runner: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._inflight: asyncio.Task[Fetched[T] | str] | None = None
        #: The last good value; None before the first.
        self.latest: Fetched[T] | None = None
        #: Fetches begun so far.
        self.fetches: int = 0

    @property
    def problem(self) -> str | None:
        """Why the value is not up to date, and since when; None if it is."""
        now = self._clock()
        latest, failure = self.latest, self._failure
        if failure is None:
            return None if latest else f"{self._what}: not fetched so far"
        times = "once," if failure.count == 1 else f"{failure.count} times in a row, last"
        kept = f"using what was fetched {now - latest.asked_at:.0f} s ago" if latest else "nothing was ever fetched"
        return f"{self._what}: fetching failed {times} {now - failure.at:.0f} s ago ({failure.reason}); {kept}"

    def ask(self, *, seen: Fetched[T]) -> bool:
        """Whether something newer than ``seen`` is there, under way, or due; if due, `run` is woken to fetch it.

        False within the cooldown after a good fetch. From any thread; does not wait.
        """
        if self._fetching or self._failure is not None or self.latest is not seen:
            return True
        if self._clock() - seen.asked_at < self._cooldown_s:
            return False
        if self._runner is not None:
            loop, asked = self._runner
            # RuntimeError: that loop was closed this moment, with nobody left on it to wake.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(asked.set)
        return True

    async def run(self) -> None:
        """Fetch whenever due, until cancelled. A failed fetch never ends it. Raises RuntimeError if it runs already."""
        if self._runner is not None:
            raise RuntimeError(f"{self._what}: is being refreshed already; one owner runs it")
        asked = asyncio.Event()
        self._runner = (asyncio.get_running_loop(), asked)
        try:
            while True:
                await self._refresh()
                asked.clear()
                while not self._due(asked=asked.is_set()):
                    asked.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(self._next_at - self._clock(), 0.001)):
                            await asked.wait()
        finally:
            self._runner = None
            if self._inflight is not None:
                self._inflight.cancel()
                self._inflight = None

    def _due(self, *, asked: bool) -> bool:
        now = self._clock()
        if now >= self._next_at:
            return True
        # Asked again: a wish may have been on its way to the loop while the fetch it wanted was made.
        return (
            asked and self.latest is not None and now - self.latest.asked_at >= self._cooldown_s and not self._failure
        )

    async def _refresh(self) -> None:
        self._fetching = True
        try:
            outcome = await self._outcome()
            now = self._clock()
            if isinstance(outcome, str):
                self._note_failure(outcome, now=now)
            else:
                if self._failure is not None:
                    logger.info("%s: fetched again", self._what)
                self.latest = outcome
                self._failure = None
                self._next_at = now + self._refresh_s * (1 - self._jitter() / 10)
        finally:
            self._fetching = False

    async def _outcome(self) -> Fetched[T] | str:
        left = self._inflight
        if left is not None and left.done() and isinstance(left.result(), str):
            self._inflight = None  # its failure was told when it was given up; this attempt deserves a fetch of its own
        if self._inflight is None:
            self.fetches += 1
            self._inflight = asyncio.create_task(asyncio.to_thread(self._on_thread, self._clock()), name=self._what)
        try:
            # A thread cannot be cancelled: one that is still waiting is waited for again, never joined by a second.
            async with asyncio.timeout(self._timeout_s):
                outcome = await asyncio.shield(self._inflight)
        except TimeoutError:
            return f"no complete answer within {self._timeout_s:g} s"
        self._inflight = None
        return outcome

    def _on_thread(self, asked_at: float) -> Fetched[T] | str:
        try:
            return Fetched(self._fetch(), asked_at)
        except RevokerError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  - whoever answers decides what goes wrong; it becomes `problem`
            cause = error.__cause__ or error
            return f"{type(cause).__name__}: {cause}"

    def _note_failure(self, reason: str, *, now: float) -> None:
        count = self._failure.count + 1 if self._failure else 1
        self._failure = _Failure(reason=reason, at=now, count=count)
        longest_s = min(self._refresh_s, _LONGEST_RETRY_S)
        self._next_at = now + retry_after_s(count, longest_s=longest_s, jitter=self._jitter())
        logger.log(logging.WARNING if count == 1 else logging.DEBUG, "%s", self.problem)

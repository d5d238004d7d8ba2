"""The outbox as a publisher uses it: one thread owns the file, and whoever asks at the same time shares a commit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from revoker.errors import OutboxUnavailable
from revoker.health import Check
from revoker.outbox.file import Counts, Entry, OutboxFile, Waiting
from revoker.outbox.opening import DISK_FULL, LOCKED

__all__ = ["Outbox"]

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Most callers that share one commit.
_GROUP: Final = 2048

#: Seconds between two attempts to open a file that is in trouble; requests in between are refused at once.
_REOPEN_S: Final = 1.0

#: Seconds after which a file nobody wrote to is written to, to know whether it still can be.
_PULSE_S: Final = 5.0


@dataclass(slots=True)
class _Job:
    """``entry``: an event to store, in one statement with the others'; else ``work``: whatever else, in their order.

    ``lasts``: what it writes has to be there at the next start.
    """

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    entry: Entry | None = None
    lasts: bool = True
    work: Callable[[OutboxFile], Any] | None = None
    outcome: Any = None
    error: OutboxUnavailable | None = None


class Outbox:
    """Accepted revocations, on disk until they are in the topic. Every method raises OutboxUnavailable if the disk or
    the file do not do as they should; the file is then opened again and again until they do.

    ``max_events``: how many may wait. ``wall`` gives Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_events: int,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._max_events = max_events
        self._wall = wall
        self._monotonic = monotonic
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ending: threading.Thread | None = None
        self._pid = 0
        self._file: OutboxFile | None = None
        self._tried_at: float | None = None
        self._wrote_at: float | None = None
        #: What is wrong with it at the moment; None = nothing.
        self.problem: OutboxUnavailable | None = None
        #: What its thread died of, which only a defect can cause.
        self.death: BaseException | None = None
        #: How much waits, as of the last commit.
        self.counts: Counts = Counts()
        #: Grows whenever the file was opened: sequence numbers from before mean nothing any more.
        self.opened: int = 0
        #: Commits of one or more events.
        self.commits: int = 0

    async def start(self) -> None:
        """Open the file, unless it is open. What raises may be called again; the file is tried anew.

        One that is open on a full disk does not raise: what waits in it can be delivered.
        """
        while (ending := self._ending) is not None:  # it may have work to do yet, in the same file
            await asyncio.to_thread(ending.join)
            if self._ending is ending:
                self._ending = None
        if self._thread is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._jobs = queue.SimpleQueue()
            self._tried_at = self.death = None
            self._thread = threading.Thread(target=self._run, name="revoker-outbox", daemon=True)
            self._thread.start()
        try:
            await self.probe()
        except OutboxUnavailable as error:
            if error.reason != DISK_FULL:
                raise

    async def close(self) -> None:
        """Finish what was asked for and let go of the file. Closing twice does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            self._ending = thread
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    async def put(self, entry: Entry) -> None:
        """Store one event; returns once it is on disk. One that waits already is left as it is."""
        loop = asyncio.get_running_loop()
        await self._ask(_Job(loop=loop, future=loop.create_future(), entry=entry))

    async def head(self, *, after: int, limit: int, max_bytes: int, aside: bool = False) -> list[Waiting]:
        """See `OutboxFile.head`."""
        return await self._do(lambda file: file.head(after=after, limit=limit, max_bytes=max_bytes, aside=aside))

    async def settle(
        self,
        *,
        landed: Sequence[str] = (),
        failed: Mapping[str, str] | None = None,
        set_aside: Mapping[str, str] | None = None,
    ) -> int:
        """See `OutboxFile.settle`."""
        return await self._do(lambda file: file.settle(landed=landed, failed=failed, set_aside=set_aside))

    async def bring_back(self) -> None:
        """See `OutboxFile.bring_back`."""
        await self._do(lambda file: file.bring_back())

    async def probe(self) -> None:
        """Returns if events can probably be stored now. Writes, unless somebody just did."""
        await self._do(self._pulse, lasts=True)

    def check(self) -> Check:
        """For ``/readyz``. That much waits is no reason not to be ready: storing more is what the outbox is for."""
        counts = self.counts
        if self.problem is not None:
            return Check(name="outbox", ok=False, detail=str(self.problem))
        if not self.opened:
            return Check(name="outbox", ok=False, detail="not opened yet")
        if counts.waiting >= self._max_events:
            return Check(name="outbox", ok=False, detail=str(self._full()))
        if counts.oldest_at is None:
            return Check(name="outbox", ok=True, detail="nothing waits")
        aside = f", {counts.set_aside} of them set aside" if counts.set_aside else ""
        age_s = max(0.0, self._wall() - counts.oldest_at)
        detail = f"{counts.waiting} of at most {self._max_events} wait{aside}, the oldest for {age_s:.0f} s"
        return Check(name="outbox", ok=True, detail=detail)

    async def _do(self, work: Callable[[OutboxFile], T], *, lasts: bool = False) -> T:
        loop = asyncio.get_running_loop()
        done: T = await self._ask(_Job(loop=loop, future=loop.create_future(), work=work, lasts=lasts))
        return done

    async def _ask(self, job: _Job) -> Any:
        if self._thread is None:
            raise OutboxUnavailable(f"the outbox {self._path} is closed", reason="it is closed")
        if self._pid != os.getpid():
            raise OutboxUnavailable(
                f"the outbox {self._path} was opened in process {self._pid}, and its thread did not survive the fork "
                f"into {os.getpid()}: open one in each worker, each with a file of its own",
                reason="it was opened in another process",
            )
        self._jobs.put(job)
        if self.death is not None:  # asked for after the put: what the dying thread did not see, nobody answers
            raise self._dead(self.death)
        return await job.future

    # From here on, all runs in the outbox's own thread.

    def _run(self) -> None:
        try:
            while True:
                jobs = [self._jobs.get()]
                with contextlib.suppress(queue.Empty):
                    while jobs[-1] is not None and len(jobs) < _GROUP:
                        jobs.append(self._jobs.get_nowait())
                self._serve([job for job in jobs if job is not None])
                if jobs[-1] is None:
                    return
        except BaseException as error:  # a defect: nobody may wait for ever for a thread that died
            logger.critical("the thread of the outbox %s died; restart this process", self._path, exc_info=error)
            self.death = error
            self.problem = self._dead(error)
            with contextlib.suppress(queue.Empty):
                while True:
                    if (job := self._jobs.get_nowait()) is not None:
                        job.error = self.problem
                        _answer([job])
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _serve(self, jobs: list[_Job]) -> None:
        try:
            self._commit(jobs)
        except OutboxUnavailable as error:
            self._note(error)
            for job in jobs:
                job.error = job.error or error
        except BaseException as error:
            for job in jobs:
                job.error = self._dead(error)
            raise
        finally:
            _answer(jobs)

    def _commit(self, jobs: list[_Job]) -> None:
        """Do all jobs in one commit. Raises OutboxUnavailable if none of them took effect."""
        file = self._opened()
        entries = self._admitted(jobs, file)
        try:
            try:
                self._write(file, jobs, entries)
            except OutboxUnavailable as error:
                if error.reason != DISK_FULL:
                    raise
                file.make_room()
                self._write(file, jobs, entries)
        except OutboxUnavailable as error:
            if error.reason not in (DISK_FULL, LOCKED):
                file.close()
                self._file = None
                self._tried_at = self._monotonic()
            raise
        lasting = [job for job in jobs if job.lasts and job.error is None]
        astray = None if file.in_place else self._bring_home(file)
        if astray is not None:
            self._note(astray)
            for job in lasting:
                job.error = astray
        elif lasting and self.problem is not None:
            logger.info("the outbox %s works again", self._path)
            self.problem = None
        if entries:
            self._wrote_at = self._monotonic()
        self.commits += bool(entries)
        self.counts = (self._file or file).counts

    def _write(self, file: OutboxFile, jobs: list[_Job], entries: list[Entry]) -> None:
        if all(job.entry is not None for job in jobs):
            file.put(entries, now_s=self._wall())
            return
        with file.transaction():
            file.put(entries, now_s=self._wall())
            for job in jobs:
                if job.work is not None and job.error is None:
                    job.outcome = job.work(file)

    def _opened(self) -> OutboxFile:
        if self._file is None:
            if not self._may_try():
                raise self.problem or OutboxUnavailable(
                    f"the outbox {self._path} is not open yet", reason="it is not open"
                )
            try:
                self._file = OutboxFile(self._path, mending=self.problem is not None)
            except OutboxUnavailable:
                self._tried_at = self._monotonic()
                raise
            self.opened += 1
        return self._file

    def _bring_home(self, file: OutboxFile) -> OutboxUnavailable | None:
        """The path leads elsewhere: go there, with all that waits. Returns why that is impossible; the file that is
        open stays so then, for what waits in it to be delivered.
        """
        gone = OutboxUnavailable(
            f"the outbox {self._path} was deleted or replaced, and its place cannot be taken",
            reason="its file was deleted or replaced",
        )
        if not self._may_try():
            return gone
        try:
            self._file = file.moved_to_its_place()
        except OutboxUnavailable as error:
            self._tried_at = self._monotonic()
            return OutboxUnavailable(f"{gone}: {error}", reason=error.reason)
        self.opened += 1
        logger.error(
            "the outbox %s was deleted or replaced while it was in use; the %d events that wait were carried over",
            self._path,
            file.counts.waiting,
        )
        return None

    def _may_try(self) -> bool:
        return self._tried_at is None or self._monotonic() - self._tried_at >= _REOPEN_S

    def _admitted(self, jobs: list[_Job], file: OutboxFile) -> list[Entry]:
        entries: list[Entry] = []
        full = None
        if any(job.lasts for job in jobs) and not self._has_room(file):
            full = OutboxUnavailable(f"the outbox {self._path}: {DISK_FULL}", reason=DISK_FULL)
            self._note(full)
        waiting = file.counts.waiting
        for job in jobs:
            if job.lasts and full is not None:
                job.error = full
            elif job.entry is None:
                continue
            elif waiting + len(entries) < self._max_events:
                entries.append(job.entry)
            else:
                job.error = self._full()
        return entries

    def _has_room(self, file: OutboxFile) -> bool:
        if file.has_room:
            return True
        file.make_room()
        return file.has_room

    def _full(self) -> OutboxUnavailable:
        return OutboxUnavailable(
            f"the outbox {self._path} holds {self._max_events} events, the most that outbox_max_events allows: "
            "bring Kafka back, or raise it",
            reason="it holds as many revocations as it may",
        )

    def _pulse(self, file: OutboxFile) -> None:
        idle = self._wrote_at is None or self._monotonic() - self._wrote_at >= _PULSE_S
        if idle or self.problem is not None:
            file.pulse(now_s=self._wall())
            self._wrote_at = self._monotonic()

    def _dead(self, error: BaseException) -> OutboxUnavailable:
        return OutboxUnavailable(
            f"the thread of the outbox {self._path} died ({error!r}): restart this process", reason="it failed"
        )

    def _note(self, error: OutboxUnavailable) -> None:
        if self.problem is None or self.problem.reason != error.reason:
            logger.error("no revocation can be stored: %s", error)
        self.problem = error


def _answer(jobs: Sequence[_Job]) -> None:
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Job]] = defaultdict(list)
    for job in jobs:
        by_loop[job.loop].append(job)
    for loop, its in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is there to hear
            loop.call_soon_threadsafe(_resolve, its)


def _resolve(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is None:
            job.future.set_result(job.outcome)
        else:
            # One each: an error raised in many places grows a traceback of all of them.
            error = OutboxUnavailable(str(job.error), reason=job.error.reason)
            error.__cause__ = job.error.__cause__
            job.future.set_exception(error)

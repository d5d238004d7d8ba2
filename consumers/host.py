"""One process of a host that shares its deny list: it sits in the writer's seat, or watches for it to fall free."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping

from consumers.denylist.shared import Origin, SharedDenyList, Taken
from consumers.denylist.snapshot import Snapshots, restore
from consumers.follower import Follower
from consumers.freshness import Freshness, State
from consumers.mirror import Mirror, publish, told
from consumers.seat import Seat, SeatLost
from revoker.cluster import TopicView
from revoker.errors import DenyListUnreadable, NotProven, SettingsError
from revoker.health import Check, Family
from revoker.settings import Settings

__all__ = ["Host"]

log: logging.Logger = logging.getLogger(__name__)

#: How often a process that does not write tries the seat, and how often one that does gives a sign, in seconds.
_TRY_EVERY_S = 0.01
_BEAT_EVERY_S = 0.25

#: How often a reader forgets what has expired of its own, and how long it waits after it could not write, in seconds.
_TIDY_EVERY_S = 1.0


class Host:
    """What `consumers.node.Node` does differently where ``denylist`` is ``shared``.

    The constructor opens nothing: make it before a fork, `start` it after.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        store: SharedDenyList | None = None,
    ) -> None:
        if settings.shared_dir is None:
            raise SettingsError("denylist is shared, so shared_dir must name a directory, such as /dev/shm/revoker")
        self.store: SharedDenyList = store or SharedDenyList(settings.shared_dir, max_entries=settings.max_entries)
        self.proof: Mirror = Mirror(self.store, bound_s=settings.staleness_bound_s, monotonic=monotonic)
        self._settings = settings
        self._monotonic = monotonic
        self._seat = Seat(self.store.directory)
        #: Held by a writer that has itself proved what the page says, for as long as it lives.
        self._proved = Seat(self.store.directory, name="proved")
        self._pid = 0
        self._said: State | None = None
        self._follower: Follower | None = None
        self._own: Freshness | None = None
        self._taken: Taken | None = None
        self._trust = ""
        self._tag = ""
        self._snapshots: Snapshots | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None
        _hosts.add(self)

    @property
    def role(self) -> str:
        """``writer`` or ``reader``."""
        return "writer" if self._seat.held and self.store.writes else "reader"

    def start(self, *, follower: Follower, own: Freshness) -> None:
        """Look into the table from here on; follow the topic once this process has the seat."""
        self._follower, self._own, self._pid = follower, own, os.getpid()
        self.open()
        self._task = asyncio.create_task(self._run(follower), name="revoker-seat")
        self._task.add_done_callback(self._ended)

    def open(self) -> None:
        """Look into the table from here on."""
        self.proof.started(writer_proved=self._proved.occupied)

    async def close(self) -> None:
        """Get up. What was proved stays proved: another process takes over before it ends."""
        self._own = None  # from here on nothing is published
        self.proof.stop("closed")
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])  # of a failure `_ended` has told
        if self._follower is not None and not self._follower.ended:
            await self._follower.close()
        self._leave()

    async def wait_live(self, *, timeout_s: float | None) -> None:
        """Return once this host is live. Raises NotProven, saying what is missing, after ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.proof.state is not State.LIVE:  # noqa: ASYNC110 - another process makes it so
                    await asyncio.sleep(_TRY_EVERY_S)
        except TimeoutError:
            raise NotProven(f"not live within {timeout_s:g} s: {self.proof.why()}") from None

    def shut(self) -> None:
        """`close`, for a process that only ever looked."""
        self.proof.stop("closed")
        self.store.close()

    def forked(self) -> None:
        """This is a child: it has no task of its parent's. One that only looks goes on looking."""
        if self._task is not None:
            self.proof.stop(f"process {os.getpid()} forked away from its node: start a node in each worker process")
        self._own = self._follower = self._task = None
        self.store.forked()

    def _leave(self) -> None:
        self.store.close()
        self._proved.leave()
        self._seat.leave()

    def published(self) -> None:
        """The follower's freshness has changed."""
        page, own = self.store.control, self._own
        # In a child the follower says that it has ended, and the page is still mapped: it is the parent's to write.
        if own is None or page is None or not self.store.writes or os.getpid() != self._pid:
            return
        publish(own, page, now=self._monotonic())
        if own.state != self._said:
            self._said = own.state
            page.say(told(own))
        if own.was_ready and not self._proved.held:
            self._proved.take()

    def resume(self, view: TopicView) -> Mapping[int, int]:
        """Offsets up to which the table holds everything of the log in ``view``; empty = replay it.

        Only the first session of a writer goes on where its predecessor stopped. After any trouble of its own it
        replays, as every node does.
        """
        if not self._seat.held:
            raise SeatLost(f"nothing in {self.store.directory} is this process's to write")
        taken, self._taken = self._taken, None
        origin = Origin(
            cluster_id=view.cluster_id,
            topic=view.topic,
            topic_id=str(view.topic_id),
            partitions=len(view.partitions),
            leader_epochs=hashlib.sha256(
                repr([view.partitions[number].leader_epoch for number in sorted(view.partitions)]).encode()
            ).hexdigest(),
        )
        known = None if taken is None else taken.origin
        if known is not None and not known.is_log_of(origin):
            log.warning("the table in %s was filled from another log: making a new one", self.store.directory)
            self.store.replace()
            if self._own is not None:
                self._own.forget()
        terms = self._terms()
        same_terms, self._trust = terms == self._trust, terms
        if not same_terms:
            # What other terms let in, a withdrawal perhaps, stays as long as this writer, as in a node of its own.
            # No later writer's terms are ever equal to this, so none takes the table over.
            self._tag = f"{terms} and others before"
        self.store.adopt(origin, trust=self._tag)
        if taken is None or known is None or not known.is_log_of(origin):
            return {}
        why = None
        if not same_terms:
            why = "other publishers are trusted, or more of the log is wanted, than when the table was filled"
        elif known != origin:
            why = "its partitions have had elections since the table was filled"
        elif taken.unread:  # also where they are tolerated: the note would be lost, and with it the reason to replay
            why = f"{taken.unread} records were not applied when the table was filled, and may count"
            if self._settings.trusted_publishers_file is not None:
                # The trust may have changed and changed back meanwhile: what the one in between let in must not stay.
                self.store.replace()
                self.store.adopt(origin, trust=self._tag)
                if self._own is not None:
                    self._own.forget()
        if why is not None:
            log.warning("replaying the topic: %s", why)
            return {}
        return taken.offsets

    def _terms(self) -> str:
        """Under which a table is filled, as a text to compare: what other terms let in, or left out, must not stay."""
        provenance = None if self._follower is None else self._follower.intake.provenance
        trust = "" if provenance is None else provenance.file.trust.digest
        return f"{trust} {self._settings.replay_from} {self._settings.lifetimes.retention_ms}"

    async def _run(self, follower: Follower) -> None:
        await self._watch()
        log.info("process %d writes the shared deny list in %s", os.getpid(), self.store.directory)
        follower.start()
        settings = self._settings
        snapshots = self._snapshots = Snapshots(
            self.store,
            directory=settings.snapshot_dir,
            interval_s=settings.snapshot_interval_s,
            monotonic=self._monotonic,
        )
        try:
            while not follower.ended and self._seat.in_place:
                self.published()
                page, own = self.store.control, self._own
                if page is not None and own is not None:
                    page.say(told(own))
                    if own.state is State.LIVE:
                        snapshots.turn()
                self.store.step(4)
                await asyncio.sleep(_BEAT_EVERY_S)
        finally:
            await snapshots.close()
        # It does not come back by itself; another process may do better.
        if not self._seat.in_place and (page := self.store.control) is not None:
            page.retire()  # another may write beside us by now: nobody goes by what we have said
        self._own = None
        if not follower.ended:
            await follower.close()
        self._leave()
        log.critical("the follower of the shared deny list ended; this process only looks into it from here on")
        self.open()

    async def _watch(self) -> None:
        """Return once this process has the seat; never for one that only looks."""
        tidy_at, sit_at = self._monotonic() + _TIDY_EVERY_S, -math.inf
        while True:
            now = self._monotonic()
            if self._settings.shared_role == "auto" and now >= sit_at:
                try:
                    if self._sit():
                        return
                except OSError:  # no room, or a directory that was taken away: another may do better
                    self._leave()
                    sit_at = now + _TIDY_EVERY_S
                    log.exception("cannot write the shared deny list in %s", self.store.directory)
            if now >= tidy_at:
                tidy_at = now + _TIDY_EVERY_S
                try:
                    self.store.advance(now_s=-math.inf)
                except DenyListUnreadable:  # each request meets it as well, and is told
                    log.exception("cannot look into the shared deny list")
            await asyncio.sleep(_TRY_EVERY_S)

    def _sit(self) -> bool:
        if not self.store.directory.exists():
            self.store.prepare()
        if not self._seat.take():
            return False
        if self._follower is not None and (provenance := self._follower.intake.provenance) is not None:
            provenance.tidy()  # nobody has looked at the file since this process started
        self._trust = self._tag = self._terms()
        taken = self.store.take(trust=self._trust)
        if taken.origin is None and self._own is not None:
            self._own.forget()
        if taken.refused is not None:
            log.warning("what stood in %s was not used: %s", self.store.directory, taken.refused)
        if taken.origin is None and self._settings.snapshot_dir is not None:
            restored = restore(
                self.store, self._settings.snapshot_dir, trust=self._trust, max_entries=self._settings.max_entries
            )
            taken = restored or taken
        self._taken = taken
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.proof.stop(f"the task that watches the writer's seat died: {failure!r}")
            self._own = None
            if self._follower is not None and not self._follower.ended:
                self._closing = asyncio.ensure_future(self._follower.close())
            self._leave()
            log.critical("the task that watches the writer's seat died", exc_info=failure)

    def checks(self) -> Iterable[Check]:
        """What ``/readyz`` tells besides."""
        page = self.store.control
        if page is not None:
            detail = f"{self.role}; process {page.writer_pid} writes; {self.store.directory_bytes} bytes"
            if self._snapshots is not None and self._snapshots.failure is not None:
                detail += f"; no snapshot could be written: {self._snapshots.failure}"
            yield Check(name="shared", ok=True, detail=detail)

    def families(self) -> Iterable[Family]:
        """What ``/metrics`` tells besides."""
        yield Family(
            name="revoker_shared_writer",
            help="1 in the process that writes the shared deny list.",
            values={(): float(self.role == "writer")},
        )
        yield Family(
            name="revoker_shared_bytes",
            help="Size of the files of the shared deny list.",
            values={(): float(self.store.directory_bytes)},
        )


#: Hosts of this process, told after a fork.
_hosts: weakref.WeakSet[Host] = weakref.WeakSet()


def _forked() -> None:
    for host in _hosts:
        host.forked()


os.register_at_fork(after_in_child=_forked)

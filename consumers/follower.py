"""The topic → the deny list: connect, replay, tail, and prove it.

Group-less: ``assign`` and ``seek``, ``auto_offset_reset="none"``. A consumer group would share the partitions out among
the nodes, and any automatic reset is a silent jump over revocations.

A *session* is one consumer's life: look at the topic, check its contract, note its ends, read to them, go on reading,
ask about twice per bound who leads. Whatever goes wrong in it ends it; the next one starts over with a full replay.
Entries stay, merging them again changes nothing, and until the replay is done the node is not ready: there is no
half-way state to get wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from consumers.bulk import BULK_LEAST, Bulk, read_ahead
from consumers.forks import stop_in_children
from consumers.freshness import Freshness, Progress, State
from consumers.intake import Intake
from consumers.outage import Outage
from consumers.slices import next_slice
from consumers.starting import bounds
from consumers.watch import Watch, asking
from revoker.cluster import TopicView, look, permitted
from revoker.diagnosis import explain, quiet_logs
from revoker.errors import BrokerError, BrokerUnreachable, NotProven
from revoker.kafka import (
    client_of,
    consumer_arguments,
    died_inside,
    discard,
    hang_up,
    hold_empty_fetches,
    on_trouble,
    prepare,
    unreachable,
)
from revoker.settings import Settings
from revoker.topic import Report, check_with, enforce

__all__ = ["Follower"]

log: logging.Logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_CONNECTING_S = 2.0
_LONGEST_PAUSE_REPLAYING_S = 30.0
_FIRST_WAIT_MS = 10


class TrustChanged(BrokerError):
    """Other publishers are trusted now: what was refused before may have been a revocation that counts."""


class Follower:
    """Keeps ``intake.denylist`` up to date and ``freshness`` honest. One per process; `start` it in the process that
    asks.

    ``pause`` is the sleep between two sessions, ``jitter`` a factor around 1 for it; both are arguments for tests.
    ``resume``: asked at the start of each session for the offsets before which the deny list holds everything of the
    log that is there now, by partition; empty = replay it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        intake: Intake,
        freshness: Freshness,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Any] = asyncio.sleep,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311 - spreads load, guards no secret
        resume: Callable[[TopicView], Mapping[int, int]] = lambda _view: {},
    ) -> None:
        self.intake = intake
        self.freshness = freshness
        #: The last look at the topic's contract; None before the first.
        self.report: Report | None = None
        #: The last look at the topic itself; None before the first.
        self.view: TopicView | None = None
        #: Sessions begun, and those that ended in an error.
        self.sessions_total: int = 0
        self.failures_total: int = 0
        self._settings = settings
        self._wall = wall
        self._monotonic = monotonic
        self._pause = pause
        self._jitter = jitter
        self._resume = resume
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._last_state = State.STOPPED
        self._outage = Outage()

    def start(self) -> None:
        """Begin following, in the background. Never fails: whether it gets anywhere is the state's to say."""
        if self._task is not None:
            raise RuntimeError("this Follower was started before; make a new one")
        stop_in_children(self.freshness)
        quiet_logs.install()
        self.freshness.connecting("starting")
        self._task = asyncio.create_task(self._run(), name="revoker-follower")
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop following. The deny list stays as it is, and is no longer up to date."""
        task = self._task
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def wait_for(self, state: State, *, timeout_s: float | None = None) -> None:
        """Return once the state is at least ``state``. Raises NotProven, saying what is missing, after ``timeout_s``
        seconds or if the follower has stopped."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.freshness.state < state:
                    if self._task is None or self._task.done():
                        raise NotProven(self.freshness.why())
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise NotProven(f"not {state.name.lower()} within {timeout_s:g} s: {self.freshness.why()}") from None

    @property
    def ended(self) -> bool:
        """Whether it was started and follows no more."""
        return self._task is not None and self._task.done()

    @property
    def progress(self) -> Progress:
        """How far the replay has come."""
        return self.freshness.progress

    def _ended(self, task: asyncio.Task[None]) -> None:
        quiet_logs.uninstall()
        if task.cancelled():
            self.freshness.stop("closed")
        else:
            # Only a BaseException gets here, such as SystemExit raised in a callback.
            self.freshness.stop(f"the follower died: {task.exception()!r}")
            log.critical("the follower died; this node will not become ready again", exc_info=task.exception())
        self._note_state()

    async def _run(self) -> None:
        failures = 0
        while True:
            replayed = False
            try:
                self.sessions_total += 1
                await self._session()
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _asked_to_end():
                    raise
                replayed = self.freshness.state >= State.REPLAYING
                failures = 0 if self.freshness.state >= State.STALE else failures + 1
                self.failures_total += 1
                self._report_failure(error)
            longest_s = _LONGEST_PAUSE_REPLAYING_S if replayed else _LONGEST_PAUSE_CONNECTING_S
            # Bounded: 2**1024 is no float, and a follower that counts so far is needed most.
            await self._pause(min(_FIRST_PAUSE_S * 2 ** min(failures, 10), longest_s) * self._jitter())

    def _report_failure(self, error: Exception | asyncio.CancelledError) -> None:
        expected = isinstance(error, BrokerError | KafkaError | OSError)
        reason = str(error) if isinstance(error, BrokerError) else explain(error)
        self.freshness.connecting(reason)
        level = logging.ERROR if self._outage.failed(error, reason=reason) else logging.DEBUG
        log.log(level, "not following %s: %s", self._settings.topic, reason, exc_info=None if expected else error)
        self._note_state()

    async def _session(self) -> None:
        settings = self._settings
        self._note_state()
        consumer = AIOKafkaConsumer(**consumer_arguments(settings))
        client = prepare(client_of(consumer))
        on_trouble(client, self._interrupted)
        before = quiet_logs.last_problem
        try:
            try:
                async with asyncio.timeout(2 * settings.request_timeout_s):
                    await consumer.start()
            except (KafkaError, OSError) as error:
                raise unreachable(settings, explain(error), before=before) from error
            if not client.cluster.brokers():
                # What a refused SASL token looks like: start() succeeds, and no broker is known.
                raise unreachable(settings, "connected, but no broker became known", before=before)
            self.view = view = await look(client, settings.topic, timeout_s=settings.request_timeout_s)
            permitted(view, "Read")
            self.report = await check_with(client, settings=settings, view=view)
            enforce(self.report, mode=settings.topic_check)
            partitions = {number: TopicPartition(settings.topic, number) for number in sorted(view.partitions)}
            # A session that fails in its first second, at the bound, would never forget anything. And before `resume`:
            self.intake.tidy()  # the table names the trust that records are judged under.
            self.intake.restart()
            starts, ends = await bounds(
                consumer,
                partitions,
                settings=settings,
                report=self.report,
                held=self._resume(view),
                now_s=self._wall(),
            )
            self.intake.denylist.reached(starts)
            self.freshness.begin(starts=starts, barriers=ends)
            self._note_state()
            bulk = Bulk(
                client,
                topic=settings.topic,
                starts=starts,
                # The last record is the consumer's: with nothing to read its first fetch would be parked.
                ends={number: max(starts[number], end - 1) for number, end in ends.items()},
                leaders={number: one.leader for number, one in view.partitions.items()},
                slice_records=self.intake.slice_records,
                timeout_s=settings.request_timeout_s,
            )
            await self._follow(consumer, client, bulk, partitions, view, self.report)
        finally:
            failure = await discard(consumer, timeout_s=settings.request_timeout_s)
            if failure is not None:
                log.warning("the consumer had failed inside: %s", explain(failure))

    async def _follow(
        self,
        consumer: AIOKafkaConsumer,
        client: AIOKafkaClient,
        bulk: Bulk,
        partitions: Mapping[int, TopicPartition],
        view: TopicView,
        report: Report,
    ) -> None:
        watch = Watch(
            client,
            settings=self._settings,
            freshness=self.freshness,
            first=view,
            report=report,
            noted=self._saw,
            checked=self._checked,
        )
        reading = asyncio.create_task(
            self._read(consumer, client, bulk, partitions, watch.ask_now), name="revoker-read"
        )
        watching = asyncio.create_task(watch.run(), name="revoker-watch")
        checking = asyncio.create_task(watch.check_contract(), name="revoker-contract")
        tasks = (reading, watching, checking)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self,
        consumer: AIOKafkaConsumer,
        client: AIOKafkaClient,
        bulk: Bulk,
        partitions: Mapping[int, TopicPartition],
        ask_now: asyncio.Event,
    ) -> None:
        if bulk.records >= BULK_LEAST:
            await read_ahead(
                bulk,
                intake=self.intake,
                freshness=self.freshness,
                monotonic=self._monotonic,
                each_second=lambda: self._look_after(consumer),
            )
        consumer.assign(list(partitions.values()))
        for number, partition in partitions.items():
            consumer.seek(partition, bulk.positions[number])
        tidy_at = self._monotonic() + 1.0
        # The proofs of a node that has caught up are two empty fetches and a question. At the usual pace the fetches
        # alone would take twice ``fetch_max_wait_ms``.
        wait_ms = min(_FIRST_WAIT_MS, self._settings.fetch_max_wait_ms)
        hold_empty_fetches(consumer, wait_ms)
        while True:
            batches = await next_slice(
                consumer,
                client,
                timeout_ms=wait_ms,
                max_records=self.intake.slice_records,
                request_timeout_s=self._settings.request_timeout_s,
                stepped_over=self.intake.stepped_over,
            )
            taken = dict.fromkeys(partitions, 0)
            for source, records in batches.items():
                taken[source.partition] = self.intake.take(records)
                self.freshness.took(len(records))
            for number, partition in partitions.items():
                left = self.freshness.polled(
                    number,
                    leader=client.cluster.leader_for_partition(partition),
                    stamp_ms=consumer.last_poll_timestamp(partition),
                    position=await consumer.position(partition),
                    highwater=consumer.highwater(partition),
                    records=taken[number],
                )
                if left is not None:
                    hang_up(client, left)
                    ask_now.set()
            self._note_obstacle()
            self.intake.denylist.reached(self.freshness.positions, unread=self.intake.unsettled)
            self._note_state()
            if (now := self._monotonic()) >= tidy_at or self.freshness.state is State.LIVE:
                wait_ms = self._settings.fetch_max_wait_ms
                hold_empty_fetches(consumer, wait_ms)
            if now >= tidy_at:
                self._look_after(consumer)
                if client.cluster.partitions_for_topic(self._settings.topic) != set(partitions):
                    self.freshness.interrupt()
                tidy_at = now + 1.0
            if self.freshness.worth_asking():
                ask_now.set()
            await asyncio.sleep(0)  # getmany does not yield while it has records

    def _interrupted(self) -> None:
        if not asking.get():
            self.freshness.interrupt()

    def _look_after(self, consumer: AIOKafkaConsumer) -> None:
        self.intake.tidy()
        self._start_over_if_outdated()
        self._give_up_if_unproven(consumer)

    def _start_over_if_outdated(self) -> None:
        provenance = self.intake.provenance
        if provenance is not None and provenance.outdated is not None:
            raise TrustChanged(f"replaying the topic: {provenance.outdated}")

    def _note_obstacle(self) -> None:
        missed = self.intake.missed
        if not missed or self._settings.tolerate_undecodable:
            self.freshness.obstructed(None)
            return
        last = self.intake.unread[-1]
        self.freshness.obstructed(
            "undecodable",
            f"{missed} records could not be read, the last at partition {last.partition} offset {last.offset}: "
            f"{last.detail} "
            "(setting tolerate_undecodable goes on without them)",
        )

    def _give_up_if_unproven(self, consumer: AIOKafkaConsumer) -> None:
        # Nothing in aiokafka looks at its own tasks, and a dead one only shows as silence.
        if (dead := died_inside(consumer)) is not None:
            raise BrokerUnreachable(f"aiokafka's {dead}, starting over with a new consumer")
        # It asks the bootstrap list only at its start: when all brokers have moved, only a new consumer finds them.
        limit_s = max(2 * self._settings.staleness_bound_s, 4 * self._settings.request_timeout_s)
        if self.freshness.unproven_s > limit_s:
            raise BrokerUnreachable(
                f"no proof for {limit_s:g} s, starting over with a new consumer: {self.freshness.why()}"
            )

    def _saw(self, view: TopicView | None) -> None:
        self.view = view or self.view
        self._note_state()

    def _checked(self, report: Report) -> None:
        self.report = report

    def _note_state(self) -> None:
        state = self.freshness.state
        if state == self._last_state:
            return
        if state is State.LIVE:
            failed = self._outage.over()
            log.info(
                "following %s: %d records read, up to date%s",
                self._settings.topic,
                self.freshness.progress.records,
                f", after {failed} failed attempts" if failed else "",
            )
        elif self._last_state is State.LIVE:
            said = quiet_logs.recent()
            log.warning("no longer up to date: %s%s", self.freshness.why(), f" (aiokafka: {said})" if said else "")
        self._last_state = state
        self._changed.set()


def _asked_to_end() -> bool:
    """Whether somebody cancelled the running task, rather than a cancellation of aiokafka's own escaping into it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""One node of an API fleet: settings → follower, deny list, guard; one lifecycle.

::

    async with Node(Settings.load()) as node:
        token = node.authenticate(compact_token)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from consumers.denylist import DenyList
from consumers.denylist.memory import MemoryDenyList
from consumers.follower import Follower
from consumers.freshness import Freshness, State
from consumers.guard import Decision, Guard, Policy
from consumers.intake import Intake
from consumers.provenance import Provenance
from revoker.diagnosis import quiet_logs
from revoker.events import Revocation
from revoker.health import Check, Family, build_info
from revoker.keys import Keys, keys_from_settings
from revoker.settings import Settings
from revoker.tokens import Verified, Verifier

__all__ = ["Node"]

log: logging.Logger = logging.getLogger(__name__)


class Node:
    """Everything an API process needs, behind two calls: `authenticate` and, for probes, `checks`.

    Start it in the process that serves, after any fork, with ``async with`` or an adapter's lifespan. Starting returns
    at once: until the topic has been replayed, `authenticate` raises NotProven, which adapters answer with 503.
    ``denylist``: None = in memory.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        denylist: DenyList | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.denylist: DenyList = MemoryDenyList(max_entries=settings.max_entries) if denylist is None else denylist
        self.freshness: Freshness = Freshness.from_settings(settings, monotonic=monotonic, wall=wall)
        self.intake: Intake = Intake(
            self.denylist,
            retention_ms=settings.lifetimes.retention_ms,
            wall=wall,
            monotonic=monotonic,
            provenance=Provenance.from_settings(settings, monotonic=monotonic),
        )
        self.follower: Follower = Follower(
            settings, intake=self.intake, freshness=self.freshness, wall=wall, monotonic=monotonic
        )
        self.keys: Keys = keys_from_settings(settings)
        self.verifier: Verifier = Verifier.from_settings(settings, self.keys)
        self.guard: Guard = Guard(
            denylist=self.denylist,
            freshness=self.freshness,
            lifetimes=settings.lifetimes,
            when_unknown=settings.when_unknown,
            outage_budget_s=settings.outage_budget_s,
            long_lived_tokens=settings.long_lived_tokens,
            wall=wall,
        )
        self._keys_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Start following and fetching keys, in the background of the running loop."""
        self.follower.start()
        self._keys_task = asyncio.create_task(self.keys.run(), name="revoker-keys")
        self._keys_task.add_done_callback(_say_if_dead)

    async def close(self) -> None:
        """Stop. Afterwards nothing is admitted."""
        await self.follower.close()
        if self._keys_task is not None:
            self._keys_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keys_task

    async def wait_ready(self, *, timeout_s: float | None = None) -> None:
        """Return once this node is live. Raises NotProven, saying what is missing, after ``timeout_s`` seconds."""
        await self.follower.wait_for(State.LIVE, timeout_s=timeout_s)

    def authenticate(self, token: str, *, when_unknown: Policy | None = None) -> Verified:
        """The verified token, if it may pass. Synchronous: no I/O, no lock.

        Raises ``jwt.InvalidTokenError`` for a token that is malformed, expired, wrongly signed or revoked
        (TokenRevoked): answer 401. Raises NotProven if this node cannot say, and ``when_unknown`` (None: the setting)
        is ``refuse``: answer 503.
        """
        return self.judge(token, when_unknown=when_unknown)[0]

    def judge(self, token: str, *, when_unknown: Policy | None = None) -> tuple[Verified, Decision]:
        """`authenticate`, with the decision beside: a handler may want to know that a request passed unproven."""
        verified = self.verifier.verify(token)
        decision = self.guard.enforce(verified.claims, kid=verified.kid, token=verified, when_unknown=when_unknown)
        return verified, decision

    def apply(self, revocation: Revocation) -> None:
        """Refuse at once what this very process has published; the topic brings it round to everybody."""
        self.intake.take_local(revocation)

    def checks(self) -> Iterable[Check]:
        """What ``/readyz`` reports: live, and the keys to verify with."""
        freshness = self.freshness
        missing = freshness.missing()
        if missing:
            for one in missing:
                yield Check(name=one.proof, ok=False, detail=f"{one.reason} ({one.since_s:.1f} s)")
            if problem := quiet_logs.recent():
                # What a fetch that goes unanswered does not tell: a refused login, an expired certificate.
                yield Check(name="kafka", ok=False, detail=problem)
            if freshness.state is State.REPLAYING:
                progress = freshness.progress
                eta = "" if progress.eta_s is None else f", about {progress.eta_s:.0f} s left"
                yield Check(
                    name="replay",
                    ok=False,
                    detail=f"{progress.fraction:.0%} of the topic, {progress.records} records{eta}",
                )
        else:
            yield Check(
                name="live",
                ok=True,
                detail=f"{freshness.progress.records} records, {sum(self.denylist.counts().values())} entries",
            )
        report = self.follower.report
        if report is not None:
            losing = [str(violation) for violation in report.violations]
            yield Check(name="topic", ok=True, detail="; ".join(losing) or "keeps its contract")
        if self.intake.provenance is not None:
            yield from self.intake.provenance.checks()
        dead = self._keys_task is not None and self._keys_task.done() and not self._keys_task.cancelled()
        failure = self._keys_task.exception() if dead and self._keys_task is not None else None
        problem = f"the task that fetches keys died: {failure!r}" if failure is not None else (self.keys.problem or "")
        yield Check(name="keys", ok=self.keys.ready and failure is None, detail=problem)

    def families(self) -> Iterable[Family]:
        """What ``/metrics`` reports."""
        freshness, intake, follower = self.freshness, self.intake, self.follower
        yield build_info()
        yield Family(name="revoker_ready", help="1 while live.", values={(): float(freshness.state is State.LIVE)})
        yield Family(
            name="revoker_state",
            help="1 for the current state.",
            labels=("state",),
            values={(state.name.lower(),): float(state is freshness.state) for state in State},
        )
        if freshness.as_of is not None:
            yield Family(
                name="revoker_as_of_timestamp_seconds",
                help="Everything acknowledged before is known here.",
                values={(): freshness.as_of},
            )
        yield Family(
            name="revoker_entries",
            help="Deny list entries.",
            labels=("kind",),
            values={(kind,): float(count) for kind, count in self.denylist.counts().items()},
        )
        yield Family(
            name="revoker_lag_records",
            help="Records between position and high watermark.",
            labels=("partition",),
            values={(str(number),): float(lag) for number, lag in freshness.lag.items() if lag is not None},
        )
        yield Family(
            name="revoker_checks",
            help="Answers of the guard.",
            kind="counter",
            labels=("result",),
            values={
                (result,): float(self.guard.counts[result])
                for result in ("active", "revoked", "unknown", "accepted_unknown")
            },
        )
        yield Family(
            name="revoker_events_applied",
            help="Revocations read and applied.",
            kind="counter",
            labels=("kind",),
            values={(kind,): float(count) for kind, count in intake.applied.items()},
        )
        yield Family(
            name="revoker_heartbeats_read",
            help="Heartbeats read from the topic.",
            kind="counter",
            values={(): float(intake.heartbeats_total)},
        )
        yield Family(
            name="revoker_records_unread",
            help="Records that could not be decoded.",
            kind="counter",
            labels=("category",),
            values={(category,): float(count) for category, count in intake.unread_total.items()},
        )
        if intake.provenance is not None:
            yield from intake.provenance.families()
        yield Family(
            name="revoker_cutoffs_clamped",
            help="Cut-offs that lay too far in the future.",
            kind="counter",
            values={(): float(intake.clamped_total)},
        )
        yield Family(
            name="revoker_sessions",
            help="Times the topic was replayed, or tried to.",
            kind="counter",
            values={(): float(follower.sessions_total)},
        )
        yield Family(
            name="revoker_kafka_log_lines_suppressed",
            help="Log lines of the Kafka client that were held back as repetitions.",
            kind="counter",
            values={(): float(quiet_logs.suppressed_total)},
        )


def _say_if_dead(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("the task that fetches keys died; the last good keys stay in use", exc_info=task.exception())

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from consumers.denylist import DenyList
from consumers.denylist.memory import MemoryDenyList
from consumers.follower import Follower
from consumers.freshness import Freshness, State
from consumers.guard import Decision, Guard, Policy, refusal_of
from consumers.intake import Intake
from consumers.provenance import Provenance
from consumers.verified import VerifiedTokens
from revoker.cluster import TopicView
from revoker.diagnosis import quiet_logs
from revoker.errors import SettingsError
from revoker.events import Revocation
from revoker.health import Check, Family, build_info
from revoker.keys import Keys, keys_from_settings
from revoker.settings import Settings
from revoker.tokens import Verified, Verifier

if TYPE_CHECKING:
    from consumers.host import Host
    from consumers.mirror import Mirror

__all__ = ["Node"]

log: logging.Logger = logging.getLogger(__name__)


class Node:
    """Everything an API process needs, behind two calls: `authenticate` and, for probes, `checks`.

    Start it in the process that serves, after any fork, with ``async with`` or an adapter's lifespan. Starting returns
    at once: until the topic has been replayed, `authenticate` raises NotProven, which adapters answer with 503.
    ``denylist``: None = as the setting ``denylist`` says.

    Where that is ``shared``, all processes of a host look into one table, which the first of them writes. Code without
    a loop, such as a worker of a WSGI server, looks only: see `reader`.
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
        self.host: Host | None = None
        if denylist is None and settings.denylist == "shared":
            self.host = _host(settings, monotonic)
            denylist = self.host.store
        self.denylist: DenyList = MemoryDenyList(max_entries=settings.max_entries) if denylist is None else denylist
        #: What the follower of this very process has proved.
        self.freshness: Freshness = Freshness.from_settings(settings, monotonic=monotonic, wall=wall)
        #: What this process goes by: that, or what the process that writes the shared deny list has proved.
        self.proof: Freshness | Mirror = self.freshness
        if self.host is not None:
            self.proof = self.host.proof
            self.freshness.on_change = self.host.published
        self.intake: Intake = Intake(
            self.denylist,
            retention_ms=settings.lifetimes.retention_ms,
            wall=wall,
            monotonic=monotonic,
            provenance=Provenance.from_settings(settings, monotonic=monotonic),
        )
        self.follower: Follower = Follower(
            settings,
            intake=self.intake,
            freshness=self.freshness,
            wall=wall,
            monotonic=monotonic,
            resume=_nothing_held if self.host is None else self.host.resume,
        )
        self.keys: Keys = keys_from_settings(settings)
        self.verifier: Verifier = Verifier.from_settings(settings, self.keys)
        self.verified: VerifiedTokens | None = None
        if settings.claims_cache_entries:
            self.verified = VerifiedTokens(
                verifier=self.verifier,
                max_entries=settings.claims_cache_entries,
                max_bytes=settings.claims_cache_bytes,
            )
        self._verify: Callable[[str], Verified] = (self.verified or self.verifier).verify
        self.guard: Guard = Guard(
            denylist=self.denylist,
            freshness=self.proof,
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
        if self.host is None:
            self.follower.start()
        else:
            self.host.start(follower=self.follower, own=self.freshness)
        self._keys_task = asyncio.create_task(self.keys.run(), name="revoker-keys")
        self._keys_task.add_done_callback(_say_if_dead)

    async def close(self) -> None:
        """Stop. Afterwards nothing is admitted."""
        await (self.follower.close() if self.host is None else self.host.close())
        if self._keys_task is not None:
            self._keys_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keys_task

    async def wait_ready(self, *, timeout_s: float | None = None) -> None:
        """Return once this node is live. Raises NotProven, saying what is missing, after ``timeout_s`` seconds."""
        if self.host is None:
            await self.follower.wait_for(State.LIVE, timeout_s=timeout_s)
        else:
            await self.host.wait_live(timeout_s=timeout_s)

    @classmethod
    @contextlib.contextmanager
    def reader(cls, settings: Settings) -> Iterator[Self]:
        """A node that only looks into the shared deny list of its host: no loop, no task, no thread.

        For WSGI workers and plain processes; another process of the host follows the topic (``revoker node``, or any
        worker with a loop). Raises SettingsError if the deny list is not shared, or if keys would have to be fetched.
        """
        node = cls(settings)
        node.look()
        try:
            yield node
        finally:
            node.shut()

    def look(self) -> None:
        """`reader`, begun by hand, as in a server's hook after the fork; `shut` ends it. Raises as it does."""
        if self.host is None:
            raise SettingsError("only a shared deny list can be looked into without a loop: set denylist to shared")
        if self.settings.jwks_url is not None:
            raise SettingsError("a reader fetches no keys: give them by key_files or key_secret, not by jwks_url")
        self.host.open()

    def shut(self) -> None:
        """End what `look` began. Afterwards nothing is admitted."""
        if self.host is not None:
            self.host.shut()

    def authenticate(self, token: str, *, when_unknown: Policy | None = None) -> Verified:
        """The verified token, if it may pass. Synchronous: no I/O, and no lock is waited for.

        Raises ``jwt.InvalidTokenError`` for a token that is malformed, expired, wrongly signed or revoked
        (TokenRevoked): answer 401. Raises NotProven if this node cannot say, and ``when_unknown`` (None: the setting)
        is ``refuse``: answer 503.
        """
        return self.judge(token, when_unknown=when_unknown)[0]

    def judge(self, token: str, *, when_unknown: Policy | None = None) -> tuple[Verified, Decision]:
        """`authenticate`, with the decision beside: a handler may want to know that a request passed unproven."""
        verified = self._verify(token)
        decision = self.guard.check_verified(verified, when_unknown=when_unknown)
        if not decision.admitted:
            raise refusal_of(decision)
        return verified, decision

    def apply(self, revocation: Revocation) -> None:
        """Refuse at once what this very process has published; the topic brings it round to everybody."""
        self.intake.take_local(revocation)

    def checks(self) -> Iterable[Check]:
        """What ``/readyz`` reports: live, and the keys to verify with."""
        freshness = self.proof
        missing = freshness.missing()
        if missing:
            for one in missing:
                yield Check(name=one.proof, ok=False, detail=f"{one.reason} ({one.since_s:.1f} s)")
            if problem := quiet_logs.recent():
                # What a fetch that goes unanswered does not tell: a refused login, an expired certificate.
                yield Check(name="kafka", ok=False, detail=problem)
            if self.freshness.state is State.REPLAYING:
                progress = self.freshness.progress
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
                detail=f"{self.freshness.progress.records} records, {sum(self.denylist.counts().values())} entries",
            )
        if self.host is not None:
            yield from self.host.checks()
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
        freshness, intake, follower = self.proof, self.intake, self.follower
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
            values={(str(number),): float(lag) for number, lag in self.freshness.lag.items() if lag is not None},
        )
        checks = self.guard.counts
        yield Family(
            name="revoker_checks",
            help="Answers of the guard.",
            kind="counter",
            labels=("result",),
            values={
                (result,): float(checks[result]) for result in ("active", "revoked", "unknown", "accepted_unknown")
            },
        )
        if self.verified is not None:
            yield from self.verified.families()
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
        if self.host is not None:
            yield from self.host.families()
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


def _host(settings: Settings, monotonic: Callable[[], float]) -> Host:
    try:
        from consumers.host import Host
    except ImportError as error:
        raise SettingsError(
            f"denylist is shared, which needs the package {error.name}: install revoker[shared]"
        ) from error
    return Host(settings, monotonic=monotonic)


def _nothing_held(_view: TopicView) -> Mapping[int, int]:
    return {}


def _say_if_dead(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("the task that fetches keys died; the last good keys stay in use", exc_info=task.exception())

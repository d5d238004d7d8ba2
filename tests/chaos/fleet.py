"""Everything that runs in a chaos run: three brokers behind proxies, a logout service, five nodes, the load."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from revoker import topic
from revoker.cli.children import free_ports
from revoker.settings import ENVIRONMENT_PREFIX, Settings
from tests.brokers.apache import ApacheKafka
from tests.chaos.clocks import FakeClock
from tests.chaos.disk import SmallDisk
from tests.chaos.history import NodeStopped, Recorder, ServiceStarted, ServiceStopped
from tests.chaos.load_process import LoadConfig
from tests.chaos.members import Member
from tests.chaos.node_process import NodeConfig
from tests.chaos.population import LEEWAY_S
from tests.chaos.schedule import BROKERS, NODES

__all__ = ["Fleet", "NotConverged", "Pace", "fleet"]

_SECRET: Final = "a secret for chaos, which is long enough for HS256"
_ADMIN_SECRET: Final = "chaos-root-secret-0123456789"
_START_S: Final = 60.0
_POLL_S: Final = 0.1

_BROKER_PROPERTIES: Final = {
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Leadership goes home within seconds, over and over: the election that no broken connection tells of.
    "leader.imbalance.check.interval.seconds": "7",
    "leader.imbalance.per.broker.percentage": "0",
    "default.replication.factor": "3",
    "replica.lag.time.max.ms": "5000",
}


class NotConverged(Exception):
    """After the faults were lifted, the fleet did not recover in time; the message says who lacks what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much load, and how long all may take.

    ``bound_s``: the nodes' staleness bound; the other time-outs follow. ``longest_life_s``: of tokens, which decides
    the topic's retention too. ``recovery_s``: after a fault, at most.
    """

    checks_per_s: int = 2500
    users_per_s: float = 6.0
    longest_life_s: int = 100
    bound_s: float = 6.0
    recovery_s: float = 180.0


@dataclass(kw_only=True)
class Fleet:
    """All members, and what may be asked of and done to them. Make one with `fleet`."""

    work: Path
    seed: int
    pace: Pace
    cluster: ApacheKafka
    recorder: Recorder
    session: aiohttp.ClientSession
    disk: SmallDisk
    faketime: Path | None
    #: A planted bug of `tests.chaos.mutants`, in every node and the service; empty: none.
    mutant: str = ""
    ports: list[int] = field(default_factory=lambda: free_ports(len(NODES) + 2))
    #: Where undecodable records lie in the topic: nodes are started to tolerate them while there are any.
    garbage: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        logs = self.work / "logs"
        logs.mkdir()
        (self.work / "secret").write_text(_SECRET, encoding="utf-8")
        (self.work / "tokens.jsonl.live").touch()
        self.history: Path = self.work / "history"
        self.nodes: dict[int, Member] = {
            number: Member(f"node{number}", port=port, log=logs / f"node{number}.log")
            for number, port in zip(NODES, self.ports, strict=False)
        }
        self.service: Member = Member("service", port=self.ports[-2], log=logs / "service.log")
        self.load: Member = Member("load", port=self.ports[-1], log=logs / "load.log")
        self.clocks: dict[str, FakeClock] = {
            member.name: FakeClock(self.work / f"{member.name}.clock", library=self.faketime)
            for member in (*self.nodes.values(), self.service)
        }
        self.topic: str = f"revocations-{uuid.uuid4().hex[:8]}"

    @property
    def values(self) -> dict[str, Any]:
        """Settings of every member, by name, beside their defaults."""
        return {
            "kafka_bootstrap_servers": self.cluster.bootstrap,
            "topic": self.topic,
            "topic_partitions": 3,
            "topic_replication_factor": 3,
            "topic_min_insync_replicas": 2,
            "topic_segment_s": 10,
            "algorithms": ["HS256"],
            "key_secret": _SECRET,
            "longest_token_life_s": self.pace.longest_life_s,
            "leeway_s": LEEWAY_S,
            "clock_margin_s": 5,
            # In the proportions of the defaults, and shorter: faults are to outlast them.
            "staleness_bound_s": self.pace.bound_s,
            "request_timeout_s": self.pace.bound_s / 3,
            "metadata_max_age_s": self.pace.bound_s / 3,
            "publish_timeout_s": self.pace.bound_s + 1,
        }

    @property
    def settings(self) -> Settings:
        return Settings(**self.values)

    @property
    def everybody(self) -> tuple[Member, ...]:
        return (*self.nodes.values(), self.service, self.load)

    async def start(self) -> None:
        """Make the topic and start all members; returns when all is well."""
        await topic.create(self.settings)
        self.start_service()
        await self.answering(self.service, "/livez")
        for number in self.nodes:
            self.start_node(number)
        self.start_load()
        await self.answering(self.load, "/status")
        await self.well()

    def start_node(self, number: int) -> None:
        """Returns at once."""
        member = self.nodes[number]
        member.incarnation += 1
        name = f"{member.name}-{member.incarnation}"
        config = NodeConfig(
            name=member.name,
            incarnation=member.incarnation,
            port=member.port,
            history=str(self.history / f"{name}.jsonl"),
            tokens=str(self.work / "tokens.jsonl.live"),
            checks_per_s=self.pace.checks_per_s,
            settings=self.values
            | {
                "algorithms": ("HS256",),
                "tolerate_undecodable": bool(self.garbage),
                # One of the fleet admits what it cannot judge, and says so.
                "when_unknown": "accept" if number == max(self.nodes) else "refuse",
                "outage_budget_s": 20.0,
            },
        )
        self._start(member, "tests.chaos.node_process", self._written(f"{name}.json", config))

    def start_service(self) -> None:
        """Returns at once."""
        member = self.service
        member.incarnation += 1
        (self.work / "service.incarnation").write_text(str(member.incarnation), encoding="ascii")
        values = self.values | {
            "listen": f"127.0.0.1:{member.port}",
            "admin_tokens": f"root:{_ADMIN_SECRET}:*",
            "outbox_file": str(self.disk.path / "outbox.db"),
            "admin_audit_file": str(self.work / "audit.jsonl"),
        }
        environment = {
            f"{ENVIRONMENT_PREFIX}{name.upper()}": ",".join(value) if isinstance(value, list) else str(value)
            for name, value in values.items()
        }
        self.recorder(ServiceStarted(at=time.monotonic(), service=member.name, incarnation=member.incarnation))
        self._start(member, "revoker", "serve", "--json", environment=environment)

    def start_load(self) -> None:
        """Returns at once."""
        self.load.incarnation += 1
        config = LoadConfig(
            seed=self.seed,
            port=self.load.port,
            history=str(self.history / "load.jsonl"),
            tokens=str(self.work / "tokens.jsonl.live"),
            service=self.service.url,
            service_incarnation=str(self.work / "service.incarnation"),
            nodes=[member.port for member in self.nodes.values()],
            key=_SECRET,
            admin_secret=_ADMIN_SECRET,
            users_per_s=self.pace.users_per_s,
            longest_life_s=self.pace.longest_life_s,
        )
        self.load.start(("tests.chaos.load_process", self._written("load.json", config)), environment={})

    def _written(self, name: str, config: msgspec.Struct) -> str:
        path = self.work / name
        path.write_bytes(msgspec.json.encode(config))
        return str(path)

    def _start(self, member: Member, *command: str, environment: Mapping[str, str] | None = None) -> None:
        planted = ("tests.chaos.mutants", self.mutant, "--") if self.mutant else ()
        clock = self.clocks[member.name].environment()
        member.start((*planted, *command), environment=dict(environment or {}) | clock)

    def ended(self, member: Member, *, how: Any, detail: str = "") -> None:
        """Note that a member's process is gone."""
        at = time.monotonic()
        if member is self.service:
            event: NodeStopped | ServiceStopped = ServiceStopped(
                at=at, service=member.name, incarnation=member.incarnation, how=how, detail=detail
            )
        else:
            event = NodeStopped(at=at, node=member.name, incarnation=member.incarnation, how=how, detail=detail)
        self.recorder(event)

    def crashed(self) -> list[Member]:
        """Members that ended and were not meant to; each is reported and told of once."""
        found = [one for one in self.everybody if not one.meant_to_end and not one.running]
        for member in found:
            member.meant_to_end = True
            if member is not self.load:
                self.ended(member, how="crashed", detail=f"exit code {member.exit_code}: {member.logged()[-500:]}")
        return found

    async def ask(self, member: Member, path: str, *, post: bool = False, timeout_s: float = 5.0) -> Any:
        """The JSON a member answers; None if it does not answer."""
        try:
            async with self.session.request(
                "POST" if post else "GET", member.url + path, timeout=aiohttp.ClientTimeout(total=timeout_s)
            ) as answer:
                body = await answer.read()
                return msgspec.json.decode(body) if body.startswith(b"{") else {}
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def answering(self, member: Member, path: str) -> None:
        """Wait until a member that was started answers. Raises NotConverged if it ends or does not."""

        async def answers() -> bool:
            if not member.running:
                raise NotConverged(f"{member.name} ended, exit code {member.exit_code}; it logged:\n{member.logged()}")
            return await self.ask(member, path, timeout_s=1.0) is not None

        await self._until(
            answers,
            lambda: f"{member.name} does not answer; it logged:\n{member.logged()}",
        )

    async def statuses(self) -> dict[str, dict[str, Any] | None]:
        """What each node says of itself; None: nothing."""
        members = list(self.nodes.values())
        answers = await asyncio.gather(*(self.ask(member, "/status", timeout_s=2.0) for member in members))
        return {member.name: answer for member, answer in zip(members, answers, strict=True)}

    async def clock_offset(self, member: Member, *, true_s: float) -> float | None:
        """By how many seconds a member's wall clock is off; None: it does not answer.

        ``true_s``: the true clock less the monotonic one. Of the service only whole seconds are to be had: the header
        ``Date``.
        """
        if member is not self.service:
            status = await self.ask(member, "/status")
            return None if status is None else float(status["wall_minus_monotonic"]) - true_s
        try:
            async with self.session.get(member.url + "/livez", timeout=aiohttp.ClientTimeout(total=5.0)) as answer:
                told = parsedate_to_datetime(answer.headers["Date"]).timestamp()
                return told + 0.5 - time.monotonic() - true_s
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def well(self) -> float:
        """Wait until all nodes are live and a revocation accepted now is refused by all; when that was (monotonic).

        Raises NotConverged, saying what is missing.
        """
        seen: dict[str, Any] = {}

        async def all_live() -> bool:
            seen.update(await self.statuses())
            return all(status is not None and status["state"] == "live" for status in seen.values())

        def laggards() -> str:
            told = (f"{name}: {status and (status['state'], status['why'])}" for name, status in seen.items())
            return f"nodes are not all live: {'; '.join(told)}"

        await self._until(all_live, laggards)
        token = ""

        async def accepted() -> bool:
            nonlocal token
            token = ((await self.ask(self.load, "/canary", post=True, timeout_s=20.0)) or {}).get("token") or ""
            return bool(token)

        await self._until(accepted, lambda: f"no revocation is accepted; the service logged:\n{self.service.logged()}")
        answers: list[Any] = []

        async def refused() -> bool:
            members = self.nodes.values()
            answers[:] = await asyncio.gather(*(self.ask(one, f"/answers?token={token}") for one in members))
            return all(answer is not None and answer["answer"] == "denied" for answer in answers)

        await self._until(refused, lambda: f"token {token}, accepted, is not refused everywhere: {answers}")
        return time.monotonic()

    async def _until(self, condition: Callable[[], Any], missing: Callable[[], str]) -> None:
        deadline = time.monotonic() + self.pace.recovery_s
        while not await condition():
            if time.monotonic() > deadline:
                raise NotConverged(f"not within {self.pace.recovery_s:g} s: {missing()}")
            await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def fleet(
    *, work: Path, disk: SmallDisk, seed: int, pace: Pace, faketime: Path | None, mutant: str = ""
) -> AsyncIterator[Fleet]:
    """All of it, started and well; ended in every case."""
    (work / "history").mkdir()
    async with (
        ApacheKafka(nodes=len(BROKERS), proxied=True, properties=_BROKER_PROPERTIES) as cluster,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session,
    ):
        with Recorder(work / "history" / "driver.jsonl") as recorder:
            made = Fleet(
                work=work,
                seed=seed,
                pace=pace,
                cluster=cluster,
                recorder=recorder,
                session=session,
                disk=disk,
                faketime=faketime,
                mutant=mutant,
            )
            try:
                await made.start()
                yield made
            finally:
                for member in made.everybody:
                    member.kill_now()

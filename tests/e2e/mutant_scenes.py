"""A small stage for one planted bug at a time: a topic of its own, nodes and services as processes, faults by hand.

Every scene is played by a healthy process and by its mutants side by side, so the control meets the very same faults.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiokafka import AIOKafkaProducer

from revoker import record, topic
from revoker.cli.children import free_ports
from revoker.errors import PublishError
from revoker.events import Token
from revoker.publisher import Publisher, compose
from revoker.settings import ENVIRONMENT_PREFIX, Settings
from revoker.tokens import sign
from tests.brokers.apache import ApacheKafka
from tests.chaos import acts
from tests.chaos.checker import judge
from tests.chaos.history import (
    Answered,
    Event,
    Final,
    NodeException,
    NodeReady,
    NodeStale,
    NodeStarted,
    NodeStopped,
    Outcome,
    Recorder,
    Revoked,
    Run,
    ServiceStarted,
    ServiceStopped,
    load,
)
from tests.chaos.members import Member
from tests.chaos.mutants import NONE
from tests.chaos.node_process import NodeConfig
from tests.chaos.population import TokenUnderTest
from tests.chaos.verdict import Verdict

__all__ = ["BOUND_S", "ISSUER", "PATIENCE_S", "Scene", "open_scene", "set_clock"]

BOUND_S = 1.5
PATIENCE_S = 60.0
ISSUER = "https://issuer.example"
_LIFE_S = 600
_SECRET = "a secret for mutants, which is long enough for HS256"


class Scene:
    """``values``: settings of everybody in it, by name."""

    def __init__(self, cluster: ApacheKafka, work: Path, session: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.values: dict[str, Any] = {
            "kafka_bootstrap_servers": cluster.bootstrap,
            "topic": f"mutants-{uuid.uuid4().hex[:8]}",
            "topic_replication_factor": 3,
            "topic_min_insync_replicas": 2,
            "algorithms": ("HS256",),
            "key_secret": _SECRET,
            "staleness_bound_s": BOUND_S,
            "request_timeout_s": 1.5,
            "metadata_max_age_s": 1.0,
            "publish_timeout_s": 10.0,
        }
        self.members: dict[str, Member] = {}
        self._work = work
        self._history = work / "history"
        self._history.mkdir()
        self._tokens = work / "tokens.jsonl"
        self._tokens.touch()
        self._session = session
        self.record: Recorder = Recorder(self._history / "driver.jsonl")
        self.record(Run(at=time.monotonic(), wall_at=time.time(), seed=0))

    @property
    def settings(self) -> Settings:
        """The settings, checked."""
        return Settings(**self.values)

    def token(self, name: str) -> TokenUnderTest:
        """A token of this name, given to all nodes to ask about."""
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": name, "jti": name, "iat": now, "exp": now + _LIFE_S}
        token = TokenUnderTest(
            name=name,
            jwt=sign(claims, key=_SECRET, algorithm="HS256"),
            claims=claims,
            until_at=time.monotonic() + _LIFE_S,
        )
        with self._tokens.open("ab") as file:
            file.write(msgspec.json.encode(token) + b"\n")
        return token

    def node(self, name: str, *, mutant: str = NONE, clock: Path | None = None, **changes: Any) -> None:
        """Start a node; returns at once."""
        member = self._member(name)
        config = NodeConfig(
            name=name,
            incarnation=member.incarnation,
            port=member.port,
            history=str(self._history / f"{name}-{member.incarnation}.jsonl"),
            tokens=str(self._tokens),
            checks_per_s=200,
            settings=self.values | changes,
        )
        path = self._work / f"{name}-{member.incarnation}.json"
        path.write_bytes(msgspec.json.encode(config))
        options = () if clock is None else ("--clock", str(clock))
        command = ("tests.chaos.mutants", mutant, *options, "--", "tests.chaos.node_process", str(path))
        member.start(command, environment={})

    async def service(self, name: str, *, mutant: str = NONE, **changes: Any) -> None:
        """Start a logout service and wait until it answers."""
        member = self._member(name)
        values = self.values | {"listen": f"127.0.0.1:{member.port}", "algorithms": "HS256"} | changes
        environment = {f"{ENVIRONMENT_PREFIX}{key.upper()}": str(value) for key, value in values.items()}
        self.record(ServiceStarted(at=time.monotonic(), service=name, incarnation=member.incarnation))
        command = ("tests.chaos.mutants", mutant, "--", "revoker", "serve", "--json")
        member.start(command, environment=environment)
        await self.until(lambda: self._ask(name, "/livez"), f"{name} answers", name)

    async def publishing(self, *names: str) -> None:
        """Wait until these services say that they can publish."""
        for name in names:
            await self.until(lambda name=name: self._is_ready(name), f"{name} is ready", name)  # type: ignore[misc]

    async def _is_ready(self, name: str) -> bool:
        return bool(await self._ask(name, "/readyz") == {"status": 200})

    def _member(self, name: str) -> Member:
        member = self.members.get(name)
        if member is None:
            (port,) = free_ports(1)
            member = self.members[name] = Member(name, port=port, log=self._work / f"{name}.log")
        member.incarnation += 1
        return member

    async def live(self, *names: str) -> None:
        """Wait until these nodes are live."""
        for name in names:
            await self.until(lambda name=name: self._is_live(name), f"{name} is live", name)  # type: ignore[misc]

    async def _is_live(self, name: str) -> bool:
        status = await self._ask(name, "/status")
        return status is not None and status["state"] == "live"

    async def says(self, name: str, token: str, *answers: str) -> None:
        """Wait until the node gives one of these answers."""
        await self.until(lambda: self._said(name, token, answers), f"{name} says {answers} of {token}", name)

    async def _said(self, name: str, token: str, answers: Sequence[str]) -> bool:
        status = await self._ask(name, f"/answers?token={token}")
        return status is not None and status["answer"] in answers

    async def until_past(self, at: float, *names: str) -> None:
        """Wait until these nodes have been asked later than ``at``, monotonic; they are asked all the time."""

        async def past() -> bool:
            return time.monotonic() > at and all([await self._ask(name, "/status") for name in names])

        await self.until(past, "time has passed", *names)

    async def publish(self, *names: str, **changes: Any) -> float:
        """Have the tokens of these names revoked by a healthy publisher; when the last was acknowledged (monotonic)."""
        async with Publisher(Settings(**self.values | changes)) as publisher:
            for name in names:
                await self.until(lambda name=name: self._published(publisher, name), f"{name} is published")  # type: ignore[misc]
        return time.monotonic()

    async def _published(self, publisher: Publisher, name: str) -> bool:
        asked_at = time.monotonic()
        try:
            await publisher.revoke(selector=Token(iss=ISSUER, jti=name), exp=time.time() + _LIFE_S)
        except PublishError as error:
            self._revoked(name, "unknown", asked_at=asked_at, detail=str(error)[:300])
            return False
        self.acknowledged(name, asked_at=asked_at)
        return True

    async def append(
        self, jti: str, *, partition: int | None = None, times: int = 1, reason: str | None = None
    ) -> None:
        """Write a revocation to the topic without the product's publisher."""
        settings = self.settings
        event = compose(
            selector=Token(iss=ISSUER, jti=jti),
            lifetimes=settings.lifetimes,
            now_s=int(time.time()),
            event_id=jti,
            reason=reason,
        )
        key, value, headers = record.encode(event)
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.kafka_bootstrap_servers, acks="all", linger_ms=20, max_batch_size=1 << 19
        )
        await producer.start()
        try:
            send = partial(producer.send, settings.topic, value, key=key, headers=headers, partition=partition)
            await asyncio.gather(*[await send() for _ in range(times)])
        finally:
            await producer.stop()

    def acknowledged(self, name: str, *, asked_at: float) -> None:
        """Note that the token of this name was revoked just now."""
        self._revoked(name, "acknowledged", asked_at=asked_at)

    def _revoked(self, name: str, state: Outcome, *, asked_at: float, by: str = "", detail: str = "") -> None:
        self.record(
            Revoked(
                at=time.monotonic(),
                asked_at=asked_at,
                tokens=(name,),
                state=state,
                exp=time.time() + _LIFE_S - 1,
                by=by,
                incarnation=self.members[by].incarnation if by else 0,
                detail=detail,
            )
        )

    async def log_out(self, service: str, token: TokenUnderTest) -> Outcome:
        """``POST /logout`` at a service; what it said."""
        asked_at = time.monotonic()
        try:
            async with self._session.post(
                f"{self.members[service].url}/logout", headers={"Authorization": f"Bearer {token.jwt}"}
            ) as answer:
                body = await answer.text()
                state: Outcome = {200: "acknowledged", 204: "acknowledged", 202: "stored"}.get(answer.status, "unknown")  # type: ignore[assignment]
                detail = f"{answer.status} {body}"
        except (aiohttp.ClientError, OSError) as error:
            state, detail = "unknown", repr(error)
        self._revoked(token.name, state, asked_at=asked_at, by=service, detail=detail[:300])
        return state

    async def crash(self, service: str) -> None:
        """Kill -9."""
        member = self.members[service]
        await member.kill()
        self.record(ServiceStopped(at=time.monotonic(), service=service, incarnation=member.incarnation, how="killed"))

    async def conclude(self, *names: str) -> None:
        """Have these nodes say their last word on every token."""
        for name in names:
            await self._ask(name, "/final", post=True)

    async def _ask(self, name: str, path: str, *, post: bool = False) -> Any:
        try:
            async with self._session.request(
                "POST" if post else "GET", self.members[name].url + path, timeout=aiohttp.ClientTimeout(total=5.0)
            ) as answer:
                body = await answer.read()
                return msgspec.json.decode(body) if body.startswith(b"{") else {"status": answer.status}
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str, *names: str) -> None:
        """Wait for ``condition``, for `PATIENCE_S` at most."""
        deadline = time.monotonic() + PATIENCE_S
        while not await condition():
            dead = [name for name in names if not self.members[name].running]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(f"{name}: {self.members[name].logged()}" for name in names)
                raise AssertionError(f"{dead or 'nobody'} ended; not within {PATIENCE_S} s: {what}\n{logs}")
            await asyncio.sleep(0.02)

    async def judged(self, *, without: Iterable[str] = (), converged: bool = False) -> Verdict:
        """The checker's verdict, as if those of ``without`` had not been there. Ends the nodes."""
        await asyncio.gather(*(member.stop() for member in self.members.values() if member.running))
        return judge(_without(load(self._history), frozenset(without)), bound_s=BOUND_S, converged=converged)

    def close(self) -> None:
        """End everything that runs."""
        for member in self.members.values():
            if member.running:
                member.kill_now()
        self.record.close()


_OF_A_NODE = Answered | NodeStarted | NodeReady | NodeStale | NodeStopped | NodeException | Final


def _without(history: Sequence[Event], names: frozenset[str]) -> list[Event]:
    others = [event for event in history if not (isinstance(event, _OF_A_NODE) and event.node in names)]
    kept = [event for event in others if not (isinstance(event, Revoked) and event.by in names)]
    asked = {token for event in kept if isinstance(event, Revoked) for token in event.tokens}
    theirs = {token for event in others if isinstance(event, Revoked) for token in event.tokens} - asked
    return [
        msgspec.structs.replace(event, denied=tuple(name for name in event.denied if name not in theirs))
        if isinstance(event, Final)
        else event
        for event in kept
        if not (isinstance(event, Answered) and event.token in theirs)
    ]


def set_clock(file: Path, step_s: float) -> None:
    """Set the clocks of processes that were started with this file, in one step."""
    fresh = file.with_suffix(".new")
    fresh.write_text(str(step_s), encoding="ascii")
    fresh.replace(file)


@asynccontextmanager
async def open_scene(cluster: ApacheKafka, work: Path, **changes: Any) -> AsyncIterator[Scene]:
    """A scene with its topic made; ``changes`` to the settings of all."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        scene = Scene(cluster, work, session)
        scene.values |= changes
        try:
            # After the scene before, an election may still be under way.
            await acts.persist(lambda: topic.create(scene.settings))
            yield scene
        finally:
            scene.close()

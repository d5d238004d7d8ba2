"""Service and nodes as processes of their own, on Apache Kafka: one logout, a fleet, restarts, and a full topic."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from consumers.node import Node
from revoker import topic
from revoker.cli.demo.processes import DemoProcess, start
from revoker.errors import NotProven
from revoker.events import Token
from revoker.publisher import Publisher
from revoker.settings import Settings
from revoker.tokens import TokenRevoked, sign
from tests.broker.conftest import PATIENCE_S, SECRET, settings_for
from tests.conftest import Broker

MANY = 100_000
RESTARTS = 20

StartOne = Callable[..., Awaitable[DemoProcess]]


def token(jti: str) -> str:
    """A token of this id that is valid for ten minutes."""
    now = int(time.time())
    return sign({"sub": f"user of {jti}", "jti": jti, "iat": now, "exp": now + 600}, key=SECRET, algorithm="HS256")


def options(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """The settings of a process, beside their defaults."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    return {
        "kafka_bootstrap_servers": settings.kafka_bootstrap_servers,
        "topic": settings.topic,
        "topic_replication_factor": "1",
        "topic_min_insync_replicas": "1",
        "algorithms": "HS256",
        "key_secret_file": str(secret),
    }


@pytest.fixture
async def start_one() -> AsyncIterator[StartOne]:
    """Starts processes that end with the test."""
    async with AsyncExitStack() as started:

        async def start_it(name: str, command: str, settings: Mapping[str, str]) -> DemoProcess:
            process = await start(name, command, settings)
            started.push_async_callback(process.stop)
            return process

        yield start_it


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without limits of its own."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        yield client


async def status(session: aiohttp.ClientSession, node: DemoProcess, bearer: str) -> int:
    """What the node answers to this token; 0 if it does not answer."""
    try:
        async with session.get(f"{node.url}/whoami", headers={"Authorization": f"Bearer {bearer}"}) as response:
            return response.status
    except (aiohttp.ClientError, ConnectionError):
        return 0


async def until_ready(session: aiohttp.ClientSession, process: DemoProcess) -> None:
    """Wait until ``/readyz`` says so."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        async with session.get(f"{process.url}/readyz?verbose") as response:
            said = await response.text()
        if response.status == 200:
            return
        assert time.monotonic() < deadline, f"{process.name} is not ready: {said}\n{process.logged()}"
        await asyncio.sleep(0.02)


async def until_refused(session: aiohttp.ClientSession, node: DemoProcess, bearer: str) -> None:
    """Wait until the node refuses the token."""
    deadline = time.monotonic() + PATIENCE_S
    while (answer := await status(session, node, bearer)) != 401:
        assert time.monotonic() < deadline, f"{node.name} still answers {answer}"
        await asyncio.sleep(0.005)


def kill(process: DemoProcess) -> None:
    """Kill -9."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


async def test_one_logout_is_refused_by_eight_nodes_and_by_one_that_restarts(
    apache: Broker, topic_name: str, start_one: StartOne, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Eight nodes, three partitions: after the 204 all refuse that token and no other, so does one that restarts."""
    settings = settings_for(apache.bootstrap, topic_name, topic_partitions=3)
    await topic.create(settings)
    service = await start_one("service", "serve", options(settings, tmp_path))
    nodes = await asyncio.gather(
        *(start_one(f"node {number}", "node", options(settings, tmp_path)) for number in range(1, 9))
    )
    await asyncio.gather(*(until_ready(session, process) for process in (service, *nodes)))
    alice, bob = token("alice's"), token("bob's")
    assert [await status(session, node, bearer) for node in nodes for bearer in (alice, bob)] == [200] * 16

    async with session.post(f"{service.url}/logout", headers={"Authorization": f"Bearer {alice}"}) as response:
        assert response.status == 204
    await asyncio.gather(*(until_refused(session, node, alice) for node in nodes))
    assert [await status(session, node, bob) for node in nodes] == [200] * 8

    kill(nodes[0])
    again = await start_one("node 1 again", "node", options(settings, tmp_path))
    assert await status(session, again, alice) in (401, 503)
    await until_ready(session, again)
    assert await status(session, again, alice) == 401
    assert await status(session, again, bob) == 200


@asynccontextmanager
async def full_topic(apache: Broker, name: str) -> AsyncIterator[tuple[Settings, list[str]]]:
    """A topic that holds `MANY` acknowledged revocations; yields the ids of their tokens."""
    settings = settings_for(apache.bootstrap, name, topic_partitions=3, staleness_bound_s=15.0)
    await topic.create(settings)
    ids = [f"t{number}" for number in range(MANY)]
    async with Publisher(settings) as publisher:
        await revoke(publisher, ids)
    yield settings, ids


async def revoke(publisher: Publisher, ids: list[str]) -> None:
    """Publish one revocation for each id, many at a time, and wait for all acknowledgements."""
    at_once = asyncio.Semaphore(1000)

    async def one(jti: str) -> None:
        async with at_once:
            await publisher.revoke(selector=Token(iss="", jti=jti), exp=time.time() + 3600)

    await asyncio.gather(*(one(jti) for jti in ids))


async def refused_more(answers: Counter[int], more: int) -> None:
    """Wait until so many more requests were refused."""
    goal, deadline = answers[401] + more, time.monotonic() + PATIENCE_S
    while answers[401] < goal:
        assert time.monotonic() < deadline, f"no further refusals: {answers}"
        await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_full_topic_is_refused_in_full_by_every_start(
    apache: Broker, topic_name: str, start_one: StartOne, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """100,000 revocations: 503 until replayed, then each is refused; over 20 kills under load none is admitted."""
    async with full_topic(apache, topic_name) as (settings, revoked):
        async with Node(settings) as node:
            with pytest.raises(NotProven):
                node.authenticate(token("anybody's"))
            await node.wait_ready(timeout_s=PATIENCE_S)
            for number, jti in enumerate(revoked):
                with pytest.raises(TokenRevoked):
                    node.authenticate(token(jti))
                if number % 100 == 0:
                    await asyncio.sleep(
                        0
                    )  # a loop that never turns reads nothing, and the node would rightly say stale
            node.authenticate(token("anybody's"))

        answers: Counter[int] = Counter()
        ready_answers: Counter[int] = Counter()
        current = await start_one("node", "node", options(settings, tmp_path))
        ready = asyncio.Event()
        chance = random.Random(7)

        async def load() -> None:
            while True:
                was_ready, asked = ready.is_set(), chance.choice(revoked)
                answer = await status(session, current, token(asked))
                answers[answer] += 1
                if was_ready and ready.is_set():
                    ready_answers[answer] += 1
                assert answer in (0, 401, 503), f"{asked} was admitted: {answer}"
                if answer == 0:
                    await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group, Publisher(settings) as publisher:
            loads = [group.create_task(load()) for _ in range(8)]
            for number in range(RESTARTS):
                await until_ready(session, current)
                ready.set()
                await refused_more(ready_answers, 20)
                ready.clear()
                kill(current)
                fresh = [f"fresh {number} {index}" for index in range(20)]
                await revoke(publisher, fresh)
                revoked.extend(fresh)
                current = await start_one("node", "node", options(settings, tmp_path))
            await until_ready(session, current)
            assert await status(session, current, token("anybody's")) == 200
            for task in loads:
                task.cancel()
        assert answers[503] > 0
        assert answers[401] > RESTARTS
        assert set(ready_answers) <= {401}

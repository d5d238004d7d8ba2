"""How long from `revoke()` to the last node's refusal, beside a bare produce → fetch to as many consumers.

A fleet of 1, then of 4, then of 16 nodes. Each node is two readers: a Node of ours on one topic, and a bare aiokafka
consumer on another. Up to four processes share them out evenly, so 16 nodes are four to a process. Samples alternate
between the two sides, so both meet the same machine. The clock is the system-wide monotonic one; both sides start it
before the call that sends, and stop it when the last reader has it: a node of ours, when it would refuse the token.

`--http` adds the way through the logout service: from the request to the last node's refusal.

    python -m benchmarks.propagation --json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from functools import partial

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.peers import end_in_order
from benchmarks.population import UNHURRIED
from benchmarks.report import percentile, result_line
from consumers.guard import Status
from consumers.intake import RawRecord
from consumers.node import Node
from revoker import topic
from revoker.cli.children import die_with_parent
from revoker.events import Revocation, Token
from revoker.kafka import consumer_arguments, producer_arguments
from revoker.publisher import Publisher
from revoker.settings import Settings
from revoker.tokens import sign
from tests.brokers.apache import ApacheKafka
from tests.brokers.artifacts import KAFKA_VERSION

SECRET = "benchmark-secret-of-32-bytes-or-more"
PAUSE_S = 0.005
PATIENCE_S = 60.0
#: Samples that warm connections and caches, and do not count.
WARM_UP = 20
#: At most so many processes share the nodes of a fleet out among them.
PROCESSES = 4


def settings_for(bootstrap: str) -> Settings:
    """What parent and children share."""
    return Settings(
        kafka_bootstrap_servers=bootstrap,
        topic_replication_factor=1,
        topic_min_insync_replicas=1,
        algorithms=("HS256",),
        key_secret=SECRET,
    )


def bare_topic(settings: Settings) -> str:
    """Where the peer's records go."""
    return f"bare-{settings.topic}"


async def run_child(settings: Settings, nodes: int) -> None:
    """So many nodes, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for _ in range(nodes):
            group.create_task(run_node(settings))


async def run_node(settings: Settings) -> None:
    """One node: print ``{"id": …, "at": …}`` for whatever arrives, once it would be refused."""

    def say(kind: str, name: str) -> None:
        sys.stdout.write(json.dumps({"kind": kind, "id": name, "at": time.monotonic()}) + "\n")
        sys.stdout.flush()

    node = Node(settings)
    now = int(time.time())

    def refused(revocation: Revocation, _: RawRecord) -> None:
        jti = revocation.selector.jti  # type: ignore[union-attr]
        decision = node.guard.check({"jti": jti, "iat": now, "exp": now + 600})
        if decision.status is not Status.REVOKED:
            raise AssertionError(f"{jti} is {decision.status}")
        say("ours", jti)

    node.intake.on_applied = refused
    consumer = AIOKafkaConsumer(**consumer_arguments(settings))
    partition = TopicPartition(bare_topic(settings), 0)
    await consumer.start()
    consumer.assign([partition])
    consumer.seek(partition, 0)
    async with node:
        await node.wait_ready(timeout_s=PATIENCE_S)
        say("ready", "")
        while True:
            for records in (await consumer.getmany(timeout_ms=settings.fetch_max_wait_ms)).values():
                for record in records:
                    say("bare", (record.value or b"").decode())


class Fleet:
    """The processes of so many nodes, and when each node saw what."""

    def __init__(self, processes: list[asyncio.subprocess.Process], *, nodes: int) -> None:
        self.nodes = nodes
        self._seen: dict[tuple[str, str], list[float]] = {}
        self._readers = [asyncio.create_task(self._read(process)) for process in processes]

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            said = json.loads(line)
            self._seen.setdefault((said["kind"], said["id"]), []).append(said["at"])

    async def last_to_see(self, kind: str, name: str) -> float:
        """When the last node saw it."""
        deadline = time.monotonic() + PATIENCE_S
        while len(seen := self._seen.get((kind, name), [])) < self.nodes:
            if time.monotonic() > deadline or any(reader.done() for reader in self._readers):
                raise RuntimeError(f"{kind} {name} reached {len(seen)} of {self.nodes} nodes")
            await asyncio.sleep(0.0005)
        return max(seen)


@contextlib.asynccontextmanager
async def fleet(settings: Settings, nodes: int) -> AsyncIterator[Fleet]:
    """Start the processes, wait until all nodes are live, end them."""
    command = [sys.executable, "-m", "benchmarks.propagation", "--child", settings.kafka_bootstrap_servers]
    command += [settings.topic, "--nodes"]
    shares = [nodes // PROCESSES + (number < nodes % PROCESSES) for number in range(min(nodes, PROCESSES))]
    processes = [
        await asyncio.create_subprocess_exec(*die_with_parent([*command, str(share)]), stdout=asyncio.subprocess.PIPE)
        for share in shares
    ]
    try:
        children = Fleet(processes, nodes=nodes)
        await children.last_to_see("ready", "")
        yield children
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await asyncio.gather(*(process.wait() for process in processes))


@contextlib.asynccontextmanager
async def logout_service(settings: Settings) -> AsyncIterator[str]:
    """The logout service as a process of its own; yields its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "revoker", "serve", "--listen", "127.0.0.1:0", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env={
            "REVOKER_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            "REVOKER_TOPIC": settings.topic,
            "REVOKER_TOPIC_REPLICATION_FACTOR": "1",
            "REVOKER_TOPIC_MIN_INSYNC_REPLICAS": "1",
            "REVOKER_ALGORITHMS": "HS256",
            "REVOKER_KEY_SECRET": SECRET,
            "REVOKER_LOG_LEVEL": "error",
        },
    )
    try:
        assert process.stdout is not None
        yield json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE_S))["url"]
    finally:
        process.terminate()
        await process.wait()


async def measure(sizes: Sequence[int], *, samples: int, http: bool) -> str:
    """Run it all; returns the result line."""
    figures: dict[str, float] = {"samples": samples}
    ratios: dict[str, float] = {}
    async with ApacheKafka(properties=UNHURRIED) as kafka:
        settings = settings_for(kafka.bootstrap)
        for nodes in sizes:
            # Topics of their own: a fleet that starts has nothing to replay.
            at = dataclasses.replace(settings, topic=f"revocations-{nodes}")
            times = await _of_fleet(at, nodes=nodes, samples=samples, http=http)
            for percent in (50, 99):
                found = {name: percentile(values, percent) for name, values in times.items()}
                figures |= {f"{name}_p{percent}_ms_{nodes}": value * 1000 for name, value in found.items()}
                ratios[f"p{percent}_over_bare_{nodes}"] = found["ours"] / found["bare"]
    return result_line("propagation", figures=figures, ratios=ratios, versions={"apache_kafka": KAFKA_VERSION})


async def _of_fleet(settings: Settings, *, nodes: int, samples: int, http: bool) -> dict[str, list[float]]:
    """Seconds by kind, of each sample."""
    times: dict[str, list[float]] = defaultdict(list)
    await topic.create(settings)
    await topic.create(dataclasses.replace(settings, topic=bare_topic(settings)))
    async with contextlib.AsyncExitStack() as opened:
        producer = AIOKafkaProducer(**producer_arguments(settings))
        await producer.start()
        opened.push_async_callback(producer.stop)
        ways = {
            "bare": partial(_bare, producer, bare_topic(settings)),
            "ours": partial(_ours, await opened.enter_async_context(Publisher(settings))),
        }
        children = await opened.enter_async_context(fleet(settings, nodes))
        if http:
            url = await opened.enter_async_context(logout_service(settings))
            ways["http"] = partial(_http, await opened.enter_async_context(aiohttp.ClientSession()), url)
        for number in range(samples + WARM_UP):
            for kind in ways if number % 2 else reversed(ways):
                took = await ways[kind](children)
                if number >= WARM_UP:
                    for name, value in took.items():
                        times[name].append(value)
                await asyncio.sleep(PAUSE_S)
    return times


async def _bare(producer: AIOKafkaProducer, bare: str, children: Fleet) -> dict[str, float]:
    name = uuid.uuid4().hex
    began = time.monotonic()
    await producer.send_and_wait(bare, name.encode(), key=name.encode())
    return {"bare": await children.last_to_see("bare", name) - began}


async def _ours(publisher: Publisher, children: Fleet) -> dict[str, float]:
    name = uuid.uuid4().hex
    exp = time.time() + 600
    began = time.monotonic()
    await publisher.revoke(selector=Token(iss="", jti=name), exp=exp)
    return {"ours": await children.last_to_see("ours", name) - began}


async def _http(session: aiohttp.ClientSession, url: str, children: Fleet) -> dict[str, float]:
    name = uuid.uuid4().hex
    now = int(time.time())
    token = sign({"sub": "u", "jti": name, "iat": now, "exp": now + 600}, key=SECRET, algorithm="HS256")
    began = time.monotonic()
    async with session.post(f"{url}/logout", headers={"Authorization": f"Bearer {token}"}) as response:
        answered = time.monotonic()
        if response.status != 204:
            raise RuntimeError(f"logout answered {response.status}: {await response.text()}")
    return {"http": await children.last_to_see("ours", name) - began, "http_204": answered - began}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 4, 16], help="fleets, one after the other")
    parser.add_argument("--samples", type=int, default=400, help="of each side and fleet")
    parser.add_argument("--http", action="store_true", help="measure the logout service as well")
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    parser.add_argument("--child", nargs=2, metavar=("BOOTSTRAP", "TOPIC"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        bootstrap, name = options.child
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run_child(dataclasses.replace(settings_for(bootstrap), topic=name), options.nodes[0]))
        return
    end_in_order()
    line = asyncio.run(measure(options.nodes, samples=options.samples, http=options.http))
    if not options.json:
        found = json.loads(line)
        for name, value in (found["figures"] | found["ratios"]).items():
            print(f"{name:32} {value:10.3f}")
    print(line)


if __name__ == "__main__":
    main()

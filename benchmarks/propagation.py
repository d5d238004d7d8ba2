"""How long from `revoke()` to the last node's refusal, beside a bare produce → fetch to as many consumers.

Each node is a process with two readers: a Node of ours on one topic, and a bare aiokafka consumer on another. Samples
alternate between the two, so both meet the same machine. The clock is the system-wide monotonic one; both sides start
it before the call that sends.

    python -m benchmarks.propagation --nodes 8 --json
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
from collections.abc import AsyncIterator

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.report import percentile, result_line
from consumers.guard import Status
from consumers.intake import RawRecord
from consumers.node import Node
from revoker import topic
from revoker.events import Revocation, Token
from revoker.kafka import consumer_arguments, producer_arguments
from revoker.publisher import Publisher
from revoker.settings import Settings
from revoker.tokens import sign
from tests.brokers.apache import ApacheKafka
from tests.brokers.artifacts import KAFKA_VERSION

SECRET = "benchmark-secret-of-32-bytes-or-more"
BARE_TOPIC = "bare"
PAUSE_S = 0.005
PATIENCE_S = 30.0


def settings_for(bootstrap: str) -> Settings:
    """What parent and children share."""
    return Settings(
        kafka_bootstrap_servers=bootstrap,
        topic_replication_factor=1,
        topic_min_insync_replicas=1,
        algorithms=("HS256",),
        key_secret=SECRET,
    )


async def run_child(bootstrap: str) -> None:
    """One node: print ``{"id": …, "at": …}`` for whatever arrives, once it would be refused."""
    settings = settings_for(bootstrap)

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
    partition = TopicPartition(BARE_TOPIC, 0)
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
    """The children, and when each of them saw what."""

    def __init__(self, processes: list[asyncio.subprocess.Process]) -> None:
        self.processes = processes
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
        while len(seen := self._seen.get((kind, name), [])) < len(self.processes):
            if time.monotonic() > deadline or any(reader.done() for reader in self._readers):
                raise RuntimeError(f"{kind} {name} reached {len(seen)} of {len(self.processes)} nodes")
            await asyncio.sleep(0.0005)
        return max(seen)


@contextlib.asynccontextmanager
async def fleet(bootstrap: str, nodes: int) -> AsyncIterator[Fleet]:
    """Start the children, wait until all are live, end them."""
    command = (sys.executable, "-m", "benchmarks.propagation", "--child", bootstrap)
    processes = [await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE) for _ in range(nodes)]
    try:
        children = Fleet(processes)
        await children.last_to_see("ready", "")
        yield children
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await asyncio.gather(*(process.wait() for process in processes))


@contextlib.asynccontextmanager
async def logout_service(bootstrap: str) -> AsyncIterator[str]:
    """The logout service as a process of its own; yields its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "revoker", "serve", "--listen", "127.0.0.1:0", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env={
            "REVOKER_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
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


async def measure(nodes: int, samples: int) -> str:
    """Run it all; returns the result line."""
    times: dict[str, list[float]] = {"bare": [], "ours": [], "http": [], "http_204": []}
    with ApacheKafka() as kafka:
        settings = settings_for(kafka.bootstrap)
        await topic.create(settings)
        await topic.create(dataclasses.replace(settings, topic=BARE_TOPIC))
        producer = AIOKafkaProducer(**producer_arguments(settings))
        await producer.start()
        async with (
            Publisher(settings) as publisher,
            fleet(kafka.bootstrap, nodes) as children,
            logout_service(kafka.bootstrap) as url,
            aiohttp.ClientSession() as session,
        ):
            for number in range(samples + 20):
                for kind in ("bare", "ours", "http") if number % 2 else ("ours", "bare", "http"):
                    took = await _one(kind, producer, publisher, session, url, children)
                    if number >= 20:  # the first warm connections and caches
                        for name, value in took.items():
                            times[name].append(value)
                    await asyncio.sleep(PAUSE_S)
        await producer.stop()
    figures = {
        f"{name}_p{percent}_ms_{nodes}": percentile(values, percent) * 1000
        for name, values in times.items()
        for percent in (50, 99)
    }
    ratios = {
        f"p{percent}_over_bare_{nodes}": percentile(times["ours"], percent) / percentile(times["bare"], percent)
        for percent in (50, 99)
    }
    return result_line(
        "propagation", figures=figures | {"samples": samples}, ratios=ratios, versions={"apache_kafka": KAFKA_VERSION}
    )


async def _one(
    kind: str,
    producer: AIOKafkaProducer,
    publisher: Publisher,
    session: aiohttp.ClientSession,
    url: str,
    children: Fleet,
) -> dict[str, float]:
    name = uuid.uuid4().hex
    now = int(time.time())
    if kind == "bare":
        began = time.monotonic()
        await producer.send_and_wait(BARE_TOPIC, name.encode(), key=name.encode())
        return {"bare": await children.last_to_see("bare", name) - began}
    if kind == "ours":
        began = time.monotonic()
        await publisher.revoke(selector=Token(iss="", jti=name), exp=now + 600)
        return {"ours": await children.last_to_see("ours", name) - began}
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
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    parser.add_argument("--child", metavar="BOOTSTRAP", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run_child(arguments.child))
        return
    line = asyncio.run(measure(arguments.nodes, arguments.samples))
    if not arguments.json:
        result = json.loads(line)
        for name, value in (result["figures"] | result["ratios"]).items():
            print(f"{name:32} {value:10.3f}")
    print(line)


if __name__ == "__main__":
    main()

"""How long a publication takes, and how many a second get through, beside a bare `send_and_wait` with acks=all.

Three ways to bring the same records, a token's revocation each, into topics of one broker, from one process and loop:

- ``bare``: aiokafka's producer alone, with our producer's settings and a record composed beforehand;
- ``direct``: `Publisher.revoke` without an outbox: composed, checked, encoded, acknowledged;
- ``outbox``: `Publisher.revoke` with one: on this machine's disk (fsync) first, then delivered and acknowledged.

Short rounds of the three alternate, so all meet the same machine; a ratio is the median of the ratios of the rounds.
Every call of ours is checked to have been acknowledged by the broker.

    python -m benchmarks.publish --json
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaProducer

from benchmarks.peers import end_in_order
from benchmarks.population import ISS, LIFE_S, UNHURRIED, identifiers, revocations, work_directory
from benchmarks.report import percentile, result_line
from revoker import record, topic
from revoker.events import Token
from revoker.kafka import producer_arguments
from revoker.publisher import Publisher
from revoker.settings import Settings
from tests.brokers.apache import ApacheKafka
from tests.brokers.artifacts import KAFKA_VERSION

BARE_TOPIC: Final = "bare"
#: The calls of one round, by the number of callers: about a third of a second of each.
CALLS: Final = {1: 300, 32: 2_000, 256: 5_000}

#: One publication, by its number.
Publish = Callable[[str], Awaitable[None]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """``per_s``: calls a second of all callers; ``took_s``: of each call."""

    per_s: float
    took_s: list[float]


async def one_round(publish: Publish, *, callers: int, names: Sequence[str]) -> Round:
    """``callers`` at once, each waiting for its answer before it asks again, until all ``names`` are published."""
    left = iter(names)
    took: list[float] = []

    async def caller() -> None:
        for name in left:
            began = time.perf_counter()
            await publish(name)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return Round(per_s=len(took) / (time.perf_counter() - began), took_s=took)


def bare(producer: AIOKafkaProducer) -> Publish:
    """The peer: the bytes of a revocation, composed once, under a key of its own as long as ours."""
    example = next(revocations(1, now_s=int(time.time())))
    key, value, headers = record.encode(example)
    before, found, after = key.partition(example.id.encode())
    if not found:
        raise RuntimeError(
            f"the key of a record, {key!r}, does not hold its jti any more: the bare one must be as long"
        )

    async def publish(name: str) -> None:
        await producer.send_and_wait(BARE_TOPIC, value, key=before + name.encode() + after, headers=list(headers))

    return publish


def ours(publisher: Publisher) -> Publish:
    """A revocation by our publisher; raises unless the broker has acknowledged it."""

    async def publish(name: str) -> None:
        receipt = await publisher.revoke(
            selector=Token(iss=ISS, jti=name), exp=time.time() + LIFE_S, reason="logout", actor="self"
        )
        if receipt.state != "acknowledged":
            raise RuntimeError(f"a revocation was only {receipt.state}")

    return publish


async def measure(options: argparse.Namespace, directory: Path) -> str:
    """Run it all; returns the result line."""
    async with AsyncExitStack() as opened:
        kafka = await opened.enter_async_context(ApacheKafka(properties=UNHURRIED))
        settings = Settings(
            kafka_bootstrap_servers=kafka.bootstrap,
            topic_replication_factor=1,
            topic_min_insync_replicas=1,
            algorithms=("HS256",),
        )
        await topic.create(settings)
        await topic.create(dataclasses.replace(settings, topic=BARE_TOPIC))
        producer = AIOKafkaProducer(**producer_arguments(settings))
        await producer.start()
        opened.push_async_callback(producer.stop)
        outboxed = dataclasses.replace(settings, outbox_file=str(directory / "outbox.db"))
        ways = {
            "bare": bare(producer),
            "direct": ours(await opened.enter_async_context(Publisher(settings))),
            "outbox": ours(await opened.enter_async_context(Publisher(outboxed))),
        }
        rounds = await run(ways, options)
    return result(rounds, options)


async def run(ways: dict[str, Publish], options: argparse.Namespace) -> dict[int, dict[str, list[Round]]]:
    """By the number of callers and the way, the rounds in order. The first warms everything and does not count."""
    found: dict[int, dict[str, list[Round]]] = {}
    seeds = count()
    for number in range(options.rounds + 1):
        for callers in options.callers:
            calls = max(callers, round(CALLS.get(callers, 20 * callers) * options.scale))
            turn = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
            for way in turn:
                names = list(identifiers(calls, seed=next(seeds)))
                one = await one_round(ways[way], callers=callers, names=names)
                if number:
                    found.setdefault(callers, {}).setdefault(way, []).append(one)
    return found


def result(rounds: dict[int, dict[str, list[Round]]], options: argparse.Namespace) -> str:
    """Figures over all calls, ratios as the median over the rounds. The plain names are those through the outbox."""
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for callers, by_way in rounds.items():
        for way, some in by_way.items():
            took = [one for each in some for one in each.took_s]
            figures[f"{way}_per_s_{callers}"] = statistics.median(one.per_s for one in some)
            figures |= {f"{way}_p{percent}_ms_{callers}": percentile(took, percent) * 1000 for percent in (50, 99)}
        for way, prefix in (("outbox", ""), ("direct", "direct_")):
            pairs = list(zip(by_way[way], by_way["bare"], strict=True))
            ratios[f"{prefix}rate_over_bare_{callers}"] = statistics.median(
                mine.per_s / other.per_s for mine, other in pairs
            )
            ratios[f"{prefix}p50_over_bare_{callers}"] = statistics.median(
                percentile(mine.took_s, 50) / percentile(other.took_s, 50) for mine, other in pairs
            )
    versions = {"apache_kafka": KAFKA_VERSION, "sqlite": sqlite3.sqlite_version}
    return result_line("publish", figures=figures | {"rounds": options.rounds}, ratios=ratios, versions=versions)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 32, 256], help="at once")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of calls in a round")
    parser.add_argument("--directory", type=Path, help="where the outbox goes, for a disk of your own  [temporary]")
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    options = parser.parse_args()
    end_in_order()
    with work_directory() as temporary:
        line = asyncio.run(measure(options, options.directory or temporary))
    if not options.json:
        found = json.loads(line)
        for name, value in (found["figures"] | found["ratios"]).items():
            print(f"{name:32} {value:12.4g}")
    print(line)


if __name__ == "__main__":
    main()

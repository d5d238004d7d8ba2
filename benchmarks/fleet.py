"""What a fleet costs its broker and itself, a model of it, and where the model says that it ends.

One broker, fleets of 1 to 64 real nodes (follower, Kafka client and deny list each; up to four processes share them out
evenly), 1,000 to 1,000,000 revocations in force, and publications that come at random at several rates. Measured over
a few seconds each: what the broker sends to the nodes (as the kernel counts it), its processor time, the nodes'
processor time and memory, and the time from `revoke()` to the last node.

A model of few named terms (`benchmarks.fleet_model`) is fitted to all points but two: one of the largest fleet, and one
of a middle number of revocations in force. How well it tells those is ``model_error_left_out``, the worst of
all quantities. Then it is run to 10,000 nodes and 100 revocations a second. Processor time is in busy cores.

    python -m benchmarks.fleet --json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from benchmarks.fleet_model import LAWS, Point, answers_per_s, error, fit, predict
from benchmarks.fleet_nodes import settings_for
from benchmarks.peers import end_in_order
from benchmarks.population import ISS, LIFE_S, UNHURRIED, fill_topic, revocations
from benchmarks.report import percentile, result_line
from benchmarks.requests import processor_s
from revoker import topic
from revoker.cli.children import die_with_parent
from revoker.events import Token
from revoker.publisher import Publisher
from revoker.settings import Settings
from tests.brokers.apache import ApacheKafka
from tests.brokers.artifacts import KAFKA_VERSION

PATIENCE_S: Final = 120.0
PROCESSES: Final = 4
#: Publications before the first window, and between start and window, so that JIT and caches are warm.
WARM_UP: Final = 2000

Measured = dict[str, float]


def points(*, smoke: bool) -> tuple[list[Point], list[Point]]:
    """The fleets to measure, in order, and those left out of the fit."""

    def at(nodes: int, per_s: float, live: int) -> Point:
        return Point(nodes=nodes, per_s=per_s, live=live, processes=min(nodes, PROCESSES))

    if smoke:
        found = [at(1, 20, 100), at(1, 60, 100), at(2, 20, 100), at(2, 60, 100), at(1, 20, 1000)]
        return found, [found[0]]
    rates = {1: (10, 40, 100), 4: (10, 40, 100), 16: (1, 10, 40), 64: (1, 10, 20, 30)}
    found = [at(nodes, per_s, 1000) for nodes, some in rates.items() for per_s in some]
    found += [at(4, 20, 100_000), at(2, 20, 300_000), at(1, 20, 1_000_000)]
    return found, [at(64, 20, 1000), at(2, 20, 300_000)]


class Fleet:
    """The processes that hold the nodes."""

    def __init__(self, processes: list[asyncio.subprocess.Process], nodes: int) -> None:
        self.nodes = nodes
        self._processes = processes
        #: What they said when all their nodes were live.
        self.started: list[dict[str, Any]] = []

    async def answers(self) -> list[dict[str, Any]]:
        """The next line of each."""
        async with asyncio.timeout(PATIENCE_S):
            return [json.loads(await _line(process)) for process in self._processes]

    async def ask(self, command: str) -> list[dict[str, Any]]:
        """Say one thing to each, and hear the answers."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{command}\n".encode())
        return await self.answers()


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    if not (line := await process.stdout.readline()):
        raise RuntimeError("a process of nodes ended; its errors stand above")
    return line


@contextlib.asynccontextmanager
async def fleet(settings: Settings, nodes: int) -> AsyncIterator[Fleet]:
    """So many nodes, all live."""
    command = [sys.executable, "-m", "benchmarks.fleet_nodes", settings.kafka_bootstrap_servers, settings.topic]
    shares = [nodes // PROCESSES + (number < nodes % PROCESSES) for number in range(min(nodes, PROCESSES))]
    processes = [
        await asyncio.create_subprocess_exec(
            *die_with_parent([*command, str(share)]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        for share in shares
    ]
    try:
        found = Fleet(processes, nodes)
        found.started = await found.answers()
        yield found
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*(process.wait() for process in processes))


async def publish(publisher: Publisher, *, per_s: float, seconds: float, chance: random.Random) -> dict[str, float]:
    """Publish at random moments for so long. Returns when the call for each event began, by the event's id."""
    began: dict[str, float] = {}

    async def one() -> None:
        at = time.monotonic()
        name = f"{chance.getrandbits(128):032x}"
        receipt = await publisher.revoke(selector=Token(iss=ISS, jti=name), exp=time.time() + LIFE_S)
        began[receipt.revocation.id] = at

    due = time.monotonic()
    end = due + seconds
    async with asyncio.TaskGroup() as calls:
        while (due := due + chance.expovariate(per_s)) < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            calls.create_task(one())
        await asyncio.sleep(max(0.0, end - time.monotonic()))
    return began


async def window(
    children: Fleet, publisher: Publisher, point: Point, *, seconds: float, broker: int, chance: random.Random
) -> Measured:
    """One point: publish for so long and see what it took."""
    await publish(publisher, per_s=max(point.per_s, 20), seconds=0.5, chance=chance)
    await children.ask("begin")
    cpu_s, at = processor_s(broker), time.monotonic()
    began = await publish(publisher, per_s=point.per_s, seconds=seconds, chance=chance)
    cpu_s, at = processor_s(broker) - cpu_s, time.monotonic() - at
    told = await children.ask("end")
    delays = []
    for name, since in began.items():
        seen = [one["seen"].get(name, (0, 0.0)) for one in told]
        if sum(times for times, _ in seen) == children.nodes:  # else it was still on its way when the window closed
            delays.append(max(when for _, when in seen) - since)
    if len(delays) < 0.9 * len(began) - 1:
        raise RuntimeError(f"{point.name}: only {len(delays)} of {len(began)} revocations reached all nodes in time")
    return {
        "per_s": len(began) / at,
        "egress_bytes_per_s": sum(one["received"] / one["at"] for one in told),
        "broker_cpu": cpu_s / at,
        "nodes_cpu": sum(one["cpu_s"] / one["at"] for one in told),
        "nodes_bytes": sum(one["own_bytes"] for one in children.started),
        "p50_s": percentile(delays, 50),
        "p99_s": percentile(delays, 99),
    }


async def measure(options: argparse.Namespace) -> str:
    """Run it all; returns the result line."""
    chance = random.Random(1)
    wanted, left_out = points(smoke=options.smoke)
    measured: dict[Point, Measured] = {}
    async with ApacheKafka(properties=UNHURRIED) as kafka:
        process = kafka._node(1).process
        assert process is not None
        for live, same in groupby(wanted, key=lambda one: one.live):
            settings = settings_for(kafka.bootstrap, f"live-{live}")
            await topic.create(settings)
            await asyncio.to_thread(
                fill_topic, kafka.bootstrap, settings.topic, revocations(live, now_s=int(time.time()))
            )
            async with Publisher(settings) as publisher:
                if not measured and not options.smoke:
                    async with fleet(settings, 4):
                        await publish(publisher, per_s=500, seconds=WARM_UP / 500, chance=chance)
                for nodes, some in groupby(same, key=lambda one: one.nodes):
                    async with fleet(settings, nodes) as children:
                        for point in some:
                            found = await window(
                                children,
                                publisher,
                                point,
                                seconds=options.seconds,
                                broker=process.pid,
                                chance=chance,
                            )
                            # The model is fitted to what there really was; the point keeps its name.
                            really = {"live": children.started[0]["live"], "processes": point.processes}
                            measured[point] = found | really
    return result(measured, left_out)


def result(measured: Mapping[Point, Measured], left_out: Sequence[Point]) -> str:
    """The figures of all points, the model, its errors, and where it leads."""
    figures: dict[str, float] = {"points": len(measured)}
    ratios: dict[str, float] = {}
    model: dict[str, dict[str, float]] = {}
    for point, found in measured.items():
        figures |= {f"{point.name}_{name}": value for name, value in found.items()}
    real = {
        point: dataclasses.replace(point, per_s=found["per_s"], live=round(found["live"]))
        for point, found in measured.items()
    }
    for law in LAWS:
        fitted = [(real[point], found[law.quantity]) for point, found in measured.items() if point not in left_out]
        model[law.quantity] = coefficients = fit(law, fitted)
        figures |= {f"model_{law.quantity}_{name}": value for name, value in coefficients.items()}
        errors = [error(predict(law, coefficients, point), value) for point, value in fitted]
        ratios[f"model_error_fitted_{law.quantity}"] = max(errors)
        ratios[f"model_error_left_out_{law.quantity}"] = max(
            error(predict(law, coefficients, real[point]), measured[point][law.quantity]) for point in left_out
        )
    ratios["model_error_left_out"] = max(ratios[f"model_error_left_out_{law.quantity}"] for law in LAWS)
    figures |= far(model)
    return result_line("fleet", figures=figures, ratios=ratios, versions={"apache_kafka": KAFKA_VERSION})


def far(model: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The model at 10,000 nodes and 100 revocations a second, and what each remedy makes of it."""
    laws = {law.quantity: law for law in LAWS}

    def of(quantity: str, nodes: float, per_s: float) -> float:
        point = Point(nodes=round(nodes), per_s=per_s, live=0, processes=round(nodes))
        return predict(laws[quantity], model[quantity], point)

    def ends_at(per_s: float) -> float:
        """How many nodes keep one broker of 8 cores half busy."""
        none, one = (of("broker_cpu", count, per_s) for count in (0, 1))
        return (0.5 * 8 - none) / (one - none)

    nodes, per_s = 10_000, 100.0
    return {
        "far_answers_per_s": nodes * answers_per_s(per_s, wait_s=0.1),
        "far_egress_bytes_per_s": of("egress_bytes_per_s", nodes, per_s),
        "far_broker_cpu": of("broker_cpu", nodes, per_s),
        "far_node_cpu": of("nodes_cpu", nodes, per_s) / nodes,
        "ends_at_nodes_100_per_s": ends_at(100.0),
        "ends_at_nodes_1_per_s": ends_at(1.0),
        # One consumer a host of 32 workers; three partitions led by three brokers; both; and three mirrored clusters.
        "far_one_consumer_a_host_broker_cpu": of("broker_cpu", nodes / 32, per_s),
        "far_three_brokers_each_cpu": of("broker_cpu", nodes, per_s / 3),
        "far_both_each_cpu": of("broker_cpu", nodes / 32, per_s / 3),
        "far_three_clusters_each_cpu": of("broker_cpu", nodes / 3, per_s),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="that each point is measured")
    parser.add_argument("--smoke", action="store_true", help="few and tiny fleets: figures without meaning")
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    options = parser.parse_args(arguments)
    end_in_order()
    line = asyncio.run(measure(options))
    if not options.json:
        found = json.loads(line)
        for name, value in (found["figures"] | found["ratios"]).items():
            print(f"{name:48} {value:14.5g}")
    print(line)


if __name__ == "__main__":
    main()

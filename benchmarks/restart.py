"""How soon a node is ready again: from the mapped table, from a snapshot, or by replaying the topic.

A topic on Apache Kafka with so many live revocations. Every node is a process; each round goes through four starts:

- ``replay``: nothing is there but the topic;
- ``warm``: every process of the host was killed (SIGKILL), the table is still mapped memory, and revocations were
  published meanwhile, which the node has to read before it is ready;
- ``beside``: one more worker, while another one writes the table;
- ``snapshot``: as after a reboot, the table is gone and the last snapshot is on disk.

The clock runs from ``Node.start`` to LIVE inside the process; ``…_process_ready_s`` adds the start of Python and the
imports. A node only counts as ready if it then refuses the first, the last and the newest revocation, and admits
another token.

    python -m benchmarks.restart --json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import end_in_order
from benchmarks.population import fill_topic, identifiers, revocations, tokens, work_directory
from benchmarks.report import result_line
from consumers.guard import Status
from consumers.node import Node
from revoker import topic
from revoker.cli.children import die_with_parent
from revoker.settings import Settings
from tests.brokers.apache import ApacheKafka
from tests.brokers.artifacts import KAFKA_VERSION

SECRET: Final = "benchmark-secret-of-32-bytes-or-more"
PATIENCE_S: Final = 120.0
_TAIL_SEED: Final = 1000


def settings_for(bootstrap: str, **more: Any) -> Settings:
    """What parent and children share."""
    return Settings(
        kafka_bootstrap_servers=bootstrap,
        topic_replication_factor=1,
        topic_min_insync_replicas=1,
        algorithms=("HS256",),
        key_secret=SECRET,
        **more,
    )


async def run_child(options: argparse.Namespace) -> None:
    """A node: print how long it took to be ready, having tried what it must refuse, and stay until stdin ends."""
    shared: dict[str, Any] = {"denylist": "shared", "shared_dir": str(options.directory)}
    if options.snapshot_interval_s:
        shared |= {"snapshot_dir": str(options.snapshots), "snapshot_interval_s": options.snapshot_interval_s}
    node = Node(settings_for(options.child, **shared))
    began = time.monotonic()
    async with node:
        await node.wait_ready(timeout_s=PATIENCE_S)
        ready_at = time.monotonic()
        examine(node, options.refused)
        said = {
            "ready_s": ready_at - began,
            "process_ready_s": ready_at - options.spawned_at,
            "records": node.freshness.progress.records,
        }
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)


def examine(node: Node, refused: list[str]) -> None:
    """Raise unless these are refused, and another is admitted."""
    now_s = int(time.time())
    for verified in tokens(len(refused), now_s=now_s, revoked_by=iter(refused)):
        if (found := node.guard.check_verified(verified).status) is not Status.REVOKED:
            raise RuntimeError(f"a revoked token is {found}")
    if (found := node.guard.check_verified(tokens(1, now_s=now_s)[0]).status) is not Status.ACTIVE:
        raise RuntimeError(f"a token that nobody revoked is {found}")


class Host:
    """The processes and files of one host."""

    def __init__(self, bootstrap: str, folder: Path, disk: Path, options: argparse.Namespace) -> None:
        self.bootstrap = bootstrap
        self.memory = folder / "table"
        self.snapshots = disk
        self.refused = [*islice(identifiers(options.entries, seed=1), 1), _last(options.entries, seed=1)]
        self.snapshotted = options.snapshot_interval_s > 0
        self._options = options
        self._tails = 0

    def publish_tail(self) -> None:
        """Revocations that no node of this host has read; the last of them is tried as well."""
        count, seed = self._options.tail, _TAIL_SEED + self._tails
        self._tails += 1
        fill_topic(self.bootstrap, Settings().topic, revocations(count, now_s=int(time.time()), seed=seed))
        self.refused = [*self.refused[:2], _last(count, seed=seed)]

    def forget_table(self) -> None:
        """As a reboot does."""
        shutil.rmtree(self.memory, ignore_errors=True)

    def forget_snapshots(self) -> None:
        """So that nothing is there but the topic."""
        shutil.rmtree(self.snapshots)
        self.snapshots.mkdir(mode=0o700)

    @contextmanager
    def node(self) -> Iterator[dict[str, float]]:
        """A node, ready; yields what it said. Killed at the end."""
        command = [*(sys.executable, "-m", "benchmarks.restart", "--child", self.bootstrap)]
        command += ["--directory", str(self.memory), "--snapshots", str(self.snapshots)]
        command += ["--snapshot-interval-s", str(self._options.snapshot_interval_s)]
        command += ["--spawned-at", str(time.monotonic()), "--refused", *self.refused]
        process = subprocess.Popen(
            die_with_parent(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        try:
            assert process.stdout is not None
            if not (line := process.stdout.readline()):
                raise RuntimeError("a node ended before it was ready")
            yield json.loads(line)
        finally:
            process.kill()
            process.communicate()

    def wait_for_snapshot(self, *, newer_than: float) -> None:
        """Until one was written after ``newer_than`` (Unix seconds)."""
        deadline = time.monotonic() + PATIENCE_S
        while not any(file.stat().st_mtime > newer_than for file in self.snapshots.rglob("*") if file.is_file()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no snapshot was written within {PATIENCE_S:g} s")
            time.sleep(0.05)


def _last(count: int, *, seed: int) -> str:
    return next(islice(identifiers(count, seed=seed), count - 1, None))


def measure(options: argparse.Namespace) -> str:
    """Run it all; returns the result line."""
    took: dict[str, list[dict[str, float]]] = {"replay": [], "warm": [], "beside": [], "snapshot": []}
    with ExitStack() as opened:
        kafka = opened.enter_context(ApacheKafka())
        folder = opened.enter_context(work_directory(in_memory=True))
        disk = opened.enter_context(work_directory()) / "snapshots"
        disk.mkdir(mode=0o700)
        asyncio.run(_created(settings_for(kafka.bootstrap)))
        began = time.monotonic()
        fill_topic(kafka.bootstrap, Settings().topic, revocations(options.entries, now_s=int(time.time())))
        filled_s = time.monotonic() - began
        host = Host(kafka.bootstrap, folder, disk, options)
        for _ in range(options.rounds):
            one_round(host, took)
    figures: dict[str, float] = {"fill_s": filled_s, "entries": options.entries, "tail": options.tail}
    for name, said in took.items():
        if not said:
            continue
        for what in ("ready_s", "process_ready_s", "records"):
            figures[f"{name}_{what}"] = statistics.median(one[what] for one in said)
    figures["rounds"] = options.rounds
    figures["replay_records_per_s"] = figures["replay_records"] / figures["replay_ready_s"]
    replay_s = figures["replay_ready_s"]
    ratios = {f"{name}_over_replay": figures[f"{name}_ready_s"] / replay_s for name in took if took[name]}
    ratios.pop("replay_over_replay")
    return result_line("restart", figures=figures, ratios=ratios, versions={"apache_kafka": KAFKA_VERSION})


async def _created(settings: Settings) -> None:
    await topic.create(settings)


def one_round(host: Host, took: dict[str, list[dict[str, float]]]) -> None:
    """The four starts, one after the other."""
    host.forget_table()
    host.forget_snapshots()
    began = time.time()
    with host.node() as said:
        took["replay"].append(said)
        if host.snapshotted:
            host.wait_for_snapshot(newer_than=began)
    host.publish_tail()
    with host.node() as said:
        took["warm"].append(said)
        with host.node() as another:
            took["beside"].append(another)
    if host.snapshotted:
        host.publish_tail()
        host.forget_table()
        with host.node() as said:
            took["snapshot"].append(said)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="live revocations in the topic")
    parser.add_argument("--tail", type=int, default=1000, help="revocations published while the host is down")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    parser.add_argument("--child", metavar="BOOTSTRAP", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--snapshots", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--snapshot-interval-s", type=float, default=1.0, help="0 = no snapshots")
    parser.add_argument("--spawned-at", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--refused", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run_child(options))
        return
    end_in_order()
    line = measure(options)
    if not options.json:
        result = json.loads(line)
        for name, value in (result["figures"] | result["ratios"]).items():
            print(f"{name:32} {value:12.4f}")
    print(line)


if __name__ == "__main__":
    main()

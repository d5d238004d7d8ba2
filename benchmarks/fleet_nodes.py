"""Many nodes in one process, for `benchmarks.fleet`: each has its own follower, Kafka client and deny list.

Commands come by standard input, a line each, and every one is answered by a line of JSON: ``begin`` and ``end`` of a
window that is measured; the end of the input ends the process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from consumers.denylist.memory import MemoryDenyList
from consumers.follower import Follower
from consumers.freshness import Freshness, State
from consumers.intake import Intake, RawRecord
from revoker.events import Revocation
from revoker.settings import Settings

__all__ = ["run", "settings_for"]

PATIENCE_S: Final = 120.0
#: tcpi_bytes_received in struct tcp_info (linux/tcp.h).
_BYTES_RECEIVED_AT: Final = 128


def settings_for(bootstrap: str, name: str) -> Settings:
    """What parent and children share."""
    return Settings(
        kafka_bootstrap_servers=bootstrap,
        topic=name,
        topic_replication_factor=1,
        topic_min_insync_replicas=1,
        algorithms=("HS256",),
    )


class Nodes:
    """The nodes of this process, and what they saw in the window being measured."""

    def __init__(self) -> None:
        self.denylists: list[MemoryDenyList] = []
        self.seen: dict[str, tuple[int, float]] = {}

    async def start(self, settings: Settings, count: int, opened: AsyncExitStack) -> None:
        """Start them all and wait until each is live."""
        followers = []
        for _ in range(count):
            denylist = MemoryDenyList(max_entries=settings.max_entries)
            intake = Intake(denylist, retention_ms=settings.lifetimes.retention_ms)
            follower = Follower(settings, intake=intake, freshness=Freshness.from_settings(settings))
            follower.start()
            opened.push_async_callback(follower.close)
            self.denylists.append(denylist)
            followers.append(follower)
        for follower in followers:
            await follower.wait_for(State.LIVE, timeout_s=PATIENCE_S)
            follower.intake.on_applied = self._applied

    def _applied(self, revocation: Revocation, _record: RawRecord) -> None:
        times, _ = self.seen.get(revocation.id, (0, 0.0))
        self.seen[revocation.id] = (times + 1, time.monotonic())


async def run(settings: Settings, count: int) -> None:
    """Start, tell what it took, and answer commands until the input ends."""
    gc.collect()
    bare_bytes = memory_bytes()
    nodes = Nodes()
    async with AsyncExitStack() as opened:
        await nodes.start(settings, count, opened)
        gc.collect()
        live = [sum(one.counts().values()) for one in nodes.denylists]
        say({"live": min(live), "own_bytes": memory_bytes() - bare_bytes})
        began = {"at": 0.0, "cpu_s": 0.0, "received": 0.0}
        while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
            now = {"at": time.monotonic(), "cpu_s": time.process_time(), "received": received_bytes()}
            if command == "begin":
                began = now
                nodes.seen.clear()
                say({})
            else:
                say({name: now[name] - began[name] for name in now} | {"seen": nodes.seen})


def say(what: dict[str, Any]) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def memory_bytes() -> int:
    """Proportional set size of this process (proc_pid_smaps(5))."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/smaps_rollup has no line Pss")


def received_bytes() -> int:
    """What all TCP connections of this process have received, as the kernel counts it: what brokers sent to it."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            descriptor = os.dup(int(entry.name))
        except OSError:
            continue  # the directory's own, closed by now
        try:
            with socket.socket(fileno=descriptor) as connection:
                if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", info, _BYTES_RECEIVED_AT)[0]
        except OSError:
            os.close(descriptor)  # no socket
    return total


if __name__ == "__main__":
    asyncio.run(run(settings_for(sys.argv[1], sys.argv[2]), int(sys.argv[3])))

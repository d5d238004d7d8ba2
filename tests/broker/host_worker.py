"""One worker of a host, as a process: a node on the shared deny list, asked by lines of JSON.

``python -m tests.broker.host_worker SETTINGS``. Each line on standard input is a list of session names; each answer
says where the worker stands, and which of them it refuses.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

from consumers.freshness import State
from consumers.node import Node
from revoker.settings import Settings

__all__ = ["HostWorker"]

_SAMPLE_S = 0.005


class HostWorker:
    """Such a process, from outside."""

    def __init__(self, settings: Settings) -> None:
        changed = {
            name: value for name in settings.__dataclass_fields__ if (value := getattr(settings, name)) is not None
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.broker.host_worker", json.dumps(changed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, *sessions: str) -> dict[str, Any]:
        """Where it stands now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(sessions).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def send(self, signal: int) -> None:
        """Send it a signal."""
        self._process.send_signal(signal)

    def kill(self) -> None:
        """Kill -9, and wait for its end."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


async def _work(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    began = time.monotonic()
    seen: dict[str, Any] = {"ready_s": None, "dips": 0, "dip": ""}
    async with Node(settings) as node:

        async def sample() -> None:
            while True:
                live = node.proof.state is State.LIVE
                if live and seen["ready_s"] is None:
                    seen["ready_s"] = time.monotonic() - began
                elif not live and seen["ready_s"] is not None:
                    seen["dips"] += 1
                    seen["dip"] = node.proof.why()
                await asyncio.sleep(_SAMPLE_S)

        sampling = asyncio.create_task(sample())
        assert node.host is not None
        while line := await lines.readline():
            answer = {
                "pid": os.getpid(),
                "role": node.host.role,
                "state": node.proof.state.name,
                "why": node.proof.why(),
                "sessions": node.follower.sessions_total,
                "records": node.freshness.progress.records,
                "entries": sum(node.denylist.counts().values()),
                "refuses": [name for name in json.loads(line) if node.denylist.listed(("session", "", name))],
                "checks": [f"{check.name}: {check.detail}" for check in node.checks()],
                **seen,
            }
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
        sampling.cancel()


if __name__ == "__main__":
    asyncio.run(_work(Settings(**json.loads(sys.argv[1]))))

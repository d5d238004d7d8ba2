"""One process of the harness's own: started, killed, stopped in its tracks, and seen to be so."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from revoker.cli.children import die_with_parent
from revoker.settings import environment_without_settings

__all__ = ["Member", "process_state"]

_END_S: Final = 15.0
_POLL_S: Final = 0.02


def process_state(pid: int) -> str:
    """The letter in ``/proc/PID/stat``: T for stopped, Z for dead and not yet waited for; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2][:1]
    except OSError:
        return ""


class Member:
    """A process that is started again and again under one name and on one port. Start it in a lasting thread."""

    def __init__(self, name: str, *, port: int, log: Path) -> None:
        self.name = name
        self.port = port
        self.log = log
        self.incarnation: int = 0
        #: What is being done to it: an end that nobody meant is a crash.
        self.meant_to_end: bool = True
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return -1 if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self, arguments: Sequence[str], *, environment: Mapping[str, str]) -> None:
        """Run ``python -m ARGUMENTS``."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                die_with_parent([sys.executable, "-m", *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment_without_settings() | dict(environment),
                process_group=0,
            )
        self.meant_to_end = False

    async def kill(self) -> int:
        """SIGKILL; the exit code once it is gone."""
        return await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM, and SIGKILL to one that does not end in time; the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        process = self._process
        assert process is not None
        self.meant_to_end = True
        if process.poll() is None:
            process.send_signal(number)
        deadline = time.monotonic() + _END_S
        while (code := process.poll()) is None:
            if time.monotonic() > deadline:
                process.kill()
            await asyncio.sleep(_POLL_S)
        return code

    async def pause(self) -> bool:
        """SIGSTOP; whether it is seen to have stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        return await self._reaches("T")

    async def resume(self) -> bool:
        """SIGCONT; whether it is seen to run."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)
        return await self._reaches("RSD")

    async def _reaches(self, states: str) -> bool:
        deadline = time.monotonic() + 2.0
        while process_state(self.pid) not in tuple(states):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def kill_now(self) -> None:
        """SIGKILL and wait, at the end of everything."""
        if self._process is not None:
            self.meant_to_end = True
            self._process.kill()
            self._process.wait()

    def logged(self) -> str:
        """The end of what it wrote."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return text[-3_000:].strip() or "(it logged nothing)"

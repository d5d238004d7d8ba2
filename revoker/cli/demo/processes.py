"""The service and the nodes as processes: started, found by the line they print, and ended in every case."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from revoker.cli.children import die_with_parent
from revoker.settings import environment_without_settings

__all__ = ["DemoProcess", "DemoProcessError", "start"]

_START_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 5.0


class DemoProcessError(Exception):
    """A process did not start, or ended; the message holds the end of what it logged."""


@dataclass(slots=True)
class DemoProcess:
    """One ``revoker`` process. ``url``: where it listens."""

    name: str
    url: str
    _process: asyncio.subprocess.Process
    _log: IO[bytes]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    def logged(self) -> str:
        """The end of what it wrote to standard error."""
        return _tail(self._log)

    async def stop(self) -> None:
        """End it, by force if asking does not help."""
        await _end(self._process)
        self._log.close()


async def start(name: str, command: str, settings: Mapping[str, str]) -> DemoProcess:
    """Run ``python -m revoker COMMAND`` with these settings and no others, until it says where it listens.

    ``settings``: values by setting name. Raises DemoProcessError.
    """
    log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process; nameless, so nothing can be left
    options = [f"--{setting.replace('_', '-')}={value}" for setting, value in settings.items()]
    process = await asyncio.create_subprocess_exec(
        *die_with_parent([sys.executable, "-m", "revoker", command, "--json", "--listen=127.0.0.1:0", *options]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        env=environment_without_settings(),
        process_group=0,  # Ctrl-C is for the demo to handle, which then ends its processes in order
    )
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            line = await process.stdout.readline() if process.stdout is not None else b""
        said: dict[str, Any] = json.loads(line) if line else {}
        if "url" not in said:
            await process.wait()
            raise DemoProcessError(f"{name} ended, exit code {process.returncode}:\n{_tail(log)}")
        return DemoProcess(name, said["url"], process, log)
    except TimeoutError:
        await _end(process)
        raise DemoProcessError(f"{name} did not listen within {_START_TIMEOUT_S:g} s:\n{_tail(log)}") from None
    except BaseException:
        await _end(process)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")[-2000:].strip() or "(it logged nothing)"

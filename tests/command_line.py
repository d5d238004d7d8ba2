"""Runs the command line for tests: in this process, or as a process of its own where signals and streams matter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from revoker.cli import main
from revoker.cli.children import die_with_parent
from revoker.settings import ENVIRONMENT_PREFIX, environment_without_settings
from tests.leaks import look

__all__ = ["Ran", "RunningCommand", "revoker", "running"]

PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document it must be."""
        return json.loads(self.out)


def revoker(
    *arguments: str, environ: Mapping[str, str] | None = None, stdin: str | None = None, colour: bool = False
) -> Ran:
    """Run one command to its end. An exception that is no exit is the test's failure."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    unset: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith((ENVIRONMENT_PREFIX, "NO_COLOR"))
    }
    try:
        result = CliRunner(env=unset | dict(environ or {})).invoke(main, arguments, input=stdin, color=colour)
    finally:
        # The command sends this process's log lines to a stream that has gone with it.
        logger.handlers[:] = handlers
        logger.setLevel(level)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    look(result.stderr, where="standard error of a command")
    return Ran(code=result.exit_code, out=result.stdout, err=result.stderr)


@dataclass(slots=True)
class RunningCommand:
    """A command that runs on. Standard error is for the person who reads a failing test."""

    process: asyncio.subprocess.Process

    async def line(self) -> Any:
        """The next line of standard output, as JSON."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            text = await self.process.stdout.readline()
        assert text, f"the command has ended, exit code {await self.process.wait()}"
        return json.loads(text)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """The exit code, once there is one."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def running(*arguments: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[RunningCommand]:
    """Start a command as a process, with these settings and no others; it does not outlive the block."""
    process = await asyncio.create_subprocess_exec(
        *die_with_parent([sys.executable, "-m", "revoker", *arguments]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environment_without_settings() | dict(environ or {}),
    )
    try:
        yield RunningCommand(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # Read to its end, or the pipe's transport outlives the loop and complains.
        await process.communicate()

"""The programs measured beside us that pip does not bring: Debian's redis-server and wrk.

On Debian and Ubuntu they are installed by package name when they are missing and this user may do so.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from revoker.cli.children import die_with_parent, free_ports
from tests.brokers.artifacts import ArtifactsError, install_packages
from tests.brokers.workdir import WorkDirectory

__all__ = ["Load", "PeerMissing", "RedisServer", "Wrk", "end_in_order", "package_version", "program"]

PATIENCE_S: Final = 30.0
_FILL_CHUNK: Final = 5_000

#: Every request carries the next token of the file. The requests are composed once, so that wrk costs the machine
#: little; its summary goes to standard output as one JSON line.
_LUA: Final = """
local requests, at = {}, 0
function init(args)
  for token in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("GET", nil, {["Authorization"] = "Bearer " .. token})
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "refused": %d, "failed": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"""


class PeerMissing(RuntimeError):
    """What is measured beside us cannot be had on this machine; the message says why, and how to get it."""


def end_in_order() -> None:
    """Have SIGTERM end this process as Ctrl-C does, so that whatever was started and written is cleaned up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def program(name: str, *, package: str) -> str:
    """The path of a program, its Debian package installed first if need be. Raises PeerMissing."""
    if shutil.which(name) is None:
        try:
            install_packages(package, missing=name, elsewhere=f"The benchmark cannot run without {name}.")
        except ArtifactsError as error:
            raise PeerMissing(str(error)) from error
    found = shutil.which(name)
    if found is None:
        raise PeerMissing(f"the package {package} was installed, but {name} is not on the PATH")
    return found


def package_version(name: str) -> str:
    """What a program calls its version: the first number with a dot that it answers to ``--version``."""
    done = subprocess.run([name, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
    return "unknown" if found is None else found[0]


class RedisServer:
    """A redis-server of our own on a free loopback port, without persistence, as long as the ``with`` lasts.

    Raises PeerMissing on entering if it cannot be had or does not start.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.port: int = 0
        self._monotonic = monotonic
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: WorkDirectory | None = None

    @property
    def version(self) -> str:
        return package_version("redis-server")

    def __enter__(self) -> Self:
        binary = program("redis-server", package="redis-server")
        self._folder = WorkDirectory(prefix="revoker-redis-")
        self.port = free_ports(1)[0]
        command = [binary, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        log = self._folder.path / "log"
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    die_with_parent([*command, "--dir", str(self._folder.path)]),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # Ctrl-C ends the benchmark, which ends Redis once it speaks to it no more
                )
            self._wait_until_it_answers(log)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def fill(self, keys: Iterable[str], *, ttl_s: int) -> None:
        """``SET key "" EX ttl_s`` for each, as fast as the socket takes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            answers = connection.makefile("rb")
            chunk: list[str] = []
            for key in keys:
                chunk.append(f"SET {key} '' EX {ttl_s}\r\n")
                if len(chunk) == _FILL_CHUNK:
                    _send(connection, answers, chunk)
            _send(connection, answers, chunk)

    def info(self, section: str) -> dict[str, str]:
        """What ``INFO section`` tells."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            connection.sendall(f"INFO {section}\r\n".encode())
            answers = connection.makefile("rb")
            text = answers.read(int(answers.readline()[1:])).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    @property
    def pid(self) -> int:
        assert self._process is not None, "inside the `with` only"
        return self._process.pid

    def _wait_until_it_answers(self, log: Path) -> None:
        assert self._process is not None
        deadline = self._monotonic() + PATIENCE_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                pass  # not listening yet: the deadline and the end of the process decide
            if self._process.poll() is not None or self._monotonic() > deadline:
                said = log.read_text(errors="replace")[-2000:]
                raise PeerMissing(f"redis-server did not start on 127.0.0.1:{self.port}:\n{said}")
            time.sleep(0.01)

    def _close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None


def _send(connection: socket.socket, answers: Any, chunk: list[str]) -> None:
    connection.sendall("".join(chunk).encode())
    for _ in chunk:
        if (answer := answers.readline()) != b"+OK\r\n":
            raise PeerMissing(f"redis-server answered a SET with {answer!r}")
    chunk.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What wrk saw: answers, how many a second, and how long half and all but one in a hundred of them took."""

    requests: int
    per_s: float
    p50_ms: float
    p99_ms: float


class Wrk:
    """Runs wrk with bearer tokens from a file, one a request, in turn.

    Raises PeerMissing if it cannot be had, and RuntimeError if any answer was not a 2xx or 3xx: a rate of refusals is
    no rate.
    """

    def __init__(self, *, connections: int, folder: Path) -> None:
        self._binary = program("wrk", package="wrk")
        self._connections = connections
        self._script = folder / "tokens.lua"
        self._script.write_text(_LUA)

    def run(self, url: str, *, tokens: Path, seconds: int) -> Load:
        """One run of so many whole seconds (wrk takes no fractions)."""
        command = [self._binary, "-t1", f"-c{self._connections}", f"-d{seconds}s", "-s", str(self._script), url]
        done = subprocess.run(
            die_with_parent([*command, "--", str(tokens)]),
            capture_output=True,
            text=True,
            timeout=seconds + PATIENCE_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"wrk failed on {url}: {done.stdout[-500:]}{done.stderr[-500:]}")
        said = json.loads(done.stdout.splitlines()[-1])
        if said["refused"] or said["failed"] or not said["requests"]:
            raise RuntimeError(f"wrk on {url}: {said}")
        return Load(
            requests=said["requests"],
            per_s=said["requests"] / said["duration_us"] * 1e6,
            p50_ms=said["p50_us"] / 1000,
            p99_ms=said["p99_us"] / 1000,
        )

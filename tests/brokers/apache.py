"""Apache Kafka (KRaft) as child processes of a test run or a benchmark, without containers.

``python -m tests.brokers.apache [--nodes N]`` keeps a cluster up until Ctrl-C and prints its address.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from revoker.cli.children import die_with_parent, free_ports
from revoker.cli.embedded import known_brokers
from tests.brokers.artifacts import KAFKA_VERSION, ArtifactsError, find_java, kafka_jars
from tests.brokers.workdir import WorkDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

__all__ = ["ApacheKafka", "ApacheKafkaError"]

# Any base64url UUID will do as long as all nodes have the same.
_CLUSTER_ID = "cmV2b2tlci10ZXN0cy0wMQ"
_PROBE_PAUSE_S = 0.02
_FORMAT_TIMEOUT_S = 60.0
_TERM_TIMEOUT_S = 20.0

_JAVA_FLAGS = ("-Xmx256m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

_LOG4J = """\
rootLogger.level=WARN
rootLogger.appenderRef.c.ref=C
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=%d %p %m (%c)%n
"""

# Retention acts within a second, and a killed node is back in 1.7 s instead of 10.6: it can register again only when
# its old registration has expired.
_QUICK: Mapping[str, str] = {
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "log.retention.check.interval.ms": "1000",
    "log.segment.delete.delay.ms": "1000",
    "log.initial.task.delay.ms": "1000",
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "300",
}


class ApacheKafkaError(RuntimeError):
    """A node did not start, or was asked for what its state does not allow. The message holds the end of its log."""


@dataclass(slots=True)
class _Node:
    number: int
    port: int
    controller_port: int
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    paused: bool = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def properties(self) -> Path:
        return self.directory / "server.properties"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class ApacheKafka:
    """A cluster of combined broker and controller nodes, numbered from 1, on loopback.

    Both ``with`` and ``async with``. Inside, nodes can be killed, stopped, started, paused and resumed; their records
    are on disk and survive. On the way out, by whatever exception, every process is killed and the work directory
    removed; when the test run itself is killed, the kernel kills the nodes and the next run removes the directory.

    Enter it, and start nodes, in a thread that lives as long as the cluster (Linux kills the children of an ended
    thread): the main thread or that of an event loop, never a worker of ``asyncio.to_thread``.

    Args:
        nodes: how many. Three take 3 s to start on two cores, one takes 1.5.
        properties: server properties, added to those for quick tests or replacing them.
        start_timeout_s: how long starting may take until every node answers and knows all others.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        properties: Mapping[str, str] | None = None,
        start_timeout_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if nodes < 1:
            message = f"nodes={nodes}: a cluster has at least one"
            raise ValueError(message)
        self._count = nodes
        self._extra = dict(properties or {})
        self._start_timeout_s = start_timeout_s
        self._clock = clock
        self._nodes: dict[int, _Node] = {}
        self._work: WorkDirectory | None = None
        self._java = ""
        self._libs = Path()

    @property
    def bootstrap(self) -> str:
        """``127.0.0.1:PORT``, several joined by commas, for ``bootstrap_servers``. Kept across restarts."""
        if not self._nodes:
            message = "the cluster has no address before it is started"
            raise ApacheKafkaError(message)
        return ",".join(node.address for node in self._nodes.values())

    def address(self, node: int) -> str:
        """``127.0.0.1:PORT`` of one node."""
        return self._node(node).address

    def log(self, node: int) -> str:
        """What one node has logged (warnings and worse) since the cluster was made."""
        return self._node(node).log.read_text(encoding="utf-8", errors="replace")

    def running(self, node: int) -> bool:
        """Whether the process of one node exists now; a paused one does."""
        return self._node(node).running

    def kill(self, node: int) -> None:
        """SIGKILL: the node is gone at once, and with it what it had not written. Works on a paused node, too."""
        process = self._process(node)
        process.kill()
        process.wait()

    def stop(self, node: int) -> None:
        """SIGTERM, and wait until the node has ended in order: under a second, some 5 s for the last of several.

        Raises:
            ApacheKafkaError: it did not end in time and was killed.
        """
        if self._node(node).paused:
            message = f"node {node} is paused: resume it before it can stop in order, or kill it"
            raise ApacheKafkaError(message)
        process = self._process(node)
        process.terminate()
        try:
            process.wait(_TERM_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            message = f"node {node} did not end within {_TERM_TIMEOUT_S:g} s of SIGTERM:\n{self._log_end(node)}"
            raise ApacheKafkaError(message) from error

    def start(self, node: int, *, wait: bool = True) -> None:
        """Start a node that was killed or stopped, on its old port and with its old records.

        Args:
            node: its number.
            wait: return when it serves and knows the other running nodes. False returns at once; ``wait_ready`` waits.
        """
        if self._node(node).running:
            message = f"node {node} runs already"
            raise ApacheKafkaError(message)
        self._spawn(self._node(node))
        if wait:
            self.wait_ready(node)

    def pause(self, node: int) -> None:
        """SIGSTOP: connections stay open and nothing is answered, as on a machine that hangs."""
        self._process(node).send_signal(signal.SIGSTOP)
        self._node(node).paused = True

    def resume(self, node: int) -> None:
        """SIGCONT: undo ``pause``."""
        self._process(node).send_signal(signal.SIGCONT)
        self._node(node).paused = False

    def wait_ready(self, *nodes: int) -> None:
        """Wait until these nodes (by default all) serve and each knows as many brokers as run. May run in any thread.

        Raises:
            ApacheKafkaError: one ended, or the time is up; with the end of its log.
        """
        waiting = list(nodes or self._nodes)
        deadline = self._clock() + self._start_timeout_s
        while waiting:
            number = waiting[0]
            alive = sum(node.running and not node.paused for node in self._nodes.values())
            if known_brokers(self.address(number), timeout_s=1.0) >= alive > 0:
                waiting.pop(0)
                continue
            process = self._node(number).process
            if process is None or process.poll() is not None:
                code = None if process is None else process.returncode
                message = f"node {number} ended with code {code} instead of starting:\n{self._log_end(number)}"
                raise ApacheKafkaError(message)
            if self._clock() >= deadline:
                message = f"node {number} was not ready within {self._start_timeout_s:g} s:\n{self._log_end(number)}"
                raise ApacheKafkaError(message)
            time.sleep(_PROBE_PAUSE_S)

    async def start_async(self, node: int) -> None:
        """``start`` from a coroutine: the loop turns while the node comes up."""
        self.start(node, wait=False)
        await asyncio.to_thread(self.wait_ready, node)

    async def stop_async(self, node: int) -> None:
        """``stop`` from a coroutine: the loop turns while the node ends."""
        await asyncio.to_thread(self.stop, node)

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self._spawn_all()
            self.wait_ready()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._prepare)
            self._spawn_all()
            await asyncio.to_thread(self.wait_ready)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _prepare(self) -> None:
        """Everything before the first process that lives: jars, directories, properties, formatted storage."""
        self._java = find_java()
        self._libs = kafka_jars(java=self._java)
        atexit.register(self._close)
        self._work = WorkDirectory()
        work = self._work.path
        (work / "log4j2.properties").write_text(_LOG4J, encoding="utf-8")
        ports = free_ports(2 * self._count)
        for number in range(1, self._count + 1):
            port, controller_port = ports[2 * number - 2 : 2 * number]
            self._nodes[number] = _Node(number, port, controller_port, work / f"node{number}")
        formats: list[tuple[_Node, subprocess.Popen[bytes]]] = []
        try:
            for node in self._nodes.values():
                node.directory.mkdir()
                node.properties.write_text(self._server_properties(node), encoding="utf-8")
                tool = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(node.properties)]
                formats.append((node, self._run_java(node, tool)))
            for node, process in formats:
                if process.wait(_FORMAT_TIMEOUT_S) != 0:
                    message = f"formatting node {node.number}'s storage failed:\n{self._log_end(node.number)}"
                    raise ApacheKafkaError(message)
        finally:
            for _, process in formats:
                process.kill()
                process.wait()

    def _server_properties(self, node: _Node) -> str:
        voters = ",".join(f"{other.number}@127.0.0.1:{other.controller_port}" for other in self._nodes.values())
        lines = {
            "process.roles": "broker,controller",
            "node.id": str(node.number),
            "listeners": f"PLAINTEXT://{node.address},CONTROLLER://127.0.0.1:{node.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{node.address}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.voters": voters,
            "log.dirs": str(node.directory / "data"),
            **_QUICK,
            **self._extra,
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def _run_java(self, node: _Node, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [
            self._java,
            *_JAVA_FLAGS,
            f"-Dlog4j2.configurationFile={node.directory.parent / 'log4j2.properties'}",
        ]
        command += ["-cp", f"{self._libs}/*", *arguments]
        with node.log.open("ab") as log:
            return subprocess.Popen(
                die_with_parent(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=node.directory,
                # A group of its own, or Ctrl-C would end the nodes before the tests that are still speaking to them.
                process_group=0,
            )

    def _spawn(self, node: _Node) -> None:
        node.process = self._run_java(node, ["kafka.Kafka", str(node.properties)])
        node.paused = False

    def _spawn_all(self) -> None:
        for node in self._nodes.values():
            self._spawn(node)

    def _node(self, number: int) -> _Node:
        try:
            return self._nodes[number]
        except KeyError:
            message = f"there is no node {number}: the cluster has {sorted(self._nodes) or 'none, it is not started'}"
            raise ApacheKafkaError(message) from None

    def _process(self, number: int) -> subprocess.Popen[bytes]:
        node = self._node(number)
        if node.process is None or not node.running:
            message = f"node {number} does not run"
            raise ApacheKafkaError(message)
        return node.process

    def _log_end(self, number: int) -> str:
        log = self._node(number).log
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return text[-4_000:].strip() or "(nothing logged)"

    def _close(self) -> None:
        """Kill everything and remove the work directory. Never raises for what is already gone."""
        atexit.unregister(self._close)
        for node in self._nodes.values():
            if node.process is not None:
                node.process.kill()
        for node in self._nodes.values():
            if node.process is not None:
                node.process.wait()
        self._nodes.clear()
        if self._work is not None:
            self._work.remove()
            self._work = None


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.brokers.apache", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes (default: 1)")
    parser.add_argument("--property", action="append", default=[], metavar="NAME=VALUE", help="a server property")
    parser.add_argument("--fetch", action="store_true", help="only make sure that Java and the jars are there")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if options.fetch:
            print(f"Apache Kafka {KAFKA_VERSION}: {kafka_jars(java=find_java())}")
            return 0
        properties = dict(text.split("=", 1) for text in options.property)
        with ApacheKafka(nodes=options.nodes, properties=properties) as cluster:
            print(cluster.bootstrap, flush=True)
            signal.pause()
    except (ApacheKafkaError, ArtifactsError) as error:
        print(f"brokers: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(_main())

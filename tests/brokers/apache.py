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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from revoker.cli.children import die_with_parent
from revoker.cli.embedded import known_brokers
from tests.brokers.artifacts import KAFKA_VERSION, ArtifactsError, find_java, kafka_jars
from tests.brokers.nodes import JAVA_FLAGS, LOG4J, Node, Ports, make_nodes, server_properties, source_of
from tests.brokers.proxy import PASS, Fault, Proxy, ProxyThread
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


class ApacheKafkaError(RuntimeError):
    """A node did not start, or was asked for what its state does not allow. The message holds the end of its log."""


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
        proxied: clients reach each node through a proxy, `proxy`, that can go wrong on purpose; the nodes reach each
            other through proxies as well, so that one can be `cut_off`. Costs a client a tenth of a millisecond.
        start_timeout_s: how long starting may take until every node answers and knows all others.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        properties: Mapping[str, str] | None = None,
        proxied: bool = False,
        start_timeout_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if nodes < 1:
            message = f"nodes={nodes}: a cluster has at least one"
            raise ValueError(message)
        self._count = nodes
        self._extra = dict(properties or {})
        self._proxied = proxied
        self._proxies: ProxyThread | None = None
        self._start_timeout_s = start_timeout_s
        self._clock = clock
        self._nodes: dict[int, Node] = {}
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

    def move(self, node: int, *, port: int) -> None:
        """Let clients reach a node that does not run at another port from its next start on, and nobody at the old."""
        if self._node(node).running or self._proxied:
            message = f"node {node} runs or is behind a proxy: neither can move"
            raise ApacheKafkaError(message)
        self._node(node).client = Ports(bound=port, advertised=port)
        self._write_properties(self._node(node))

    def pause(self, node: int) -> None:
        """SIGSTOP: connections stay open and nothing is answered, as on a machine that hangs."""
        self._process(node).send_signal(signal.SIGSTOP)
        self._node(node).paused = True

    def resume(self, node: int) -> None:
        """SIGCONT: undo ``pause``."""
        self._process(node).send_signal(signal.SIGCONT)
        self._node(node).paused = False

    def proxy(self, node: int) -> Proxy:
        """The proxy before one node's client listener."""
        return self._proxy(f"client{self._node(node).number}")

    def cut_off(self, node: int) -> None:
        """Cut this node off from all others, both ways, and leave clients their connections to it: a zombie, if it led.

        On Linux only: who connects to whom is read from ``/proc``.
        """
        others = frozenset(self._nodes) - {node}
        for number in self._nodes:
            sources = others if number == node else frozenset({node})
            for name in (f"controller{number}", f"internal{number}"):
                self._proxy(name).set(Fault(kind="stall", sources=sources))

    def starve_followers(self, leader: int) -> None:
        """Let no other broker fetch from this one; controllers and clients notice nothing. Its watermarks stand."""
        self._proxy(f"internal{self._node(leader).number}").set(Fault(kind="stall"))

    def join(self) -> None:
        """Undo every `cut_off` and whatever else was set on any proxy."""
        if self._proxies is not None:
            self._proxies.set(PASS)

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
            if known_brokers(self._node(number).own_address, timeout_s=1.0) >= alive > 0:
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
        (work / "log4j2.properties").write_text(LOG4J, encoding="utf-8")
        self._nodes = make_nodes(self._count, work=work, proxied=self._proxied)
        if self._proxied:
            self._proxies = ProxyThread(self._make_proxies())
            self._proxies.__enter__()
        formats: list[tuple[Node, subprocess.Popen[bytes]]] = []
        try:
            for node in self._nodes.values():
                node.directory.mkdir()
                self._write_properties(node)
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

    def _write_properties(self, node: Node) -> None:
        text = server_properties(node, nodes=self._nodes, extra=self._extra)
        node.properties.write_text(text, encoding="utf-8")

    def _make_proxies(self) -> dict[str, Proxy]:
        found: dict[str, Proxy] = {}
        for number, node in self._nodes.items():
            found[f"client{number}"] = Proxy(port=node.client.advertised, target_port=node.client.bound)
            for name, ports in (("controller", node.controller), ("internal", node.internal)):
                assert ports is not None
                found[f"{name}{number}"] = Proxy(
                    port=ports.advertised, target_port=ports.bound, source_of=partial(source_of, nodes=self._nodes)
                )
        return found

    def _proxy(self, name: str) -> Proxy:
        if self._proxies is None:
            message = "this cluster has no proxies: make it with proxied=True"
            raise ApacheKafkaError(message)
        return self._proxies.proxies[name]

    def _run_java(self, node: Node, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [
            self._java,
            *JAVA_FLAGS,
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

    def _spawn(self, node: Node) -> None:
        node.process = self._run_java(node, ["kafka.Kafka", str(node.properties)])
        node.paused = False

    def _spawn_all(self) -> None:
        for node in self._nodes.values():
            self._spawn(node)

    def _node(self, number: int) -> Node:
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
        if self._proxies is not None:
            self._proxies.close()
            self._proxies = None
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

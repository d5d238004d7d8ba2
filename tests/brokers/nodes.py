"""One node of a test cluster on disk and on the wire: ports, files, properties."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from revoker.cli.children import free_ports

__all__ = ["JAVA_FLAGS", "LOG4J", "Node", "Ports", "make_nodes", "server_properties", "source_of"]

JAVA_FLAGS: Final = ("-Xmx256m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

LOG4J: Final = """\
rootLogger.level=WARN
rootLogger.appenderRef.c.ref=C
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=%d %p %m (%c)%n
"""

# Retention acts within a second, and a killed node is back in 1.7 s instead of 10.6: it can register again only when
# its old registration has expired.
_QUICK: Final[Mapping[str, str]] = {
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Where one listener is: ``bound`` by the broker, ``advertised`` to whoever connects. They differ where a proxy
    stands between."""

    bound: int
    advertised: int


@dataclass(slots=True, kw_only=True)
class Node:
    """One combined broker and controller. ``internal`` is the brokers' own listener, None: they use the clients'."""

    number: int
    client: Ports
    controller: Ports
    internal: Ports | None
    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None)
    paused: bool = False

    @property
    def address(self) -> str:
        """Where clients reach it: at its proxy, if it has one."""
        return f"127.0.0.1:{self.client.advertised}"

    @property
    def own_address(self) -> str:
        """Where the broker itself listens for clients, past any proxy."""
        return f"127.0.0.1:{self.client.bound}"

    @property
    def properties(self) -> Path:
        return self.directory / "server.properties"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


def make_nodes(count: int, *, work: Path, proxied: bool) -> dict[int, Node]:
    """Nodes numbered from 1, with free ports; ``proxied``: every listener is advertised at another port than its
    own."""
    ports = iter(free_ports((6 if proxied else 2) * count))

    def listener() -> Ports:
        bound = next(ports)
        return Ports(bound=bound, advertised=next(ports) if proxied else bound)

    return {
        number: Node(
            number=number,
            client=listener(),
            controller=listener(),
            internal=listener() if proxied else None,
            directory=work / f"node{number}",
        )
        for number in range(1, count + 1)
    }


def server_properties(node: Node, *, nodes: Mapping[int, Node], extra: Mapping[str, str]) -> str:
    """The node's ``server.properties``; ``extra`` adds to those for quick tests, or replaces them."""
    voters = ",".join(f"{other.number}@127.0.0.1:{other.controller.advertised}" for other in nodes.values())
    listeners = {"PLAINTEXT": node.client, "CONTROLLER": node.controller}
    if node.internal is not None:
        listeners["INTERNAL"] = node.internal
    told = dict(listeners)
    if node.internal is None:
        del told["CONTROLLER"]  # the voters' list tells it
    lines = {
        "process.roles": "broker,controller",
        "node.id": str(node.number),
        "listeners": ",".join(f"{name}://127.0.0.1:{ports.bound}" for name, ports in listeners.items()),
        "advertised.listeners": ",".join(f"{name}://127.0.0.1:{ports.advertised}" for name, ports in told.items()),
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT" if node.internal is None else "INTERNAL",
        "controller.quorum.voters": voters,
        "log.dirs": str(node.directory / "data"),
        **_QUICK,
        **extra,
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def source_of(port: int, *, nodes: Mapping[int, Node]) -> int | None:
    """The number of the node whose process holds the loopback TCP socket with this local port; None: no node does.

    From ``/proc``, so on Linux only, and only for processes of the same user.
    """
    inode = _inode(port)
    if inode is None:
        return None
    wanted = f"socket:[{inode}]"
    for node in nodes.values():
        if node.process is None:
            continue
        try:
            for descriptor in Path(f"/proc/{node.process.pid}/fd").iterdir():
                try:
                    if str(descriptor.readlink()) == wanted:
                        return node.number
                except OSError:  # closed since it was listed
                    continue
        except OSError:  # the process has ended
            continue
    return None


def _inode(port: int) -> str | None:
    for table in ("tcp", "tcp6"):  # Java opens IPv6 sockets for IPv4 addresses, too
        path = Path("/proc/net") / table
        if not path.exists():
            continue
        for line in path.read_text(encoding="ascii").splitlines()[1:]:
            columns = line.split()
            if int(columns[1].rpartition(":")[2], 16) == port and columns[3] == "01":
                return columns[9]
    return None

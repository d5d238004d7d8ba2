"""Processes that one command starts and owns: where they listen, and that they never outlive it.

No event loop here: the callers are a demo, a test harness and benchmarks, each with its own.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["die_with_parent", "free_ports"]

_LOWEST_PORT = 10_240
_USUAL_EPHEMERAL_LOW = 32_768
_ATTEMPTS = 200

# Runs in the child, before the real program replaces it. Between fork and prctl the parent may already be gone: then
# nothing would ever be signalled, hence the look at getppid (man 2const PR_SET_PDEATHSIG).
_LAUNCHER = """\
import ctypes, os, signal, sys
parent, environment, *command = sys.argv[1:]
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
    sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
if os.getppid() != int(parent):
    sys.exit("the parent died before its child could start")
os.execvpe(command[0], command, {} if environment == "empty" else os.environ)
"""


def die_with_parent(command: Sequence[str], *, empty_environment: bool = False) -> list[str]:
    """The same command, wrapped so that the kernel kills it when this process dies, by whatever signal.

    The wrapper is a Python that replaces itself by ``command``: the process id, standard streams and signals are the
    command's own. A launcher rather than ``preexec_fn``, which may deadlock in a process with threads (the warning in
    the documentation of :mod:`subprocess`).

    Linux ties the child to the *thread* that started it: start it from a thread that lives as long as the child should,
    never through ``asyncio.to_thread``. Outside Linux the kernel offers no such thing and the command comes back as it
    was, or behind ``env -i``.

    Args:
        command: program and arguments.
        empty_environment: start the program with no environment variables at all.
    """
    if sys.platform != "linux":
        return ["/usr/bin/env", "-i", *command] if empty_environment else list(command)
    environment = "empty" if empty_environment else "inherited"
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), environment, *command]


def free_ports(count: int) -> list[int]:
    """``count`` different loopback TCP ports on which nothing listens now.

    They lie below the range from which the kernel takes the local ports of outgoing connections. A client that keeps
    reconnecting to a stopped server whose port is *in* that range sooner or later connects to itself (TCP simultaneous
    open) and then keeps the server from coming back.

    Raises:
        OSError: no such ports could be found.
    """
    highest = _ephemeral_low() - 1
    ports: list[int] = []
    with ExitStack() as held:
        for _ in range(_ATTEMPTS + count):
            if len(ports) == count:
                return ports
            port = _LOWEST_PORT + secrets.randbelow(highest - _LOWEST_PORT)
            candidate = held.enter_context(socket.socket())
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:  # somebody has it, or it is one of ours: the next one
                continue
            ports.append(port)
    message = f"found {len(ports)} free TCP ports of {count} between {_LOWEST_PORT} and {highest}"
    raise OSError(message)


def _ephemeral_low() -> int:
    """The lowest port that the kernel hands to outgoing connections."""
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):  # not Linux, or /proc is hidden: the usual value
        return _USUAL_EPHEMERAL_LOW
    # Machines tuned for many connections start it at 1024 and leave no room below: then any port must do.
    return low if low > _LOWEST_PORT + 1_000 else _USUAL_EPHEMERAL_LOW

"""Run by test_cut_off: a node on real Kafka loses its network, or forks, and is asked before its loop turns again.

Writes one JSON object with what the node said. Arguments: what to lose (network or parent), bootstrap, topic, and two
tokens: one revoked in the topic, one good.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from consumers.aiohttp import CLAIMS, protection
from consumers.asgi import Message, Receive, RevokerMiddleware, Scope, Send, token_of
from consumers.node import Node
from tests.broker.conftest import PATIENCE_S, settings_for

CLONE_NEWNET = 0x40000000


def lose_network() -> str:
    """Close every socket of this process and see that no new one can be made. Returns by what means."""
    means = "sockets refused"
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0:
        means = "network namespace without interfaces"
        with contextlib.closing(socket.socket()) as probe:
            try:
                probe.connect(("127.0.0.1", 1))
            except OSError as error:
                means += f" ({error.strerror})"
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself is gone
            if stat.S_ISSOCK(os.fstat(int(link.name)).st_mode):
                os.close(int(link.name))

    def refuse(event: str, _arguments: object) -> None:
        if event.startswith("socket."):
            raise AssertionError(f"the check used a socket: {event}")

    sys.addaudithook(refuse)
    return means


def through_aiohttp(node: Node, token: str) -> str:
    """What the aiohttp middleware answers, driven by hand: it must end without once giving control back."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=request[CLAIMS]["sub"])

    request = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {token}"})
    step: Any = protection(node)(request, handler)
    try:
        step.send(None)
    except StopIteration as returned:
        return str(returned.value.status)
    raise AssertionError("the middleware awaited something")


def through_asgi(node: Node, token: str) -> str:
    """What the ASGI middleware answers, driven by hand."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"status": 200, "sub": token_of(scope).claims["sub"]})

    async def receive() -> Message:
        raise AssertionError("the middleware asked for a message")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode())]
    step: Any = RevokerMiddleware(app, node)({"type": "http", "path": "/", "headers": headers}, receive, send)
    try:
        step.send(None)
    except StopIteration:
        return str(sent[0]["status"])
    raise AssertionError("the middleware awaited something")


def answers(node: Node, tokens: dict[str, str]) -> dict[str, str]:
    """What both adapters say about each token."""
    return {
        f"{adapter.__name__} {kind}": adapter(node, token)
        for adapter in (through_aiohttp, through_asgi)
        for kind, token in tokens.items()
    }


async def main(lose: str, bootstrap: str, topic: str, revoked: str, good: str) -> None:
    """Go live, lose what is to be lost, ask."""
    node = Node(settings_for(bootstrap, topic, staleness_bound_s=30.0))
    node.start()
    await node.wait_ready(timeout_s=PATIENCE_S)
    tokens = {"revoked": revoked, "good": good}
    if lose == "network":
        means = lose_network()
        found = {"state": node.freshness.state.name, "means": means} | answers(node, tokens)
    elif os.fork() == 0:
        # The parent leaves its node as it is: only this process has lost its follower.
        found = {"state": node.freshness.state.name, "reason": node.freshness.missing()[0].reason} | answers(
            node, tokens
        )
    else:
        os.wait()  # noqa: ASYNC222 - the loop is not to turn: what counts is what is known at this moment
        found = {"parent": node.freshness.state.name}
    os.write(1, json.dumps(found).encode() + b"\n")
    os._exit(0)  # the loop's sockets are gone, or belong to the parent: nothing here can be closed in order


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Calls an ASGI application without a server: one connection, and the messages it sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from consumers.asgi import ASGIApp, Message

Headers = Iterable[tuple[bytes, bytes]]


def http_scope(path: str = "/", headers: Headers = (), **more: Any) -> dict[str, Any]:
    """The scope of a GET request."""
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": list(headers)}
    return scope | more


def websocket_scope(path: str = "/", headers: Headers = (), *, denial: bool = True) -> dict[str, Any]:
    """The scope of a WebSocket. ``denial``: whether the server can answer its refusal in HTTP."""
    extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
    return {
        "type": "websocket",
        "path": path,
        "query_string": b"",
        "headers": list(headers),
        "subprotocols": [],
        "extensions": extensions,
    }


async def call(app: ASGIApp, scope: dict[str, Any], *received: Message) -> list[Message]:
    """Everything ``app`` sent on this connection, given what it received."""
    opening = {"type": "websocket.connect"} if scope["type"] == "websocket" else {"type": "http.request", "body": b""}
    waiting = list(received) or [opening]
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def status_and_headers(sent: list[Message]) -> tuple[int, dict[str, str]]:
    """Of an answer in HTTP, on either kind of connection."""
    start = sent[0]
    assert start["type"].endswith("http.response.start"), start
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}

"""HTTP as nobody should write it, by a seeded generator."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Final

from tests.mutations import spoiled_bytes, spoiled_json

__all__ = ["raw_request", "sent_raw"]

#: What is common first, and drawn often; what is odd behind it.
_METHODS: Final = (("GET", "POST"), ("HEAD", "OPTIONS", "PUT", "TRACE", "CONNECT", "PRI", "get", "", "G\0T"))
_PATHS: Final = (
    ("/", "/whoami", "/logout", "/revocations", "/livez", "/readyz", "/readyz?verbose", "/metrics", "/openapi.json"),
    (
        *("//", "/../etc/passwd", "/%2e%2e/", "/whoami/", "/%00", "/\xff", "*", "http://other/whoami", "whoami"),
        *(
            "/?token={token}",
            "/whoami?access_token={token}",
            "/{token}",
            "/readyz?verbose=%ff&verbose",
            "/metrics?a[]=%",
        ),
        "/" + "a" * 9000,
    ),
)
_VERSIONS: Final = (("HTTP/1.1",), ("HTTP/1.0", "HTTP/2.0", "", "X"))
_HEADERS: Final = (
    *("Authorization: Bearer {token}",) * 3,
    *("Authorization: Bearer  {token},", "Authorization:", "Authorization: Basic {token}"),
    *("Cookie: USER_SESSION={token}", "Cookie: USER_SESSION={token}; USER_SESSION=x", "Origin: null"),
    *("Content-Length: 0", "Content-Length: -1", "Content-Length: 5", "Content-Length: x", "Content-Length : 3"),
    *("Content-Length: 9" + "9" * 30, "Content-Encoding: gzip", "Expect: 100-continue", "Expect: {token}"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity"),
    *("Content-Type: application/json", "Content-Type: \xff", "Content-Type: a/b;", "Accept: */*;q=x"),
    *("Accept: application/openmetrics-text; version=1.0.0", "Accept: " + "a," * 500, "X: " + "y" * 9000),
    *("Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Key: x", "Host: a", "Host: a b"),
    *("Forwarded: for={token}", "X-Forwarded-Proto: {token}", "Sec-Fetch-Site: cross-site"),
    *("Revoker-Confirmation: {token}", "Range: bytes=0-", "If-Match: *", "TE: x"),
    *(" folded", "no colon", ": no name", "a\0b: c"),
)
_BODIES: Final = (b"", b"", b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"0\r\n\r\n", b"\x00" * 100)


def raw_request(rng: random.Random, token: str) -> bytes:
    """A request, or two, with at most four odd headers, perhaps with ``token`` in them, and perhaps damaged."""
    lines = [" ".join(rng.choice(words[rng.random() < 0.15]) for words in (_METHODS, _PATHS, _VERSIONS))]
    lines += ["Host: x"] * (rng.random() < 0.9)
    lines += [rng.choice(_HEADERS) for _ in range(rng.randrange(5))]
    ending = rng.choice((*("\r\n",) * 18, "\n", "\r"))
    head = ending.join([*lines, "", ""]).replace("{token}", token).encode("latin-1")
    body = rng.choice((*_BODIES, spoiled_json(rng, {"kind": "all"})))
    request = (head + body) * rng.choice((1,) * 9 + (2,))
    return spoiled_bytes(rng, request) if rng.random() < 0.2 else request


async def sent_raw(host: str, port: int, request: bytes, *, idle_s: float = 0.4) -> bytes:
    """Send bytes, and read what is answered until nothing more comes for ``idle_s`` seconds."""
    reader, writer = await asyncio.open_connection(host, port)
    answer = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(request)
        while piece := await asyncio.wait_for(reader.read(65536), idle_s):
            answer += piece
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer

"""The logout service as its tests reach it: the real application behind its real door, on a free loopback port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from revoker.keys import Keys, keys_from_settings
from revoker.publisher import Publisher
from revoker.service.app import create_app
from revoker.service.confirmation import HEADER
from revoker.service.server import serving
from revoker.settings import Settings
from revoker.tokens import Verified, Verifier
from tests import samples
from tests.leaks import look

ROOT_SECRET = "s3cr3t-root-0123456789"
SUPPORT_SECRET = "s3cr3t-support-012345"
ADMIN_TOKENS = f"root:{ROOT_SECRET}:*,support:{SUPPORT_SECRET}:token+session"

PATIENCE_S = 30.0

#: No broker listens there, and the refusal comes at once.
NOBODY = "127.0.0.1:1"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response, read to its end. ``problem``: the body if it is problem+json, else empty."""

    status: int
    headers: Any
    body: bytes
    problem: dict[str, Any]


class Door:
    """A client of one service."""

    def __init__(self, session: aiohttp.ClientSession, *, host: str, port: int) -> None:
        self._session = session
        self.host = host
        self.port = port
        self.origin = f"http://{host}:{port}"

    async def ask(self, method: str, path: str, **arguments: Any) -> Answer:
        """One request, one answer."""
        async with self._session.request(method, self.origin + path, **arguments) as response:
            body = await response.read()
            look(f"{response.headers}\n{body!r}", where=f"the answer to {method} {path.partition('?')[0]}")
            is_problem = response.content_type == "application/problem+json"
            problem = await response.json(content_type=None) if is_problem else {}
            return Answer(status=response.status, headers=response.headers.copy(), body=body, problem=problem)

    async def logout(self, token: str | None = None, *, cookie: str | None = None, **arguments: Any) -> Answer:
        """``POST /logout`` with the token in Authorization and/or in a Cookie header."""
        headers = dict(arguments.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if cookie is not None:
            headers["Cookie"] = f"USER_SESSION={cookie}"
        return await self.ask("POST", "/logout", headers=headers, **arguments)

    async def revoke(self, body: object, *, secret: str = ROOT_SECRET, confirmation: str | None = None) -> Answer:
        """``POST /revocations`` with a JSON body; ``confirmation``: that of the preview before."""
        headers = {"Authorization": f"Bearer {secret}"}
        if confirmation is not None:
            headers[HEADER] = confirmation
        return await self.ask("POST", "/revocations", headers=headers, json=body)

    async def confirmed(self, body: object, *, secret: str = ROOT_SECRET) -> Answer:
        """Publish a wide rule: ask, and ask again with the confirmation of the preview."""
        preview = await self.revoke(body, secret=secret)
        assert preview.status == 428, preview
        return await self.revoke(body, secret=secret, confirmation=preview.problem["confirmation"])

    async def raw(self, *pieces: bytes) -> bytes:
        """Send bytes as they are, and read until the service closes the connection."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        finally:
            writer.close()

    async def until(self, path: str, *, status: int, holding: bytes = b"") -> Answer:
        """Ask until the status is this one and the body holds these bytes; raises TimeoutError if that never is."""
        deadline = time.monotonic() + PATIENCE_S
        while (answer := await self.ask("GET", path)).status != status or holding not in answer.body:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} still answers {answer.status}: {answer.body!r}")
            await asyncio.sleep(0.02)
        return answer


@asynccontextmanager
async def open_door(
    settings: Settings, *, keys: Keys | None = None, idle_timeout_s: float = 75.0, **arguments: Any
) -> AsyncIterator[Door]:
    """Run the service; ``arguments`` go to `create_app`."""
    keys = keys or keys_from_settings(settings)
    arguments.setdefault("publisher", Publisher(settings))
    arguments.setdefault("watch_every_s", 0.1)
    app = create_app(settings, keys=keys, verifier=Verifier.from_settings(settings, keys), **arguments)
    async with (
        serving(app, host="127.0.0.1", port=0, idle_timeout_s=idle_timeout_s) as (host, port),
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        yield Door(session, host=host, port=port)


def always(answer: bool | None) -> Any:
    """An ``is_revoked`` that says the same of every token."""

    def is_revoked(token: Verified) -> bool | None:
        return answer

    return is_revoked


def without_kafka(**changes: object) -> Settings:
    """Settings of a service with admins whose Kafka is away."""
    return samples.settings(
        **({"kafka_bootstrap_servers": NOBODY, "admin_tokens": ADMIN_TOKENS, "publish_timeout_s": 2.0} | changes)
    )


def hanging(address: str) -> dict[str, object]:
    """Settings for a broker that takes connections and answers nothing."""
    return {"kafka_bootstrap_servers": address, "request_timeout_s": 0.5, "publish_timeout_s": 1.0}


@asynccontextmanager
async def silent_broker() -> AsyncIterator[str]:
    """A listener that reads and says nothing, as a broker on a machine that hangs; yields its address."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"

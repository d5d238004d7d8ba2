"""One revocation in Kafka, seen through every adapter behind a real server, on http and on websocket.

The servers are shared by the module: what differs between the tests is only what a client sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import aiohttp
import pytest
import pytest_asyncio
import uvicorn
from aiohttp import web
from fastapi import Depends, FastAPI, WebSocket

from consumers import aiohttp as aiohttp_adapter
from consumers.asgi import ASGIApp, Receive, RevokerMiddleware, Scope, Send, token_of
from consumers.fastapi import Bearer
from consumers.node import Node
from revoker import topic
from revoker.publisher import Publisher
from revoker.tokens import TokenRevoked, Verified, sign
from tests.broker.conftest import PATIENCE_S, SECRET, settings_for
from tests.conftest import Broker

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHALLENGES = {
    "missing": 'Bearer realm="api"',
    "malformed": (
        'Bearer realm="api", error="invalid_token", '
        'error_description="The token has 2 segments, a signed JWT has three"'
    ),
    "expired": 'Bearer realm="api", error="invalid_token", error_description="Signature has expired"',
    "revoked": 'Bearer realm="api", error="invalid_token", error_description="The token was revoked"',
}


def signed(*, age_s: int = 0) -> str:
    """A token of its own, issued so many seconds ago and valid for ten minutes."""
    iat = int(time.time()) - age_s
    claims = {"sub": "alice", "jti": uuid.uuid4().hex, "iat": iat, "exp": iat + 600}
    return sign(claims, key=SECRET, algorithm="HS256")


def aiohttp_app(node: Node) -> web.Application:
    async def socket(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        await response.send_str(request[aiohttp_adapter.CLAIMS]["sub"])
        return response

    async def whoami(request: web.Request) -> web.Response:
        return web.Response(text=request[aiohttp_adapter.CLAIMS]["sub"])

    app = web.Application()
    aiohttp_adapter.setup(app, node, run_node=False)
    app.add_routes([web.get("/whoami", whoami), web.get("/socket", socket)])
    return app


def asgi_app(node: Node) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        name = token_of(scope).claims["sub"]
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": name})
            await send({"type": "websocket.close"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            await send({"type": "http.response.body", "body": name.encode()})

    return RevokerMiddleware(app, node, run_node=False)


def fastapi_app(node: Node) -> FastAPI:
    app = FastAPI()
    authenticate = Bearer(node)

    async def whoami(token: Any) -> str:
        return str(token.claims["sub"])

    async def socket(websocket: WebSocket, token: Any) -> None:
        await websocket.accept()
        await websocket.send_text(token.claims["sub"])
        await websocket.close()

    # Postponed annotations hide local names from FastAPI, so they are set as objects.
    for endpoint in (whoami, socket):
        endpoint.__annotations__["token"] = Annotated[Verified, Depends(authenticate)]
    app.get("/whoami")(whoami)
    app.websocket("/socket")(socket)
    return app


class Server(uvicorn.Server):
    """uvicorn inside the test's own loop, which keeps its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving_asgi(app: Any) -> AsyncIterator[str]:
    server = Server(uvicorn.Config(app, port=0, lifespan="off", ws="websockets-sansio", log_level="warning"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@contextlib.asynccontextmanager
async def serving_aiohttp(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@dataclass(frozen=True)
class Fleet:
    """The adapters' addresses, behind a live node and behind one that knows nothing; and a token revoked in Kafka."""

    live: dict[str, str]
    unknowing: dict[str, str]
    revoked: str
    session: aiohttp.ClientSession


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(apache: Broker) -> AsyncIterator[Fleet]:
    settings = settings_for(apache.bootstrap, f"adapters-{uuid.uuid4().hex[:12]}")
    await topic.create(settings)
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(Node(settings))
        publisher = await stack.enter_async_context(Publisher(settings))
        await node.wait_ready(timeout_s=PATIENCE_S)
        revoked = signed()
        await publisher.logout(node.authenticate(revoked))
        await until(lambda: refused(node, revoked))
        live, unknowing = [
            {
                "aiohttp": await stack.enter_async_context(serving_aiohttp(aiohttp_app(one))),
                "asgi": await stack.enter_async_context(serving_asgi(asgi_app(one))),
                "fastapi": await stack.enter_async_context(serving_asgi(fastapi_app(one))),
            }
            for one in (node, Node(settings))
        ]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Fleet(live=live, unknowing=unknowing, revoked=revoked, session=session)


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; it is looked at again and again, for a while."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - neither a server's start nor a deny list has an event to wait for
            await asyncio.sleep(0.01)


def refused(node: Node, token: str) -> bool:
    try:
        node.authenticate(token)
    except TokenRevoked:
        return True
    return False


async def ask(session: aiohttp.ClientSession, *, url: str, transport: str, token: str | None) -> tuple[int, Any, str]:
    """Status, headers and the name that a request or an upgrade is answered with."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if transport == "http":
        async with session.get(f"{url}/whoami", headers=headers) as response:
            return response.status, response.headers, (await response.text()).strip('"')
    try:
        async with session.ws_connect(f"{url}/socket", headers=headers) as connection:
            return 101, {}, await connection.receive_str()
    except aiohttp.WSServerHandshakeError as error:
        return error.status, error.headers, ""


@pytest.mark.parametrize("transport", ["http", "websocket"])
@pytest.mark.parametrize("adapter", ["aiohttp", "asgi", "fastapi"])
@pytest.mark.parametrize("state", ["missing", "malformed", "expired", "revoked"])
async def test_every_adapter_refuses_alike(fleet: Fleet, adapter: str, transport: str, state: str) -> None:
    """A missing, malformed, expired or revoked token gets 401 and the same challenge, whatever the adapter."""
    sent = {"missing": None, "malformed": "x.y", "expired": signed(age_s=3600), "revoked": fleet.revoked}[state]
    status, headers, _ = await ask(fleet.session, url=fleet.live[adapter], transport=transport, token=sent)
    assert (status, headers["WWW-Authenticate"]) == (401, CHALLENGES[state])
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("transport", ["http", "websocket"])
@pytest.mark.parametrize("adapter", ["aiohttp", "asgi", "fastapi"])
async def test_every_adapter_says_when_it_does_not_know(fleet: Fleet, adapter: str, transport: str) -> None:
    """Behind a node that knows nothing a good token gets 503 with Retry-After and no challenge."""
    status, headers, _ = await ask(fleet.session, url=fleet.unknowing[adapter], transport=transport, token=signed())
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "WWW-Authenticate" not in headers


@pytest.mark.parametrize("transport", ["http", "websocket"])
@pytest.mark.parametrize("adapter", ["aiohttp", "asgi", "fastapi"])
async def test_every_adapter_lets_a_good_token_in(fleet: Fleet, adapter: str, transport: str) -> None:
    """A token that is not revoked reaches the handler, which sees whose it is."""
    status, _, name = await ask(fleet.session, url=fleet.live[adapter], transport=transport, token=signed())
    assert (status, name) == (101 if transport == "websocket" else 200, "alice")

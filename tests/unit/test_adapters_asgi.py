"""The ASGI middleware, called without a server and without a framework."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from consumers.asgi import (
    ASGIApp,
    Message,
    Receive,
    RevokerMiddleware,
    Scope,
    Send,
    decision_of,
    health_app,
    lifespan,
    token_of,
)
from consumers.freshness import State
from consumers.guard import Status
from consumers.node import Node
from consumers.testing import MemoryTopic, TickClock
from revoker.errors import InvalidInput
from tests.asgi_client import call, http_scope, status_and_headers, websocket_scope
from tests.samples import live_topic, revocation_of, settings, state_of, token


def bearer(raw: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {raw}".encode())]


class Inner:
    """An application that remembers the scopes it saw and answers 204, or accepts."""

    def __init__(self) -> None:
        self.seen: list[Scope] = []

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 204, "headers": []})


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def parts() -> tuple[MemoryTopic, TickClock, Node]:
    topic, clock = live_topic()
    return topic, clock, topic.node(settings())


@pytest.fixture
def node(parts: tuple[MemoryTopic, TickClock, Node]) -> Node:
    return parts[2]


@pytest.mark.parametrize("scope", [http_scope, websocket_scope])
async def test_an_admitted_scope_carries_token_and_decision(node: Node, inner: Inner, scope: Any) -> None:
    """The application sees the token and the decision, in a scope that is a copy of the server's."""
    theirs = scope(headers=bearer(token()))
    await call(RevokerMiddleware(inner, node), theirs)
    (seen,) = inner.seen
    assert token_of(seen).claims["sub"] == "alice"
    assert decision_of(seen).status is Status.ACTIVE
    assert "revoker.token" not in theirs


async def test_several_authorization_headers_are_refused(node: Node, inner: Inner) -> None:
    """Two Authorization headers are refused, even if both carry the same good token."""
    scope = http_scope(headers=bearer(token()) * 2)
    assert status_and_headers(await call(RevokerMiddleware(inner, node), scope))[0] == 401
    assert inner.seen == []


async def test_cookies_in_several_headers_are_read(node: Node, inner: Inner) -> None:
    """HTTP/2 may split cookies into several headers; the one that carries the token is found."""
    scope = http_scope(headers=[(b"cookie", b"theme=dark"), (b"cookie", b"USER_SESSION=" + token().encode())])
    await call(RevokerMiddleware(inner, node), scope)
    assert len(inner.seen) == 1


async def test_the_refusal_is_a_complete_answer(node: Node, inner: Inner) -> None:
    """A refusal has status, challenge, length and a problem for a body."""
    sent = await call(RevokerMiddleware(inner, node), http_scope())
    status, headers = status_and_headers(sent)
    assert status == 401
    assert headers["www-authenticate"] == 'Bearer realm="api"'
    assert int(headers["content-length"]) == len(sent[1]["body"])
    assert json.loads(sent[1]["body"])["status"] == 401


@pytest.mark.parametrize("scope", [http_scope, websocket_scope])
async def test_a_revoked_token_is_refused(parts: tuple[MemoryTopic, TickClock, Node], inner: Inner, scope: Any) -> None:
    """Once its revocation is published a token is refused, on http and on websocket with the same 401."""
    topic, _, node = parts
    raw = token()
    topic.publish(revocation_of(node.authenticate(raw)))
    status, headers = status_and_headers(await call(RevokerMiddleware(inner, node), scope(headers=bearer(raw))))
    assert status == 401
    assert headers["www-authenticate"].endswith('error_description="The token was revoked"')
    assert inner.seen == []


async def test_a_websocket_is_closed_where_no_answer_is_possible(
    parts: tuple[MemoryTopic, TickClock, Node], inner: Inner
) -> None:
    """Without the extension a WebSocket is closed before it is accepted: 1008 for 401, 1013 for 503."""
    _, clock, node = parts
    app = RevokerMiddleware(inner, node)
    (closed,) = await call(app, websocket_scope(denial=False))
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    clock.tick(60)
    (closed,) = await call(app, websocket_scope(headers=bearer(token()), denial=False))
    assert (closed["type"], closed["code"]) == ("websocket.close", 1013)


@pytest.mark.parametrize(
    ("path", "root", "status"),
    [
        ("/login", "", 204),
        ("/login/", "", 401),
        ("/login/../whoami", "", 401),
        ("/LOGIN", "", 401),
        ("/api/login", "/api", 204),
        ("/api/login", "", 401),
        ("/apilogin", "/api", 401),
    ],
)
async def test_exempt_paths_are_compared_whole(node: Node, inner: Inner, path: str, root: str, status: int) -> None:
    """An exempt path is exempt as it stands below the mount point, and nothing beside it is."""
    app = RevokerMiddleware(inner, node, exempt={"/login"})
    assert status_and_headers(await call(app, http_scope(path, root_path=root)))[0] == status


async def test_a_predicate_may_exempt(node: Node, inner: Inner) -> None:
    """A predicate on the scope exempts what it returns true for."""
    app = RevokerMiddleware(inner, node, exempt=lambda scope: scope["method"] == "OPTIONS")
    assert status_and_headers(await call(app, http_scope(method="OPTIONS")))[0] == 204
    assert status_and_headers(await call(app, http_scope()))[0] == 401


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/feed", 204),
        ("/feed/new", 204),
        ("/feedback", 503),
        ("/feed/admin", 503),
        ("/feed/admin/x", 503),
        ("/feed/administrator", 204),
        ("/static/logo", 204),
        ("/", 503),
    ],
)
async def test_the_longest_prefix_decides_the_policy(
    parts: tuple[MemoryTopic, TickClock, Node], inner: Inner, path: str, status: int
) -> None:
    """While the node is stale a path is answered as the longest prefix covering it says, else as the setting says."""
    _, clock, node = parts
    clock.tick(60)
    policies: Any = {"/feed": "accept", "/feed/admin": "refuse", "/static/": "accept"}
    app = RevokerMiddleware(inner, node, when_unknown=policies)
    assert status_and_headers(await call(app, http_scope(path, bearer(token()))))[0] == status


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"exempt": {"login"}}, "exempt has the path 'login'"),
        ({"exempt": "/login"}, "must be a collection of paths"),
        ({"when_unknown": {"feed": "accept"}}, "when_unknown has the path 'feed'"),
        ({"when_unknown": {"/feed": "allow"}}, "must be 'refuse' or 'accept'"),
    ],
)
def test_a_mistaken_argument_is_refused_by_name(
    node: Node, inner: Inner, arguments: dict[str, Any], words: str
) -> None:
    """A path without a slash, one path for many, or another policy is an error when the middleware is made."""
    with pytest.raises(InvalidInput, match=words):
        RevokerMiddleware(inner, node, **arguments)


async def test_the_request_path_awaits_nothing_of_ours(node: Node) -> None:
    """Driven by hand, the middleware reaches the application without once giving control back."""
    reached: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(token_of(scope).claims["sub"])

    async def never() -> Message:
        raise AssertionError("the middleware asked for a message")

    async def nothing(message: Message) -> None:
        raise AssertionError(f"the middleware sent {message}")

    step = RevokerMiddleware(app, node)(http_scope(headers=bearer(token())), never, nothing)
    with pytest.raises(StopIteration):
        step.send(None)
    assert reached == ["alice"]


def test_no_framework_is_imported() -> None:
    """The adapter works where neither Starlette nor FastAPI nor aiohttp's server is installed."""
    code = "import consumers.asgi, sys; print(sorted({'starlette', 'fastapi', 'aiohttp.web'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


class Server:
    """The server's side of a lifespan: start the application, look, stop it."""

    def __init__(self, app: ASGIApp) -> None:
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.task = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, self._events.get, self.sent.put))

    async def tell(self, event: str) -> str:
        """Send an event and return the type of the answer."""
        self._events.put_nowait({"type": f"lifespan.{event}"})
        async with asyncio.timeout(10):
            return str((await self.sent.get())["type"])


@pytest.fixture
def unstarted() -> Node:
    """A node that has a broker to look for, in vain."""
    return Node(settings(kafka_bootstrap_servers="127.0.0.1:1"))


async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    await send({"type": "lifespan.shutdown.complete"})


async def without_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError(f"no {scope['type']} here")


async def without_lifespan_after_reading(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise ValueError(f"no {scope['type']} here")


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def ending_in_silence(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()


@pytest.mark.parametrize(
    "app", [with_lifespan, without_lifespan, without_lifespan_after_reading, silent, ending_in_silence]
)
async def test_the_node_lives_as_long_as_the_application(unstarted: Node, app: ASGIApp) -> None:
    """The node starts and stops with the application, whether or not that takes lifespan events."""
    server = Server(RevokerMiddleware(app, unstarted))
    assert await server.tell("startup") == "lifespan.startup.complete"
    assert state_of(unstarted) is State.CONNECTING
    assert await server.tell("shutdown") == "lifespan.shutdown.complete"
    assert state_of(unstarted) is State.STOPPED
    await server.task


async def test_an_application_that_fails_to_start_takes_the_node_along(unstarted: Node) -> None:
    """If the application's startup fails the server hears of it and the node is stopped."""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("no database")

    server = Server(RevokerMiddleware(failing, unstarted))
    assert await server.tell("startup") == "lifespan.startup.failed"
    with pytest.raises(RuntimeError, match="no database"):
        await server.task
    assert state_of(unstarted) is State.STOPPED


async def test_an_application_that_dies_later_takes_the_node_along(unstarted: Node) -> None:
    """An error after the startup is the application's own: it is raised, and the node is stopped."""

    async def dying(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("lost the database")

    server = Server(RevokerMiddleware(dying, unstarted))
    assert await server.tell("startup") == "lifespan.startup.complete"
    with pytest.raises(RuntimeError, match="lost the database"):
        await server.task
    assert state_of(unstarted) is State.STOPPED


async def test_a_node_that_cannot_start_fails_the_startup(unstarted: Node) -> None:
    """A node that was started elsewhere is a mistake the server hears of, not a start without lifespans."""
    async with unstarted:
        server = Server(RevokerMiddleware(with_lifespan, unstarted))
        assert await server.tell("startup") == "lifespan.startup.failed"
        with pytest.raises(RuntimeError, match="started before"):
            await server.task


async def test_a_node_run_elsewhere_is_left_alone(unstarted: Node) -> None:
    """With run_node false lifespan events pass through and the node is neither started nor stopped."""
    server = Server(RevokerMiddleware(with_lifespan, unstarted, run_node=False))
    assert await server.tell("startup") == "lifespan.startup.complete"
    assert state_of(unstarted) is State.STOPPED
    await server.tell("shutdown")
    await server.task


async def test_lifespan_runs_a_node_for_a_framework(unstarted: Node) -> None:
    """The context manager for frameworks starts the node on entry and stops it on exit."""
    async with lifespan(unstarted)(object()):
        assert state_of(unstarted) is State.CONNECTING
    assert state_of(unstarted) is State.STOPPED


@pytest.mark.parametrize(
    ("path", "more", "status", "words"),
    [
        ("/livez", {}, 200, b"ok\n"),
        ("/readyz", {}, 200, b"ok\n"),
        ("/readyz", {"query_string": b"verbose"}, 200, b"[+]live ok"),
        ("/readyz", {"query_string": b"verbose=1"}, 200, b"[+]live ok"),
        ("/metrics", {}, 200, b"revoker_ready 1.0"),
        ("/livez", {"method": "POST"}, 405, b"use GET"),
        ("/health/livez", {"root_path": "/health"}, 200, b"ok\n"),
        ("/other", {}, 404, b"not found"),
    ],
)
async def test_health_is_answered(node: Node, path: str, more: dict[str, Any], status: int, words: bytes) -> None:
    """Probes and scrapers are answered, mounted or not; the rest is 404."""
    sent = await call(health_app(node), http_scope(path, **more))
    assert status_and_headers(sent)[0] == status
    assert words in sent[1]["body"]


async def test_health_hands_the_rest_on(node: Node, inner: Inner) -> None:
    """Around an application, health answers its own paths and hands on everything else, websockets too."""
    app = health_app(node, fallback=inner)
    await call(app, http_scope("/whoami"))
    await call(app, websocket_scope("/livez"))
    assert [scope["path"] for scope in inner.seen] == ["/whoami", "/livez"]


async def test_a_node_that_is_not_ready_says_so(parts: tuple[MemoryTopic, TickClock, Node]) -> None:
    """A stale node's readiness is 503 and names what is missing."""
    _, clock, node = parts
    clock.tick(60)
    sent = await call(health_app(node), http_scope("/readyz"))
    assert status_and_headers(sent)[0] == 503
    assert sent[1]["body"].startswith(b"[-]poll failed")

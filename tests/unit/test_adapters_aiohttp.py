"""The aiohttp adapter: what it lets through, what it refuses, and what a handler sees."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, make_mocked_request

from consumers.aiohttp import (
    CLAIMS,
    DECISION,
    NODE,
    TOKEN,
    add_health_routes,
    protected,
    protection,
    public,
    setup,
    when_unknown,
)
from consumers.freshness import State
from consumers.guard import Status
from consumers.node import Node
from consumers.testing import MemoryTopic, TickClock
from revoker.errors import InvalidInput
from revoker.publisher import logout_selector
from tests.samples import live_topic, revocation_of, settings, state_of, token

Client = TestClient[web.Request, web.Application]
AioHttpClient = Callable[[web.Application], Awaitable[Client]]


def bearer(raw: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {raw}"}


async def whoami(request: web.Request) -> web.Response:
    return web.json_response(
        {
            "sub": request[CLAIMS]["sub"],
            "kind": logout_selector(request[TOKEN], scope="token").kind,
            "status": request[DECISION].status,
        }
    )


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def socket(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse()
    await response.prepare(request)
    await response.send_str(request[CLAIMS]["sub"])
    await response.close()
    return response


@pytest.fixture
def parts() -> tuple[MemoryTopic, TickClock, Node]:
    topic, clock = live_topic()
    return topic, clock, topic.node(settings(realm="shop"))


@pytest.fixture
def node(parts: tuple[MemoryTopic, TickClock, Node]) -> Node:
    return parts[2]


@pytest.fixture
def app(node: Node) -> web.Application:
    app = web.Application()
    setup(app, node, run_node=False)
    app.router.add_get("/whoami", whoami)
    app.router.add_get("/socket", socket)
    app.router.add_get("/hello", public(hello))
    return app


async def test_a_handler_sees_token_claims_and_decision(aiohttp_client: AioHttpClient, app: web.Application) -> None:
    """An admitted request carries its claims, the verified token and why it was admitted."""
    client = await aiohttp_client(app)
    response = await client.get("/whoami", headers=bearer(token()))
    assert await response.json() == {"sub": "alice", "kind": "token", "status": "active"}


async def test_the_cookie_serves_as_well(aiohttp_client: AioHttpClient, app: web.Application) -> None:
    """A token in the cookie of the settings is as good as one in the header."""
    client = await aiohttp_client(app)
    response = await client.get("/whoami", headers={"Cookie": f"USER_SESSION={token()}"})
    assert response.status == 200


async def test_the_query_string_is_never_read(aiohttp_client: AioHttpClient, app: web.Application) -> None:
    """A token in the query string is no token."""
    client = await aiohttp_client(app)
    response = await client.get("/whoami", params={"access_token": token(), "token": token()})
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="shop"'


async def test_a_revoked_token_is_refused(
    aiohttp_client: AioHttpClient, app: web.Application, parts: tuple[MemoryTopic, TickClock, Node]
) -> None:
    """Once its revocation is published the same token gets 401 with the challenge of RFC 6750."""
    topic, _, node = parts
    client = await aiohttp_client(app)
    raw = token()
    assert (await client.get("/whoami", headers=bearer(raw))).status == 200
    topic.publish(revocation_of(node.authenticate(raw)))
    response = await client.get("/whoami", headers=bearer(raw))
    assert response.status == 401
    assert response.headers["WWW-Authenticate"].endswith('error_description="The token was revoked"')
    assert (await response.json(content_type="application/problem+json"))["status"] == 401


async def test_a_stale_node_answers_503(
    aiohttp_client: AioHttpClient, app: web.Application, parts: tuple[MemoryTopic, TickClock, Node]
) -> None:
    """A node without proof answers 503 with Retry-After."""
    parts[1].tick(60)
    client = await aiohttp_client(app)
    response = await client.get("/whoami", headers=bearer(token()))
    assert (response.status, response.headers["Retry-After"]) == (503, "1")


async def test_a_websocket_is_refused_before_the_upgrade(aiohttp_client: AioHttpClient, app: web.Application) -> None:
    """A WebSocket without a token gets 401 and no upgrade; with one it is upgraded and sees the claims."""
    client = await aiohttp_client(app)
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    response = await client.get("/socket", headers=upgrade)
    assert response.status == 401
    async with client.ws_connect("/socket", headers=bearer(token())) as connection:
        assert await connection.receive_str() == "alice"


async def test_a_public_handler_needs_no_token(aiohttp_client: AioHttpClient, app: web.Application) -> None:
    """A handler marked public is reached without a token."""
    client = await aiohttp_client(app)
    assert await (await client.get("/hello")).text() == "hello"


async def test_what_does_not_exist_is_protected(aiohttp_client: AioHttpClient, app: web.Application) -> None:
    """Without a token nobody learns which paths exist; with one an unknown path is 404."""
    client = await aiohttp_client(app)
    assert (await client.get("/nothing")).status == 401
    assert (await client.get("/nothing", headers=bearer(token()))).status == 404


async def test_a_sub_application_is_protected_too(
    aiohttp_client: AioHttpClient, app: web.Application, node: Node
) -> None:
    """Routes of a sub-application are protected, its marks count, and it finds the node."""
    found: list[Node] = []

    async def inner(request: web.Request) -> web.Response:
        found.append(request.config_dict[NODE])
        return web.Response()

    sub = web.Application()
    sub.router.add_get("/inner", inner)
    sub.router.add_get("/open", public(hello))
    app.add_subapp("/sub", sub)
    client = await aiohttp_client(app)
    assert (await client.get("/sub/inner")).status == 401
    assert (await client.get("/sub/open")).status == 200
    assert (await client.get("/sub/inner", headers=bearer(token()))).status == 200
    assert found == [node]


async def test_marks_work_on_class_views(aiohttp_client: AioHttpClient, app: web.Application) -> None:
    """A class view is marked as a whole or by method, and a class that derives from a public one is protected."""

    @public
    class Open(web.View):
        async def get(self) -> web.Response:
            return web.Response()

    class Derived(Open):
        pass

    class Mixed(web.View):
        @public
        async def get(self) -> web.Response:
            return web.Response()

        async def post(self) -> web.Response:
            return web.Response()

    for path, view in (("/open", Open), ("/derived", Derived), ("/mixed", Mixed)):
        app.router.add_view(path, view)
    client = await aiohttp_client(app)
    assert (await client.get("/open")).status == 200
    assert (await client.get("/derived")).status == 401
    assert (await client.get("/mixed")).status == 200
    assert (await client.post("/mixed")).status == 401


async def test_a_mark_survives_partial(aiohttp_client: AioHttpClient, app: web.Application) -> None:
    """The mark of a handler counts for a partial of it."""
    app.router.add_get("/partial", functools.partial(public(hello)))
    client = await aiohttp_client(app)
    assert (await client.get("/partial")).status == 200


async def test_a_bound_method_can_be_marked(aiohttp_client: AioHttpClient, app: web.Application) -> None:
    """A method of an object that holds handlers is marked as a function is."""

    class Pages:
        async def front(self, _request: web.Request) -> web.Response:
            return web.Response()

    app.router.add_get("/front", public(Pages().front))
    client = await aiohttp_client(app)
    assert (await client.get("/front")).status == 200


async def test_exempt_lets_through_and_protected_wins(aiohttp_client: AioHttpClient, node: Node) -> None:
    """The predicate exempts what has no mark; a handler marked protected stays protected."""

    @protected
    async def secret(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    setup(app, node, exempt=lambda request: request.path.startswith("/assets/"), run_node=False)
    app.router.add_get("/assets/logo", hello)
    app.router.add_get("/assets/secret", secret)
    client = await aiohttp_client(app)
    assert (await client.get("/assets/logo")).status == 200
    assert (await client.get("/assets/secret")).status == 401


async def test_a_route_may_accept_the_unknown(
    aiohttp_client: AioHttpClient, app: web.Application, parts: tuple[MemoryTopic, TickClock, Node]
) -> None:
    """A route with the policy accept goes on while the node is stale, and its handler can tell."""
    statuses: list[Status] = []

    @when_unknown("accept")
    async def feed(request: web.Request) -> web.Response:
        statuses.append(request[DECISION].status)
        return web.Response()

    app.router.add_get("/feed", feed)
    client = await aiohttp_client(app)
    parts[1].tick(60)
    assert (await client.get("/feed", headers=bearer(token()))).status == 200
    assert (await client.get("/feed")).status == 401
    assert (await client.get("/whoami", headers=bearer(token()))).status == 503
    assert statuses == [Status.UNKNOWN]


async def test_a_policy_of_another_name_is_refused() -> None:
    """A misspelt policy is an error where it is written, not at the first request."""
    with pytest.raises(InvalidInput, match="'refuse' or 'accept'"):
        when_unknown("allow")  # type: ignore[arg-type]


async def test_the_node_lives_as_long_as_the_application(aiohttp_client: AioHttpClient) -> None:
    """Setup starts the node with the application and stops it with it; meanwhile it answers 503, not 500."""
    node = Node(settings(kafka_bootstrap_servers="127.0.0.1:1"))
    app = web.Application()
    setup(app, node)
    app.router.add_get("/whoami", whoami)
    client = await aiohttp_client(app)
    assert state_of(node) is State.CONNECTING
    assert (await client.get("/whoami", headers=bearer(token()))).status == 503
    await client.close()
    assert state_of(node) is State.STOPPED


async def test_health_routes_need_no_token(
    aiohttp_client: AioHttpClient, app: web.Application, parts: tuple[MemoryTopic, TickClock, Node]
) -> None:
    """Probes and scrapers are answered without a token: alive, ready while live, and metrics."""
    _, clock, node = parts
    add_health_routes(app, node)
    client = await aiohttp_client(app)
    assert await (await client.get("/livez")).text() == "ok\n"
    assert "[+]live ok" in await (await client.get("/readyz?verbose")).text()
    assert "revoker_ready 1.0" in await (await client.get("/metrics")).text()
    clock.tick(60)
    response = await client.get("/readyz")
    assert (response.status, (await response.text()).splitlines()[0][:13]) == (503, "[-]poll faile")


async def test_the_request_path_awaits_nothing_of_ours(node: Node) -> None:
    """Driven by hand, the middleware reaches the handler without once giving control back."""
    reached: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        reached.append(request[CLAIMS]["sub"])
        return web.Response()

    request = make_mocked_request("GET", "/", headers=bearer(token()))
    request.match_info.add_app(web.Application())
    step = protection(node)(request, handler)
    with pytest.raises(StopIteration):
        step.send(None)  # type: ignore[attr-defined]
    assert reached == ["alice"]

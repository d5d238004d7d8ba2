"""The FastAPI dependency: it answers as the middleware does, on every kind of route, and documents itself."""

# No postponed annotations here: FastAPI looks names up in the module, and the dependencies below are local.
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import PlainTextResponse

from consumers.asgi import Message, RevokerMiddleware
from consumers.fastapi import Bearer
from consumers.node import Node
from consumers.testing import MemoryTopic, TickClock
from revoker.errors import InvalidInput
from revoker.tokens import Verified
from tests.asgi_client import call, http_scope, status_and_headers, websocket_scope
from tests.samples import live_topic, revocation_of, settings, token


def bearer(raw: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {raw}".encode())]


@pytest.fixture
def parts() -> tuple[MemoryTopic, TickClock, Node]:
    topic, clock = live_topic()
    return topic, clock, topic.node(settings())


@pytest.fixture
def node(parts: tuple[MemoryTopic, TickClock, Node]) -> Node:
    return parts[2]


def make_app(node: Node) -> FastAPI:
    """Every kind of route that can depend on a token."""
    app = FastAPI()
    authenticate = Bearer(node)
    lenient = Bearer(node, when_unknown="accept")

    @app.get("/async")
    async def asynchronous(token: Annotated[Verified, Depends(authenticate)]) -> str:
        return str(token.claims["sub"])

    @app.get("/threaded")
    def threaded(token: Annotated[Verified, Depends(authenticate)]) -> str:
        return str(token.claims["sub"])

    @app.get("/guarded", dependencies=[Depends(authenticate)])
    def guarded() -> str:
        return "guarded"

    @app.get("/feed")
    async def feed(token: Annotated[Verified, Depends(lenient)]) -> str:
        return "feed"

    @app.get("/open")
    async def unprotected() -> str:
        return "open"

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, token: Annotated[Verified, Depends(authenticate)]) -> None:
        await websocket.accept()
        await websocket.send_text(token.claims["sub"])
        await websocket.close()

    return app


@pytest.mark.parametrize("path", ["/async", "/threaded"])
async def test_the_endpoint_gets_the_verified_token(node: Node, path: str) -> None:
    """Asynchronous and threaded endpoints get the verified token."""
    sent = await call(make_app(node), http_scope(path, bearer(token())))
    assert sent[1]["body"] == b'"alice"'


async def test_a_websocket_gets_the_verified_token(node: Node) -> None:
    """A WebSocket route gets the verified token, here from the cookie, before it accepts."""
    scope = websocket_scope("/socket", [(b"cookie", b"USER_SESSION=" + token().encode())])
    sent = await call(make_app(node), scope)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[1]["text"] == "alice"


async def test_only_what_depends_on_it_is_protected(node: Node) -> None:
    """A route without the dependency needs no token; one with it among its dependencies does."""
    app = make_app(node)
    assert status_and_headers(await call(app, http_scope("/open")))[0] == 200
    assert status_and_headers(await call(app, http_scope("/guarded")))[0] == 401


def differing_headers(sent: list[Message]) -> tuple[int, dict[str, str]]:
    status, headers = status_and_headers(sent)
    headers.pop("content-length")  # the bodies differ in the members beside detail
    return status, headers


@pytest.mark.parametrize("make_scope", [http_scope, websocket_scope])
@pytest.mark.parametrize("state", ["missing", "malformed", "revoked", "unknown"])
async def test_refusals_are_those_of_the_middleware(
    parts: tuple[MemoryTopic, TickClock, Node], state: str, make_scope: Any
) -> None:
    """Dependency and middleware refuse with the same status and headers, on http and on websocket."""
    topic, clock, node = parts
    raw = token()
    if state == "revoked":
        topic.publish(revocation_of(node.authenticate(raw)))
    elif state == "unknown":
        clock.tick(60)
    headers = [] if state == "missing" else bearer("x.y" if state == "malformed" else raw)
    scope = make_scope("/socket" if make_scope is websocket_scope else "/async", headers)
    app = make_app(node)
    refusal = differing_headers(await call(app, scope))
    assert refusal == differing_headers(await call(RevokerMiddleware(app, node), scope))
    assert refusal[0] == (503 if state == "unknown" else 401)


async def test_a_websocket_is_closed_where_no_answer_is_possible(node: Node) -> None:
    """Without the server's extension a WebSocket is closed before it is accepted."""
    sent = await call(make_app(node), websocket_scope("/socket", denial=False))
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


async def test_a_route_may_accept_the_unknown(parts: tuple[MemoryTopic, TickClock, Node]) -> None:
    """A dependency with the policy accept lets a good token through while the node is stale."""
    _, clock, node = parts
    clock.tick(60)
    app = make_app(node)
    assert status_and_headers(await call(app, http_scope("/feed", bearer(token()))))[0] == 200
    assert status_and_headers(await call(app, http_scope("/async", bearer(token()))))[0] == 503


async def test_an_own_handler_may_write_the_refusal(node: Node) -> None:
    """The refusal is an HTTPException, so an application's own handler can write it."""
    app = make_app(node)

    @app.exception_handler(401)
    async def refused(_request: object, error: Any) -> PlainTextResponse:
        return PlainTextResponse(f"no: {error.detail}", 401, error.headers)

    sent = await call(app, http_scope("/async"))
    assert sent[1]["body"] == b"no: The request carries no bearer token"


async def test_it_documents_both_ways_to_bring_the_token(node: Node) -> None:
    """OpenAPI names the header and the cookie as alternatives, and only them."""
    document = make_app(node).openapi()
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "USER_SESSION"},
    }
    operation = document["paths"]["/async"]["get"]
    assert operation["security"] == [{"bearer": []}, {"cookie": []}]
    assert "parameters" not in operation


async def test_without_a_cookie_name_it_documents_the_header_alone() -> None:
    """With the setting cookie_name empty only the header is documented."""
    topic, _ = live_topic()
    document = make_app(topic.node(settings(cookie_name=""))).openapi()
    assert set(document["components"]["securitySchemes"]) == {"bearer"}


def test_a_policy_of_another_name_is_refused(node: Node) -> None:
    """A misspelt policy is an error where it is written."""
    with pytest.raises(InvalidInput, match="must be 'refuse', 'accept' or None"):
        Bearer(node, when_unknown="allow")  # type: ignore[arg-type]

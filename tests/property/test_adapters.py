"""Whatever a client sends for credentials, it is answered 401 or 503: never let in, never a 500."""

from __future__ import annotations

import asyncio
import string
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from fastapi import Depends, FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from consumers.aiohttp import protection
from consumers.asgi import ASGIApp, Receive, RevokerMiddleware, Scope, Send
from consumers.fastapi import Bearer
from tests.asgi_client import call, http_scope, status_and_headers, websocket_scope
from tests.samples import live_topic, token
from tests.samples import settings as node_settings

EXAMPLES = settings(max_examples=400, deadline=None)
NAME = b"USER_SESSION"

# Segments of good tokens beside anything at all: what gets past one check may fall over the next. No signature is good.
segments = st.sampled_from([*(part.encode() for part in token().split(".")[:2]), b"", b"e30", b"bnVsbA", b"=", b"."])
tokens = st.one_of(
    st.binary(max_size=60),
    st.text(string.ascii_letters + string.digits + "-_.", max_size=60).map(str.encode),
    st.lists(segments, max_size=5).map(b".".join),
    st.just(token(secret="s3cr3t-another, long enough for HS256 too").encode()),
)
authorization = st.builds(
    lambda scheme, gap, value, rest: scheme + gap + value + rest,
    st.sampled_from([b"Bearer", b"bearer", b"BEARER", b"Basic", b"", b"Bearer,", b'"Bearer"']),
    st.sampled_from([b" ", b"", b"\t", b"  ", b"\xa0", b"\x00"]),
    tokens,
    st.sampled_from([b"", b"", b", Bearer x", b" ", b"\r\nX: y"]),
)
cookie = st.builds(
    lambda before, name, equals, value, after: before + name + equals + value + after,
    st.one_of(st.just(b""), st.binary(max_size=10).map(lambda junk: junk + b";")),
    st.sampled_from([NAME, NAME.lower(), b" " + NAME + b" ", b"", b'"' + NAME]),
    st.sampled_from([b"=", b"==", b"", b" = "]),
    st.one_of(tokens, tokens.map(lambda value: b'"' + value + b'"')),
    st.one_of(st.just(b""), st.binary(max_size=10).map(lambda junk: b";" + junk)),
)
header = st.one_of(st.tuples(st.just(b"authorization"), authorization), st.tuples(st.just(b"cookie"), cookie))
headers = st.lists(header, max_size=3)

topic, clock = live_topic()
node = topic.node(node_settings())


async def let_in(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError(f"let in: {scope['headers']}")


def fastapi_app() -> FastAPI:
    app = FastAPI(dependencies=[Depends(Bearer(node))])
    app.get("/")(lambda: pytest.fail("let in"))
    return app


APPS: dict[str, ASGIApp] = {"asgi": RevokerMiddleware(let_in, node), "fastapi": fastapi_app()}


@pytest.mark.parametrize("scope", [http_scope, websocket_scope])
@EXAMPLES
@given(sent=headers)
def test_the_asgi_middleware_answers_401(scope: Any, sent: list[tuple[bytes, bytes]]) -> None:
    """Arbitrary bytes in headers and cookies are answered 401 by the middleware, with a challenge that is printable."""
    status, answered = status_and_headers(asyncio.run(call(APPS["asgi"], scope(headers=sent))))
    assert status == 401
    assert answered["www-authenticate"].startswith('Bearer realm="api"')
    assert all(value.isascii() and value.isprintable() for value in answered.values())


@EXAMPLES
@given(sent=headers)
def test_the_fastapi_dependency_answers_401(sent: list[tuple[bytes, bytes]]) -> None:
    """Arbitrary bytes in headers and cookies are answered 401 by the dependency."""
    assert status_and_headers(asyncio.run(call(APPS["fastapi"], http_scope(headers=sent))))[0] == 401


@EXAMPLES
@given(sent=headers)
def test_the_aiohttp_middleware_answers_401(sent: list[tuple[bytes, bytes]]) -> None:
    """Arbitrary header texts, decoded as aiohttp decodes them, are answered 401 by the middleware."""

    async def let_in(_request: web.Request) -> web.Response:
        raise AssertionError("let in")

    request = make_mocked_request("GET", "/")
    decoded = CIMultiDict([(name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in sent])
    request._headers = CIMultiDictProxy(decoded)  # given to the constructor, the mock would encode them strictly
    step: Any = protection(node)(request, let_in)
    with pytest.raises(StopIteration) as returned:
        step.send(None)
    assert returned.value.value.status == 401

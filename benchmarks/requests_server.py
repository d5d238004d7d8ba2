"""The servers that `benchmarks.requests` puts under load: one handler, six ways to authenticate, three servers.

The ways that are not ours are written as an application writes them: a middleware that takes the header apart, and
401 for whatever the library refuses.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import jwt
import redis.asyncio
import uvicorn
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.population import ISS, THREE_KINDS, live_node, revocations
from consumers.aiohttp import CLAIMS, setup
from consumers.asgi import RevokerMiddleware, token_of
from consumers.node import Node
from revoker.keys import keys_from_settings
from revoker.settings import Settings
from revoker.tokens import Verifier

__all__ = ["FRAMEWORKS", "VARIANTS", "serve"]

FRAMEWORKS: Final = ("aiohttp", "starlette", "asgi")
#: Nothing; PyJWT; our verifier; ours without and with the cache of claims; PyJWT and Redis.
VARIANTS: Final = ("none", "pyjwt", "verify", "uncached", "cached", "redis")
_OURS: Final = ("uncached", "cached")
_NOBODY: Final = {"sub": "nobody"}

#: Claims for the value of an Authorization header. Raises jwt.InvalidTokenError.
Authenticate = Callable[[str], Awaitable[Any]]


def settings_for(options: Namespace, *, cached: bool) -> Settings:
    """A node's, as the tokens of the benchmark need them."""
    shared: dict[str, Any] = {"denylist": "shared", "shared_dir": str(options.directory)}
    return Settings(
        algorithms=("RS256",),
        key_files=(f"k1={options.key_file}",),
        issuer=ISS,
        audience=("api",),
        staleness_bound_s=1e6,
        claims_cache_entries=10_000 if cached else 0,
        max_entries=2 * options.entries,
        **(shared if options.store == "shared" else {}),
    )


def node_of(variant: str, options: Namespace) -> Node:
    """A node with a full deny list and a proof that lasts, as long as the process lives."""
    events = revocations(options.entries, kinds=THREE_KINDS, now_s=int(time.time()))
    return _kept.enter_context(live_node(settings_for(options, cached=variant == "cached"), events))


_kept: Final = ExitStack()


def authenticator(variant: str, options: Namespace) -> Authenticate:
    """The ways that are not ours."""
    public = load_pem_public_key(Path(options.key_file).read_bytes())
    assert isinstance(public, RSAPublicKey)

    def decode(header: str) -> Any:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise jwt.InvalidTokenError("no bearer token")
        return jwt.decode(token, public, algorithms=["RS256"], issuer=ISS, audience="api")

    async def none(_header: str) -> Any:
        return _NOBODY

    async def pyjwt(header: str) -> Any:
        return decode(header)

    settings = settings_for(options, cached=False)
    verifier = Verifier.from_settings(settings, keys_from_settings(settings))

    async def verify(header: str) -> Any:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise jwt.InvalidTokenError("no bearer token")
        return verifier.verify(token).claims

    client = redis.asyncio.Redis(host="127.0.0.1", port=options.redis_port)

    async def with_redis(header: str) -> Any:
        claims = decode(header)
        if await client.exists(f"bl:{claims['jti']}"):
            raise jwt.InvalidTokenError("revoked")
        return claims

    return {"none": none, "pyjwt": pyjwt, "verify": verify, "redis": with_redis}[variant]


def aiohttp_app(variant: str, options: Namespace) -> web.Application:
    """aiohttp: a middleware and a handler."""
    app = web.Application()
    if variant in _OURS:
        setup(app, node_of(variant, options), run_node=False)
    else:
        authenticate = authenticator(variant, options)

        @web.middleware
        async def protect(request: web.Request, handler: Any) -> web.StreamResponse:
            try:
                request[CLAIMS] = await authenticate(request.headers.get("Authorization", ""))
            except jwt.InvalidTokenError:
                return web.Response(status=401)
            answer: web.StreamResponse = await handler(request)
            return answer

        app.middlewares.append(protect)

    async def whoami(request: web.Request) -> web.Response:
        return web.json_response({"sub": request[CLAIMS]["sub"]})

    app.router.add_get("/", whoami)
    return app


def protected(app: Any, variant: str, options: Namespace) -> Any:
    """An ASGI application behind one of the ways; the claims are in ``scope["claims"]`` or ours in its place."""
    if variant in _OURS:
        return RevokerMiddleware(app, node_of(variant, options), run_node=False)
    authenticate = authenticator(variant, options)

    async def protect(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        try:
            claims = await authenticate(header.decode("latin-1"))
        except jwt.InvalidTokenError:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await app({**scope, "claims": claims}, receive, send)

    return protect


def starlette_app(variant: str, options: Namespace) -> Any:
    """Starlette: a route behind a middleware."""
    claims_of = _claims_of(variant)

    async def whoami(request: Request) -> Response:
        return JSONResponse({"sub": claims_of(request.scope)["sub"]})

    return protected(Starlette(routes=[Route("/", whoami)]), variant, options)


def asgi_app(variant: str, options: Namespace) -> Any:
    """No framework: as little around authentication as uvicorn allows."""
    claims_of = _claims_of(variant)

    async def whoami(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = json.dumps({"sub": claims_of(scope)["sub"]}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return protected(whoami, variant, options)


def _claims_of(variant: str) -> Callable[[Any], Any]:
    if variant in _OURS:
        return lambda scope: token_of(scope).claims
    return lambda scope: scope["claims"]


async def serve(framework: str, variant: str, options: Namespace) -> None:
    """Serve on loopback until SIGTERM; says ``ready`` on standard output."""
    ended = asyncio.Event()
    if framework == "aiohttp":
        runner = web.AppRunner(aiohttp_app(variant, options), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", options.port).start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        _say_ready()
        await ended.wait()
        await runner.cleanup()
        return
    app = (starlette_app if framework == "starlette" else asgi_app)(variant, options)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False, lifespan="off"
    )
    await _Server(config).serve()


class _Server(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _say_ready()


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()

"""Plain ASGI: a middleware for FastAPI, Starlette, Litestar, Quart, Django, or no framework. It imports none of them.

::

    app = RevokerMiddleware(app, Node(Settings.load()), exempt={"/login"})
    app.add_middleware(RevokerMiddleware, node=Node(Settings.load()), exempt={"/login"})  # Starlette, FastAPI

Every http and websocket request is protected unless ``exempt`` says otherwise, and an admitted one carries the token
as ``scope["revoker.token"]`` and the decision as ``scope["revoker.decision"]``. A WebSocket is refused before it is
accepted: with the same 401 or 503 where the server offers the extension ``websocket.http.response``, else by closing
it, which servers answer with 403.

The node starts and stops with the application's lifespan, also around an application that knows nothing of lifespans.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from consumers.refusal import Answer, ask
from revoker.errors import InvalidInput
from revoker.health import expose, readyz
from revoker.tokens import Verified

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from consumers.guard import Decision, Policy
    from consumers.node import Node

__all__ = ["ASGIApp", "RevokerMiddleware", "decision_of", "health_app", "lifespan", "token_of"]

log: logging.Logger = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
#: An ASGI 3 application, without any framework's types.
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_TOKEN: Final = "revoker.token"  # noqa: S105 - a key, not a secret
_DECISION: Final = "revoker.decision"


class RevokerMiddleware:
    """Lets no http or websocket request through whose token is missing, invalid or revoked. Awaits only ``app``.

    ``exempt``: paths let through unasked, compared whole, or a predicate on the scope. ``when_unknown``: by path
    prefix, the policy while the node cannot prove that it is up to date; the longest prefix decides, and one ends
    where a segment does (``/feed`` covers ``/feed/new``, not ``/feedback``); elsewhere the setting holds. Both look
    at the path below the application's mount point. ``run_node``: False if the node is started elsewhere. Raises
    InvalidInput for a path that does not start with a slash.
    """

    def __init__(
        self,
        app: ASGIApp,
        node: Node,
        *,
        exempt: Collection[str] | Callable[[Scope], bool] = (),
        when_unknown: Mapping[str, Policy] | None = None,
        run_node: bool = True,
    ) -> None:
        self._app = app
        self._node = node
        self._exempt = exempt if callable(exempt) else _among(exempt)
        self._policies = _by_length(when_unknown or {})
        self._run_node = run_node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        kind = scope["type"]
        if kind == "lifespan" and self._run_node:
            await _Lifespan(self._app, self._node, receive=receive, send=send).run(scope)
        elif kind not in ("http", "websocket") or (self._exempt is not None and self._exempt(scope)):
            await self._app(scope, receive, send)
        else:
            # One pass, written out: this is every request.
            authorization: list[str] = []
            cookies: list[str] = []
            for name, value in scope["headers"]:
                if name == b"authorization":
                    authorization.append(value.decode("latin-1"))
                elif name == b"cookie":
                    cookies.append(value.decode("latin-1"))
            asked = ask(
                self._node,
                authorization=authorization,
                cookies=cookies,
                when_unknown=self._policy(scope) if self._policies else None,
            )
            if isinstance(asked, Answer):
                await _refuse(asked, scope, send)
            else:
                # A copy: the server's scope belongs to the server (ASGI, "Middleware").
                await self._app({**scope, _TOKEN: asked[0], _DECISION: asked[1]}, receive, send)

    def _policy(self, scope: Scope) -> Policy | None:
        path = _path(scope)
        for prefix, policy in self._policies:
            if path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix) : len(prefix) + 1] in ("", "/")):
                return policy
        return None


def token_of(scope: Mapping[str, Any]) -> Verified:
    """The verified token of a request, from its ASGI scope (``request.scope``). Raises KeyError on exempt paths."""
    return cast("Verified", scope[_TOKEN])


def decision_of(scope: Mapping[str, Any]) -> Decision:
    """Why a request was let through: ``status`` is UNKNOWN where the policy ``accept`` admitted it.

    Raises KeyError on exempt paths.
    """
    return cast("Decision", scope[_DECISION])


def lifespan(node: Node) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """For ``Starlette(lifespan=lifespan(node))`` and FastAPI alike, where no `RevokerMiddleware` runs the node."""

    @asynccontextmanager
    async def run(_app: object) -> AsyncIterator[None]:
        async with node:
            yield

    return run


def health_app(node: Node, *, fallback: ASGIApp | None = None) -> ASGIApp:
    """Answers ``/livez``, ``/readyz`` (``?verbose`` lists the checks) and ``/metrics``; the rest is for ``fallback``.

    Put it around everything, ``health_app(node, fallback=app)``, or mount it without a fallback; it then answers 404
    to the rest.
    """

    async def health(scope: Scope, receive: Receive, send: Send) -> None:
        path = _path(scope) if scope["type"] == "http" else ""
        if path not in ("/livez", "/readyz", "/metrics"):
            if fallback is not None:
                await fallback(scope, receive, send)
            elif scope["type"] == "http":
                await _respond(send, 404, "text/plain", b"not found\n")
            else:
                raise InvalidInput(f"health_app without a fallback takes no {scope['type']} connections, only http")
        elif scope["method"] not in ("GET", "HEAD"):
            await _respond(send, 405, "text/plain", b"use GET\n", (b"allow", b"GET, HEAD"))
        elif path == "/livez":
            await _respond(send, 200, "text/plain", b"ok\n")
        elif path == "/readyz":
            names = {part.partition(b"=")[0] for part in scope.get("query_string", b"").split(b"&")}
            status, text = readyz(node.checks(), verbose=b"verbose" in names)
            await _respond(send, status, "text/plain; charset=utf-8", text.encode())
        else:
            content_type, body = expose(node.families(), accept=",".join(_values(scope, b"accept")))
            await _respond(send, 200, content_type, body)

    return health


class _Lifespan:
    """A node's life around an application's: started before its startup, closed before the server hears of its end."""

    def __init__(self, app: ASGIApp, node: Node, *, receive: Receive, send: Send) -> None:
        self._app = app
        self._node = node
        self._receive = receive
        self._send = send
        self._unread: Message | None = None
        self._started = False
        self._shutting_down = False
        self._ended = False

    async def run(self, scope: Scope) -> None:
        self._unread = await self._receive()
        try:
            self._node.start()
        except Exception as error:
            # Raised alone it would tell the server that lifespans are unknown here, and the server would go on.
            await self._send({"type": "lifespan.startup.failed", "message": f"the node did not start: {error}"})
            raise
        try:
            await self._run_app(scope)
            if not self._ended:
                await self._run_alone()
        finally:
            await self._node.close()

    async def _run_app(self, scope: Scope) -> None:
        try:
            await self._app(scope, self._inner_receive, self._inner_send)
        except Exception:
            if self._started or self._ended:
                raise
            # An application may raise to say that it does not know lifespans (ASGI, "Lifespan Protocol").
            log.info("the application takes no lifespan events; running the node's alone", exc_info=True)

    async def _run_alone(self) -> None:
        if not self._started:
            await self._inner_send({"type": "lifespan.startup.complete"})
        if not self._shutting_down:
            await self._receive()
        await self._inner_send({"type": "lifespan.shutdown.complete"})

    async def _inner_receive(self) -> Message:
        if self._unread is not None:
            message, self._unread = self._unread, None
            return message
        message = await self._receive()
        self._shutting_down = True
        return message

    async def _inner_send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._started = True
        else:
            self._ended = True
            await self._node.close()  # before: servers end the loop once they have heard it
        await self._send(message)


def _among(paths: Iterable[str]) -> Callable[[Scope], bool] | None:
    if isinstance(paths, str):
        raise InvalidInput(f"exempt is the text {paths!r}, must be a collection of paths such as {{'/login'}}")
    exempt = frozenset(_checked(path, "exempt") for path in paths)
    return (lambda scope: _path(scope) in exempt) if exempt else None


def _by_length(policies: Mapping[str, Policy]) -> tuple[tuple[str, Policy], ...]:
    for prefix, policy in policies.items():
        _checked(prefix, "when_unknown")
        if policy not in ("refuse", "accept"):
            raise InvalidInput(f"when_unknown of {prefix} is {policy!r}, must be 'refuse' or 'accept'")
    return tuple(sorted(policies.items(), key=lambda item: len(item[0]), reverse=True))


def _checked(path: str, argument: str) -> str:
    if not path.startswith("/"):
        raise InvalidInput(f"{argument} has the path {path!r}, which must start with a slash")
    return path


def _path(scope: Scope) -> str:
    # As frameworks route: below the mount point. root_path is part of the path where the server or a mount has set it.
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) and path[len(root) :][:1] in ("", "/") else path


def _values(scope: Scope, name: bytes) -> list[str]:
    # Latin-1 keeps every byte a character, as HTTP has it; what is no token is refused later, not here.
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def _refuse(refusal: Answer, scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or {}):
        code = 1008 if refusal.status == 401 else 1013  # RFC 6455 section 7.4: policy violation; try again later
        await send({"type": "websocket.close", "code": code, "reason": refusal.detail})
        return
    prefix = "websocket." if scope["type"] == "websocket" else ""
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers]
    headers.append((b"content-length", b"%d" % len(refusal.body)))
    await send({"type": f"{prefix}http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": refusal.body})


async def _respond(send: Send, status: int, content_type: str, body: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

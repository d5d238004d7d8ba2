"""aiohttp: a middleware that lets no request through whose token is missing, invalid or revoked.

::

    app = web.Application()
    setup(app, Node(Settings.load()))


    async def whoami(request: web.Request) -> web.Response:
        return web.json_response({"sub": request[CLAIMS]["sub"]})

Every route is protected unless something says otherwise: `public` on the handler, or ``exempt`` for what cannot be
decorated. A WebSocket is refused before the upgrade, with the same 401 or 503. Once upgraded it lives on: a
long-lived one asks ``request.config_dict[NODE]`` now and then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from aiohttp import hdrs, web

from consumers.guard import Decision, Policy
from consumers.node import Node
from consumers.refusal import Answer, ask
from revoker.errors import InvalidInput
from revoker.health import expose, readyz
from revoker.tokens import Verified

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

__all__ = [
    "CLAIMS",
    "DECISION",
    "NODE",
    "TOKEN",
    "add_health_routes",
    "protected",
    "protection",
    "public",
    "setup",
    "when_unknown",
]

#: The node, on the application: ``request.config_dict[NODE]``, in sub-applications too.
NODE: Final = web.AppKey("revoker_node", Node)

# RequestKey came with aiohttp 3.14, which warns of other keys. Before, requests took anything hashable.
_request_key: Any = getattr(web, "RequestKey", web.AppKey)

#: The claims of the token, on the request; absent on exempt routes, as the two below.
CLAIMS: Final[web.RequestKey[Mapping[str, Any]]] = _request_key("revoker_claims", Mapping)
#: The token itself, verified; what `revoker.publisher.Publisher.logout` takes.
TOKEN: Final[web.RequestKey[Verified]] = _request_key("revoker_token", Verified)
#: Why the request was let through: ``request[DECISION].status`` is UNKNOWN where the policy ``accept`` admitted it.
DECISION: Final[web.RequestKey[Decision]] = _request_key("revoker_decision", Decision)

_T = TypeVar("_T", bound=Callable[..., Any])
_Mark = Literal["public", "protected", "refuse", "accept"]
_MARK: Final = "__revoker_mark__"


def setup(
    app: web.Application,
    node: Node,
    *,
    exempt: Callable[[web.Request], bool] | None = None,
    run_node: bool = True,
) -> None:
    """Protect ``app`` and its sub-applications, and have ``node`` start and stop with it.

    ``exempt``: which requests to let through unasked, for routes that cannot be decorated, such as static files.
    ``run_node``: False if the node is started elsewhere, because several applications share it.

    Call it after adding the middlewares that must see requests first (CORS: preflights carry no token) and before the
    others.
    """
    app[NODE] = node
    app.middlewares.append(protection(node, exempt=exempt))
    if run_node:

        async def run(_app: web.Application) -> AsyncIterator[None]:
            async with node:
                yield

        app.cleanup_ctx.append(run)


def protection(node: Node, *, exempt: Callable[[web.Request], bool] | None = None) -> Middleware:
    """The middleware alone, for those who start the node and set ``NODE`` themselves. Awaits only the handler."""

    @web.middleware
    async def protect(request: web.Request, handler: Handler) -> web.StreamResponse:
        mark = _mark_of(request)
        if mark == "public" or (mark is None and exempt is not None and exempt(request)):
            return await handler(request)
        policy: Policy | None = mark if mark == "refuse" or mark == "accept" else None
        headers = request.headers
        asked = ask(
            node,
            authorization=headers.getall(hdrs.AUTHORIZATION, ()),
            cookies=headers.getall(hdrs.COOKIE, ()),
            when_unknown=policy,
        )
        if isinstance(asked, Answer):
            return web.Response(status=asked.status, headers=asked.headers, body=asked.body)
        request[TOKEN], request[DECISION] = asked
        request[CLAIMS] = asked[0].claims
        return await handler(request)

    return protect


def public(handler: _T) -> _T:
    """Decorator: this handler, or class view, needs no token. A class that derives from the view is protected again."""
    return _marked(handler, "public")


def protected(handler: _T) -> _T:
    """Decorator: this handler, or class view, needs a token even where ``exempt`` says otherwise."""
    return _marked(handler, "protected")


def when_unknown(policy: Policy) -> Callable[[_T], _T]:
    """Decorator: what this handler, or class view, answers while its node cannot prove that it is up to date.

    It is protected. ``refuse`` (503) or ``accept``: go on, with ``request[DECISION].status`` UNKNOWN. Before a node
    was first up to date it refuses.
    """
    if policy not in ("refuse", "accept"):
        raise InvalidInput(f"when_unknown is {policy!r}, must be 'refuse' or 'accept'")
    return partial(_marked, mark=policy)


def add_health_routes(app: web.Application, node: Node) -> None:
    """Add ``/livez``, ``/readyz`` (``?verbose`` lists the checks) and ``/metrics``, none of them protected."""

    @public
    async def livez(_request: web.Request) -> web.Response:
        return _text(200, "ok\n")

    @public
    async def ready(request: web.Request) -> web.Response:
        status, text = readyz(node.checks(), verbose="verbose" in request.query)
        return _text(status, text)

    @public
    async def metrics(request: web.Request) -> web.Response:
        content_type, body = expose(node.families(), accept=request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", metrics)


def _marked(handler: _T, mark: _Mark) -> _T:
    setattr(getattr(handler, "__func__", handler), _MARK, mark)  # bound methods take no attributes
    return handler


def _mark_of(request: web.Request) -> _Mark | None:
    handler: Any = request.match_info.handler
    while isinstance(handler, partial):
        handler = handler.func
    if isinstance(handler, type):
        method = _own_mark(getattr(handler, request.method.lower(), None))
        if method is not None:
            return method
    return _own_mark(handler)


def _own_mark(handler: object) -> _Mark | None:
    # The object's own, not inherited: a class view that derives from a public one would be public without anybody
    # having said so.
    mark: _Mark | None = getattr(handler, "__dict__", {}).get(_MARK)
    return mark


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, headers={"Cache-Control": "no-store"})

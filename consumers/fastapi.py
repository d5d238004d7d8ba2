"""FastAPI: the token of a request as a dependency, with its place in the OpenAPI document.

::

    node = Node(Settings.load())
    Token = Annotated[Verified, Depends(Bearer(node))]
    app = FastAPI(lifespan=lifespan(node))  # consumers.asgi.lifespan


    @app.get("/whoami")
    def whoami(token: Token) -> dict[str, str]:
        return {"sub": token.claims["sub"]}

Only what depends on it is protected; `consumers.asgi.RevokerMiddleware` protects everything. Both answer with the
same status and headers.
"""

from __future__ import annotations

import inspect

from fastapi import Depends, HTTPException, WebSocketException
from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer
from fastapi.openapi.models import SecurityBase as SecurityModel
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from consumers.guard import Policy
from consumers.node import Node
from consumers.refusal import Answer, ask
from revoker.errors import InvalidInput
from revoker.tokens import Verified

__all__ = ["Bearer"]


class Bearer:
    """A dependency that gives the verified token, or refuses with 401 or 503. It awaits nothing.

    For http and websocket routes, asynchronous and threaded ones alike. ``when_unknown``: the policy of the routes
    that depend on it; None = the setting. A WebSocket is refused before it is accepted: with the same answer where
    the server offers the extension ``websocket.http.response`` (uvicorn, hypercorn), else by closing it, which
    servers answer with 403.

    The refusal is an HTTPException, so that an application's own handler sees it. FastAPI's default handler writes
    ``{"detail": …}``, which is a complete problem document (RFC 9457).
    """

    def __init__(self, node: Node, *, when_unknown: Policy | None = None) -> None:
        if when_unknown not in (None, "refuse", "accept"):
            raise InvalidInput(f"when_unknown is {when_unknown!r}, must be 'refuse', 'accept' or None")
        self._node = node
        self._when_unknown = when_unknown
        # FastAPI reads the signature to learn what to inject, and documents a scheme for each SecurityBase it finds
        # there. One object can be only one scheme, and there are two ways to bring the token.
        schemes = {"bearer": _Scheme("bearer", HTTPBearer(bearerFormat="JWT"))}
        if cookie := node.settings.cookie_name:
            schemes["cookie"] = _Scheme("cookie", APIKey.model_validate({"in": APIKeyIn.cookie, "name": cookie}))
        parameters = [inspect.Parameter("connection", inspect.Parameter.KEYWORD_ONLY, annotation=HTTPConnection)]
        for name, scheme in schemes.items():
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=Depends(scheme)))
        self.__signature__: inspect.Signature = inspect.Signature(parameters)

    async def __call__(self, connection: HTTPConnection, **_schemes: None) -> Verified:
        """The token of ``connection``. Raises HTTPException, or WebSocketException where an HTTP answer is
        impossible.
        """
        asked = ask(
            self._node,
            authorization=connection.headers.getlist("authorization"),
            cookies=connection.headers.getlist("cookie"),
            when_unknown=self._when_unknown,
        )
        if not isinstance(asked, Answer):
            return asked[0]
        scope = connection.scope
        if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or {}):
            raise WebSocketException(1008 if asked.status == 401 else 1013, asked.detail)
        raise HTTPException(asked.status, asked.detail, dict(asked.headers))


class _Scheme(SecurityBase):
    """Documents one way to bring the token; `Bearer` does the work."""

    def __init__(self, scheme_name: str, model: SecurityModel) -> None:
        self.scheme_name = scheme_name
        self.model = model

    async def __call__(self) -> None: ...

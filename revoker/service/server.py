"""Listening: the application behind a door that cuts slow clients and repeats nothing of what they sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web

from revoker.errors import SettingsError
from revoker.service.problems import of_status, respond

__all__ = ["serving"]

logger: logging.Logger = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    app: web.Application,
    *,
    host: str,
    port: int,
    idle_timeout_s: float = 75.0,
    linger_s: float = 0.5,
    drain_s: float = 30.0,
) -> AsyncIterator[tuple[str, int]]:
    """Serve ``app``; yields the address listened on. ``port`` 0 takes any free one.

    ``idle_timeout_s``: how long a connection may take to send a request's head, and to lie idle; longer than the 60 s
    of nginx's upstream pool, which would otherwise send requests into connections just closed. ``linger_s``: how long
    the rest of a refused body is read and dropped, so that the client sees the answer rather than a reset. ``drain_s``:
    how long requests in progress may take at the end; give it more than publish_timeout_s.

    Raises SettingsError if the address cannot be listened on.
    """
    app.on_response_prepare.append(_unrepeated)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=drain_s)
    await runner.setup()
    try:
        manager = runner.server
        if manager is None:
            raise RuntimeError("this application could not be set up")
        loop = asyncio.get_running_loop()

        def connection() -> web.RequestHandler:
            # No access log: its lines hold the query string, where some clients put their token.
            return _Connection(
                manager,
                loop=loop,
                access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "none"
                keepalive_timeout=idle_timeout_s,
                lingering_time=linger_s,
            )

        server = await _listen(connection, host=host, port=port)
        try:
            bound = server.sockets[0].getsockname()
            yield bound[0], bound[1]
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _unrepeated(_request: web.Request, response: web.StreamResponse) -> None:
    """aiohttp answers an unknown ``Expect`` outside of all middlewares, and quotes the header."""
    if response.status == HTTPStatus.EXPECTATION_FAILED and response.content_type == "text/plain":
        ours = respond(of_status(response.status))
        cast("web.Response", response).body = ours.body
        response.content_type = ours.content_type
        response.charset = None


async def _listen(connection: Callable[[], asyncio.Protocol], *, host: str, port: int) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(connection, host, port, backlog=128)
    except OSError as error:
        raise SettingsError(f"listen is {host}:{port}, which cannot be listened on: {error.strerror}") from error


class _Connection(web.RequestHandler):
    """aiohttp's own answer to malformed HTTP quotes the line at fault, in the body and in the log: often Authorization
    itself."""

    __slots__ = ()

    def log_exception(self, *arguments: Any, **named: Any) -> None:
        """As aiohttp does, unless it is a client's doing: a body that nobody wanted, and that cannot be unpacked.

        aiohttp writes thirty lines for each of those, at level ERROR.
        """
        error = named.get("exc_info")
        if isinstance(error, web.RequestPayloadError):
            logger.info("malformed HTTP (%s)", type(error).__name__)
        else:
            super().log_exception(*arguments, **named)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  - it quotes the request
    ) -> web.StreamResponse:
        """A problem that says which status, and a log line that says which class of error."""
        if status >= 500:
            logger.error("a request failed outside of its handler", exc_info=exc)
        else:
            logger.info("malformed HTTP (%s)", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so no other can be sent")
        response = respond(of_status(status))
        response.headers.update({"Cache-Control": "no-store", "Server": "revoker"})
        response.force_close()
        return response

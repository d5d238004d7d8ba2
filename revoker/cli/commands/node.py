"""``revoker node``: an API node that does nothing but refuse revoked tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import click
from aiohttp import web

from consumers.aiohttp import CLAIMS, add_health_routes, setup
from consumers.node import Node
from revoker.cli.exits import Exit
from revoker.cli.options import FOLLOWING, HTTP, SHARING, TOKENS, Command, settings_options
from revoker.cli.output import Output, output_options, rfc3339
from revoker.cli.running import serve_until_stopped
from revoker.settings import Settings

__all__ = ["command"]

_DRAIN_S = 10.0


@click.command("node", cls=Command, short_help="Run a bare API node, for trying out.")
@output_options
@settings_options(FOLLOWING, SHARING, TOKENS, HTTP, ("when_unknown",))
@click.pass_context
def command(context: click.Context, *, settings: Settings, output: Output) -> None:
    """Run a bare API node: GET /whoami answers the caller's claims, or 401 once the token is revoked.

    For trying out, as the process that writes the shared deny list of a host (setting denylist), and as the smallest
    example of an API behind revoker. /livez, /readyz and /metrics need no token. Prints one line with its URL once it
    listens; whether it is ready is /readyz's to say. SIGTERM exits 0.
    """
    context.exit(asyncio.run(_serve(settings, output)))


async def _serve(settings: Settings, output: Output) -> Exit:
    node = Node(settings)
    app = web.Application()
    setup(app, node)
    add_health_routes(app, node)

    async def whoami(request: web.Request) -> web.Response:
        claims: Mapping[str, Any] = request[CLAIMS]
        return web.json_response({"claims": dict(claims), "as_of": rfc3339(node.proof.as_of)})

    app.router.add_get("/whoami", whoami)

    def listening(url: str) -> None:
        output.write({"event": "listening", "what": "node", "url": url}, f"node listening on {url}")

    return await serve_until_stopped(app, settings=settings, drain_s=_DRAIN_S, listening=listening)

"""``revoker serve``: the logout service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import click
from aiohttp import web

from revoker.cli.exits import Exit
from revoker.cli.options import CONTRACT, FOLLOWING, HTTP, PUBLISHING, TOKENS, Command, settings_options
from revoker.cli.output import Output, output_options
from revoker.cli.reading import Reading
from revoker.cli.running import serve_until_stopped
from revoker.keys import keys_from_settings
from revoker.publisher import Publisher
from revoker.service.app import create_app
from revoker.settings import Settings
from revoker.tokens import Verifier

__all__ = ["command"]

_SERVICE = (
    "cookie_path",
    "cookie_domain",
    "cookie_secure",
    "cookie_http_only",
    "cookie_same_site",
    "allowed_origins",
    "max_body_bytes",
    "admin_tokens",
    "outbox_file",
    "outbox_max_events",
    "admin_audit_file",
)


@click.command("serve", cls=Command, short_help="Run the logout service.")
@output_options
@settings_options(PUBLISHING, TOKENS, HTTP, _SERVICE, CONTRACT, FOLLOWING)
@click.pass_context
def command(context: click.Context, *, settings: Settings, output: Output) -> None:
    """Run the logout service: POST /logout, POST /revocations, /openapi.json, /livez, /readyz, /metrics.

    Prints one line with its URL once it listens. SIGTERM lets requests under way finish and exits 0.
    """
    context.exit(asyncio.run(_serve(settings, output)))


async def _serve(settings: Settings, output: Output) -> Exit:
    keys = keys_from_settings(settings)
    # It follows the topic too, or a thief's copy of a revoked token could still log out its user's later sessions.
    reading = Reading(settings)

    app = create_app(
        settings,
        publisher=Publisher(settings, on_accepted=reading.intake.take_local),
        verifier=Verifier.from_settings(settings, keys),
        keys=keys,
        is_revoked=reading.is_revoked,
    )

    async def follow(_app: web.Application) -> AsyncIterator[None]:
        async with reading:
            yield

    app.cleanup_ctx.append(follow)

    def listening(url: str) -> None:
        output.write({"event": "listening", "what": "service", "url": url}, f"logout service listening on {url}")

    return await serve_until_stopped(
        app, settings=settings, drain_s=settings.publish_timeout_s + 1, listening=listening
    )

"""``revoker check``: is this token revoked?"""

from __future__ import annotations

import asyncio

import click

from consumers.guard import Decision
from revoker.cli.exits import Exit
from revoker.cli.options import FOLLOWING, TOKENS, Command, settings_options
from revoker.cli.output import Output, output_options, progress_bar
from revoker.cli.presented import presented, selector_fields, token_text
from revoker.cli.reading import Reading, decision_fields, decision_words, exit_of, look_first
from revoker.settings import Settings
from revoker.tokens import Verified

__all__ = ["command"]


@click.command("check", cls=Command, short_help="Is this token revoked?")
@click.argument("token", callback=token_text)
@click.option(
    "--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds the replay may take."
)
@output_options
@settings_options(FOLLOWING, TOKENS, quiet=True)
@click.pass_context
def command(context: click.Context, *, token: str, timeout_s: float, settings: Settings, output: Output) -> None:
    """Say whether TOKEN is revoked, from the whole topic; - reads it from standard input.

    Exits 0 if it is not revoked, 1 if it is, 3 if that could not be proved in time. Where keys are configured the token
    is verified first, and one that does not hold exits 4; where none are, it is taken at its word.
    """
    code, found, verified, decision = asyncio.run(_check(settings, token, timeout_s))
    identity = {"kind": found.selector.kind} | selector_fields(found.selector)
    output.write(
        decision_fields(decision) | {"verified": verified, "identity": identity},
        lambda: (
            decision_words(decision) + ("" if verified else "; its signature was not checked: no keys are configured")
        ),
    )
    context.exit(code)


async def _check(settings: Settings, text: str, timeout_s: float) -> tuple[Exit, Verified, bool, Decision]:
    found, verified = await presented(settings, text, unverified=True)
    await look_first(settings)
    with progress_bar("reading the topic") as show:
        async with Reading(settings) as reading:
            await reading.until_live(timeout_s=timeout_s, show=show)
            decision = reading.judge(found)
    return exit_of(decision), found, verified, decision

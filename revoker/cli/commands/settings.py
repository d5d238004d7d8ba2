"""``revoker settings``: what is in effect, and where it comes from."""

from __future__ import annotations

from typing import Any

import click

from revoker.cli.options import Command, given_settings, settings_options
from revoker.cli.output import Output, output_options
from revoker.cli.output import table as columns
from revoker.settings import Settings, sources, table

__all__ = ["command"]


@click.command("settings", cls=Command, short_help="Every setting, its value and its source.")
@output_options
@settings_options(tuple(row.name for row in table()))
@click.pass_context
def command(context: click.Context, *, settings: Settings, output: Output) -> None:
    """Print every setting, its value, and where the value comes from. Secrets only say that they are set.

    Takes them all as options, so that a command line can be tried out.
    """
    given, file = given_settings(context)
    found_in = sources(given, file=file)
    rows: list[dict[str, Any]] = []
    for row in table():
        value = getattr(settings, row.name)
        rows.append(
            {
                "name": row.name,
                "value": "***" if row.secret and value else value,
                "source": found_in[row.name],
                "environment": row.environment_name,
                "default": row.default,
                "secret": row.secret,
                "help": row.help,
            }
        )
    output.write(
        {"settings": rows},
        lambda: columns(
            ("setting", "value", "source", "environment"),
            [(row["name"], _shown(row["value"]), row["source"], row["environment"]) for row in rows],
        ),
    )


def _shown(value: object) -> str | None:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or None
    return str(value).lower() if isinstance(value, bool) else (None if value in (None, "") else str(value))

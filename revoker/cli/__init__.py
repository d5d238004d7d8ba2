"""The command line: ``revoker …`` and ``python -m revoker …``. The composition root: only this room uses `consumers`.

A command's module is imported when the command is asked for: completion and one command's help stay quick.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

__all__ = ["main"]

#: In the order of the help. Each is ``command`` in the module of its name in `revoker.cli.commands`.
_COMMANDS = (
    "demo",
    "serve",
    "node",
    "revoke",
    "check",
    "replay",
    "tail",
    "topic",
    "outbox",
    "publisher",
    "token",
    "settings",
    "completion",
)

_EPILOG = """\b
Exit codes
  0    done; check: the token is not revoked
  1    failed, or the answer is no; check: the token is revoked
  2    the command line, a setting or an input is wrong; nothing was sent
  3    not ready, not read to the end in time, or the outcome is unknown
  4    authentication or authorisation
  130  Ctrl-C; SIGTERM makes serve, node and tail finish what they began and exit 0

Output is JSON unless standard output is a terminal (--json, --table); progress and logs go to standard error.
Times are RFC 3339, UTC. NO_COLOR is honoured. Every setting can be an option, REVOKER_… in the environment, or a
line in the TOML file named by --config; `revoker settings` lists them."""


class _Program(click.Group):
    """Finds commands by module, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"revoker.cli.commands.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        from revoker.cli.exits import Exit, code_of
        from revoker.errors import RevokerError
        from revoker.tokens import InvalidTokenError

        try:
            return super().invoke(ctx)
        except (RevokerError, InvalidTokenError) as error:
            click.echo(f"revoker: {error}", err=True)
            code = code_of(error)
        except (KeyboardInterrupt, click.Abort):
            click.echo("revoker: interrupted", err=True)
            code = Exit.INTERRUPTED
        raise click.exceptions.Exit(code)


def _without_colour(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    # https://no-color.org: present and not empty, whatever it says.
    if value:
        context.color = False


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"revoker {version('revoker')}")
        context.exit()


@click.group(
    cls=_Program, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("--no-color", envvar="NO_COLOR", expose_value=False, hidden=True, callback=_without_colour)
def main() -> None:
    """Log a user out once, and every API node refuses the token."""

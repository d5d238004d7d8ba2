"""``revoker completion``: tab completion for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from revoker.cli.options import Command

__all__ = ["command"]


@click.command("completion", cls=Command, short_help="Tab completion for bash, zsh, fish.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, *, shell: str) -> None:
    """Print the completion script of a shell.

    \b
      bash  eval "$(revoker completion bash)"                                 in ~/.bashrc
      zsh   eval "$(revoker completion zsh)"                                  in ~/.zshrc
      fish  revoker completion fish > ~/.config/fish/completions/revoker.fish
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"this click knows no completion for {shell}")
    click.echo(made(context.find_root().command, {}, "revoker", "_REVOKER_COMPLETE").source())

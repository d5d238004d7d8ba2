"""``revoker demo``: the whole thing, in a few seconds."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import click

from revoker.cli.demo.play import DemoDiffers, play
from revoker.cli.demo.processes import DemoProcessError
from revoker.cli.exits import Exit
from revoker.cli.options import Command
from revoker.cli.running import stop_signals

__all__ = ["command"]


@click.command("demo", cls=Command, short_help="See it work: log in, log out, be refused.")
@click.option(
    "--bootstrap",
    metavar="HOST:PORT",
    help="Run it on this cluster, on a topic that is made for it and deleted again.  [default: an embedded broker]",
)
@click.option("--nodes", type=click.IntRange(1, 32), default=3, show_default=True, help="API nodes to start.")
@click.option("--keep", is_flag=True, help="Leave everything up until Ctrl-C, and print curl lines to try.")
@click.option("--json", "as_json", is_flag=True, help="Print the measured figures as one JSON document.")
@click.pass_context
def command(context: click.Context, *, bootstrap: str | None, nodes: int, keep: bool, as_json: bool) -> None:
    """One user logs in, calls the API nodes, logs out, and is refused by all of them.

    Needs neither Docker nor a JVM: the embedded broker comes with the extra `demo`. The logout service and the nodes
    are processes of their own, which end with the demo. Exits 1 if anything goes otherwise than promised.
    """
    context.exit(asyncio.run(_demo(bootstrap=bootstrap, nodes=nodes, keep=keep, as_json=as_json)))


async def _demo(*, bootstrap: str | None, nodes: int, keep: bool, as_json: bool) -> Exit:
    began = time.perf_counter()

    def tell(step: str, text: str) -> None:
        if as_json:
            return
        elapsed = f"{time.perf_counter() - began:6.2f} s" if step else " " * 8
        click.echo(f"{click.style(elapsed, dim=True)}  {click.style(f'{step:<10}', bold=True)} {text}")

    async def until_stopped() -> None:
        with stop_signals() as stopped:
            await stopped

    playing = asyncio.create_task(
        play(bootstrap=bootstrap, nodes=nodes, tell=tell, keep=until_stopped if keep else None), name="revoker-demo"
    )
    # Unwound like Ctrl-C, so that no process and no topic is left behind.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)
    try:
        figures = await playing
    except (DemoDiffers, DemoProcessError) as error:
        click.echo(f"revoker: demo: {error}", err=True)
        return Exit.NO
    except asyncio.CancelledError:
        if (this := asyncio.current_task()) is not None and this.cancelling():
            raise
        click.echo("revoker: demo: terminated before its end", err=True)
        return Exit.NO
    if as_json:
        click.echo(json.dumps(figures, ensure_ascii=False))
    else:
        tell("done", f"in {figures['took_s']} s")
    return Exit.OK

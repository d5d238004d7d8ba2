"""Commands that run until they are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from aiohttp import web

from revoker.cli.exits import Exit
from revoker.service.server import serving
from revoker.settings import Settings

__all__ = ["serve_until_stopped", "stop_signals"]


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Future[Exit]]:
    """A future that SIGTERM or SIGINT completes, with the exit code that the signal asks for.

    The first Ctrl-C asks; the second is Python's own, so that nobody has to wait for a drain that hangs.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[Exit] = loop.create_future()

    def stop(code: Exit) -> None:
        loop.remove_signal_handler(signal.SIGINT)
        if not stopped.done():
            stopped.set_result(code)

    loop.add_signal_handler(signal.SIGTERM, stop, Exit.OK)
    loop.add_signal_handler(signal.SIGINT, stop, Exit.INTERRUPTED)
    try:
        yield stopped
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)


async def serve_until_stopped(
    app: web.Application, *, settings: Settings, drain_s: float, listening: Callable[[str], None]
) -> Exit:
    """Serve ``app`` until SIGTERM or SIGINT, then finish the requests under way, for ``drain_s`` seconds at most.

    ``listening`` gets the URL once connections are accepted. Raises SettingsError if ``settings.listen`` cannot be had.
    """
    host, port = settings.listen_address
    with stop_signals() as stopped:
        async with serving(app, host=host, port=port, drain_s=drain_s) as (bound_host, bound_port):
            shown = f"[{bound_host}]" if ":" in bound_host else bound_host
            listening(f"http://{shown}:{bound_port}")
            return await stopped

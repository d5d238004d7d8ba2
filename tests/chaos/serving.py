"""What every process of the harness's own ends with: answer questions on a port, work, stop when told to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

__all__ = ["work_until_stopped"]


async def work_until_stopped(work: Coroutine[Any, Any, None], *, app: web.Application, port: int) -> None:
    """Do ``work`` until SIGTERM, answering ``app`` meanwhile. Raises what the work raises."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    working = asyncio.create_task(work, name="work")
    ended = asyncio.create_task(stopped.wait(), name="stopped")
    await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()
    working.cancel()
    ended.cancel()
    await runner.cleanup()

"""The publisher for code without an event loop: WSGI apps, scripts, Celery tasks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Self, TypeVar

from revoker.errors import NotAccepted, OutcomeUnknown
from revoker.events import Revocation, Selector
from revoker.publisher import LogoutScope, Publisher, Receipt
from revoker.settings import Settings
from revoker.tokens import Verified

__all__ = ["BlockingPublisher"]

T = TypeVar("T")


class BlockingPublisher:
    """`revoker.publisher.Publisher` behind blocking calls; safe to share between threads.

    It runs an event loop in a thread of its own. A thread does not survive a fork, so make one per worker process,
    after the fork (gunicorn: ``post_fork``); used in a process that forked away from it, it raises instead of waiting
    for ever.
    """

    def __init__(self, settings: Settings, *, on_accepted: Callable[[Revocation], None] | None = None) -> None:
        self._settings = settings
        self._on_accepted = on_accepted
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._publisher: Publisher | None = None
        self._pid = 0
        self._asking = threading.Lock()  # held while a call is handed over, never while it waits

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread and connect. Raises BrokerError if no broker is reached or the topic is missing; with an
        outbox OutboxUnavailable, and only if that cannot be opened.
        """
        if self._loop is not None and self._pid == os.getpid():
            raise RuntimeError("this BlockingPublisher is already started")
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="revoker-publisher", daemon=True)
        self._thread.start()
        try:
            self._publisher = self._call(self._connected())
        except BaseException:
            self._end()
            raise

    async def _connected(self) -> Publisher:
        return await Publisher(self._settings, on_accepted=self._on_accepted).__aenter__()

    def close(self) -> None:
        """Disconnect and end the thread. Closing twice, or in a forked child, does nothing.

        Calls of other threads that still wait then raise OutcomeUnknown.
        """
        if self._loop is None or self._pid != os.getpid():
            return
        try:
            if self._publisher is not None:
                self._call(self._publisher.close())
        finally:
            self._end()

    def _end(self) -> None:
        with self._asking:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = self._publisher = None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_rest_cancelled(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def revoke(
        self,
        *,
        selector: Selector,
        exp: float | None = None,
        cutoff: int | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Receipt:
        """See `revoker.publisher.Publisher.revoke`."""
        return self._call(self._started().revoke(selector=selector, exp=exp, cutoff=cutoff, reason=reason, actor=actor))

    def logout(
        self, token: Verified, *, scope: LogoutScope = "token", reason: str | None = "logout", actor: str | None = None
    ) -> Receipt:
        """See `revoker.publisher.Publisher.logout`."""
        return self._call(self._started().logout(token, scope=scope, reason=reason, actor=actor))

    def _started(self) -> Publisher:
        if self._publisher is None:
            raise NotAccepted(
                "this BlockingPublisher is not started: use it as `with BlockingPublisher(settings) as publisher`"
            )
        if self._pid != os.getpid():
            raise NotAccepted(
                f"this BlockingPublisher was started in process {self._pid} and its thread did not survive the fork "
                f"into {os.getpid()}: start one in each worker"
            )
        return self._publisher

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        with self._asking:
            if self._loop is None:
                work.close()
                raise NotAccepted("this BlockingPublisher was closed by another thread")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise OutcomeUnknown(
                "this BlockingPublisher was closed while the call was waiting: the revocation may be in the topic or "
                "the outbox, or not; revoking again is harmless"
            ) from None
        except BaseException:
            future.cancel()  # a KeyboardInterrupt in the caller must not leave the coroutine behind
            raise


async def _rest_cancelled() -> None:
    """End what still runs on this loop: whoever waits for it in another thread would wait for ever once it stops."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)

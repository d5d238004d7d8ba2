"""When a value is fetched again: what the key sources cannot show from outside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from revoker.refresh import Fetched, Refreshed, retry_after_s


def refreshed(fetch: Callable[[], str], *, now: float = 0.0) -> Refreshed[str]:
    """Refreshed every 300 s with a cooldown of 30 s, at a time that stands still."""
    return Refreshed(
        fetch=fetch,
        what="a value",
        refresh_s=300,
        timeout_s=5,
        cooldown_s=30,
        clock=lambda: now,
        jitter=lambda: 0.0,
    )


def test_retries_grow_to_their_bound_and_are_spread() -> None:
    """The wait doubles from one second up to the bound, and jitter takes up to half of it away."""
    waits = [retry_after_s(failures, longest_s=60, jitter=1) for failures in (1, 2, 3, 7, 10_000)]
    assert waits == [1, 2, 4, 60, 60]
    assert retry_after_s(3, longest_s=60, jitter=0) == 2


async def test_a_wish_that_arrives_late_causes_no_second_fetch() -> None:
    """A wake-up that was on its way while the fetch it wanted was made comes to nothing."""
    kept = refreshed(lambda: "value")
    task = asyncio.create_task(kept.run())
    async with asyncio.timeout(10):
        while kept.latest is None:
            await asyncio.to_thread(lambda: None)
    assert kept._runner is not None
    _, asked = kept._runner
    asked.set()
    for _ in range(10):
        await asyncio.to_thread(lambda: None)
    assert (kept.fetches, asked.is_set()) == (1, False), "the wish was seen, and came to nothing"
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_asking_with_no_runner_promises_without_waking() -> None:
    """Without a running refresher a due fetch is still said to be due, since the next owner begins with one."""
    kept = refreshed(lambda: "value", now=100.0)
    kept.latest = Fetched("value", 0.0)
    assert kept.ask(seen=kept.latest)
    kept.latest = Fetched("value", 99.0)
    assert not kept.ask(seen=kept.latest)


@pytest.mark.parametrize("error", [ValueError("garbage"), KeyError("x"), RuntimeError("boom")])
async def test_whatever_a_fetch_raises_becomes_the_problem(error: Exception) -> None:
    """No exception of a fetch ends the refresher; its kind and text are the problem shown."""

    def fetch() -> str:
        raise error

    kept = refreshed(fetch)
    task = asyncio.create_task(kept.run())
    async with asyncio.timeout(10):
        while type(error).__name__ not in str(kept.problem):
            await asyncio.to_thread(lambda: None)
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

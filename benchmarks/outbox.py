"""How many revocations a second 256 concurrent callers get accepted, that is on disk, beside one fsync per call.

Both sides store the same records in the same kind of file, on one thread each, and both answer a caller only after the
fsync of its commit. Ours shares a commit among whoever asks meanwhile. The rounds of the two alternate, so both meet
the same machine. ``composed``: ours, with the event composed and encoded by the caller as a publisher does.

    python -m benchmarks.outbox --callers 256 --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.report import percentile, result_line
from revoker import record
from revoker.events import Token
from revoker.expiry import Lifetimes
from revoker.outbox.file import Entry, OutboxFile
from revoker.outbox.writer import Outbox
from revoker.publisher import _drafted as drafted

ROUNDS = 5
LIFETIMES = Lifetimes(longest_token_life_s=86400, leeway_s=30, clock_margin_s=300)


class FsyncPerCall:
    """The peer: the same file and one thread, a commit for every call."""

    def __init__(self, path: Path) -> None:
        self._calls: queue.SimpleQueue[tuple[Entry, asyncio.AbstractEventLoop, asyncio.Future[None]] | None]
        self._calls = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(path,))
        self._thread.start()

    def _run(self, path: Path) -> None:
        file = OutboxFile(path)
        while (call := self._calls.get()) is not None:
            entry, loop, future = call
            file.put([entry], now_s=0.0)
            loop.call_soon_threadsafe(future.set_result, None)
        file.close()

    async def put(self, entry: Entry) -> None:
        """Returns once it is on disk."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._calls.put((entry, loop, future))
        await future

    async def close(self) -> None:
        """End the thread."""
        self._calls.put(None)
        await asyncio.to_thread(self._thread.join)


def an_entry() -> Entry:
    """A token's revocation, as a logout makes it."""
    event_id = str(uuid.uuid4())
    revocation = drafted(
        selector=Token(iss="https://id.example", jti=event_id),
        lifetimes=LIFETIMES,
        now_s=int(time.time()),
        event_id=event_id,
        reason="logout",
        actor="self",
        exp=None,
        cutoff=None,
    )
    key, value, headers = record.encode(revocation)
    return Entry(event_id=event_id, key=key, value=value, headers=headers, expires_at=revocation.expires_at)


async def rate(
    put: Callable[[Entry], Awaitable[None]], make: Callable[[], Entry], *, callers: int, calls: int
) -> tuple[float, list[float]]:
    """Calls a second, and how long each took."""
    left = calls
    took: list[float] = []

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await put(make())
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return len(took) / (time.perf_counter() - began), took


async def measure(callers: int, calls: int, directory: Path) -> str:
    """Run it all; returns the result line."""
    outbox = Outbox(directory / "ours.db", max_events=100_000_000)
    await outbox.start()
    peer = FsyncPerCall(directory / "peer.db")
    rates: dict[str, list[float]] = {"ours": [], "composed": [], "fsync_per_call": []}
    times: dict[str, list[float]] = {name: [] for name in rates}
    group = 0.0
    for number in range(ROUNDS + 1):
        for name, rounds in rates.items():
            count = calls // 20 if name == "fsync_per_call" else calls
            made = iter([an_entry() for _ in range(count + callers)]) if name != "composed" else None
            make = an_entry if made is None else made.__next__
            before = outbox.commits
            found, took = await rate(
                peer.put if name == "fsync_per_call" else outbox.put, make, callers=callers, calls=count
            )
            if name == "ours":
                group = len(took) / (outbox.commits - before)
            if number:  # the first round warms up
                rounds.append(found)
                times[name] += took
    await outbox.close()
    await peer.close()
    middle = {name: percentile(values, 50) for name, values in rates.items()}
    figures = {f"{name}_per_s_{callers}": value for name, value in middle.items()}
    figures |= {
        f"{name}_p{percent}_ms_{callers}": percentile(times[name], percent) * 1000
        for name in times
        for percent in (50, 99)
    }
    ratios = {f"ours_over_fsync_per_call_{callers}": middle["ours"] / middle["fsync_per_call"]}
    figures |= {f"events_per_commit_{callers}": group, "rounds": ROUNDS, "calls": calls}
    return result_line("outbox", figures=figures, ratios=ratios, versions={"sqlite": sqlite3.sqlite_version})


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--calls", type=int, default=20_000, help="of one round; a twentieth for the peer")
    parser.add_argument("--directory", type=Path, help="where the files go, for a disk of your own  [a temporary one]")
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        line = asyncio.run(measure(arguments.callers, arguments.calls, Path(directory)))
    if not arguments.json:
        result = json.loads(line)
        for name, value in (result["figures"] | result["ratios"]).items():
            print(f"{name:40} {value:12.3f}")
    print(line)


if __name__ == "__main__":
    main()

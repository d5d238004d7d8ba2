"""Kill -9, again and again, a process that accepts events into an outbox and delivers some; then look what is there.

    python -m tests.outbox_kills DIRECTORY --kills 200 --seed 7

Prints one line of JSON and exits 1 if an event was lost: reported as stored by the process, not reported as about to be
deleted, and not in the file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import select
import signal
import sys
from pathlib import Path

from revoker.outbox.file import Entry, OutboxFile
from revoker.outbox.writer import Outbox

_CALLERS = 32
#: Much longer than a value is, so that a kill also meets the log being rolled into the database.
_VALUE_BYTES = 1500


def entry(event_id: str) -> Entry:
    """An event of this id."""
    return Entry(
        event_id=event_id,
        key=event_id.encode(),
        value=event_id.encode().ljust(_VALUE_BYTES, b"."),
        headers=[("ce_id", event_id.encode())],
        expires_at=2_000_000_000,
    )


async def accept(path: Path, child: int, report: int) -> None:
    """Store events for ever, and forget some of them as if delivered. Reports what is certain, line by line."""
    outbox = Outbox(path, max_events=1_000_000)
    await outbox.start()

    async def caller(number: int) -> None:
        for count in range(1_000_000):
            event_id = f"{child}-{number}-{count}"
            await outbox.put(entry(event_id))
            os.write(report, f"stored {event_id}\n".encode())
            if count % 3 == 0:
                os.write(report, f"deleting {event_id}\n".encode())
                await outbox.settle(landed=[event_id])

    await asyncio.gather(*(caller(number) for number in range(_CALLERS)))


def _child(path: Path, number: int, report: int) -> None:
    try:
        asyncio.run(accept(path, number, report))
    finally:
        os._exit(1)


def _said(report: int, *, lines: int) -> bytes:
    """What the child reports, until it is so much."""
    text = b""
    while text.count(b"\n") < lines:
        if not select.select([report], [], [], 60.0)[0]:
            raise TimeoutError("the child does not store anything")
        part = os.read(report, 65536)
        if not part:
            raise RuntimeError("the child ended by itself")
        text += part
    return text


def _rest(report: int) -> bytes:
    text = b""
    while part := os.read(report, 65536):
        text += part
    return text


def run(path: Path, *, kills: int, seed: int) -> dict[str, int]:
    """How many kills, events stored, events that had to be there, and how many of them were not."""
    chance = random.Random(seed)
    stored: set[str] = set()
    deleting: set[str] = set()
    lost = 0
    for number in range(kills):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(path, number, writer)
        os.close(writer)
        text = _said(reader, lines=chance.randrange(1, 200))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        text += _rest(reader)
        os.close(reader)
        for line in text.decode().splitlines():
            word, event_id = line.split()
            (stored if word == "stored" else deleting).add(event_id)
        # Opening checks that the database is whole, and that the kernel let go of the lock.
        file = OutboxFile(path)
        try:
            found = {one.event_id: one for one in file.head(after=0, limit=1_000_000, max_bytes=1 << 40)}
            lost += len(stored - deleting - found.keys())
            if any(one.value != entry(name).value for name, one in found.items()):
                raise AssertionError("an event came back with another value")
            # So that the file stays small, and a later loss is not counted again.
            with file.transaction():
                file.settle(landed=list(found))
            deleting |= stored | found.keys()
        finally:
            file.close()
    return {"kills": kills, "stored": len(stored), "lost": lost}


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    result = run(arguments.directory / "outbox.db", kills=arguments.kills, seed=arguments.seed)
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Kill -9 of the writer, again and again, under readers that check what was acknowledged.

    python -m tests.shared.kills DIRECTORY --kills 1000 --seed 1

One process forks writers, so that a new one starts within milliseconds, and kills each at a random moment. What a
writer has acknowledged stands in a word of its own, stored after `DenyList.reached`. Readers load that word first, and
then ask for records before it: any that is not refused was lost. They ask for strangers as well. Ends with one JSON
line; ``problems`` is empty unless something was lost or made up.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Final

from consumers.denylist.shared import SharedDenyList
from consumers.seat import Seat
from tests.shared.log import LIFE, event_at, refused_at, refuses, stranger

_READERS: Final = 2
_ACK, _STOP, _CHECKS = 0, 1, 2  # words of the page; one of checks for each reader


def _store(directory: Path) -> SharedDenyList:
    return SharedDenyList(directory, max_entries=10**6, epoch_s=0)


def write(directory: Path, page: memoryview[int], *, seed: int) -> None:
    """Take over and write on, for as long as this process lives."""
    seat = Seat(directory)
    while not seat.take():
        pass  # the dead writer's lock is given back by the kernel in a moment
    store = _store(directory)
    taken = store.take()
    at = taken.offsets.get(0, 0)
    if at < page[_ACK]:
        raise AssertionError(f"acknowledged {page[_ACK]}, reading on from {at} ({taken.refused})")
    chance = random.Random(seed)
    while True:
        end = at + chance.choice((1, 3, 20, 150, 700))
        store.apply_all([event_at(offset) for offset in range(at, end)])
        store.reached({0: end})
        page[_ACK] = at = end
        if chance.random() < 0.3:
            store.advance(now_s=at - 1)
        store.step()


def read(directory: Path, page: memoryview[int], *, number: int) -> int:
    """Check until told to stop. Returns how often; raises AssertionError at the first wrong answer."""
    store = _store(directory)
    chance = random.Random(number)
    while store.open() is not None:
        pass
    checks = 0
    while not page[_STOP]:
        acknowledged = page[_ACK]
        if acknowledged < 10:
            continue
        # Nothing of the newest half of a life expires while it is asked for.
        offset = chance.randrange(max(0, acknowledged - LIFE // 2), acknowledged)
        if not store.attached and store.open() is not None:
            continue
        if not refused_at(store, offset):
            if page[_ACK] >= offset + LIFE:
                continue  # this process did not run for so long that it has expired meanwhile
            raise AssertionError(f"lost: {offset}, acknowledged up to {acknowledged}: {event_at(offset)}")
        if refuses(store, stranger(chance.randrange(10**9))):
            raise AssertionError("a stranger was refused")
        checks += 2
        page[_CHECKS + number] = checks
    return checks


def attack(directory: Path, *, kills: int, seed: int) -> dict[str, object]:
    """Run it all. The result is for people and for the test."""
    directory.mkdir(mode=0o700, exist_ok=True)
    mapped = mmap.mmap(-1, 4096)
    page = memoryview(mapped).cast("Q")
    problems: list[str] = []
    readers = [_forked(lambda number=number: _read(directory, page, number)) for number in range(_READERS)]
    chance = random.Random(seed)
    done = 0
    for done in range(1, kills + 1):
        writer = _forked(lambda: write(directory, page, seed=chance.randrange(2**30)))
        time.sleep(chance.choice((0.002, 0.005, 0.01, 0.02, 0.04, 0.08)))
        os.kill(writer, signal.SIGKILL)
        _, status = os.waitpid(writer, 0)
        if not os.WIFSIGNALED(status):
            problems.append(f"writer {done} ended by itself ({status})")
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            problems.append(f"a reader ended ({status})")
        if problems:
            break
    page[_STOP] = 1
    for reader in readers:
        try:
            _, status = os.waitpid(reader, 0)
        except ChildProcessError:
            continue
        if status:
            problems.append(f"a reader ended ({status})")
    generations = [int(path.name.partition(".")[2]) for path in directory.glob("table.*")]
    return {
        "kills": done,
        "events": page[_ACK],
        "checks": sum(page[_CHECKS + number] for number in range(_READERS)),
        "generation": max(generations, default=0),
        "problems": problems,
    }


def _read(directory: Path, page: memoryview[int], number: int) -> None:
    read(directory, page, number=number)


def _forked(run: object) -> int:
    child = os.fork()
    if child:
        return child
    try:
        run()  # type: ignore[operator]
    except BaseException as error:  # noqa: BLE001 - the child of a fork must end here, whatever happened
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(attack(arguments.directory, kills=arguments.kills, seed=arguments.seed)))  # noqa: T201


if __name__ == "__main__":
    main()

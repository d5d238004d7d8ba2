"""The outbox: callers share commits, hear only of what is on disk, and each trouble has its answer and its end."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from revoker.errors import OutboxUnavailable
from revoker.outbox.file import read
from revoker.outbox.writer import Outbox
from tests.disks import small_disk
from tests.outbox_entries import NOW_S, entry

PATIENCE_S = 30.0
EVERYTHING: dict[str, Any] = {"after": 0, "limit": 10_000, "max_bytes": 1 << 30}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
async def outbox(path: Path) -> AsyncIterator[Outbox]:
    opened = Outbox(path, max_events=1000, wall=lambda: float(NOW_S))
    await opened.start()
    yield opened
    await opened.close()


def stored(path: Path) -> list[str]:
    return [one.event_id for one in read(path, limit=10_000)[1]]


async def until_stored(outbox: Outbox, event_id: str) -> None:
    """Ask until it is, for as long as a file in trouble is tried again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await outbox.put(entry(event_id))
            except OutboxUnavailable:
                await asyncio.sleep(0.05)


async def test_what_a_caller_hears_of_is_on_disk(outbox: Outbox, path: Path) -> None:
    """Another reader of the file finds the event as soon as put has returned."""
    await outbox.put(entry("a"))
    assert stored(path) == ["a"]


async def test_callers_share_commits(outbox: Outbox, path: Path) -> None:
    """256 callers at once need far fewer commits than calls, and each event is there once."""
    before = outbox.commits
    await asyncio.gather(*(outbox.put(entry(f"event-{number}")) for number in range(256)))
    assert outbox.commits - before < 64
    assert sorted(stored(path)) == sorted(f"event-{number}" for number in range(256))


async def test_one_callers_events_keep_their_order(outbox: Outbox, path: Path) -> None:
    """Events stored one after the other stand in that order, whoever else stores in between."""

    async def caller(name: str) -> None:
        for number in range(20):
            await outbox.put(entry(f"{name}-{number}"))

    await asyncio.gather(*(caller(name) for name in "abcd"))
    found = stored(path)
    for name in "abcd":
        assert [one for one in found if one.startswith(name)] == [f"{name}-{number}" for number in range(20)]


async def test_the_file_is_used_by_one_thread(outbox: Outbox) -> None:
    """SQLite's connection refuses every other thread, the event loop's included."""
    assert outbox._file is not None
    with pytest.raises(sqlite3.ProgrammingError, match="thread"):
        outbox._file._connection.execute("SELECT 1")
    assert "revoker-outbox" in {thread.name for thread in threading.enumerate()}


async def test_beyond_the_bound_none_is_accepted_and_those_before_are(path: Path) -> None:
    """The bound counts each event of a group; the refusal names the setting, and ends once there is room."""
    outbox = Outbox(path, max_events=3)
    await outbox.start()
    outcomes = await asyncio.gather(
        *(outbox.put(entry(f"event-{number}")) for number in range(5)), return_exceptions=True
    )
    refused = [one for one in outcomes if one is not None]
    assert len(refused) == 2
    assert all(isinstance(one, OutboxUnavailable) and "outbox_max_events" in str(one) for one in refused)
    assert not outbox.check().ok
    await outbox.settle(landed=stored(path)[:1])
    await outbox.put(entry("later"))
    assert len(stored(path)) == 3
    await outbox.close()


async def test_closed_it_refuses_and_can_be_started_again(outbox: Outbox) -> None:
    """close finishes what was asked for; put raises after it; start opens the file anew with all that waits."""
    await outbox.put(entry("a"))
    await outbox.close()
    with pytest.raises(OutboxUnavailable, match="closed"):
        await outbox.put(entry("b"))
    await outbox.start()
    assert outbox.counts.waiting == 1


async def test_a_cancelled_caller_disturbs_nobody(outbox: Outbox, path: Path) -> None:
    """One who gives up while the group is written leaves the others' events and the thread as they were."""
    tasks = [asyncio.create_task(outbox.put(entry(f"event-{number}"))) for number in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await outbox.put(entry("later"))
    assert {f"event-{number}" for number in range(10) if number != 3} | {"later"} <= set(stored(path))


async def test_a_second_outbox_on_the_file_waits_for_the_first(outbox: Outbox, path: Path) -> None:
    """It says who is in the way, accepts nothing, and takes over by itself once the first is closed."""
    second = Outbox(path, max_events=10)
    with pytest.raises(OutboxUnavailable, match="in use by another process"):
        await second.start()
    assert "in use" in second.check().detail
    with pytest.raises(OutboxUnavailable):
        await second.put(entry("a"))
    await outbox.close()
    await until_stored(second, "b")
    assert second.check().ok
    await second.close()


async def test_a_missing_directory_is_waited_for(tmp_path: Path) -> None:
    """A disk that is mounted late: refused with the reason until it is there, and used without a restart."""
    path = tmp_path / "mounted-later" / "outbox.db"
    outbox = Outbox(path, max_events=10)
    with pytest.raises(OutboxUnavailable, match="directory does not exist"):
        await outbox.start()
    path.parent.mkdir()
    await until_stored(outbox, "a")
    assert stored(path) == ["a"]
    await outbox.close()


@pytest.mark.parametrize("sidecars", [False, True], ids=["the database alone", "with its log"])
async def test_a_deleted_file_is_made_again_with_all_that_waits(outbox: Outbox, path: Path, sidecars: bool) -> None:
    """Nothing accepted before the deletion is lost by it, and nothing after it goes to a file without a name."""
    for name in "abc":
        await outbox.put(entry(name))
    await outbox.settle(landed=["a"])
    for one in path.parent.iterdir() if sidecars else [path]:
        one.unlink()
    await outbox.put(entry("d"))
    assert stored(path) == ["b", "c", "d"]
    await outbox.close()
    assert stored(path) == ["b", "c", "d"]


async def test_a_file_replaced_by_a_foreign_one_stops_accepting_and_keeps_what_it_had(
    outbox: Outbox, path: Path
) -> None:
    """Refused with the reason; what waits can still be read, to be delivered; once the file is gone, all is well."""
    await outbox.put(entry("a"))
    foreign = path.with_name("foreign")
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    foreign.rename(path)
    with pytest.raises(OutboxUnavailable, match="deleted or replaced"):
        await outbox.put(entry("b"))
    assert not outbox.check().ok
    assert "a" in {one.event_id for one in await outbox.head(**EVERYTHING)}
    await asyncio.to_thread(path.unlink)
    await until_stored(outbox, "c")
    assert {"a", "c"} <= set(stored(path))


async def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """What was accepted stays, nothing more is, and it goes on once there is space; being full is not for ever."""
    with small_disk(tmp_path / "disk") as disk:
        outbox = Outbox(disk.root / "outbox.db", max_events=100_000)
        await outbox.start()
        await outbox.put(entry("before"))
        disk.fill()
        with pytest.raises(OutboxUnavailable) as refused:
            await outbox.put(entry("during"))
        assert refused.value.reason == "its disk is full"
        assert not outbox.check().ok
        assert stored(disk.root / "outbox.db") == ["before"]
        disk.empty()
        await until_stored(outbox, "after")
        assert outbox.check().ok
        assert stored(disk.root / "outbox.db") == ["before", "after"]
        await outbox.close()


async def test_an_outbox_that_filled_its_disk_can_still_forget(tmp_path: Path) -> None:
    """It stops short of the last byte, so that delivering, and recording that, makes it accept again by itself."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk.root / "outbox.db"
        outbox = Outbox(path, max_events=100_000)
        await outbox.start()
        accepted = 0
        while outbox.check().ok:
            some = [outbox.put(entry(f"event-{accepted + one}")) for one in range(16)]
            accepted += (await asyncio.gather(*some, return_exceptions=True)).count(None)
        found = stored(path)
        assert len(found) == accepted > 100
        for start in range(0, len(found), 16):
            await outbox.settle(landed=found[start : start + 16])
        assert stored(path) == []
        await until_stored(outbox, "after")
        await outbox.close()


async def test_a_damaged_file_is_said_to_be_so_until_it_is_moved_away(path: Path) -> None:
    """It is not written over; out of the way, the next event goes to a new file."""
    damaged = os.urandom(5000)
    await asyncio.to_thread(path.write_bytes, damaged)
    outbox = Outbox(path, max_events=10)
    with pytest.raises(OutboxUnavailable, match="damaged"):
        await outbox.start()
    aside = await asyncio.to_thread(path.rename, path.with_name("aside"))
    await until_stored(outbox, "a")
    assert stored(path) == ["a"]
    assert aside.read_bytes() == damaged
    await outbox.close()


def test_a_forked_child_is_refused(path: Path) -> None:
    """In a child forked after start the thread is not there: put raises instead of waiting for ever."""
    program = (
        "import asyncio, os, sys; from pathlib import Path\n"
        "from revoker.errors import OutboxUnavailable; from revoker.outbox.writer import Outbox\n"
        "from tests.outbox_entries import entry\n"
        "outbox = Outbox(Path(sys.argv[1]), max_events=10)\n"
        "asyncio.run(outbox.start())\n"
        "if os.fork() == 0:\n"
        "    try: asyncio.run(outbox.put(entry('a')))\n"
        "    except OutboxUnavailable as error: print(error.reason, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "asyncio.run(outbox.close())\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "it was opened in another process\n"


@pytest.mark.slow
def test_nothing_stored_is_lost_by_killing_the_process(tmp_path: Path) -> None:
    """100 times kill -9 at any moment: every event a caller heard of, and did not have deleted, is in a whole file."""
    command = [sys.executable, "-m", "tests.outbox_kills", str(tmp_path), "--kills", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"kills": 100' in done.stdout
    assert '"lost": 0' in done.stdout

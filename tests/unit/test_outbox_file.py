"""The outbox's file: what it keeps, in which order, and which files it refuses to be."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from revoker.errors import OutboxUnavailable
from revoker.outbox.file import Counts, OutboxFile, Waiting, read
from tests.disks import small_disk
from tests.outbox_entries import NOW_S, entry

EVERYTHING: dict[str, Any] = {"after": 0, "limit": 10_000, "max_bytes": 1 << 30}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def file(path: Path) -> Iterator[OutboxFile]:
    opened = OutboxFile(path)
    yield opened
    opened.close()


def ids(found: list[Waiting]) -> list[str]:
    return [one.event_id for one in found]


def test_what_was_put_comes_back_in_order_after_reopening(path: Path) -> None:
    """Key, value, headers and expiry are what was given, and the order is that of storing."""
    file = OutboxFile(path)
    file.put([entry("b"), entry("a")], now_s=NOW_S)
    file.put([entry("c")], now_s=NOW_S + 1)
    file.close()
    again = OutboxFile(path)
    found = again.head(**EVERYTHING)
    again.close()
    assert ids(found) == ["b", "a", "c"]
    first, given = found[0], entry("b")
    assert (first.key, first.value, first.headers) == (given.key, given.value, given.headers)
    assert (first.expires_at, first.stored_at, first.attempts, first.problem) == (given.expires_at, NOW_S, 0, None)
    assert again.counts == Counts(waiting=3, oldest_at=NOW_S)


def test_every_commit_ends_with_an_fsync(file: OutboxFile) -> None:
    """The connection runs with a write-ahead log and synchronous=FULL, SQLite's promise of a sync per commit."""
    connection = file._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_an_event_that_waits_already_is_left_as_it_is(file: OutboxFile) -> None:
    """The same id twice, in one call or two, is one row, and is counted once."""
    file.put([entry("a"), entry("a")], now_s=NOW_S)
    file.put([entry("a"), entry("b")], now_s=NOW_S + 5)
    assert ids(file.head(**EVERYTHING)) == ["a", "b"]
    assert file.counts == Counts(waiting=2, oldest_at=NOW_S)


def test_the_head_is_bounded_by_number_and_bytes_and_never_empty(file: OutboxFile) -> None:
    """A bound smaller than the first event still gives that one, or nothing would ever be sent."""
    file.put([entry(name) for name in "abcd"], now_s=NOW_S)
    assert ids(file.head(after=0, limit=2, max_bytes=1 << 20)) == ["a", "b"]
    assert ids(file.head(after=0, limit=9, max_bytes=1)) == ["a"]
    assert ids(file.head(after=2, limit=9, max_bytes=1 << 20)) == ["c", "d"]


def test_settling_forgets_notes_and_sets_aside(file: OutboxFile) -> None:
    """Landed rows go, failed ones count an attempt and its reason, those set aside leave the head and stay counted."""
    file.put([entry(name) for name in "abcd"], now_s=NOW_S)
    file.settle(landed=["a"], failed={"b": "no answer"}, set_aside={"c": "too large"})
    first, second = file.head(**EVERYTHING)
    assert (first.event_id, first.attempts, first.problem) == ("b", 1, "no answer")
    assert (second.event_id, second.attempts) == ("d", 0)
    assert file.counts == Counts(waiting=3, set_aside=1, oldest_at=NOW_S)
    file.bring_back()
    assert ids(file.head(**EVERYTHING)) == ["b", "c", "d"]
    assert file.counts == Counts(waiting=3, oldest_at=NOW_S)


def test_a_transaction_that_fails_leaves_nothing(file: OutboxFile) -> None:
    """Neither rows nor counts remain of it."""

    def fail() -> None:
        with file.transaction():
            file.put([entry("a")], now_s=NOW_S)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.head(**EVERYTHING) == []
    assert file.counts == Counts()


def test_the_file_is_its_owners_alone(path: Path) -> None:
    """It holds identifiers: the database and its log are made with mode 0600, and an open one is closed to others."""
    file = OutboxFile(path)
    file.put([entry("a")], now_s=NOW_S)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    file.close()
    assert set(modes.values()) == {0o600}, modes
    path.chmod(0o644)
    OutboxFile(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_process_is_refused_and_the_lock_dies_with_its_holder(path: Path) -> None:
    """While one process has it open another cannot, and after kill -9 it can, without any cleaning up."""
    holder = (
        "import sys, time; from pathlib import Path; from revoker.outbox.file import OutboxFile;"
        "file = OutboxFile(Path(sys.argv[1])); print('open', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(OutboxUnavailable, match="in use by another process") as refused:
            OutboxFile(path)
        assert refused.value.reason == "its file is in use by another process"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    OutboxFile(path).close()


def test_a_file_another_program_locks_is_said_to_be_locked(file: OutboxFile, path: Path) -> None:
    """A writer of its own, such as the sqlite3 shell within BEGIN IMMEDIATE, makes storing fail with that reason."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(OutboxUnavailable) as refused:
            file.put([entry("a")], now_s=NOW_S)
        assert refused.value.reason == "its file is locked by another program"
    finally:
        other.execute("ROLLBACK")
        other.close()
    file.put([entry("a")], now_s=NOW_S)
    assert file.counts.waiting == 1


def test_another_programs_database_is_refused_untouched(path: Path) -> None:
    """A database that is not ours keeps every byte."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(OutboxUnavailable, match="another program's database"):
        OutboxFile(path)
    with pytest.raises(OutboxUnavailable, match="another program's database"):
        read(path, limit=1)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(path: Path) -> None:
    """A file that a later version wrote is not guessed at."""
    OutboxFile(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(OutboxUnavailable, match="another version of revoker"):
        OutboxFile(path)


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_garbage_is_refused_as_damaged(path: Path, size: int) -> None:
    """Bytes that are no database, whatever their number."""
    path.write_bytes(os.urandom(size))
    with pytest.raises(OutboxUnavailable, match="damaged"):
        OutboxFile(path)


def test_a_damaged_page_is_found_when_opening(path: Path) -> None:
    """One page overwritten in the middle of the database."""
    file = OutboxFile(path)
    file.put([entry(f"event-{number}") for number in range(500)], now_s=NOW_S)
    file.close()
    with path.open("r+b") as raw:
        raw.seek(4096 * 20)
        raw.write(os.urandom(4096))
    with pytest.raises(OutboxUnavailable) as refused:
        OutboxFile(path)
    assert refused.value.reason.startswith("its file is damaged")


def test_each_impossible_place_has_its_reason(tmp_path: Path) -> None:
    """A missing directory, a directory in its place, a pipe, a file in the place of the directory."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    reasons = {}
    for name in ("missing/outbox.db", "directory", "pipe", "file/outbox.db"):
        with pytest.raises(OutboxUnavailable) as refused:
            OutboxFile(tmp_path / name)
        reasons[name] = refused.value.reason
    assert reasons == {
        "missing/outbox.db": "its directory does not exist",
        "directory": "its path leads to no regular file",
        "pipe": "its path leads to no regular file",
        "file/outbox.db": "its directory does not exist",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user without rights")
def test_a_file_this_user_may_not_open_is_said_to_be_so(path: Path) -> None:
    """Another user's file of mode 0600."""
    OutboxFile(path).close()
    program = (
        "import os, sys; from pathlib import Path; from revoker.outbox.file import OutboxFile\n"
        "from revoker.errors import OutboxUnavailable\n"
        "os.setuid(65534)\n"
        "try: OutboxFile(Path(sys.argv[1]))\n"
        "except OutboxUnavailable as error: print(error.reason)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "this user may not open its file\n"


def test_a_read_only_disk_is_said_to_be_so(tmp_path: Path) -> None:
    """A file on a disk mounted read-only cannot be opened, and is as it was once the disk can be written again."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk.root / "outbox.db"
        file = OutboxFile(path)
        file.put([entry("a")], now_s=NOW_S)
        file.close()
        disk.read_only(True)
        with pytest.raises(OutboxUnavailable) as refused:
            OutboxFile(path)
        assert refused.value.reason == "its disk is read-only"
        disk.read_only(False)
        file = OutboxFile(path)
        assert ids(file.head(**EVERYTHING)) == ["a"]
        file.close()


def test_reading_along_changes_nothing(file: OutboxFile, path: Path) -> None:
    """The list is complete while a publisher has the file open and after, with the oldest first and the counts."""
    file.put([entry(name) for name in "abc"], now_s=NOW_S)
    file.settle(failed={"a": "no answer"}, set_aside={"b": "too large"})
    counts, found = read(path, limit=2)
    assert counts == Counts(waiting=3, set_aside=1, oldest_at=NOW_S)
    assert [(one.event_id, one.attempts, one.problem, one.set_aside) for one in found] == [
        ("a", 1, "no answer", False),
        ("b", 1, "too large", True),
    ]


def test_reading_a_missing_file_says_so(path: Path) -> None:
    """It is not made by looking for it."""
    with pytest.raises(OutboxUnavailable, match="no such file"):
        read(path, limit=1)
    assert not path.exists()

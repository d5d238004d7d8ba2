"""Hundreds of bad outbox files: refused in words, or opened with all that a valid file holds; never a traceback."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from revoker.errors import OutboxUnavailable
from revoker.outbox.file import OutboxFile, Waiting, read
from tests.bad_inputs import tried
from tests.mutations import spoiled_bytes
from tests.outbox_entries import NOW_S, entry

COUNT: Final = 60
SIDECARS: Final = ("-wal", "-shm")
STORED: Final = {f"event-{number}": entry(f"event-{number}") for number in range(COUNT)}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outbox that was closed: all of it is in the database, and there is no log."""
    path = tmp_path_factory.mktemp("closed") / "outbox.db"
    file = OutboxFile(path)
    file.put(list(STORED.values()), now_s=NOW_S)
    file.close()
    assert not Path(f"{path}-wal").exists()
    return path


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outbox whose process was killed: the half of it that came later is in the log alone, in commits of five."""
    path = tmp_path_factory.mktemp("running") / "outbox.db"
    copy = tmp_path_factory.mktemp("crashed") / "outbox.db"
    entries = list(STORED.values())
    file = OutboxFile(path)
    file.put(entries[: COUNT // 2], now_s=NOW_S)
    file.make_room()
    for start in range(COUNT // 2, COUNT, 5):
        file.put(entries[start : start + 5], now_s=NOW_S)
    for sidecar in ("", *SIDECARS):
        shutil.copy(f"{path}{sidecar}", f"{copy}{sidecar}")
    file.close()
    return copy


def whole(found: list[Waiting]) -> list[str]:
    """The ids of what is intact; each of these is exactly what was stored."""
    for one in found:
        if not one.damaged:
            given = STORED[one.event_id]
            assert (one.key, one.value, list(one.headers)) == (given.key, given.value, list(given.headers))
    return [one.event_id for one in found if not one.damaged]


def seen(path: Path) -> list[Waiting] | None:
    """What an outbox on these files holds, None if it is refused; and if it is not, it takes another event."""
    try:
        file = OutboxFile(path)
        try:
            found = file.head(after=0, limit=10_000, max_bytes=1 << 30)
            waiting = file.counts.waiting
            file.put([entry("new")], now_s=NOW_S)
        finally:
            file.close()
    except OutboxUnavailable as error:
        message, reason = str(error), error.reason
        assert str(path) in message
        assert 5 < len(reason) < 80
        return None
    assert len(found) == waiting
    _, stored = read(path, limit=10_000)
    assert [one for one in stored if one.event_id == "new" and not one.damaged], "accepted, and not in the file"
    return found


def copied(source: Path, folder: Path) -> Path:
    """A copy of the file and what lies beside it, in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source.parent, folder)
    return folder / source.name


def wounded(rng: random.Random, data: bytes) -> bytes:
    """Spoiled like any bytes, or like a disk does it: a page, a sector, the end, or a single bit."""
    page = rng.randrange(max(1, len(data) // 4096)) * 4096
    match rng.randrange(6):
        case 0:
            return data[:page] + bytes(4096) + data[page + 4096 :]
        case 1:
            return data[:page] + rng.randbytes(512) + data[page + 512 :]
        case 2:
            return data[: rng.randrange(len(data))]
        case 3 | 4:
            place = rng.randrange(len(data)) if rng.random() < 0.7 else rng.randrange(min(100, len(data)))
            return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        case _:
            return spoiled_bytes(rng, data)


def test_a_damaged_database_is_refused_or_gives_all_it_holds(closed: Path, tmp_path: Path) -> None:
    """Bits flipped, pages lost, cut off: refused and left, or every event is there, intact or named as damaged."""
    refused = 0
    with tried("outbox files", share=0.4) as inputs:
        for rng in inputs:
            path = copied(closed, tmp_path / "outbox")
            data = wounded(rng, path.read_bytes())
            path.write_bytes(data)
            found = seen(path)
            if found is None:
                refused += 1
                kept = path.read_bytes()
                assert len(kept) == len(data), "a file that was refused is left for its owner to look into"
            elif data:
                ids = whole(found)
                assert len(set(ids)) == len(ids)
                assert len(found) == COUNT, "events are missing, and nothing was said of it"
    assert 20 < refused < 200, "both must have been met, or this test shows nothing"


def test_a_damaged_log_loses_no_more_than_its_end(crashed: Path, tmp_path: Path) -> None:
    """A log cut off or damaged after a crash: what the database held is there, and of the log a beginning, in whole
    commits, as SQLite's checksums tell.
    """
    beginnings = {tuple(list(STORED)[: COUNT // 2 + 5 * commits]) for commits in range(COUNT // 10 + 1)}
    lengths = set()
    with tried("outbox files", share=0.3) as inputs:
        for rng in inputs:
            path = copied(crashed, tmp_path / "outbox")
            sidecar = Path(f"{path}{rng.choice(SIDECARS)}")
            sidecar.write_bytes(wounded(rng, sidecar.read_bytes()))
            found = seen(path)
            if found is not None:
                ids = tuple(whole(found))
                lengths.add(len(ids))
                assert ids in beginnings
    assert {COUNT // 2, COUNT} <= lengths


def somebody_elses(path: Path, rng: random.Random) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE event (seq INTEGER PRIMARY KEY, other TEXT)")
    connection.execute("INSERT INTO event (other) VALUES (?)", ("x" * rng.randrange(9000),))
    connection.commit()
    connection.close()


def of_another_version(path: Path, rng: random.Random) -> None:
    OutboxFile(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {rng.choice((0, 2, 7, 2**31 - 1, -1))}")
    connection.close()


def without_a_table(path: Path, rng: random.Random) -> None:
    OutboxFile(path).close()
    connection = sqlite3.connect(path)
    connection.execute(
        rng.choice(("DROP TABLE event", "ALTER TABLE event DROP COLUMN crc", "ALTER TABLE event RENAME TO e"))
    )
    connection.close()


def of_other_types(path: Path, rng: random.Random) -> None:
    file = OutboxFile(path)
    file.put([entry("event-1")], now_s=NOW_S)
    file.close()
    connection = sqlite3.connect(path)
    column = rng.choice(("id", "stored_at", "expires_at", "key", "value", "headers", "crc", "attempts", "problem"))
    value = rng.choice(("x", b"\xff\xfe", "\ud7ff", 1e308, 2**63 - 1, -1, ""))
    connection.execute(f"UPDATE event SET {column} = ?", (value,))
    connection.commit()
    connection.close()


def garbage(path: Path, rng: random.Random) -> None:
    start = rng.choice((b"", b"SQLite format 3\0", b"SQLite format 3\0\x10\0\1\1\0\x40\x20\x20", b"\x7fELF", b"PK\3\4"))
    path.write_bytes(start + rng.randbytes(rng.choice((1, 20, 84, 500, 5000))))


def a_folder(path: Path, _rng: random.Random) -> None:
    path.mkdir()


def a_pipe(path: Path, _rng: random.Random) -> None:
    os.mkfifo(path)


def a_link_to_itself(path: Path, _rng: random.Random) -> None:
    path.symlink_to(path)


def a_link_to_nowhere(path: Path, _rng: random.Random) -> None:
    path.symlink_to(path.parent / "none" / "outbox.db")


def below_a_file(path: Path, _rng: random.Random) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"")


MAKERS: Final[tuple[Callable[[Path, random.Random], None], ...]] = (
    *(somebody_elses, of_another_version, without_a_table, garbage, garbage, garbage),
    *(a_folder, a_pipe, a_link_to_itself, a_link_to_nowhere, below_a_file),
)


def test_what_is_no_outbox_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Other programs' databases, other versions, garbage, folders, pipes, links: refused, and not a byte is changed."""
    with tried("outbox files", share=0.2) as inputs:
        for number, rng in enumerate(inputs):
            path = tmp_path / str(number) / "outbox.db"
            path.parent.mkdir()
            make = rng.choice(MAKERS)
            make(path, rng)
            before = path.read_bytes() if path.is_file() else None
            assert seen(path) is None, make.__name__
            if make is not without_a_table:  # that one was ours, once
                assert (path.read_bytes() if path.is_file() else None) == before
            with pytest.raises(OutboxUnavailable):
                read(path, limit=10)


def test_leftovers_that_belong_to_another_file_do_no_harm(closed: Path, crashed: Path, tmp_path: Path) -> None:
    """A log or an index of another outbox, or none of either, beside a database: what the database holds is there."""
    with tried("outbox files", share=0.1) as inputs:
        for rng in inputs:
            path = copied(closed, tmp_path / "outbox")
            for sidecar in SIDECARS:
                match rng.randrange(4):
                    case 0:
                        shutil.copy(f"{crashed}{sidecar}", f"{path}{sidecar}")
                    case 1:
                        Path(f"{path}{sidecar}").write_bytes(rng.randbytes(rng.choice((0, 32, 4096, 40_000))))
                    case 2 if sidecar == "-wal":
                        Path(f"{path}{sidecar}").mkdir()
                    case _:
                        pass
            found = seen(path)
            assert found is None or set(whole(found)) <= set(STORED)


def test_a_row_of_another_type_is_refused_or_named_as_damaged(tmp_path: Path) -> None:
    """SQLite keeps any type in any column: what no outbox has stored is not sent, and not passed over in silence."""
    rng = random.Random("types")
    for number in range(60):
        path = tmp_path / str(number)
        of_other_types(path, rng)
        try:
            file = OutboxFile(path)
            try:
                found = file.head(after=0, limit=10, max_bytes=1 << 20)
            finally:
                file.close()
        except OutboxUnavailable:
            continue
        assert len(found) == 1

"""The shared table alone: what it holds, which files it refuses, what it does when there is no room."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from consumers.denylist.table import ABOUT_MAX_BYTES, U32, U64, Table, TableRefused
from revoker.errors import DenyListUnreadable
from tests.disks import small_disk
from tests.shared.harms import TABLE_HARMS


def _made(path: Path, *, capacity: int = 4096, generation: int = 1, about: bytes = b"about") -> Table:
    return Table.make(path, generation=generation, capacity=capacity, about=about)


def _numbers(count: int, *, seed: int = 1) -> U64:
    return np.random.default_rng(seed).integers(1, 2**64, count, dtype=np.uint64)


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("damage", sorted(TABLE_HARMS))
def test_a_file_that_cannot_be_trusted_is_refused(tmp_path: Path, damage: str, writable: bool) -> None:
    """Whatever is wrong with a file, it is told by name, at once, and nothing is mapped."""
    path = tmp_path / "table.1"
    table = _made(path)
    table.put(7, 8)
    table.close()
    change, why = TABLE_HARMS[damage]
    change(path)
    with pytest.raises(TableRefused, match=rf"table\.1 .*({why})|table\.1 ({why})"):
        Table.open(path, writable=writable)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_table_of_another_user_is_refused(tmp_path: Path) -> None:
    """A table that somebody else made could say anything, so it is not read even by root."""
    path = tmp_path / "table.1"
    _made(path).close()
    os.chown(path, 12345, -1)
    with pytest.raises(TableRefused, match=r"table\.1 belongs to user 12345, not to 0"):
        Table.open(path, writable=False)


def test_a_table_that_is_not_there_is_not_there(tmp_path: Path) -> None:
    """A missing file is told apart from a bad one: a reader looks again, since the writer may have gone on."""
    with pytest.raises(FileNotFoundError):
        Table.open(tmp_path / "table.1", writable=False)


def test_a_table_is_this_users_alone(tmp_path: Path) -> None:
    """The file has mode 0600 whatever the umask says, and is never made over another."""
    _made(tmp_path / "table.1")
    assert stat.S_IMODE((tmp_path / "table.1").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        _made(tmp_path / "table.1")


def test_what_is_said_about_a_table_has_a_bound(tmp_path: Path) -> None:
    """A text that does not fit into the header is refused before there is a file."""
    with pytest.raises(ValueError, match=rf"about has {ABOUT_MAX_BYTES + 1} bytes, at most {ABOUT_MAX_BYTES} fit"):
        _made(tmp_path / "table.1", about=bytes(ABOUT_MAX_BYTES + 1))
    assert not list(tmp_path.iterdir())


def test_everything_is_there_for_whoever_opens_it(tmp_path: Path) -> None:
    """Entries, offsets, purge clock, counts and text are read by another process as they were written."""
    table = _made(tmp_path / "table.3", generation=3)
    keys = _numbers(1000)
    table.put_all(keys, np.full(1000, 44, dtype=np.uint32))
    table.reached({0: 0, 5: 77, 1023: 2**50})
    table.purged_s, table.unread, table.rules_bytes = 11, 2, 333
    others = [Table.open(tmp_path / "table.3", writable=writable) for writable in (True, False)]
    assert [other.used for other in others] == [1000, 0]
    for other in others:
        assert (other.generation, other.about, other.offsets) == (3, b"about", {0: 0, 5: 77, 1023: 2**50})
        assert (other.purged_s, other.unread, other.rules_bytes) == (11, 2, 333)
        assert {other.find(key) for key in keys.tolist()} == {44}
    table.forget_offsets()
    assert others[1].offsets == {}


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """A table opened for reading is mapped so that a store is impossible, not merely forbidden."""
    _made(tmp_path / "table.1").close()
    with pytest.raises(TypeError):
        Table.open(tmp_path / "table.1", writable=False).keys[0] = 1


def test_a_partition_beyond_the_header_is_refused(tmp_path: Path) -> None:
    """Offsets of more partitions than fit are an error that says how many do."""
    with pytest.raises(ValueError, match="partition 1024: a shared table follows at most 1024 partitions"):
        _made(tmp_path / "table.1").reached({1024: 1})


def test_a_time_only_rises(tmp_path: Path) -> None:
    """Stored again with an earlier time, an entry keeps the later one."""
    table = _made(tmp_path / "table.1")
    assert [table.put(7, 40), table.put(7, 20), table.put(7, 60)] == [2, 0, 1]
    assert (table.find(7), table.used) == (60, 1)


def test_a_batch_is_many_single_ones(tmp_path: Path) -> None:
    """Many at once, with repetitions and entries already there, leave what one after the other would."""
    chance = np.random.default_rng(3)
    keys = np.concatenate([_numbers(900), _numbers(900)])
    times = chance.integers(4, 2**20, len(keys)).astype(np.uint32) << np.uint32(2)
    at_once, single = _made(tmp_path / "table.1"), _made(tmp_path / "table.2", generation=2)
    for table in (at_once, single):
        table.put(int(keys[0]), 2**30)
    assert at_once.put_all(keys, times) == 899
    for key, time in zip(keys.tolist(), times.tolist(), strict=True):
        single.put(key, time)
    assert at_once.used == single.used == 900
    assert [at_once.find(key) for key in keys.tolist()] == [single.find(key) for key in keys.tolist()]


def test_a_batch_stores_expiries_before_cutoffs(tmp_path: Path) -> None:
    """A kill within a batch of subjects leaves no cut-off without the expiry that keeps it."""
    table = _made(tmp_path / "table.1")
    seen: list[int] = []

    def watched(keys: U64, times: U32) -> int:
        taken = Table.put_all(table, keys, times)
        found = set(table.span(0, table.slots)[0].tolist())
        assert {key + 1 for key in found if not key & 1} <= found
        seen.append(len(found))
        return taken

    table.put_all = watched  # type: ignore[method-assign]
    subjects = _numbers(600) & np.uint64(2**64 - 2)
    keys = np.concatenate([subjects, subjects | np.uint64(1)])
    assert table.put_all(keys, np.full(1200, 4 << 2 | 3, dtype=np.uint32)) == 1200
    assert seen == [600, 1200, 1200]


def test_a_full_table_overflows_instead_of_losing_its_end(tmp_path: Path) -> None:
    """The last slot stays empty even if more is stored than the table was made for."""
    table = _made(tmp_path / "table.1", capacity=64)
    for key in range(2**64 - 512, 2**64):
        table.put(key, 4)
    with pytest.raises(OverflowError):
        table.put(2**64 - 513, 4)
    with pytest.raises(OverflowError):
        table.put_all(_numbers(5000), np.full(5000, 4, dtype=np.uint32))
    assert table.keys[table.slots - 1] == 0


def test_a_look_up_in_a_damaged_table_ends(tmp_path: Path) -> None:
    """If something else overwrites the mapped file, the answer is an error that says so, not an endless search."""
    table = _made(tmp_path / "table.1")
    reader = Table.open(tmp_path / "table.1", writable=False)
    for index in range(table.slots):
        table.keys[index] = 9
    with pytest.raises(DenyListUnreadable, match=r"table\.1 of the shared deny list is damaged"):
        reader.find(2**63)


def test_a_disk_without_room_is_told(tmp_path: Path) -> None:
    """The error names the directory and the size; no file is left, and what was there goes on."""
    with small_disk(tmp_path / "disk", size="1m") as disk:
        table = _made(disk.root / "table.1")
        with pytest.raises(OSError, match=rf"{disk.root} has no room for a table of \d{{7}} bytes: ") as raised:
            _made(disk.root / "table.2", capacity=200_000)
        assert raised.value.errno == errno.ENOSPC
        assert [path.name for path in disk.root.iterdir()] == ["table.1"]
        assert table.put(7, 8) == 2
        table.close()

"""The shared deny list where room is short: while a table shrinks, on a full disk, and when a log is read again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from consumers.denylist.shared import SharedDenyList
from consumers.denylist.table import FULL_ABOVE
from revoker.errors import DenyListFull
from revoker.events import Client, Revocation, Subject, Token
from tests.disks import small_disk

_ISS = "https://issuer.example"


def _store(directory: Path, *, max_entries: int = 10**6) -> SharedDenyList:
    store = SharedDenyList(directory, max_entries=max_entries, epoch_s=0, secret=lambda: bytes(range(32)))
    store.take()
    return store


def _tokens(start: int, end: int, *, until: int) -> list[Revocation]:
    return [
        Revocation(id="e", selector=Token(iss=_ISS, jti=f"j{number}"), revoked_at=0, expires_at=until)
        for number in range(start, end)
    ]


def _subject(*, until: int) -> Revocation:
    return Revocation(id="e", selector=Subject(iss=_ISS, sub="u"), revoked_at=0, expires_at=until, cutoff=5)


def _missing(store: SharedDenyList, start: int, end: int) -> list[int]:
    return [number for number in range(start, end) if not store.listed(("token", _ISS, f"j{number}"))]


def test_what_is_stored_while_a_table_shrinks_stays(tmp_path: Path) -> None:
    """A table of mostly expired entries is copied into a small one; more is stored meanwhile than that was made for."""
    store = _store(tmp_path)
    store.apply_all(_tokens(0, 60_000, until=10))
    store.advance(now_s=1)
    store.advance(now_s=100)
    assert store.writer.rebuilding
    at, batch = 60_000, 1600
    for _ in range(20):
        store.apply_all(_tokens(at, at + batch, until=1000))
        at += batch
        store.step()
        assert not _missing(store, at - batch, at)
    store.writer.finish()
    assert not _missing(store, 60_000, at)
    assert store.counts()["token"] == at - 60_000


def test_a_copy_that_becomes_too_small_begins_anew(tmp_path: Path) -> None:
    """What is stored during a copy counts when it comes to an end: the new table is made again, larger."""
    store = _store(tmp_path)
    writer = store.writer
    store.apply_all(_tokens(0, 30_000, until=10))
    store.advance(now_s=1)
    writer.advance(now_s=100)
    assert writer._rebuild is not None
    small = writer._rebuild.new.capacity
    # All at once, so that no step falls between.
    assert not writer._rebuild.step(100)
    keys = [number * (2**64 // small) | 1 for number in range(small)]
    for key in keys:
        writer.table.put(key, 1000 << 2)
        writer._rebuild.put(key, 1000 << 2)
    writer.finish()
    assert writer.table.capacity > small
    assert all(writer.table.find(key) for key in keys)


def test_a_log_read_again_needs_no_larger_table(tmp_path: Path) -> None:
    """Entries that are known take no further room, however many come at once."""
    store = _store(tmp_path)
    some = _tokens(0, 2600, until=1000)
    store.apply_all(some)
    store.writer.finish()
    before = store.writer.table
    for _ in range(3):
        store.apply_all(some * 2)
    assert store.writer.table is before


def test_a_small_table_is_roomy(tmp_path: Path) -> None:
    """Where it costs little, look-ups meet few others: at most a third of the places are taken, a large one's two."""
    store = _store(tmp_path)
    store.apply_all(_tokens(0, 10_000, until=1000))
    store.writer.finish()
    small = store.writer.table
    assert small.used / small.capacity < 0.36
    store.apply_all(_tokens(10_000, 60_000, until=1000))
    store.writer.finish()
    large = store.writer.table
    assert 0.36 < large.used / large.capacity < 0.71
    assert not _missing(store, 0, 60_000)


@pytest.mark.parametrize("others", [0, 100])
def test_a_subject_that_lives_longer_keeps_its_cutoff_in_a_copy(tmp_path: Path, others: int) -> None:
    """An expired subject left behind by a copy comes again with the same cut-off: both of its slots get into it."""
    store = _store(tmp_path)
    store.apply_all([_subject(until=10), *_tokens(0, 20_000, until=1000)])
    store.advance(now_s=5)
    writer = store.writer
    writer.advance(now_s=20)
    writer._begin()
    assert writer._rebuild is not None
    while not writer._rebuild.step():
        pass
    store.apply_all([_subject(until=500), *_tokens(0, others, until=1000)])
    writer.finish()
    assert store.cutoff(("subject", _ISS, "u")) == 5


def _fill(store: SharedDenyList, *, until: int = 1000, at_a_time: int = 500) -> tuple[int, DenyListFull]:
    """Store until nothing more goes in. Returns how many were taken before, and what was said."""
    at = 0
    while True:
        try:
            store.apply_all(_tokens(at, at + at_a_time, until=until))
        except DenyListFull as full:
            while store.listed(("token", _ISS, f"j{at}")):
                at += 1
            return at, full
        at += at_a_time


def test_a_full_disk_leaves_the_table_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With no room for a larger table the present one is filled as far as it may be; then the error says it all."""
    with small_disk(tmp_path / "disk", size="1m") as disk, caplog.at_level(logging.WARNING):
        store = _store(disk.root / "shared")
        store.advance(now_s=1)
        disk.fill(but_bytes=20_000)
        taken, full = _fill(store)
        table = store.writer.table
        assert table.used == int(FULL_ABOVE * table.capacity)
        assert not _missing(store, 0, taken)
        assert taken == table.used
        for said in (str(full), *caplog.messages):
            assert str(disk.root / "shared") in said
            assert "no room for a table of" in said
            assert "bytes" in said
        assert len(caplog.messages) == 1
        store.close()


def test_a_disk_with_room_again_is_used(tmp_path: Path) -> None:
    """Once space is given back and the purge clock has moved on, a larger table is made, and nothing was lost."""
    with small_disk(tmp_path / "disk", size="1m") as disk:
        store = _store(disk.root / "shared")
        store.advance(now_s=1)
        disk.fill(but_bytes=20_000)
        taken, _ = _fill(store)
        disk.empty()
        store.advance(now_s=7)
        store.apply_all(_tokens(taken, taken + 1000, until=1000))
        assert not _missing(store, 0, taken + 1000)
        store.close()


def test_expired_entries_leave_a_full_disk_as_it_was(tmp_path: Path) -> None:
    """A purge that finds no room for its copy is put off; entries stay, the clock goes on, files are not left over."""
    with small_disk(tmp_path / "disk", size="1m") as disk:
        store = _store(disk.root / "shared")
        store.apply_all(_tokens(0, 500, until=10) + _tokens(500, 600, until=1000))
        disk.fill(but_bytes=20_000)
        store.advance(now_s=100)
        assert not _missing(store, 500, 600)
        assert {path.name for path in store.directory.iterdir()} == {"control", "table.1", "rules.1"}
        disk.empty()
        store.advance(now_s=106)
        assert not _missing(store, 500, 600)
        assert not store.listed(("token", _ISS, "j0"))
        store.close()


def test_a_rule_that_could_not_be_written_is_written_when_it_comes_again(tmp_path: Path) -> None:
    """On a full disk a rule is refused each time it comes; when there is room, every process learns of it."""
    rule = Revocation(
        id="r", selector=Client(iss=_ISS, client_id="x" * 1000), revoked_at=0, expires_at=1000, cutoff=500
    )
    with small_disk(tmp_path / "disk", size="1m") as disk:
        store = _store(disk.root / "shared")
        disk.fill()
        for _ in range(2):
            with pytest.raises(DenyListFull, match=r"no rule can be added to .*rules\.1"):
                store.apply_all([rule])
        disk.empty()
        store.apply_all([rule])
        reader = SharedDenyList(store.directory, max_entries=10, epoch_s=0)
        assert reader.open() is None
        assert reader.cutoff(("client", _ISS, "x" * 1000)) == 500
        reader.close()
        store.close()


@pytest.mark.parametrize("at_a_time", [50, 800, 25_000])
def test_an_entry_takes_26_bytes_at_most(tmp_path: Path, at_a_time: int) -> None:
    """A table that has grown to 100 000 tokens, in batches of any size, has at most 26 bytes for each."""
    store = _store(tmp_path)
    for start in range(0, 100_000, at_a_time):
        store.apply_all(_tokens(start, start + at_a_time, until=1000))
    store.writer.finish()
    assert store.counts()["token"] == 100_000
    assert store.directory_bytes <= 26 * 100_000

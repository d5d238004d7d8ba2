"""Copies of the shared deny list: what is in them, and what is refused, on real files."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from consumers.denylist.shared import Origin, SharedDenyList, Taken
from consumers.denylist.snapshot import NAME, Snapshots, note, restore, write
from revoker.events import Client, Revocation, Subject, Token
from tests.unit.made_up_follower import Clock

_ORIGIN = Origin(cluster_id="c", topic="t", topic_id="i", partitions=1)
_AT = 1_800_000_000
_ID = "0191e5c0-0000-7000-8000-000000000001"


def _token(number: int) -> Revocation:
    return Revocation(id=_ID, selector=Token(iss="", jti=f"j{number}"), revoked_at=_AT, expires_at=_AT + 3600)


def _writer(directory: Path, *, boot: str = "boot 1", trust: str = "") -> SharedDenyList:
    store = SharedDenyList(directory, max_entries=100_000, boot=lambda: boot)
    store.take(trust=trust)
    return store


def _filled(directory: Path) -> SharedDenyList:
    store = _writer(directory)
    store.adopt(_ORIGIN)
    store.apply_all([_token(number) for number in range(3000)])
    store.apply_all(
        [
            Revocation(id=_ID, selector=Subject(iss="", sub="u"), revoked_at=_AT, cutoff=_AT, expires_at=_AT + 3600),
            Revocation(
                id=_ID, selector=Client(iss="", client_id="c"), revoked_at=_AT, cutoff=_AT, expires_at=_AT + 3600
            ),
        ]
    )
    store.reached({0: 3002})
    return store


def _restored(tmp_path: Path, *, trust: str = "") -> tuple[SharedDenyList, Taken | None]:
    store = _writer(tmp_path / "new", boot="boot 2", trust=trust)
    return store, restore(store, tmp_path / "disk", trust=trust, max_entries=100_000)


def test_everything_comes_back_after_a_reboot(tmp_path: Path) -> None:
    """Entries, rules, cut-offs, offsets and origin are there, in a table of the new boot that readers see."""
    store = _filled(tmp_path / "old")
    assert write(note(store), tmp_path / "disk")
    new, taken = _restored(tmp_path)
    assert taken == Taken(offsets={0: 3002}, origin=_ORIGIN, unread=0, refused=None)
    reader = SharedDenyList(tmp_path / "new", max_entries=1, boot=lambda: "boot 2")
    assert reader.open() is None
    for one in (new, reader):
        assert all(one.listed(("token", "", f"j{number}")) for number in range(3000))
        assert not one.listed(("token", "", "j3000"))
        assert one.cutoff(("subject", "", "u")) == _AT
        assert one.cutoff(("client", "", "c")) == _AT
    new.close()
    again = SharedDenyList(tmp_path / "new", max_entries=100_000, boot=lambda: "boot 2")
    assert again.take().offsets == {0: 3002}


def test_what_is_stored_while_it_is_copied_is_after_the_offsets(tmp_path: Path) -> None:
    """Offsets are those of the moment it was noted, though the table has gone on, and to another generation."""
    store = _filled(tmp_path / "old")
    parts = note(store)
    store.apply_all([_token(number) for number in range(3000, 20_000)])
    store.reached({0: 20_002}, unread=1)
    write(parts, tmp_path / "disk")
    new, taken = _restored(tmp_path)
    assert taken is not None
    assert taken.offsets == {0: 3002}
    assert taken.unread == 0
    assert all(new.listed(("token", "", f"j{number}")) for number in range(3000))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda data: data[:-1], "bytes, its head says"),
        (lambda data: data[:50], "its head"),
        (lambda data: data[:0], "no snapshot"),
        (lambda data: b"x" + data[1:], "no snapshot"),
        (lambda data: data[:8] + b"\x63" + data[9:], "has format 99"),
        (
            lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
            "checksum",
        ),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "checksum"),
    ],
)
def test_a_harmed_one_is_refused_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[bytes], bytes], reason: str
) -> None:
    """Cut off, foreign, of another format or with one bit turned: nothing of it is used, and the log says why."""
    write(note(_filled(tmp_path / "old")), tmp_path / "disk")
    path = tmp_path / "disk" / NAME
    path.write_bytes(harm(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        new, taken = _restored(tmp_path)
    assert taken is None
    assert reason in caplog.text
    assert not any(new.counts().values())
    assert not list((tmp_path / "new").glob("*.restored"))
    new.apply(_token(1))
    assert new.listed(("token", "", "j1"))


def test_one_of_another_trust_or_open_to_others_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What other publishers' signatures let in does not come back; nor does a file that others could write."""
    write(note(_filled(tmp_path / "old")), tmp_path / "disk")
    assert _restored(tmp_path, trust="other")[1] is None
    assert "other publishers were trusted" in caplog.text
    (tmp_path / "disk" / NAME).chmod(0o644)
    assert _restored(tmp_path)[1] is None
    assert "open to others (mode 0644)" in caplog.text


def test_one_that_was_not_finished_leaves_the_one_before(tmp_path: Path) -> None:
    """A copy that is stopped half-way changes nothing; what is there is its owner's alone."""
    store = _filled(tmp_path / "old")
    write(note(store), tmp_path / "disk")
    before = (tmp_path / "disk" / NAME).read_bytes()
    store.reached({0: 4000})
    assert not write(note(store), tmp_path / "disk", stop=lambda: True)
    assert (tmp_path / "disk" / NAME).read_bytes() == before
    assert [path.name for path in (tmp_path / "disk").iterdir()] == [NAME]
    assert (tmp_path / "disk" / NAME).stat().st_mode & 0o777 == 0o600


def test_without_one_there_is_nothing_to_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No snapshot is no trouble."""
    assert _restored(tmp_path)[1] is None
    assert caplog.text == ""


def test_taking_over_a_million_entries_is_quick(tmp_path: Path) -> None:
    """From the free seat to the first change is a matter of 0.1 s, and nothing is read again. The bound is loose."""
    store = _writer(tmp_path)
    writer = store.writer
    store.adopt(_ORIGIN)
    writer._begin(extra=1_000_000)
    writer.finish()
    hashes = np.random.default_rng(1).integers(2**10, 2**64 - 1, 1_000_000, dtype=np.uint64)
    writer.table.put_all(hashes, np.full(len(hashes), 2**31 - 4, dtype=np.uint32))
    store.reached({0: 1_000_000})
    began = time.perf_counter()
    successor = SharedDenyList(tmp_path, max_entries=2_000_000, boot=lambda: "boot 1")
    taken = successor.take()
    successor.apply(_token(1))
    assert time.perf_counter() - began < 0.5
    assert taken.offsets == {0: 1_000_000}
    assert successor.counts()["token"] == 1_000_001


async def test_one_is_made_when_due_and_something_changed(tmp_path: Path) -> None:
    """At once, then after the interval, and not if nothing was read since."""
    clock = Clock()
    store = _filled(tmp_path / "old")
    kept = Snapshots(store, directory=str(tmp_path / "disk"), interval_s=300, monotonic=clock.monotonic)
    made: list[int] = []
    for seconds, offset in ((0, 3002), (299, 3010), (1, 3010), (300, 3010)):
        clock.tick(seconds)
        store.reached({0: offset})
        kept.turn()
        while kept.busy:
            await asyncio.sleep(0.001)
            kept.turn()
        made.append((tmp_path / "disk" / NAME).stat().st_ino)
    first, early, due, unchanged = made
    assert first == early != due == unchanged
    assert kept.failure is None
    await kept.close()


async def test_a_failure_is_kept_to_be_shown(tmp_path: Path) -> None:
    """Where no copy can be written the reason is there for probes, and the writer goes on."""
    (tmp_path / "disk").write_text("a file")
    store = _filled(tmp_path / "old")
    kept = Snapshots(store, directory=str(tmp_path / "disk"), interval_s=300)
    kept.turn()
    await kept.close()
    assert kept.failure is not None
    assert "disk" in kept.failure

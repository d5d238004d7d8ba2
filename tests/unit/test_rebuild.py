"""One copy of a table into the next, at the places where it is easy to lose something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from consumers.denylist.rebuild import CrowdedError, Rebuild
from consumers.denylist.table import Table


def _key(home: int, low: int = 0) -> int:
    """A fingerprint with its home at ``home`` of 64."""
    return home << 58 | low << 1 | 1


def _time(seconds: int, kind: int = 0) -> int:
    return (seconds + 1) << 2 | kind


def _tables(directory: Path, *, old: int = 64, new: int = 64) -> tuple[Table, Table]:
    return (
        Table.make(directory / "table.1", generation=1, capacity=old, about=b""),
        Table.make(directory / "table.2", generation=2, capacity=new, about=b""),
    )


def _found(table: Table) -> list[int]:
    return [key for keys, _ in table.chunks() for key in keys.tolist()]


def test_what_spills_over_behind_a_copy_has_one_place(tmp_path: Path) -> None:
    """An entry that came in meanwhile and lies further on than its home is copied once, where it is looked for."""
    old, new = _tables(tmp_path, new=256)
    for key in (_key(0), _key(0, 1), _key(1)):
        old.put(key, _time(50))
    rebuild = Rebuild(old, new, now_s=0)
    assert not rebuild.step(1)
    late = _key(0, 2)
    old.put(late, _time(50))
    rebuild.put(late, _time(50))
    assert rebuild.step(1000)
    rebuild.finish()
    assert sorted(_found(new)) == sorted(_found(old))
    assert all(new.find(key) for key in _found(old))


def test_a_copy_cannot_be_finished_before_its_end(tmp_path: Path) -> None:
    """A table of which half is copied must never take the place of the whole one."""
    old, new = _tables(tmp_path)
    old.put(_key(63), _time(50))
    rebuild = Rebuild(old, new, now_s=0)
    rebuild.step(1)
    with pytest.raises(RuntimeError, match=r"only \d+ of 576 slots are copied"):
        rebuild.finish()


def test_what_is_pending_stays_so_until_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while it is stored loses nothing: the next attempt stores all of it."""
    old, new = _tables(tmp_path)
    rebuild = Rebuild(old, new, now_s=0)
    assert rebuild.step(1000)
    rebuild.put(_key(1), _time(50))
    rebuild.put_all(np.array([_key(2), _key(3)], dtype=np.uint64), np.full(2, _time(50), dtype=np.uint32))
    with monkeypatch.context() as patched:
        patched.setattr(Table, "put_all", lambda *_: (_ for _ in ()).throw(OverflowError("full")))
        with pytest.raises(OverflowError):
            rebuild.finish()
    assert rebuild.pending == 3
    rebuild.finish()
    assert (rebuild.pending, sorted(_found(new))) == (0, [_key(1), _key(2), _key(3)])


def test_more_than_fits_is_told_before_anything_is_stored(tmp_path: Path) -> None:
    """Whoever gets the error begins anew with a larger table; the old one is in use all the while."""
    old, new = _tables(tmp_path, old=256)
    for home in range(64):
        old.put(_key(home), _time(50))
    rebuild = Rebuild(old, new, now_s=0)
    with pytest.raises(CrowdedError):
        rebuild.step(1000)
    assert not _found(new)


def test_a_cutoff_lives_as_long_as_its_expiry(tmp_path: Path) -> None:
    """A cut-off in the past stays while its subject's tokens live, and goes with the expiry; half a pair stays."""
    old, new = _tables(tmp_path)
    alive, dead, half = _key(1) - 1, _key(2) - 1, _key(3) - 1
    for subject, expiry in ((alive, 50), (dead, 10)):
        old.put(subject | 1, _time(expiry, 3))
        old.put(subject, _time(5, 3))
    old.put(half, _time(5, 3))
    rebuild = Rebuild(old, new, now_s=20)
    assert rebuild.step(1000)
    rebuild.finish()
    assert sorted(_found(new)) == [alive, alive | 1, half]
    assert rebuild.kinds == {3}

"""What a new writer of a host accepts, and what becomes of the rest, on real files."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import msgspec
import pytest

from consumers.denylist.shared import SharedDenyList, Taken
from consumers.denylist.table import Table
from revoker.errors import DenyListUnreadable, SettingsError
from revoker.events import Client, Revocation, Token
from tests.shared.harms import CONTROL_HARMS, JOURNAL_HARMS, TABLE_HARMS, Harm

_ISS = "https://issuer.example"
_TOKEN = ("token", _ISS, "j")
_EVENTS = [
    Revocation(id="1", selector=Token(iss=_ISS, jti="j"), revoked_at=0, expires_at=1000),
    Revocation(id="2", selector=Client(iss=_ISS, client_id="c"), revoked_at=0, expires_at=1000, cutoff=50),
]
_HARMS = [
    pytest.param(name, harm, id=f"{name.partition('.')[0]}, {what}")
    for name, harms in (("table.1", TABLE_HARMS), ("control", CONTROL_HARMS), ("rules.1", JOURNAL_HARMS))
    for what, harm in harms.items()
]


def _store(directory: Path, *, boot: str = "boot 1", epoch_s: int = 0) -> SharedDenyList:
    return SharedDenyList(directory, max_entries=1000, epoch_s=epoch_s, boot=lambda: boot)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that a writer has left, which was live when it ended."""
    store = _store(tmp_path / "shared")
    store.take(trust="who")
    store.apply_all(_EVENTS)
    store.reached({0: 2})
    assert store.control is not None
    store.control.publish(fresh_until=1e9, proved_until=1e9, proved_at=1.0, as_of=1.0, was_ready=True, state=2)
    store.close()
    return tmp_path / "shared"


def _takes(
    directory: Path, *, boot: str = "boot 1", trust: str = "who", epoch_s: int = 0
) -> tuple[SharedDenyList, Taken]:
    store = _store(directory, boot=boot, epoch_s=epoch_s)
    return store, store.take(trust=trust)


def _is_begun_anew(store: SharedDenyList, taken: Taken) -> None:
    assert (taken.offsets, taken.origin, taken.unread) == ({}, None, 0)
    assert not store.listed(_TOKEN)
    assert store.cutoff(("client", _ISS, "c")) is None
    assert not sum(store.counts().values())
    assert store.control is not None
    assert (store.control.fresh_until, store.control.proved_until) == (-math.inf, -math.inf)
    assert not store.control.was_ready
    store.apply_all(_EVENTS)
    reader = _store(store.directory, boot=store._boot(), epoch_s=store._epoch_s)
    assert reader.open() is None
    assert reader.listed(_TOKEN)
    assert reader.cutoff(("client", _ISS, "c")) == 50


def test_what_a_writer_left_is_gone_on_with(directory: Path) -> None:
    """A whole table of the same boot and trust is taken as it is, with its offsets and the proof that still holds."""
    store, taken = _takes(directory)
    assert taken == Taken(offsets={0: 2}, origin=None, unread=0, refused=None)
    assert store.listed(_TOKEN)
    assert store.cutoff(("client", _ISS, "c")) == 50
    assert store.control is not None
    assert store.control.fresh_until == 1e9


def test_an_empty_directory_is_nothing_to_refuse(tmp_path: Path) -> None:
    """The first writer of all finds nothing, and says nothing of it."""
    store, taken = _takes(tmp_path / "shared")
    assert taken.refused is None
    _is_begun_anew(store, taken)


@pytest.mark.parametrize(("name", "harm"), _HARMS)
def test_what_cannot_be_trusted_is_replaced(directory: Path, name: str, harm: Harm) -> None:
    """A harmed file is refused with the reason; an empty table takes its place, and nothing is fresh."""
    change, why = harm
    change(directory / name)
    store, taken = _takes(directory)
    assert taken.refused is not None
    assert name in taken.refused
    assert re.search(why, taken.refused), taken.refused
    _is_begun_anew(store, taken)


@pytest.mark.parametrize(
    ("boot", "trust", "epoch_s", "why"),
    [
        ("boot 2", "who", 0, "control dates from before the last boot"),
        ("boot 1", "others", 0, r"table\.1 was written while other publishers were trusted"),
        ("boot 1", "who", 7, r"table\.1 was written under another epoch"),
    ],
)
def test_what_was_written_under_other_circumstances_is_replaced(
    directory: Path, boot: str, trust: str, epoch_s: int, why: str
) -> None:
    """Another boot, other trusted publishers or another epoch: what stands there says nothing that counts now."""
    store, taken = _takes(directory, boot=boot, trust=trust, epoch_s=epoch_s)
    assert taken.refused is not None
    assert re.search(why, taken.refused)
    _is_begun_anew(store, taken)


def test_a_table_of_another_boot_is_replaced_although_its_page_is_of_this(directory: Path) -> None:
    """A table that was copied here from another time is refused even beside a page of this boot."""
    control = (directory / "control").read_bytes()
    (directory / "control").write_bytes(control.replace(b"boot 1", b"boot 2"))
    store, taken = _takes(directory, boot="boot 2")
    assert taken.refused == "table.1 was written before the last boot"
    _is_begun_anew(store, taken)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
@pytest.mark.parametrize("name", ["control", "table.1", "rules.1"])
def test_files_of_another_user_are_replaced(directory: Path, name: str) -> None:
    """What somebody else wrote is not believed, even by root."""
    os.chown(directory / name, 12345, -1)
    store, taken = _takes(directory)
    assert taken.refused == f"{name} belongs to user 12345, not to 0"
    _is_begun_anew(store, taken)


def test_a_directory_in_place_of_the_table_is_left_alone(directory: Path) -> None:
    """What nobody of ours made is refused, and nobody of ours removes it."""
    (directory / "table.1").unlink()
    (directory / "table.1").mkdir()
    store, taken = _takes(directory)
    assert taken.refused is not None
    assert taken.refused.startswith("table.1 cannot be opened")
    assert (directory / "table.1").is_dir()
    _is_begun_anew(store, taken)


@pytest.mark.parametrize("secret", ["", "00" * 31, "zz" * 32])
def test_a_table_without_a_proper_secret_is_replaced(directory: Path, secret: str) -> None:
    """Fingerprints under a short secret could be computed by others; the text does not show it."""
    store, _ = _takes(directory)
    table = store.writer.table
    about = msgspec.json.encode(msgspec.structs.replace(store.writer.about, secret=secret))
    store.close()
    (directory / "table.1").unlink()
    Table.make(directory / "table.1", generation=1, capacity=table.capacity, about=about).close()
    store, taken = _takes(directory)
    assert taken.refused is not None
    assert taken.refused.startswith("table.1 does not say what it is")
    assert not secret or secret not in taken.refused
    _is_begun_anew(store, taken)


@pytest.mark.parametrize(
    "harm", [pytest.param(CONTROL_HARMS[name], id=name) for name in ("older version", "open to others")]
)
def test_a_reader_of_a_page_that_is_replaced_notices(directory: Path, harm: Harm) -> None:
    """Whoever has mapped the old page stops believing it, and finds the new one as soon as it looks."""
    reader = _store(directory)
    assert reader.open() is None
    old = reader.control
    assert old is not None
    harm[0](directory / "control")
    store, _ = _takes(directory)
    assert old.replaced
    assert old.fresh_until <= 0
    with pytest.raises(DenyListUnreadable):
        reader.listed(_TOKEN)
    assert reader.open() is None
    assert not reader.listed(_TOKEN)
    store.apply_all(_EVENTS)
    assert reader.listed(_TOKEN)


def test_a_reader_of_a_table_that_is_replaced_notices(directory: Path) -> None:
    """A table is refused by the next writer: one question goes unanswered, the next goes to the new one."""
    reader = _store(directory)
    assert reader.open() is None
    assert reader.listed(_TOKEN)
    store, taken = _takes(directory, trust="others")
    assert taken.refused is not None
    with pytest.raises(DenyListUnreadable, match="was given up for a new one just now"):
        reader.listed(_TOKEN)
    assert not reader.listed(_TOKEN)
    assert reader.control is not None
    assert reader.control.fresh_until == -math.inf
    store.apply_all(_EVENTS)
    assert reader.listed(_TOKEN)


def test_a_directory_open_to_others_is_an_error(tmp_path: Path) -> None:
    """Somebody who may write there could put anything in place of the files; it is for people to set right."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    with pytest.raises(SettingsError, match=r"shared is open to others \(mode 0755\), must have mode 0700"):
        _takes(tmp_path / "shared")

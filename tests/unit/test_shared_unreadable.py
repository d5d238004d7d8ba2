"""A shared deny list that cannot be read: the reason, nobody admitted, and never another error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from consumers.denylist.control import Control, boot_id, pack_word
from consumers.denylist.shared import SharedDenyList
from consumers.denylist.table import Table
from revoker.errors import DenyListUnreadable
from revoker.events import KINDS, Everything
from tests.unit.shared_bench import ISS, SECRET, STRANGER, event, knows_nothing, listed, opened, renew, token


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "list"


@pytest.fixture
def writer(directory: Path) -> SharedDenyList:
    store = opened(directory)
    store.take()
    return store


@pytest.fixture
def reader(directory: Path, writer: SharedDenyList) -> SharedDenyList:
    assert writer.writes
    store = opened(directory)
    assert store.open() is None
    return store


def test_without_a_table_nothing_is_known(directory: Path) -> None:
    """Before anybody has made one, a question is not answered by no."""
    store = opened(directory)
    assert store.kinds == KINDS.keys()
    knows_nothing(store, reason="nobody has looked")
    assert store.open() == f"no process has made a table in {directory} yet"
    knows_nothing(store, reason="no process has made a table")
    assert store.directory_bytes == 0
    assert sum(store.counts().values()) == 0


def test_a_page_that_took_anothers_place_is_found(directory: Path, writer: SharedDenyList) -> None:
    """The files were removed under a reader, and a new writer began: looking again attaches to what is there now."""
    reader = opened(directory)
    assert reader.open() is None
    writer.close()
    (directory / "control").unlink()
    assert reader.open() is None  # the old one is better than none, and its proof ends by itself
    newer = opened(directory)
    newer.take()
    newer.apply(token("new"))
    assert reader.open() is None
    assert listed(reader, "new")


def _about(**changes: object) -> bytes:
    about = {"secret": SECRET.hex(), "boot": boot_id(), "trust": "", "epoch_s": 0, "hash_name": "xxh3_64"}
    return msgspec.json.encode(about | changes)


def _made(about: bytes) -> Callable[[Path, int], None]:
    def harm(directory: Path, generation: int) -> None:
        path = directory / f"table.{generation}"
        path.unlink()
        Table.make(path, generation=generation, capacity=4096, about=about).close()

    return harm


def _gone(directory: Path, generation: int) -> None:
    (directory / f"table.{generation}").unlink()


def _ruleless(directory: Path, generation: int) -> None:
    (directory / f"rules.{generation}").unlink()


def _piped(directory: Path, generation: int) -> None:
    _gone(directory, generation)
    os.mkfifo(directory / f"table.{generation}", 0o600)


def _open_to_all(directory: Path, generation: int) -> None:
    (directory / f"table.{generation}").chmod(0o644)


def _turned(directory: Path, generation: int) -> None:
    path = directory / f"rules.{generation}"
    data = bytearray(path.read_bytes())
    data[12] ^= 1
    path.write_bytes(data)


def _boundless(directory: Path, generation: int) -> None:
    table = Table.open(directory / f"table.{generation}", writable=True)
    table.rules_bytes = 2**64 - 1
    table.close()


HARMS: dict[str, tuple[Callable[[Path, int], None], str]] = {
    "the table is missing": (_gone, "is missing"),
    "the rules are missing": (_ruleless, "is missing"),
    "the table is a pipe": (_piped, "is no regular file"),
    "the table is open to others": (_open_to_all, "is open to others"),
    "a bit of a rule is turned": (_turned, "is damaged at byte"),
    "more rules than bytes": (_boundless, "the table says 18446744073709551615"),
    "about is no JSON": (_made(b"{"), "does not say what it is"),
    "about is no text": (_made(b'{"secret":"\xff"}'), "does not say what it is"),
    "about is empty": (_made(b""), "does not say what it is"),
    "the secret is no hex": (_made(_about(secret="zz" * 32)), "does not say what it is"),
    "the secret is short": (_made(_about(secret="00")), "does not say what it is"),
    "another hash": (_made(_about(hash_name="md5")), "another hash"),
    "an epoch beyond numbers": (_made(_about(epoch_s="soon")), "does not say what it is"),
}


@pytest.mark.parametrize("name", HARMS)
def test_a_table_that_cannot_be_read_makes_unknown(
    name: str, directory: Path, writer: SharedDenyList, reader: SharedDenyList
) -> None:
    """In a process that is attached and in one that starts: the reason, and never another error."""
    harm, reason = HARMS[name]
    writer.apply_all([token("a"), event(Everything())])
    assert listed(reader, "a")
    harm(directory, renew(writer))
    knows_nothing(reader, reason=reason)
    assert reader.counts()["token"] == 1  # the last that was seen, for people
    late = opened(directory)
    told = late.open()
    assert told is not None
    assert reason in told
    assert SECRET.hex() not in told
    knows_nothing(late, reason=reason)


@pytest.mark.parametrize("name", ["the table is missing", "a bit of a rule is turned", "another hash"])
def test_a_reader_goes_on_once_it_can(
    name: str, directory: Path, writer: SharedDenyList, reader: SharedDenyList
) -> None:
    """The next generation is a whole one: the reader that could not see looks into it."""
    writer.apply_all([token("a"), event(Everything())])
    assert listed(reader, "a")
    HARMS[name][0](directory, renew(writer))
    knows_nothing(reader)
    renew(writer)
    assert listed(reader, "a")
    assert reader.cutoff(("all",)) == 50


def test_a_table_without_an_end_makes_unknown(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """A damaged table with no empty slot is not searched beyond its end."""
    writer.apply(token("a"))
    listed(reader, "a")
    for index in range(writer.writer.table.slots):
        writer.writer.table.keys[index] = 2
    assert reader.suspects(STRANGER, None)
    with pytest.raises(DenyListUnreadable, match="damaged"):
        reader.listed(("token", ISS, "stranger"))


def test_a_page_that_names_a_table_nobody_made(directory: Path) -> None:
    """A page may survive its table; a process that starts says which file is missing."""
    directory.mkdir(mode=0o700)
    Control.make(directory / "control", boot=boot_id()).word = pack_word(generation=7, rules=0, kinds=0)
    told = opened(directory).open()
    assert told is not None
    assert "table.7 is missing" in told


@pytest.mark.parametrize("name", [name for name in HARMS if name.startswith(("about", "the secret", "another hash"))])
def test_the_next_writer_begins_anew(name: str, directory: Path, writer: SharedDenyList) -> None:
    """What no reader can read no writer accepts: it says why, and an empty table takes its place."""
    harm, reason = HARMS[name]
    writer.apply(token("a"))
    harm(directory, renew(writer))
    writer.close()
    taken = writer.take()
    assert taken.refused is not None
    assert reason in taken.refused
    assert taken.offsets == {}
    assert not listed(writer, "a")

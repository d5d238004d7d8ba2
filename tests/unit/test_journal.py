"""The rules of one generation, as a file that only grows."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.denylist.journal import Journal, JournalRefused, rules_in
from revoker.events import Client, Everything, Key, Revocation, Selector, Subject, Withdrawal


def _rule(number: int, selector: Selector | None = None, *, cutoff: int | None = 5) -> Revocation:
    return Revocation(
        id=f"event-{number}", selector=selector or Everything(), revoked_at=1, expires_at=100 + number, cutoff=cutoff
    )


_RULES = [
    _rule(0),
    _rule(1, Subject(iss="https://é.example", sub="u", spare_sid="s")),
    _rule(2, Client(iss="", client_id="c" * 1024)),
    _rule(3, Key(iss="", kid="k"), cutoff=None),
    _rule(4, Withdrawal(event_id="event-2"), cutoff=None),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rules.1"


def _filled(path: Path, rules: list[Revocation] = _RULES) -> int:
    journal = Journal(path, length=0)
    for rule in rules:
        journal.append(rule)
    journal.close()
    return journal.length


def test_what_is_written_is_read(path: Path) -> None:
    """Rules come back as they were, in order, and the length is that of the file."""
    length = _filled(path)
    assert list(rules_in(path, start=0, end=length)) == _RULES
    assert path.stat().st_size == length
    assert path.stat().st_mode & 0o7777 == 0o600


def test_a_reader_goes_on_where_it_was(path: Path) -> None:
    """Every length the writer gave is one to begin at and one to end at."""
    journal = Journal(path, length=0)
    ends = [0, *(journal.append(rule) for rule in _RULES)]
    journal.close()
    for first, start in enumerate(ends):
        for last, end in enumerate(ends):
            assert list(rules_in(path, start=start, end=end)) == _RULES[first:last]


def test_texts_about_people_are_left_out(path: Path) -> None:
    """Reason and actor decide nothing, so they are not kept."""
    told = Revocation(id="e", selector=Everything(), revoked_at=0, expires_at=1, reason="stolen laptop", actor="alice")
    length = _filled(path, [told])
    assert b"laptop" not in path.read_bytes()
    assert b"alice" not in path.read_bytes()
    assert [one.reason for one in rules_in(path, start=0, end=length)] == [None]


def test_what_was_never_acknowledged_is_cut_off(path: Path) -> None:
    """Bytes behind the length are those of a writer that died over them; the next one writes in their place."""
    length = _filled(path, _RULES[:2])
    with path.open("ab") as file:
        file.write(b"half a record")
    journal = Journal(path, length=length)
    length = journal.append(_RULES[2])
    journal.close()
    assert list(rules_in(path, start=0, end=length)) == _RULES[:3]


def test_a_reader_needs_no_file_for_no_rules(path: Path) -> None:
    """Where the table says there are none, nothing is opened."""
    assert list(rules_in(path, start=0, end=0)) == []


def test_a_file_that_is_missing_is_another_error(path: Path) -> None:
    """The writer may have gone on to another generation, so that is told apart from damage."""
    with pytest.raises(FileNotFoundError):
        list(rules_in(path, start=0, end=8))


def test_every_byte_counts(path: Path) -> None:
    """Whichever bit of a file is turned, it is refused, or at the least no other rule comes out."""
    length = _filled(path, _RULES[:2])
    whole = path.read_bytes()
    for at in range(length):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(JournalRefused, match=r"rules\.1 "):
            list(rules_in(path, start=0, end=length))


@pytest.mark.parametrize("missing", [1, 7, 8, 20])
def test_a_file_that_is_too_short_is_refused(path: Path, missing: int) -> None:
    """The table says more than is there: by the reader, and by the next writer, whatever was cut."""
    length = _filled(path)
    os.truncate(path, length - missing)
    with pytest.raises(JournalRefused, match=f"has {length - missing} bytes, the table says {length}"):
        list(rules_in(path, start=0, end=length))
    with pytest.raises(JournalRefused, match=f"has {length - missing} bytes, the table says {length}"):
        Journal(path, length=length)


@pytest.mark.parametrize("end", [2**40, 2**63, 2**64 - 1])
def test_a_length_beyond_reason_is_refused(path: Path, end: int) -> None:
    """A damaged header asks for no memory: the size of the file is asked first."""
    _filled(path)
    with pytest.raises(JournalRefused, match=f"the table says {end}"):
        list(rules_in(path, start=0, end=end))


def test_a_length_within_a_record_is_refused(path: Path) -> None:
    """What ends in the middle of a record does not end where the table says."""
    length = _filled(path)
    for end in range(length - 20, length):
        with pytest.raises(JournalRefused, match=f"the table says {end}"):
            list(rules_in(path, start=0, end=end))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"id":"\xff","selector":{"kind":"all"},"revoked_at":0,"expires_at":0}',
        b'{"id":"e","selector":{"kind":"moon"},"revoked_at":0,"expires_at":0}',
        b'{"id":"e","selector":{"kind":"all"},"revoked_at":0,"expires_at":-1}',
    ],
)
def test_what_is_no_rule_is_refused_though_its_checksum_is_right(path: Path, body: bytes) -> None:
    """JSON that is no event of a known kind, or no JSON, is refused with its place."""
    data = struct.pack("<II", len(body), zlib.crc32(body)) + body
    path.touch(0o600)
    path.write_bytes(data)
    with pytest.raises(JournalRefused, match=r"rules\.1 holds no rule at byte 0"):
        list(rules_in(path, start=0, end=len(data)))


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _where(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:  # the one the listing itself was read from
        return ""


def _piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_linked, "is a symbolic link"),
        (_piped, "is no regular file"),
        (lambda path: path.chmod(0o644), "is open to others"),
    ],
)
def test_a_file_that_is_not_ours_alone_is_refused(path: Path, harm: Callable[[Path], None], reason: str) -> None:
    """Neither reader nor writer opens it, nor waits for it, and no descriptor is left open."""
    length = _filled(path)
    harm(path)
    with pytest.raises(JournalRefused, match=reason):
        list(rules_in(path, start=0, end=length))
    with pytest.raises(JournalRefused, match=reason):
        Journal(path, length=length)
    assert not [one for one in Path("/proc/self/fd").iterdir() if str(path.parent) in _where(one)]


def test_a_disk_that_takes_little_at_a_time_gets_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write may store fewer bytes than it was given; the rest follows."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: write(descriptor, data[:3], at))
    length = _filled(path)
    assert list(rules_in(path, start=0, end=length)) == _RULES


def test_a_disk_that_takes_nothing_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No endless attempts; the length stays, and the rule can be written later."""
    journal = Journal(path, length=0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda *_: 0)
        with pytest.raises(OSError, match="takes no further byte"):
            journal.append(_RULES[0])
    assert journal.length == 0
    length = journal.append(_RULES[1])
    journal.close()
    assert list(rules_in(path, start=0, end=length)) == [_RULES[1]]

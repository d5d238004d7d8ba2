"""What can become of a file of the shared deny list, and a pattern of what must be said about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from xxhash import xxh3_64_intdigest

from consumers.denylist.table import slots_for

__all__ = ["CONTROL_HARMS", "JOURNAL_HARMS", "TABLE_HARMS", "Harm"]

Harm: TypeAlias = tuple[Callable[[Path], object], str]

_HEADER_BYTES = 12288
_AT_VERSION, _AT_GENERATION, _AT_CAPACITY, _AT_DIVISOR, _AT_SLOTS, _AT_ABOUT, _AT_CHECKSUM = range(8, 64, 8)


def _words(path: Path, at: int, value: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value.to_bytes(8, "little"))


def _sealed(path: Path, at: int, value: int) -> None:
    """Change a word of the header as somebody would who also knows the checksum."""
    _words(path, at, value)
    data = path.read_bytes()
    about = int.from_bytes(data[_AT_ABOUT : _AT_ABOUT + 8], "little")
    start = 8 * (64 + 1024)
    _words(path, _AT_CHECKSUM, xxh3_64_intdigest(data[:_AT_CHECKSUM] + data[start : start + about]))


def _shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)


def _longer(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 4096)


def _elsewhere(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def _last_slot_taken(path: Path) -> None:
    _words(path, _HEADER_BYTES + 8 * (slots_for(4096)[1] - 1), 7)


TABLE_HARMS: Final[Mapping[str, Harm]] = {
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes, not even a header"),
    "another file": (lambda path: path.write_bytes(b"x" * 70_000), "is no table"),
    "other byte order": (lambda path: _words(path, 0, int.from_bytes(b"rvkrtbl1", "big")), "byte order"),
    "older version": (lambda path: _sealed(path, _AT_VERSION, 0), "has format 0, this version reads 1"),
    "newer version": (lambda path: _sealed(path, _AT_VERSION, 2), "has format 2, this version reads 1"),
    "damaged header": (lambda path: _words(path, _AT_GENERATION, 9), "has a damaged header"),
    "damaged about": (lambda path: _words(path, 8 * (64 + 1024), 9), "has a damaged header"),
    "about beyond": (lambda path: _words(path, _AT_ABOUT, 2**40), "has a damaged header"),
    "no divisor": (lambda path: _sealed(path, _AT_DIVISOR, 0), "contradicts itself"),
    "another divisor": (lambda path: _sealed(path, _AT_DIVISOR, 7), "contradicts itself"),
    "more slots": (lambda path: _sealed(path, _AT_SLOTS, slots_for(4096)[1] + 1), "contradicts itself"),
    "another capacity": (lambda path: _sealed(path, _AT_CAPACITY, 1), "contradicts itself"),
    "another generation": (lambda path: _sealed(path, _AT_GENERATION, 2), "says it is generation 2"),
    "truncated": (_shorter, "its header says"),
    "padded": (_longer, "its header says"),
    "no end": (_last_slot_taken, "its last slot is taken"),
    "open to others": (lambda path: path.chmod(0o640), r"open to others \(mode 0640\)"),
    "symbolic link": (_elsewhere, "is a symbolic link"),
    "fifo": (_fifo, "is no regular file"),
    "directory": (_directory, "is no regular file|cannot be opened"),
}

_FOR_ANY_FILE: Final[Mapping[str, Harm]] = {
    name: TABLE_HARMS[name] for name in ("open to others", "symbolic link", "fifo")
}

CONTROL_HARMS: Final[Mapping[str, Harm]] = {
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes, must have 4096"),
    "another file": (lambda path: path.write_bytes(b"x" * 4096), "is no control page"),
    "older version": (lambda path: _words(path, 8, 0), "has format 0, this version reads 1"),
    "truncated": (lambda path: os.truncate(path, 1000), "has 1000 bytes, must have 4096"),
    **_FOR_ANY_FILE,
}

JOURNAL_HARMS: Final[Mapping[str, Harm]] = {
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes, the table says"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 1), "the table says"),
    "damaged": (lambda path: _words(path, 20, 7), "is damaged at byte 0"),
    "missing": (lambda path: path.unlink(), "is missing"),
    **_FOR_ANY_FILE,
}

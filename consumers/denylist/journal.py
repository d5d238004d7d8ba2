"""The rules of one generation, as a file that only grows: what does not fit into slots of eight bytes.

Wide rules, subjects with a spared session, and withdrawals are few, and carry texts. Each record is its length and its
CRC-32, four bytes each, and the revocation as JSON. How far the file counts stands in the header of the table beside
it, and is stored after the bytes.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from revoker.events import Revocation

__all__ = ["Journal", "JournalRefused", "rules_in"]

_HEAD: Final = struct.Struct("<II")
_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Revocation)


class JournalRefused(Exception):
    """The file does not hold what the table says it does; the text says how."""


def rules_in(path: Path, *, start: int, end: int) -> Iterator[Revocation]:
    """The rules between two positions, bytes. Raises FileNotFoundError or JournalRefused."""
    if start >= end:
        return
    with os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < end:
            raise JournalRefused(f"{path.name} has {size} bytes, the table says {end}")
        file.seek(start)
        data = file.read(end - start)
    at = 0
    while at < len(data):
        head = data[at : at + _HEAD.size]
        if len(head) < _HEAD.size:
            break
        length, crc = _HEAD.unpack(head)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) < length:
            break
        if zlib.crc32(body) != crc:
            raise JournalRefused(f"{path.name} is damaged at byte {start + at}")
        try:
            yield _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise JournalRefused(f"{path.name} holds no rule at byte {start + at}: {error}") from None
        at += _HEAD.size + length
    if at != end - start:
        raise JournalRefused(f"{path.name} ends at byte {start + at}, the table says {end}")


def _opened(path: Path, flags: int) -> int:
    """A descriptor of a file of this user's alone."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError:
        if path.is_symlink():
            raise JournalRefused(f"{path.name} is a symbolic link") from None
        raise
    found = os.fstat(descriptor)
    what: str | None = None
    if not stat.S_ISREG(found.st_mode):
        what = "is no regular file"
    elif found.st_uid != os.geteuid():
        what = f"belongs to user {found.st_uid}, not to {os.geteuid()}"
    elif stat.S_IMODE(found.st_mode) & 0o077:
        what = f"is open to others (mode {stat.S_IMODE(found.st_mode):04o})"
    if what is not None:
        os.close(descriptor)
        raise JournalRefused(f"{path.name} {what}")
    return descriptor


class Journal:
    """The writer's end. What stands behind ``length`` was never acknowledged, and is cut off."""

    def __init__(self, path: Path, *, length: int) -> None:
        """Raises JournalRefused if the file is shorter than ``length``."""
        self.path: Path = path
        self._descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
        size = os.fstat(self._descriptor).st_size
        if size < length:
            os.close(self._descriptor)
            raise JournalRefused(f"{path.name} has {size} bytes, the table says {length}")
        if size > length:
            os.ftruncate(self._descriptor, length)
        self.length: int = length

    def append(self, revocation: Revocation) -> int:
        """Write one rule. Returns the new length, for the table's header. Raises OSError; then it was not written."""
        bare = msgspec.structs.replace(revocation, reason=None, actor=None)
        body = _encoder.encode(bare)
        data = _HEAD.pack(len(body), zlib.crc32(body)) + body
        written = 0
        while written < len(data):
            more = os.pwrite(self._descriptor, data[written:], self.length + written)
            if not more:
                raise OSError(errno.EIO, f"{self.path.name} takes no further byte")
            written += more
        self.length += len(data)
        return self.length

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

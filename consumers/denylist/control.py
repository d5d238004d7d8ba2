"""The one page that all processes of a host share: which table is current, and how fresh it is.

Every field is a word of eight bytes, stored and loaded whole. The first, WORD, says all that a look-up has to know
besides the slots: the generation, how many rules the journal holds, and which kinds the table holds.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Final

__all__ = [
    "AS_OF",
    "FRESH_UNTIL",
    "SAID_MAX_BYTES",
    "WORD",
    "Control",
    "ControlRefused",
    "boot_id",
    "pack_word",
    "unpack_word",
]

#: Indexes for look-ups that have no time for a call: into ``words``, and into ``doubles``.
WORD: Final = 2
FRESH_UNTIL: Final = 3
AS_OF: Final = 5

SAID_MAX_BYTES: Final = 3000

_MAGIC: Final = int.from_bytes(b"rvkrctl1", "little")
_VERSION: Final = 1
_SIZE_BYTES: Final = 4096
_PROVED_UNTIL: Final = 4
_WAS_READY, _STATE, _WRITER, _BEAT, _SAID_TURN, _SAID_BYTES, _SAID_CRC, _PROVED_AT, _BOUND = range(6, 15)
_BOOT: Final = slice(128, 164)
_SAID_AT: Final = 512

_GENERATIONS: Final = 1 << 24
_RULES: Final = 1 << 24


class ControlRefused(Exception):
    """The page cannot be trusted; the text says why."""


def boot_id() -> str:
    """Names the monotonic clock of this process: the time since the kernel booted, and the time namespace.

    In another namespace (time_namespaces(7)) that clock has an offset. Kernels before 5.6 have none.
    """
    booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        namespace = Path("/proc/self/ns/time").readlink()
    except OSError:
        return booted
    return hashlib.blake2b(f"{booted} {namespace}".encode(), digest_size=18).hexdigest()


def pack_word(*, generation: int, rules: int, kinds: int) -> int:
    """WORD. ``rules``: records in the journal, counted modulo 2**24; ``kinds``: one bit for each."""
    return (generation % _GENERATIONS) << 40 | (rules % _RULES) << 16 | kinds


def unpack_word(word: int) -> tuple[int, int, int]:
    """Generation, rules and kinds. Generation 0: there is no table."""
    return word >> 40, (word >> 16) % _RULES, word & 0xFFFF


class Control:
    """The mapped page. Times are seconds on the monotonic clock, which is one for all processes of a host."""

    def __init__(self, mapped: mmap.mmap, file: tuple[int, int]) -> None:
        self._mapped = mapped
        self._file = file  # device and inode
        self._whole = memoryview(mapped)
        self.words: memoryview[int] = self._whole.cast("Q")
        self.doubles: memoryview[float] = self._whole.cast("d")

    @classmethod
    def make(cls, path: Path, *, boot: str) -> Control:
        """A new page, in place of what stands there. Whoever has mapped the old one sees it end (`replaced`)."""
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE_BYTES)
            mapped = mmap.mmap(descriptor, _SIZE_BYTES)
            made = os.fstat(descriptor)
        except OSError as error:
            fresh.unlink()
            raise OSError(error.errno, f"{path.parent} has no room for a page: {error.strerror}") from None
        finally:
            os.close(descriptor)
        page = cls(mapped, (made.st_dev, made.st_ino))
        page.words[1] = _VERSION
        mapped[_BOOT] = boot.encode().ljust(36)[:36]
        for index in (FRESH_UNTIL, _PROVED_UNTIL, _PROVED_AT, _BEAT):
            page.doubles[index] = -float("inf")
        page.doubles[AS_OF] = float("nan")
        page.words[0] = _MAGIC
        fresh.replace(path)
        return page

    @classmethod
    def open(cls, path: Path, *, writable: bool, boot: str) -> Control:
        """The page in a file. Raises FileNotFoundError, or ControlRefused saying what is wrong with it."""
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            what = "is a symbolic link" if path.is_symlink() else f"cannot be opened: {error.strerror}"
            raise ControlRefused(f"{path.name} {what}") from None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ControlRefused(f"{path.name} is no regular file")
            if found.st_uid != os.geteuid():
                raise ControlRefused(f"{path.name} belongs to user {found.st_uid}, not to {os.geteuid()}")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise ControlRefused(f"{path.name} is open to others (mode {stat.S_IMODE(found.st_mode):04o})")
            if found.st_size != _SIZE_BYTES:
                raise ControlRefused(f"{path.name} has {found.st_size} bytes, must have {_SIZE_BYTES}")
            mapped = mmap.mmap(descriptor, _SIZE_BYTES, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        page = cls(mapped, (found.st_dev, found.st_ino))
        try:
            if page.words[0] != _MAGIC:
                raise ControlRefused(f"{path.name} is no control page")
            if page.words[1] != _VERSION:
                raise ControlRefused(f"{path.name} has format {page.words[1]}, this version reads {_VERSION}")
            if mapped[_BOOT] != boot.encode().ljust(36)[:36]:
                raise ControlRefused(f"{path.name} dates from before the last boot, or from another time namespace")
        except ControlRefused:
            page.close()
            raise
        return page

    @property
    def word(self) -> int:
        """WORD."""
        return self.words[WORD]

    @word.setter
    def word(self, value: int) -> None:
        self.words[WORD] = value

    @property
    def replaced(self) -> bool:
        """Whether another page has taken this one's place; attach anew."""
        return self.words[0] != _MAGIC

    def is_at(self, path: Path) -> bool:
        """Whether this is the page at ``path``; False as well if there is none."""
        try:
            found = path.stat(follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._file

    def retire(self) -> None:
        """Tell all who have mapped this page that it is no longer the one. Whatever it proved is void."""
        self.doubles[FRESH_UNTIL] = -float("inf")
        self.words[0] = 0
        self.words[WORD] = 0

    def publish(
        self,
        *,
        fresh_until: float,
        proved_until: float,
        proved_at: float,
        as_of: float | None,
        was_ready: bool,
        state: int,
    ) -> None:
        """What the writer's `consumers.freshness.Freshness` says. The time that admits requests is stored last."""
        self.doubles[_PROVED_UNTIL] = proved_until
        self.doubles[_PROVED_AT] = proved_at
        self.doubles[AS_OF] = float("nan") if as_of is None else as_of
        self.words[_WAS_READY] = was_ready
        self.words[_STATE] = state
        self.doubles[FRESH_UNTIL] = fresh_until

    @property
    def fresh_until(self) -> float:
        """See `consumers.freshness.Freshness`; so for the next five."""
        return self.doubles[FRESH_UNTIL]

    @property
    def proved_until(self) -> float:
        return self.doubles[_PROVED_UNTIL]

    @property
    def proved_at(self) -> float:
        return self.doubles[_PROVED_AT]

    @property
    def as_of(self) -> float | None:
        value = self.doubles[AS_OF]
        return None if math.isnan(value) else value

    @property
    def was_ready(self) -> bool:
        return bool(self.words[_WAS_READY])

    @property
    def state(self) -> int:
        return self.words[_STATE]

    @property
    def writer_pid(self) -> int:
        """The process that writes, or wrote last; 0 = none yet."""
        return self.words[_WRITER]

    @writer_pid.setter
    def writer_pid(self, pid: int) -> None:
        self.words[_WRITER] = pid

    @property
    def bound_s(self) -> float:
        """The oldest proof that still counts, as the writer's settings have it."""
        return self.doubles[_BOUND]

    @bound_s.setter
    def bound_s(self, seconds: float) -> None:
        self.doubles[_BOUND] = seconds

    @property
    def beat(self) -> float:
        """When the writer last gave a sign; minus infinity before the first."""
        return self.doubles[_BEAT]

    @beat.setter
    def beat(self, now: float) -> None:
        self.doubles[_BEAT] = now

    def say(self, text: str) -> None:
        """Leave a text for people, cut to `SAID_MAX_BYTES` of UTF-8."""
        data = text.encode(errors="backslashreplace")[:SAID_MAX_BYTES]
        turn = self.words[_SAID_TURN] | 1
        self.words[_SAID_TURN] = turn  # odd: being written
        self._mapped[_SAID_AT : _SAID_AT + len(data)] = data
        self.words[_SAID_BYTES] = len(data)
        self.words[_SAID_CRC] = zlib.crc32(data)
        self.words[_SAID_TURN] = (turn + 1) % 2**63

    def said(self) -> str:
        """The text last left; empty if there is none, or if its writer died over it."""
        for _ in range(8):
            turn, length, crc = struct.unpack_from("<3Q", self._mapped, 8 * _SAID_TURN)
            data = bytes(self._mapped[_SAID_AT : _SAID_AT + min(length, SAID_MAX_BYTES)])
            if not turn & 1 and zlib.crc32(data) == crc:
                return data.decode(errors="ignore")  # a character that was cut
        return ""

    def close(self) -> None:
        """Unmap. Nobody may use the page any more."""
        for view in (self.words, self.doubles, self._whole):
            view.release()
        self._mapped.close()

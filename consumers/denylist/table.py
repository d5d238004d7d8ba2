"""One generation of the shared table: fingerprints and times in one mapped file.

Open addressing with linear probing over two arrays, ``u64 keys`` and ``u32 times``. The home of a fingerprint rises
with it, so that the table is an almost sorted array, which a rebuild reads from one end to the other. It does not wrap
around: a tail of 512 slots takes what spills over the end.

One process writes; any number read without a lock. What they may rely on:

- a slot goes from empty to a key once, and the key never changes; its time only rises;
- no slot between a key's home and its place is empty;
- a key becomes visible by one aligned store of eight bytes, after its time;
- the file never shrinks, and its last slot is always empty.

A time is ``(seconds since the epoch of the table + 1) << 2 | kind``: never 0. A subject has two slots: the even
fingerprint has the cut-off, the odd one after it the expiry.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from revoker.errors import DenyListUnreadable

__all__ = [
    "ABOUT_MAX_BYTES",
    "FULL_ABOVE",
    "LOAD",
    "PARTITIONS_MAX",
    "REBUILD_ABOVE",
    "SECONDS_MAX",
    "U32",
    "U64",
    "Table",
    "TableRefused",
    "seconds_of",
    "slots_for",
]

U64: TypeAlias = NDArray[np.uint64]
U32: TypeAlias = NDArray[np.uint32]

#: Load after a rebuild, load above which a rebuild begins, and load above which no batch may take the table.
LOAD: Final = 0.55
REBUILD_ABOVE: Final = 0.70
FULL_ABOVE: Final = 0.80

#: The latest time a slot can hold, in seconds since the epoch of the table (34 years).
SECONDS_MAX: Final = 2**30 - 2

ABOUT_MAX_BYTES: Final = 3000
PARTITIONS_MAX: Final = 1024

_MAGIC: Final = int.from_bytes(b"rvkrtbl1", "little")
_VERSION: Final = 1
_TAIL: Final = 512
_HOMES: Final = 2**30  # homes are told apart by the 30 highest bits
_PIECE_BYTES: Final = 4 * 1024 * 1024
_CHUNK: Final = 65536
_BATCH_LEAST: Final = 150  # below, numpy's calls cost more than a loop
_FEW: Final = 150  # of a batch, still without a slot: the same

# The header, in words of eight bytes.
_CHECKED: Final = 8  # the first so many, without the last, never change and are under the checksum
_M, _V, _GENERATION, _CAPACITY, _DIVISOR, _SLOTS, _ABOUT, _CHECKSUM = range(_CHECKED)
_PURGED, _UNREAD, _RULES = range(_CHECKED, _CHECKED + 3)
_OFFSETS: Final = 64
_ABOUT_AT_BYTES: Final = 8 * (_OFFSETS + PARTITIONS_MAX)
_HEADER_BYTES: Final = 12288


class TableRefused(Exception):
    """The file cannot be trusted; the text says why."""


def slots_for(capacity: int) -> tuple[int, int]:
    """Divisor and slots of a table of ``capacity`` homes; the tail comes on top."""
    divisor = max(1, _HOMES // max(capacity, 64))
    return divisor, (_HOMES - 1) // divisor + 1 + _TAIL


class Table:
    """A mapped table. `make` and `open` give one; ``used`` counts the slots taken and is the writer's to read."""

    def __init__(self, mapped: mmap.mmap, *, writable: bool) -> None:
        self._mapped = mapped
        whole = memoryview(mapped)
        self._words = whole[:_HEADER_BYTES].cast("Q")
        self.generation: int = self._words[_GENERATION]
        self.capacity: int = self._words[_CAPACITY]
        self.divisor: int = self._words[_DIVISOR]
        self.slots: int = self._words[_SLOTS]
        middle = _HEADER_BYTES + 8 * self.slots
        self.keys: memoryview[int] = whole[_HEADER_BYTES:middle].cast("Q")
        self.times: memoryview[int] = whole[middle : middle + 4 * self.slots].cast("I")
        self._whole = whole
        self._k: U64 = np.frombuffer(self.keys, dtype=np.uint64)
        self._t: U32 = np.frombuffer(self.times, dtype=np.uint32)
        self.used: int = self._count() if writable else 0

    @classmethod
    def make(cls, path: Path, *, generation: int, capacity: int, about: bytes) -> Table:
        """A new, empty table. Raises FileExistsError, and OSError naming directory and size if that has no room for it.

        The room is taken before anything is mapped: a sparse file on a full tmpfs would kill the process at its first
        store (SIGBUS).
        """
        if len(about) > ABOUT_MAX_BYTES:
            raise ValueError(f"about has {len(about)} bytes, at most {ABOUT_MAX_BYTES} fit")
        divisor, slots = slots_for(capacity)
        size = _size(slots)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for start in range(0, size, _PIECE_BYTES):
                os.posix_fallocate(descriptor, start, min(_PIECE_BYTES, size - start))
            mapped = mmap.mmap(descriptor, size)
        except OSError as error:
            path.unlink()
            why = f"{path.parent} has no room for a table of {size} bytes: {error.strerror}"
            raise OSError(error.errno, why) from None
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        fixed = [_MAGIC, _VERSION, generation, slots - _TAIL, divisor, slots, len(about)]
        words = memoryview(mapped)[:_HEADER_BYTES].cast("Q")
        for index, value in enumerate(fixed):
            words[index] = value
        mapped[_ABOUT_AT_BYTES : _ABOUT_AT_BYTES + len(about)] = about
        words[_CHECKSUM] = _checksum(mapped, len(about))
        words.release()
        return cls(mapped, writable=True)

    @classmethod
    def open(cls, path: Path, *, writable: bool) -> Table:
        """The table in a file. Raises FileNotFoundError, or TableRefused saying what is wrong with it."""
        # O_NONBLOCK: whoever put a FIFO here must not be waited for.
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            what = "is a symbolic link" if path.is_symlink() else f"cannot be opened: {error.strerror}"
            raise TableRefused(f"{path.name} {what}") from None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise TableRefused(f"{path.name} is no regular file")
            if found.st_uid != os.geteuid():
                raise TableRefused(f"{path.name} belongs to user {found.st_uid}, not to {os.geteuid()}")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise TableRefused(f"{path.name} is open to others (mode {stat.S_IMODE(found.st_mode):04o})")
            if found.st_size < _HEADER_BYTES:
                raise TableRefused(f"{path.name} has {found.st_size} bytes, not even a header")
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            mapped = mmap.mmap(descriptor, found.st_size, access=access)
        finally:
            os.close(descriptor)
        words = memoryview(mapped)[:_HEADER_BYTES].cast("Q")
        try:
            _check(words, mapped, path)
        except TableRefused:
            words.release()
            mapped.close()
            raise
        words.release()
        return cls(mapped, writable=writable)

    @property
    def about(self) -> bytes:
        """What `make` was given."""
        return bytes(self._whole[_ABOUT_AT_BYTES : _ABOUT_AT_BYTES + self._words[_ABOUT]])

    @property
    def purged_s(self) -> int:
        """Seconds since the epoch of the table up to which it was purged."""
        return self._words[_PURGED]

    @purged_s.setter
    def purged_s(self, seconds: int) -> None:
        self._words[_PURGED] = seconds

    @property
    def unread(self) -> int:
        """Records that could not be read and may matter."""
        return self._words[_UNREAD]

    @unread.setter
    def unread(self, records: int) -> None:
        self._words[_UNREAD] = records

    @property
    def rules_bytes(self) -> int:
        """Length of the journal beside this table."""
        return self._words[_RULES]

    @rules_bytes.setter
    def rules_bytes(self, length: int) -> None:
        self._words[_RULES] = length

    @property
    def offsets(self) -> dict[int, int]:
        """The next offset to read, by partition: everything before it is in."""
        return {number: at - 1 for number, at in enumerate(self._words[_OFFSETS : _OFFSETS + PARTITIONS_MAX]) if at}

    def reached(self, offsets: Mapping[int, int]) -> None:
        """Note ``offsets``. Call it after what they stand for was stored."""
        for number, offset in offsets.items():
            if not 0 <= number < PARTITIONS_MAX:
                raise ValueError(f"partition {number}: a shared table follows at most {PARTITIONS_MAX} partitions")
            self._words[_OFFSETS + number] = offset + 1

    def forget_offsets(self) -> None:
        """As if nothing had been read."""
        for index in range(_OFFSETS, _OFFSETS + PARTITIONS_MAX):
            if self._words[index]:
                self._words[index] = 0

    def find(self, key: int) -> int:
        """The time under a key, 0 if there is none. Raises DenyListUnreadable if the table is damaged."""
        keys, index = self.keys, (key >> 34) // self.divisor
        try:
            while word := keys[index]:
                if word == key:
                    return self.times[index]
                index += 1
        except IndexError:
            raise DenyListUnreadable(f"table.{self.generation} of the shared deny list is damaged: it ends") from None
        return 0

    def put(self, key: int, time: int) -> int:
        """Store a time, or raise it. Returns 2 for a new slot, 1 for a raised time, 0 if nothing changed."""
        return self._put(key, time, (key >> 34) // self.divisor)

    def _put(self, key: int, time: int, index: int) -> int:
        """`put`, where no slot before ``index`` holds the key or is empty."""
        keys = self.keys
        while word := keys[index]:
            if word == key:
                if self.times[index] >= time:
                    return 0
                self.times[index] = time
                return 1
            index += 1
        if index >= self.slots - 1:
            raise OverflowError("the tail of the table is full")
        self.times[index] = time
        keys[index] = key
        self.used += 1
        return 2

    def put_all(self, keys: U64, times: U32) -> int:
        """`put` for many, in any order and with repetitions. Returns how many new slots were taken.

        All expiries of subjects are in before the first of their cut-offs: a cut-off that shows has its expiry.
        """
        before = self.used
        late = ((times & np.uint32(3)) == 3) & ((keys & np.uint64(1)) == 0)
        if late.any() and not late.all():
            self.put_all(keys[~late], times[~late])
            self.put_all(keys[late], times[late])
            return self.used - before
        few = len(keys) + 1
        if len(keys) >= _BATCH_LEAST:
            (keys, times), few = _merged(keys, times), _FEW
        at = _homes(keys, self.divisor)  # of a batch in order, as the keys are, and so they stay
        while len(at):
            if len(at) < few:
                for key, time, index in zip(keys.tolist(), times.tolist(), at.tolist(), strict=True):
                    self._put(key, time, index)
                break
            held = self._k[at]
            same = held == keys
            if same.any():
                places, new = at[same], times[same]
                higher = new > self._t[places]
                self._t[places[higher]] = new[higher]
            left = ~same
            empty = np.flatnonzero(held == 0)
            if len(empty):
                # Several may want one slot; the first gets it, the others go on from there.
                wanted = at[empty]
                first = np.concatenate(([True], wanted[1:] != wanted[:-1]))
                places, winners = wanted[first], empty[first]
                if places[-1] >= self.slots - 1:
                    raise OverflowError("the tail of the table is full")
                # The time before the key: a key that shows has its time.
                self._t[places] = times[winners]
                self._k[places] = keys[winners]
                self.used += len(places)
                left[winners] = False
            keys, times, at = keys[left], times[left], at[left] + 1
        return self.used - before

    def chunks(self) -> Iterator[tuple[U64, U32]]:
        """Copies of the taken slots, in pieces; a subject's two slots may fall into two of them."""
        for start in range(0, self.slots, _CHUNK):
            keys, times = self._k[start : start + _CHUNK], self._t[start : start + _CHUNK]
            taken = keys != 0
            yield keys[taken], times[taken]

    def counts(self, *, now_s: float) -> tuple[list[int], int]:
        """Entries alive at ``now_s`` (seconds since the epoch of the table), by kind, and slots that are not."""
        alive = np.zeros(4, dtype=np.int64)
        dead = 0
        for keys, times in self.chunks():
            kinds = times & np.uint32(3)
            expiry = (kinds != 3) | ((keys & np.uint64(1)) == 1)
            lives = expiry & (seconds_of(times) > now_s)
            alive += np.bincount(kinds[lives], minlength=4)
            dead += int(np.count_nonzero(expiry & ~lives))
        return alive.tolist(), dead

    def run_end(self, index: int) -> int:
        """The first empty slot at or after ``index``; ``slots`` if that lies beyond."""
        keys = self.keys
        while index < self.slots and keys[index]:
            index += 1
        return min(index, self.slots)

    def span(self, start: int, end: int) -> tuple[U64, U32]:
        """Copies of the taken slots from ``start`` up to ``end``."""
        keys, times = self._k[start:end].copy(), self._t[start:end].copy()
        taken = keys != 0
        return keys[taken], times[taken]

    def place(self, at: NDArray[np.int64], keys: U64, times: U32) -> None:
        """Store into slots known to be empty, of a table nobody else sees yet."""
        self._t[at] = times
        self._k[at] = keys
        self.used += len(at)

    def close(self) -> None:
        """Unmap. Nobody may use the table any more."""
        del self._k, self._t
        for view in (self.keys, self.times, self._words, self._whole):
            view.release()
        self._mapped.close()

    def _count(self) -> int:
        return sum(int(np.count_nonzero(self._k[at : at + _CHUNK])) for at in range(0, self.slots, _CHUNK))


def seconds_of(times: U32) -> NDArray[np.int64]:
    """Seconds since the epoch of the table."""
    return (times >> np.uint32(2)).astype(np.int64) - 1


def _homes(keys: U64, divisor: int) -> NDArray[np.int64]:
    return ((keys >> np.uint64(34)) // np.uint64(divisor)).astype(np.int64)


def _merged(keys: U64, times: U32) -> tuple[U64, U32]:
    """Each key once, with its latest time, in order."""
    order = np.argsort(keys, kind="stable")
    keys, times = keys[order], times[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[starts], np.maximum.reduceat(times, starts)


def _size(slots: int) -> int:
    return _HEADER_BYTES + 12 * slots


def _checksum(mapped: Any, about_bytes: int) -> int:
    fixed = bytes(mapped[: 8 * _CHECKSUM])
    return xxh3_64_intdigest(fixed + bytes(mapped[_ABOUT_AT_BYTES : _ABOUT_AT_BYTES + about_bytes]))


def _check(words: memoryview[int], mapped: mmap.mmap, path: Path) -> None:
    name = path.name
    if words[_M] != _MAGIC:
        swapped = int.from_bytes(words[_M].to_bytes(8, "little"), "big") == _MAGIC
        raise TableRefused(f"{name} was written on a machine of other byte order" if swapped else f"{name} is no table")
    if words[_V] != _VERSION:
        raise TableRefused(f"{name} has format {words[_V]}, this version reads {_VERSION}")
    if words[_ABOUT] > ABOUT_MAX_BYTES or _checksum(mapped, words[_ABOUT]) != words[_CHECKSUM]:
        raise TableRefused(f"{name} has a damaged header")
    divisor, slots = words[_DIVISOR], words[_SLOTS]
    if not 0 < divisor <= _HOMES or slots != (_HOMES - 1) // divisor + 1 + _TAIL or words[_CAPACITY] != slots - _TAIL:
        raise TableRefused(f"{name} has a header that contradicts itself ({slots} slots, divisor {divisor})")
    if len(mapped) != _size(slots):
        raise TableRefused(f"{name} has {len(mapped)} bytes, its header says {_size(slots)}")
    named = path.suffix[1:]
    if named.isdecimal() and int(named) != words[_GENERATION]:
        raise TableRefused(f"{name} says it is generation {words[_GENERATION]}")
    last = _HEADER_BYTES + 8 * (slots - 1)
    if any(mapped[last : last + 8]):
        raise TableRefused(f"{name} is damaged: its last slot is taken")

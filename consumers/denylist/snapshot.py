"""A copy of the shared deny list on a disk, for the start after a reboot or on a new directory.

The table is copied while it is being written. That is safe because the offsets are noted before the first byte is
copied: whatever was stored before them is in the copy, and whatever was stored since is read from the topic again. The
live table is never trusted beyond a boot, since what of it reached a disk nobody knows; a copy is, by its checksum.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from xxhash import xxh3_128

from consumers.denylist.about import About
from consumers.denylist.journal import Journal, JournalRefused, rules_in
from consumers.denylist.opening import prepare
from consumers.denylist.shared import SharedDenyList, Taken
from consumers.denylist.table import Table, TableRefused
from consumers.denylist.writer import Writer
from revoker.errors import SettingsError

__all__ = ["NAME", "Parts", "SnapshotRefused", "Snapshots", "note", "restore", "write"]

log: logging.Logger = logging.getLogger(__name__)

NAME: Final = "snapshot"

_MAGIC: Final = b"rvkrsnap"
_START: Final = struct.Struct("<8sII")  # magic, format, bytes of the head
_FORMAT: Final = 1
_DIGEST_BYTES: Final = 16
_STEP_BYTES: Final = 4 * 1024 * 1024
_HEAD_MAX_BYTES: Final = 1024 * 1024


class SnapshotRefused(Exception):
    """The file cannot be trusted; the text says why."""


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    offsets: dict[int, int]
    unread: int
    purged_s: int
    table_bytes: int
    rules_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a copy is made of, noted at one moment. The files stay readable after the writer has gone on to others."""

    head: _Head
    table: BinaryIO
    rules: BinaryIO

    def close(self) -> None:
        """Close the files."""
        self.table.close()
        self.rules.close()


def note(store: SharedDenyList) -> Parts:
    """Note what to copy. Call it in the writer, on the thread that writes. Raises OSError."""
    table = store.writer.table
    with contextlib.ExitStack() as opened:
        file = opened.enter_context((store.directory / f"table.{table.generation}").open("rb"))
        rules = opened.enter_context((store.directory / f"rules.{table.generation}").open("rb"))
        head = _Head(
            offsets=table.offsets,
            unread=table.unread,
            purged_s=table.purged_s,
            table_bytes=os.fstat(file.fileno()).st_size,
            rules_bytes=table.rules_bytes,
        )
        opened.pop_all()
    return Parts(head=head, table=file, rules=rules)


def write(parts: Parts, directory: Path, *, stop: Callable[[], bool] = lambda: False) -> bool:
    """Write a copy in place of the one before, in steps of 4 MiB, and close ``parts``. Runs in any thread.

    False if ``stop`` said so in between; the one before then stays. Raises OSError, and SettingsError if ``directory``
    is not this user's alone.
    """
    fresh = directory / f"{NAME}.new"
    try:
        prepare(directory)
        fresh.unlink(missing_ok=True)
        head = msgspec.json.encode(parts.head)
        digest = xxh3_128()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            start = _START.pack(_MAGIC, _FORMAT, len(head)) + head
            for piece in itertools.chain(
                [start],
                _pieces(parts.table, parts.head.table_bytes),
                _pieces(parts.rules, parts.head.rules_bytes),
            ):
                if stop():
                    return False
                digest.update(piece)
                _write_all(file, piece)
            file.write(digest.digest())
            os.fsync(file.fileno())
        fresh.replace(directory / NAME)
        _sync(directory)
    finally:
        parts.close()
        fresh.unlink(missing_ok=True)
    return True


def restore(store: SharedDenyList, directory: str | Path, *, trust: str, max_entries: int) -> Taken | None:
    """Fill the empty table of a new writer from the copy in ``directory``; None if there is none, or none that counts.

    Everything is verified before anything is used: checksum, owner, format, and that it was written under the same
    ``trust`` (see `SharedDenyList.take`). Whether it came from the log that is there now is the caller's to compare.
    """
    path = Path(directory) / NAME
    try:
        head = _extract(path, store.directory)
        return _used(store, head, trust=trust, max_entries=max_entries)
    except FileNotFoundError:
        return None
    except (SnapshotRefused, TableRefused, JournalRefused, OSError) as error:
        log.warning("the snapshot %s was not used: %s", path, error)
        return None
    finally:
        for name in ("table", "rules"):
            (store.directory / f"{name}.restored").unlink(missing_ok=True)


def _extract(path: Path, directory: Path) -> _Head:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise SnapshotRefused(f"it belongs to user {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & 0o077:
            raise SnapshotRefused(f"it is open to others (mode {found.st_mode & 0o7777:04o}), must have mode 0600")
        start = file.read(_START.size)
        if len(start) < _START.size or not start.startswith(_MAGIC):
            raise SnapshotRefused("it is no snapshot")
        _, version, length = _START.unpack(start)
        if version != _FORMAT:
            raise SnapshotRefused(f"it has format {version}, this version reads {_FORMAT}")
        text = file.read(min(length, _HEAD_MAX_BYTES))
        try:
            head = msgspec.json.decode(text, type=_Head)
        except msgspec.DecodeError as error:
            raise SnapshotRefused(f"its head is damaged: {error}") from None
        size = _START.size + length + head.table_bytes + head.rules_bytes + _DIGEST_BYTES
        if found.st_size != size:
            raise SnapshotRefused(f"it has {found.st_size} bytes, its head says {size}")
        digest = xxh3_128(start + text)
        for name, size in (("table", head.table_bytes), ("rules", head.rules_bytes)):
            target = directory / f"{name}.restored"
            target.unlink(missing_ok=True)
            into = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(into, "wb", buffering=0) as copy:
                for piece in _pieces(file, size):
                    digest.update(piece)
                    _write_all(copy, piece)
        if file.read(_DIGEST_BYTES) != digest.digest():
            raise SnapshotRefused("its checksum is wrong")
    return head


def _used(store: SharedDenyList, head: _Head, *, trust: str, max_entries: int) -> Taken:
    empty = store.writer
    table = Table.open(store.directory / "table.restored", writable=True)
    try:
        about = msgspec.json.decode(table.about, type=About)
    except msgspec.DecodeError as error:
        raise SnapshotRefused(f"its table does not say what it is: {error}") from None
    wanted = empty.about
    if about.trust != trust:
        raise SnapshotRefused("it was written while other publishers were trusted")
    if (about.epoch_s, about.hash_name) != (wanted.epoch_s, wanted.hash_name):
        raise SnapshotRefused("it was written under another epoch or with another hash")
    rules = store.directory / "rules.restored"
    # What the copied header says of these is from later than the noted moment, or from while it was being written.
    table.forget_offsets()
    table.reached(head.offsets)
    table.purged_s, table.unread, table.rules_bytes = head.purged_s, head.unread, head.rules_bytes
    table.generation = empty.table.generation  # the one after is the next
    writer = Writer(
        store.directory,
        control=empty.control,
        table=table,
        journal=Journal(rules, length=head.rules_bytes),
        rules=list(rules_in(rules, start=0, end=head.rules_bytes)),
        about=about,
        max_entries=max_entries,
    )
    empty.close()
    writer.control.writer_pid = os.getpid()
    writer.renew(msgspec.structs.replace(about, boot=wanted.boot))
    store.become(writer)
    return Taken(offsets=writer.table.offsets, origin=about.origin, unread=head.unread, refused=None)


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = source.read(min(size, _STEP_BYTES))
        if not piece:
            raise OSError(f"{source.name} ended {size} bytes too early")
        size -= len(piece)
        yield piece


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Snapshots:
    """Keeps a copy of what this writer holds, made anew every so often in a thread.

    ``directory``: None = keeps none.
    """

    def __init__(
        self,
        store: SharedDenyList,
        *,
        directory: str | None,
        interval_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: str | None = None
        self._store = store
        self._directory = None if directory is None else Path(directory)
        self._interval_s = interval_s
        self._monotonic = monotonic
        self._due_at = monotonic()
        self._last: object = None
        self._task: asyncio.Task[bool] | None = None
        self._stop = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether a copy is being made."""
        return self._task is not None

    def turn(self) -> None:
        """Begin a copy if one is due and anything has changed. Call it while the writer is live."""
        if self._task is not None and self._task.done():
            self._ended(self._task)
        now = self._monotonic()
        if self._directory is None or self._task is not None or now < self._due_at:
            return
        self._due_at = now + self._interval_s
        table = self._store.writer.table
        state = (table.generation, table.offsets)
        if state == self._last:
            return
        try:
            parts = note(self._store)
        except OSError as error:
            self._failed(error)
            return
        self._last = state
        self._task = asyncio.create_task(
            asyncio.to_thread(write, parts, self._directory, stop=self._stop.is_set), name="revoker-snapshot"
        )

    async def close(self) -> None:
        """Give up a copy that is being made; the one before stays."""
        self._stop.set()
        if self._task is not None:
            await asyncio.wait([self._task])
            self._ended(self._task)

    def _ended(self, task: asyncio.Task[bool]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self.failure = None
        elif isinstance(error, OSError | SettingsError):
            self._failed(error)
        else:
            raise error

    def _failed(self, error: Exception) -> None:
        self._last = None
        if self.failure is None:
            log.error("no snapshot of the shared deny list could be written to %s: %s", self._directory, error)
        self.failure = str(error)

"""A file of lines that is only appended to, and on disk before the writer goes on.

Opened so that nobody can turn it into something else: no symbolic link, no pipe, no device, not writable for others.
Looked up again before each batch, so that log rotation by renaming needs no signal.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["AppendOnlyFile"]

_POSIX: Final = os.name == "posix"
# O_NONBLOCK: opening a pipe must not wait for its reader. O_RDWR: to see whether the last line is whole.
_FLAGS: Final = (
    os.O_RDWR
    | os.O_APPEND
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
)


@dataclass(eq=False)
class _Batch:
    """Lines that reach the disk by one fsync. ``written`` is set once a flush is asked for."""

    lines: list[bytes] = field(default_factory=list)
    written: asyncio.Future[None] | None = None


class AppendOnlyFile:
    """Appends lines to the file at ``path``, made with mode 0600 if it is not there.

    One thread writes; lines that come while it waits for the disk share the next fsync. Several processes may append to
    one file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._descriptor: int | None = None
        self._batch = _Batch()
        self._swapping = threading.Lock()  # held for a list's append or swap, never over I/O
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="revoker-audit")

    async def append(self, line: bytes) -> None:
        """Return once ``line`` and its newline are on disk. Raises OSError if they cannot be."""
        with self._swapping:
            batch = self._batch
            batch.lines.append(line + b"\n")
            if batch.written is None:
                batch.written = asyncio.get_running_loop().run_in_executor(self._thread, self._flush, batch)
        # Shielded: whoever gives up must not take the others' lines along.
        await asyncio.shield(batch.written)

    async def look(self) -> None:
        """Return if the file is open and still the one at its path. Raises OSError otherwise; writes nothing."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._current)

    async def close(self) -> None:
        """Finish what was asked for, and close."""
        await asyncio.to_thread(self._thread.shutdown)
        self._drop()

    def _flush(self, batch: _Batch) -> None:
        with self._swapping:
            self._batch = _Batch()
        try:
            descriptor = self._current()
            left = memoryview(b"".join(batch.lines))
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            # Opened anew, what was cut off shows; and after a failed fsync this descriptor would report success.
            self._drop()
            raise

    def _current(self) -> int:
        if self._descriptor is not None and self._moved(self._descriptor):
            self._drop()
        if self._descriptor is None:
            self._descriptor = self._opened()
        return self._descriptor

    def _moved(self, descriptor: int) -> bool:
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            return True
        here = os.fstat(descriptor)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _opened(self) -> int:
        try:
            descriptor = os.open(self._path, _FLAGS, 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, "it is a symbolic link") from error
            raise
        try:
            size = _checked(os.fstat(descriptor))
            if size == 0 and _POSIX:
                self._keep_name()
            elif size and _POSIX and os.pread(descriptor, 1, size - 1) != b"\n":
                os.write(descriptor, b"\n")  # a line was cut off: the next must not run on from it
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _keep_name(self) -> None:
        """A new file's name is on disk once its directory is."""
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _drop(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _checked(found: os.stat_result) -> int:
    """The size of a file that may be appended to. Raises OSError saying what is wrong with it."""
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if _POSIX:
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = stat.S_IMODE(found.st_mode)
            raise OSError(errno.EPERM, f"others than its owner may write to it (mode {mode:04o}, make it 0600)")
        if found.st_uid not in (os.geteuid(), 0):
            raise OSError(errno.EPERM, "it belongs to another user")
    return found.st_size

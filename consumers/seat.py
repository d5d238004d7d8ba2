"""Who writes: the one process of a host that holds the lock.

``flock`` belongs to the open file, so the kernel gives it back when the process dies, however it dies. It is inherited
by a fork as well, and a child that keeps it open would keep it for its dead parent: the descriptor is closed in every
child.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

__all__ = ["Seat", "SeatLost"]


class SeatLost(BaseException):
    """This process no longer has the writer's seat. No Exception: it ends a follower, which survives those."""


class Seat:
    """The writer's seat of one directory, or another that only one process may have. Take it after any fork."""

    def __init__(self, directory: Path, *, name: str = "lock") -> None:
        self._path = directory / name
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Sit down if the seat is free; True if this process has it now. Never waits."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        if not self.in_place:
            self.leave()
            return False
        _seats.add(self)
        return True

    @property
    def in_place(self) -> bool:
        """Whether the file that this process has locked is still the one that others try to lock.

        Somebody may have removed a "stale" lock, or the directory with it: another process could then sit beside.
        """
        if self._descriptor is None:
            return False
        try:
            found = os.stat(self._path, follow_symlinks=False)  # noqa: PTH116 - as the descriptor's, below
            mine = os.fstat(self._descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)

    @property
    def occupied(self) -> bool:
        """Whether some process has it, be it this one."""
        if self._descriptor is not None:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def leave(self) -> None:
        """Get up. Nothing if this process does not sit there."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


#: Seats of this process; a child of a fork has none of them.
_seats: weakref.WeakSet[Seat] = weakref.WeakSet()


def _forked() -> None:
    for seat in _seats:
        seat.leave()


os.register_at_fork(after_in_child=_forked)

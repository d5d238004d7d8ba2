"""A directory that lives as long as its owner, and no longer than until the next owner comes."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path

__all__ = ["WorkDirectory"]

_PREFIX = "revoker-kafka-"


class WorkDirectory:
    """A temporary directory under a file lock, which the kernel drops when the owner dies, by whatever signal.

    Making one removes those that earlier owners could not: theirs is the lock that nobody holds any more. ``parent``:
    where it is made; None = among other temporary files.
    """

    def __init__(self, *, prefix: str = _PREFIX, parent: Path | None = None) -> None:
        _remove_abandoned(prefix, parent or Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock = (self.path / "lock").open("w", encoding="ascii")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove the directory and everything in it. Twice is harmless."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_abandoned(prefix: str, parent: Path) -> None:
    for work in parent.glob(f"{prefix}*"):
        try:
            with (work / "lock").open("r+", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(work, ignore_errors=True)
        except OSError:  # in use, just being made, or another user's: not ours to remove
            continue

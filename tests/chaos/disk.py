"""A small disk that can be filled: a tmpfs in a mount namespace of this process's own, which dies with the process.

So nothing is left mounted, however a run ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
from pathlib import Path
from typing import Final

__all__ = ["SmallDisk"]

_CLONE_NEWNS: Final = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_CHUNK_BYTES: Final = 4096


class SmallDisk:
    """``path`` is a disk of its own if `mounted`, else a plain directory that cannot be filled. Make it in the main
    thread, before there are others: they would not see it.
    """

    def __init__(self, path: Path, *, size_mib: int = 8) -> None:
        self.path = path
        self.mounted: bool = False
        path.mkdir()
        libc = ctypes.CDLL(None, use_errno=True)
        if os.geteuid() != 0 or libc.unshare(_CLONE_NEWNS) != 0:
            return
        if libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
            return
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(path)]
        self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0

    @property
    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self) -> bool:
        """Write until there is no room left; whether the kernel said so."""
        with (self.path / "ballast").open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"\0" * _CHUNK_BYTES)
            except OSError as error:
                return error.errno == errno.ENOSPC

    def close(self) -> None:
        """Let go of it: its directory could not be removed while something is mounted there."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)

    def empty(self) -> None:
        """Make room again."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "ballast").unlink()

"""Small disks of a test's own, to be filled up or made read-only: tmpfs mounts, where this user may mount."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["Disk", "small_disk"]


class Disk:
    """A mounted file system. ``root``: where."""

    def __init__(self, root: Path) -> None:
        self.root: Path = root

    def fill(self, *, but_bytes: int = 0) -> None:
        """Take all of its space, but for so much."""
        with (self.root / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                ballast.truncate(max(0, ballast.tell() - but_bytes))

    def empty(self) -> None:
        """Give the space back."""
        (self.root / "ballast").unlink()

    def read_only(self, value: bool) -> None:
        """Remount, which works while no file is open for writing."""
        _run("mount", "-o", f"remount,{'ro' if value else 'rw'}", str(self.root))


@contextmanager
def small_disk(root: Path, *, size: str = "1m") -> Iterator[Disk]:
    """A disk of ``size`` at ``root``, gone at the end. Skips the test where mounting is not allowed."""
    root.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs to mount a tmpfs, which is not allowed here: {error}")
    try:
        yield Disk(root)
    finally:
        _run("umount", "-l", str(root))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)

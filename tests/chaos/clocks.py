"""Setting the wall clock of one process while it runs, by libfaketime (https://github.com/wolfcw/libfaketime).

The monotonic clock stays true: the whole history is told by it.
"""

from __future__ import annotations

from pathlib import Path

from tests.brokers.artifacts import ArtifactsError, install_packages

__all__ = ["FakeClock", "faketime_library"]


def faketime_library() -> Path | None:
    """Where libfaketime is; installed by Debian package name if it is missing and may be. None: it cannot be had."""
    found = _installed()
    if found is None:
        try:
            install_packages("faketime", missing="libfaketime, to set clocks")
        except ArtifactsError:
            return None
        found = _installed()
    return found


def _installed() -> Path | None:
    # The one for programs with threads.
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


class FakeClock:
    """One process's wall clock; true until it is `set`. ``file``: read by the process about once a second."""

    def __init__(self, file: Path, *, library: Path | None) -> None:
        self._file = file
        self._library = library
        self.set(0)

    def set(self, step_s: int) -> None:
        """From now on the process's clock is off by so many seconds; it may take a second."""
        # In one write: the process may read at any moment.
        with self._file.open("r+b" if self._file.exists() else "wb", buffering=0) as file:
            file.write(f"{step_s:+d}".ljust(12).encode() + b"\n")

    def environment(self) -> dict[str, str]:
        """What the process needs in its environment."""
        if self._library is None:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            "NO_FAKE_STAT": "1",
        }

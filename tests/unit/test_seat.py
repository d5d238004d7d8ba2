"""Who writes: real locks between real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from consumers.seat import Seat

_HOLD = """
import sys, pathlib
from consumers.seat import Seat
seat = Seat(pathlib.Path(sys.argv[1]))
print(seat.take(), flush=True)
sys.stdin.read()
"""


def test_only_one_process_has_it_and_death_gives_it_back(tmp_path: Path) -> None:
    """While another process holds the seat it cannot be taken; once that one is killed, it can."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        seat = Seat(tmp_path)
        assert seat.occupied
        assert not seat.take()
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert not Seat(tmp_path).occupied
    assert seat.take()
    seat.leave()


def test_a_forked_child_neither_has_it_nor_keeps_it(tmp_path: Path) -> None:
    """The holder's child does not sit there, and when the parent gets up the seat is free though the child lives."""
    seat = Seat(tmp_path)
    assert seat.take()
    told, tell = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if not child:
        os.close(go)
        os.write(tell, b"1" if seat.held else b"0")
        os.read(wait, 1)
        os._exit(0)
    assert os.read(told, 1) == b"0"
    seat.leave()
    try:
        assert Seat(tmp_path).take()
    finally:
        os.close(go)
        os.waitpid(child, 0)
        for descriptor in (told, tell, wait):
            os.close(descriptor)


def test_it_is_not_handed_to_programs(tmp_path: Path) -> None:
    """A program started by the holder inherits no descriptor of the lock, and the file is its owner's alone."""
    seat = Seat(tmp_path)
    assert seat.take()
    (descriptor,) = (int(one.name) for one in Path("/proc/self/fd").iterdir() if _target(one) == tmp_path / "lock")
    assert not os.get_inheritable(descriptor)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    seat.leave()


def test_looking_takes_nothing(tmp_path: Path) -> None:
    """To ask whether it is occupied makes no file and leaves the seat free; taking twice is as good as once."""
    seat = Seat(tmp_path)
    assert not seat.occupied
    assert list(tmp_path.iterdir()) == []
    assert seat.take()
    assert seat.take()
    seat.leave()
    assert not seat.occupied


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except FileNotFoundError:
        return None

"""A writer that dies before one chosen line of its own code, and the one that takes over.

    python -m tests.shared.crash [--plant NAME] [--times N] [--every N]

Stores are lines of code here, so dying before every line is dying before every store. The line is chosen by file,
number and how often it was met. The writer is a forked process and ends there at once, so that no ``finally`` runs.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeAlias

import consumers.denylist
import consumers.denylist.writer
import tests.shared.mutants
from consumers.denylist.rebuild import Rebuild
from consumers.denylist.shared import SharedDenyList
from tests.shared.log import event_at, refused_at

__all__ = ["lines_of", "survives"]

#: Records an entry lives here.
_LIFE: Final = 300
_LAST: Final = 700
_DIED: Final = 77
_WATCHED: Final = frozenset(
    str(Path(consumers.denylist.__file__).parent / f"{name}.py")
    for name in ("writer", "table", "rebuild", "journal", "control", "opening", "shared")
) | {tests.shared.mutants.__file__}

Line: TypeAlias = tuple[str, int, int]


class _Tracer:
    """Counts the lines, and dies before ``at``; None = only counts."""

    def __init__(self, at: Line | None) -> None:
        self.met: Counter[tuple[str, int]] = Counter()
        self._at = at

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if frame.f_code.co_filename not in _WATCHED:
            return None
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            self.met[place] += 1
            if self._at is not None and (*place, self.met[place]) == self._at:
                os._exit(_DIED)
        return self


def _store(directory: Path) -> SharedDenyList:
    return SharedDenyList(directory, max_entries=10**6, epoch_s=0, secret=lambda: bytes(32))


def _write(directory: Path, page: memoryview[int], *, last: int) -> None:
    """Take over and write up to ``last``; what is acknowledged is in the page's word."""
    store = _store(directory)
    at = store.take().offsets.get(0, 0)
    while at < last:
        # Many at once, and few: both ways of storing.
        chance = random.Random(at)
        end = min(last, at + chance.choice((1, 7, 30, 90)))
        store.apply_all([event_at(offset, life=_LIFE) for offset in range(at, end)])
        store.reached({0: end})
        page[0] = at = end
        if chance.random() < 0.4:
            store.advance(now_s=at - 10)
        writer = store._writer
        assert writer is not None
        if not writer.rebuilding:
            writer._begin()
        elif chance.random() < 0.5:
            store.step()
    assert page[0] >= last


def _small_steps() -> None:
    """A copy takes many turns, as that of a large table does, and more is stored meanwhile."""
    Rebuild.step.__defaults__ = (700,)
    consumers.denylist.writer._PACE = 1  # type: ignore[misc]
    consumers.denylist.writer._SMALL = 0  # type: ignore[misc]


def _run(at: Line | None) -> tuple[list[str], Counter[tuple[str, int]]]:
    """One crash; what it lost, and without one the lines met."""
    directory = Path(tempfile.mkdtemp(prefix="revoker-crash-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    page = memoryview(mmap.mmap(-1, 4096)).cast("Q")
    tracer = _Tracer(at)
    problems: list[str] = []
    try:
        if at is None:
            before = sys.gettrace()
            sys.settrace(tracer)
            try:
                _write(directory, page, last=_LAST)
            finally:
                sys.settrace(before)
            problems += _seen(directory, page[0])
        else:
            problems += _in_child(lambda: _traced(tracer, lambda: _write(directory, page, last=_LAST)))
        end = page[0]
        store = _store(directory)
        taken = store.take()
        if taken.refused is not None:
            problems.append(f"refused: {taken.refused}")
        if taken.offsets.get(0, 0) < end:
            problems.append(f"acknowledged {end}, reading on from {taken.offsets}")
        # The log is read on from there, acknowledged or not: everything before has to be in.
        end = max(end, taken.offsets.get(0, 0))
        problems += [f"lost {offset} of {end}" for offset in _alive(end) if not refused_at(store, offset)]
        store.close()
        _write(directory, page, last=end + 50)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return problems, tracer.met


def _alive(end: int) -> range:
    return range(max(0, end - _LIFE + 12), end)


def _seen(directory: Path, end: int) -> list[str]:
    """What another process would miss."""
    reader = _store(directory)
    problem = reader.open()
    return [problem] if problem else [f"not seen: {at} of {end}" for at in _alive(end) if not refused_at(reader, at)]


def _traced(tracer: _Tracer, run: Callable[[], None]) -> None:
    sys.settrace(tracer)
    run()


def _in_child(run: Callable[[], None]) -> list[str]:
    child = os.fork()
    if not child:
        try:
            run()
        except BaseException:  # noqa: BLE001 - the child of a fork must end here, whatever happened
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return [] if code in (0, _DIED) else [f"the writer ended with {code}"]


def lines_of(*, times: int = 2) -> Iterator[Line]:
    """Every line a whole run meets: each of the first ``times`` times, one in the middle, and the last."""
    problems, met = _run(None)
    assert not problems, problems
    mine = tests.shared.mutants.__file__  # a planted bug first: what is wrong there need not be searched for
    for (file, number), count in sorted(met.items(), key=lambda item: (item[0][0] != mine, item[0])):
        for which in sorted({*range(1, min(times, count) + 1), (count + 1) // 2, count}):
            yield file, number, which


def survives(at: Line) -> list[str]:
    """What a crash before ``at`` lost; empty if nothing."""
    return [f"{Path(at[0]).name}:{at[1]} the {at[2]}. time: {problem}" for problem in _run(at)[0]]


def main() -> int:
    """Run every crash; 1 at the first that loses anything, which is then told."""
    _small_steps()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plant", choices=sorted(tests.shared.mutants.MUTANTS))
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="only every so many crashes")
    arguments = parser.parse_args()
    if arguments.plant:
        tests.shared.mutants.MUTANTS[arguments.plant]()
    crashes = 0
    try:
        for line in itertools.islice(lines_of(times=arguments.times), 0, None, arguments.every):
            crashes += 1
            if problems := survives(line):
                print(*problems[:3], sep="\n")  # noqa: T201
                return 1
    except AssertionError as error:
        print(f"without any crash: {str(error)[:300]}")  # noqa: T201
        return 1
    print(f"{crashes} crashes, nothing lost")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

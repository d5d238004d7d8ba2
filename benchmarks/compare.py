"""Two revisions, the same benchmarks, and which of their ratios became worse.

The base is checked out into a temporary worktree and runs in the same virtual environment; the other side is the
working tree as it is. The runs of the two take turns. Only ratios are compared, each of which has its peer in the same
run: a slower machine, or one with neighbours, slows both halves of a ratio down.

A ratio is a regression if its median is worse by more than the tolerance and no run of ours was as good as the
worst one of the base. One that is gone is a regression as well. Exits with 1 if there is any.

    python -m benchmarks.compare --base main --only check publish
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.page import shown
from benchmarks.peers import end_in_order
from benchmarks.population import work_directory
from benchmarks.reach import Better, better
from benchmarks.suite import BENCHMARKS, ROOT, BenchmarkFailed, run_one

__all__ = ["Change", "changes", "checked_out", "compare", "table"]

TOLERANCE: Final = 0.15
#: The quick ones, which between them touch what a request and a revocation pay for.
USUAL: Final = ("check", "publish")

_LIMIT_S: Final = 600.0

Ratios = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One ratio of one benchmark: its values in the runs of either side, and what became of it.

    ``verdict``: ``ok``, ``better``, ``worse``, ``gone`` (it was there in the base), ``new``, or ``-`` if nobody has
    said which way is better. ``by``: by which fraction of the base's median it is worse; negative = better; None if
    it is not on both sides.
    """

    benchmark: str
    ratio: str
    base: tuple[float, ...]
    ours: tuple[float, ...]
    by: float | None
    verdict: str

    @property
    def failed(self) -> bool:
        return self.verdict in ("worse", "gone")


def changes(benchmark: str, base: Sequence[Ratios], ours: Sequence[Ratios], *, tolerance: float) -> list[Change]:
    """Every ratio that either side has, compared. ``tolerance`` is a fraction, such as 0.15. Pure."""
    names = list(dict.fromkeys(name for one in (*base, *ours) for name in one))
    return [
        _change(
            benchmark,
            name,
            tuple(one[name] for one in base if name in one),
            tuple(one[name] for one in ours if name in one),
            tolerance,
        )
        for name in names
    ]


def _change(benchmark: str, ratio: str, base: tuple[float, ...], ours: tuple[float, ...], tolerance: float) -> Change:
    way = better(benchmark, ratio)
    by: float | None = None
    if not base or not ours:
        verdict = "new" if not base else "gone" if way is not None else "-"
    else:
        before, after = statistics.median(base), statistics.median(ours)
        worse = (after - before) if way is not Better.HIGHER else (before - after)
        by = worse / abs(before) if before else math.copysign(math.inf, worse) if worse else 0.0
        apart = min(ours) > max(base) if way is not Better.HIGHER else max(ours) < min(base)
        if way is None:
            verdict = "-"
        elif by > tolerance and apart:
            verdict = "worse"
        else:
            verdict = "better" if by < -tolerance else "ok"
    return Change(benchmark=benchmark, ratio=ratio, base=base, ours=ours, by=by, verdict=verdict)


@contextmanager
def checked_out(base: str, *, root: Path = ROOT) -> Iterator[Path]:
    """A worktree of ``root`` at revision ``base``, for as long as the ``with`` lasts.

    Raises BenchmarkFailed if there is no such revision, or no repository.
    """
    with work_directory() as folder:
        tree = folder / "base"
        try:
            _git(root, "worktree", "add", "--detach", "--quiet", str(tree), base)
            yield tree
        finally:
            if tree.exists():
                _git(root, "worktree", "remove", "--force", str(tree))


def _git(root: Path, *arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkFailed(f"git {arguments[0]} {arguments[1]} failed: {done.stderr.strip()}")


def compare(
    names: Sequence[str], *, base: Path, ours: Path, rounds: int, tolerance: float, smoke: bool
) -> list[Change]:
    """Run these benchmarks of both checkouts in turn. Raises BenchmarkFailed if one of ours does."""
    found: list[Change] = []
    for name in names:
        if not (base / "benchmarks" / f"{name}.py").exists():
            print(f"{name}: the base has no such benchmark, nothing to compare")
            continue
        sides: dict[Path, list[dict[str, Any]]] = {base: [], ours: []}
        for number in range(rounds):
            for side in (base, ours) if number % 2 == 0 else (ours, base):
                print(f"{name}, round {number + 1} of {rounds}, {'base' if side == base else 'ours'}", flush=True)
                arguments = BENCHMARKS[name].smoke.split() if smoke and name in BENCHMARKS else []
                limit_s = BENCHMARKS[name].limit_s if name in BENCHMARKS else _LIMIT_S
                result = run_one(name, arguments, limit_s=limit_s, root=side)
                sides[side].append(result["ratios"])
        found += changes(name, sides[base], sides[ours], tolerance=tolerance)
    return found


def table(found: Sequence[Change]) -> str:
    """The changes as lines for a terminal."""
    width = max((len(f"{one.benchmark} {one.ratio}") for one in found), default=0)
    lines = [f"{'':{width}}  {'base':>10}  {'ours':>10}  {'worse by':>9}"]
    for one in found:
        before, after = (shown(statistics.median(some)) if some else "" for some in (one.base, one.ours))
        by = "" if one.by is None else f"{one.by:+.1%}"
        lines.append(f"{one.benchmark + ' ' + one.ratio:{width}}  {before:>10}  {after:>10}  {by:>9}  {one.verdict}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Parse the command line and run. Returns the exit code: 1 = a regression, 2 = nothing could be compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="revision to compare with, as git understands it")
    parser.add_argument("--only", nargs="+", default=list(USUAL), help="benchmarks  [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="fraction by which a median may be worse")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: shows that it works, and nothing else")
    options = parser.parse_args(arguments)
    end_in_order()
    try:
        with checked_out(options.base, root=root) as base:
            found = compare(
                options.only,
                base=base,
                ours=root,
                rounds=options.rounds,
                tolerance=options.tolerance,
                smoke=options.smoke,
            )
    except BenchmarkFailed as error:
        print(f"not compared: {error}")
        return 2
    print(table(found))
    failed = [one for one in found if one.failed]
    print(f"{len(failed)} of {len(found)} ratios are worse by more than {options.tolerance:.0%}, or gone")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

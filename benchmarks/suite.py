"""All benchmarks, one after the other: their results as files, then the plots and the page of figures.

Each is a process of its own with a time limit, and all together have a budget. One that fails, or leaves out a name its
result must have, fails the run, after the others had their turn; its old result stays.

    python -m benchmarks.suite [--only NAME ...] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import end_in_order
from benchmarks.reach import missing

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkFailed", "last_line", "run_one", "save"]

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
BUDGET_S: Final = 900.0
#: A benchmark told to end has brokers and tables to remove.
_ENDING_S: Final = 20.0


class BenchmarkFailed(RuntimeError):
    """A benchmark did not end in time, or not well, or without the result it owes; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """``limit_s``: about twice what it takes on two cores. ``smoke``: sizes that only show that everything works, and
    ``smoke_lacks``: names that a result of these sizes does not have.
    """

    limit_s: float
    smoke: str
    smoke_lacks: frozenset[str] = frozenset()


BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "check": Benchmark(limit_s=180, smoke="--entries 100 1000 --rounds 2 --calls 200"),
    "memory": Benchmark(
        limit_s=180,
        smoke="--entries 2000 --workers 1 2 --looked-up 100 --stores shared",
        smoke_lacks=frozenset({"shared_bytes_per_entry_8_workers"}),
    ),
    "replay": Benchmark(limit_s=420, smoke="--records 1000 --partitions 1 --repetitions 1"),
    "restart": Benchmark(limit_s=240, smoke="--entries 1000 --tail 10 --rounds 1"),
    "propagation": Benchmark(
        limit_s=150,
        smoke="--nodes 1 4 --samples 10",
        smoke_lacks=frozenset({"p50_over_bare_16", "p99_over_bare_16"}),
    ),
    "publish": Benchmark(limit_s=120, smoke="--rounds 1 --scale 0.05"),
    "requests": Benchmark(
        limit_s=240, smoke="--frameworks starlette --rounds 1 --connections 4 --tokens 10 --entries 300"
    ),
    "fleet": Benchmark(limit_s=240, smoke="--smoke --seconds 1"),
}


def run_one(
    name: str,
    arguments: Sequence[str] = (),
    *,
    limit_s: float,
    root: Path = ROOT,
) -> dict[str, Any]:
    """The result of one benchmark of the checkout at ``root``. Raises BenchmarkFailed."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *arguments]
    environment = os.environ | {"PYTHONPATH": str(root)}
    # A group of its own: on Ctrl-C it is told once, and by us.
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise BenchmarkFailed(f"{name} did not end within {limit_s:.0f} s") from None
        finally:
            _end(process)
    if process.returncode != 0:
        raise BenchmarkFailed(f"{name} ended with code {process.returncode}; its errors stand above")
    return last_line(said, name=name)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def last_line(said: str, *, name: str) -> dict[str, Any]:
    """The result at the end of what a benchmark printed. Raises BenchmarkFailed if there is none, or half of one."""
    lines = said.splitlines()
    try:
        result = json.loads(lines[-1] if lines else "")
    except json.JSONDecodeError:
        raise BenchmarkFailed(f"{name} did not end with a line of JSON but with {lines[-1:]!r}") from None
    owed = {"benchmark", "machine", "versions", "figures", "ratios"}
    if not isinstance(result, dict) or not owed <= result.keys() or result["benchmark"] != name:
        raise BenchmarkFailed(f"the last line of {name} is no result of it: {lines[-1][:200]}")
    return result


def save(result: Mapping[str, Any], *, folder: Path, command: str, date: str, took_s: float) -> Path:
    """Write ``NAME.json``, whole or not at all: the result, and when and by which command it came about."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['benchmark']}.json"
    beside = path.with_suffix(".json.new")
    beside.write_text(
        json.dumps(dict(result) | {"command": command, "date": date, "took_s": round(took_s, 1)}, indent=1) + "\n"
    )
    beside.replace(path)
    return path


def run_all(names: Sequence[str], *, folder: Path, smoke: bool, budget_s: float) -> list[str]:
    """Run these; returns what went wrong, a line each."""
    failures = []
    deadline = time.monotonic() + budget_s
    for name in names:
        arguments = BENCHMARKS[name].smoke.split() if smoke else []
        limit_s = min(BENCHMARKS[name].limit_s, deadline - time.monotonic())
        if limit_s <= 0:
            failures.append(f"{name} had no turn: the budget of {budget_s:.0f} s was spent (--budget-s)")
            continue
        print(f"{name} …", flush=True)
        began = time.monotonic()
        try:
            result = run_one(name, arguments, limit_s=limit_s)
            if owed := set(missing(result)) - (BENCHMARKS[name].smoke_lacks if smoke else set()):
                raise BenchmarkFailed(f"the result of {name} lacks {', '.join(sorted(owed))}")
        except BenchmarkFailed as error:
            failures.append(str(error))
            print(f"{name}: failed: {error}", flush=True)
            continue
        took_s = time.monotonic() - began
        path = save(
            result,
            folder=folder,
            command=" ".join(("python -m", f"benchmarks.{name}", *arguments)),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            took_s=took_s,
        )
        print(f"{name}: {took_s:.0f} s, {path}", flush=True)
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="these")
    parser.add_argument("--results", type=Path, default=RESULTS, help="elsewhere; the pages stay as they are then")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="for all together  [%(default)s]")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, figures without meaning")
    options = parser.parse_args(arguments)
    if options.smoke and options.results == RESULTS:
        parser.error("--smoke needs --results elsewhere: its figures mean nothing")
    end_in_order()
    failures = run_all(options.only, folder=options.results, smoke=options.smoke, budget_s=options.budget_s)
    from benchmarks import plots

    if options.results == RESULTS:
        plots.draw_all()
    else:
        plots.draw_all(options.results, plots=options.results, root=None)
    for failure in failures:
        print(f"failed: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.chaos --faults 200 --seed 7``: the promises, tried on a real cluster.

Exit code 1 on any broken promise, and if more than a twentieth of the faults had no effect, with the events that show
it and the command that repeats the run; logs and histories of such a run are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.brokers.workdir import WorkDirectory
from tests.chaos import report
from tests.chaos.checker import judge
from tests.chaos.clocks import faketime_library
from tests.chaos.disk import SmallDisk
from tests.chaos.driver import Driver
from tests.chaos.fleet import Fleet, NotConverged, Pace, fleet
from tests.chaos.history import Answered, Event, Run, load, write
from tests.chaos.mutants import MUTANTS
from tests.chaos.population import LEEWAY_S
from tests.chaos.schedule import KINDS, schedule

__all__ = ["main"]

#: Tokens that expire sooner could hardly be revoked and checked before they do.
_LEAST_LIFE_S = 30

#: The part of all faults that may have no effect before the run itself counts as failed.
_MOST_WITHOUT_EFFECT = 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 0: nothing found; 1: something; 130: interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    work = WorkDirectory(prefix="revoker-chaos-")
    try:
        code = asyncio.run(_run(options, work.path, command=shlex.join(("python", "-m", "tests.chaos", *arguments))))
        if code != 0 or options.keep:
            _say(f"logs and histories are kept: {_kept(work.path)}")
        return code
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("interrupted")
        return 130
    finally:
        work.remove()


def _parser() -> argparse.ArgumentParser:
    pace = Pace()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=7, help="of the schedule and of the load (default: 7)")
    parser.add_argument("--minutes", type=float, help="begin no further round of faults after so many")
    parser.add_argument("--history", type=Path, help="write the merged history to this file")
    parser.add_argument(
        "--kinds", type=_kinds, default=list(KINDS), help=f"only these, comma-separated, of {', '.join(KINDS)}"
    )
    parser.add_argument("--per-round", type=int, default=20, help="faults between two times of calm (default: 20)")
    parser.add_argument("--users-per-s", type=float, default=pace.users_per_s, help="who get tokens")
    parser.add_argument("--checks-per-s", type=int, default=pace.checks_per_s, help="of each node")
    parser.add_argument("--bound-s", type=float, default=pace.bound_s, help="the nodes' staleness bound (default: 6)")
    parser.add_argument(
        "--longest-life-s", type=_life, default=pace.longest_life_s, help=f"of a token, at least {_LEAST_LIFE_S}"
    )
    parser.add_argument("--mutant", default="", choices=("", *MUTANTS), help="a bug to plant in nodes and service")
    parser.add_argument("--keep", action="store_true", help="keep logs and histories of a run that found nothing, too")
    return parser


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"no such kind: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return kinds


def _life(text: str) -> int:
    if not text.isdecimal() or int(text) < _LEAST_LIFE_S:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least {_LEAST_LIFE_S} s")
    return int(text)


async def _run(options: argparse.Namespace, work: Path, *, command: str) -> int:
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, this.cancel)
    began_at = time.monotonic()
    disk = SmallDisk(work / "disk")
    faketime = faketime_library() if any(kind.endswith("-clock") for kind in options.kinds) else None
    kinds = _possible(options.kinds, disk=disk, clocks=bool(faketime))
    rounds = schedule(seed=options.seed, faults=options.faults, per_round=options.per_round, kinds=kinds)
    pace = Pace(
        checks_per_s=options.checks_per_s,
        users_per_s=options.users_per_s,
        longest_life_s=options.longest_life_s,
        bound_s=options.bound_s,
    )
    failure = ""
    figures: dict[str, float] = {}
    async with (
        _closing(disk),
        fleet(work=work, disk=disk, seed=options.seed, pace=pace, faketime=faketime, mutant=options.mutant) as running,
    ):
        running.recorder(Run(at=time.monotonic(), wall_at=time.time(), seed=options.seed, command=command))
        driver = Driver(running, say=_say, minutes=options.minutes)
        _say(f"the fleet is up after {time.monotonic() - began_at:.1f} s; {options.faults} faults, seed {options.seed}")
        try:
            await driver.run(rounds)
        except Exception as error:  # noqa: BLE001 - whatever broke it off: what was seen up to then is judged
            failure = "\n".join(_reasons(error))
        figures["faults_verified"] = driver.struck - driver.unverified
        figures |= await _told_by_the_load(running)
    history = load(work / "history")
    if options.history:
        write(options.history, history)
    verdict = judge(history, bound_s=pace.bound_s, leeway_s=LEEWAY_S, converged=not failure)
    figures["checks_per_s_of_a_node"] = round(_rate(history), 1)
    figures["took_s"] = round(time.monotonic() - began_at, 1)
    _say(report.text(verdict))
    if failure:
        _say(f"\nthe run broke off: {failure}")
    _say(report.json_line(verdict, figures=figures))
    broken = len(verdict.violations) - verdict.rules["fault_without_effect"]
    # Where faults overlap, one may find nothing left to strike. It is told, and not counted as a fault survived.
    idle = driver.unverified > _MOST_WITHOUT_EFFECT * driver.struck
    return 1 if failure or broken or idle or figures["surprises"] else 0


@asynccontextmanager
async def _closing(disk: SmallDisk) -> AsyncIterator[None]:
    try:
        yield
    finally:
        disk.close()


def _say(text: str) -> None:
    print(text, flush=True)


def _reasons(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _reasons(one)
    elif isinstance(error, NotConverged):
        yield str(error)
    else:
        yield "".join(traceback.format_exception(error))


def _possible(kinds: Sequence[str], *, disk: SmallDisk, clocks: bool) -> list[str]:
    """Without the kinds this machine cannot do, which is said."""
    cannot = {}
    if not disk.mounted:
        cannot["disk-full"] = "mounting a small disk takes root and mount namespaces"
    if not clocks:
        cannot["node-clock"] = cannot["service-clock"] = "libfaketime is missing and could not be installed"
    for kind, why in cannot.items():
        if kind in kinds:
            _say(f"left out: {kind}: {why}")
    return [kind for kind in kinds if kind not in cannot]


async def _told_by_the_load(running: Fleet) -> dict[str, float]:
    told = await running.ask(running.load, "/status") or {}
    for surprise in told.get("surprises", ()):
        _say(f"the load met: {surprise}")
    return {"surprises": len(told.get("surprises", ())), "http_checks": told.get("http_checks", 0)}


def _rate(history: Iterable[Event]) -> float:
    """Checks per second of a node, over the time from its first check to its last; time it was stopped for counts."""
    lives: defaultdict[tuple[str, int], list[float]] = defaultdict(lambda: [float("inf"), 0.0, 0.0])
    for event in history:
        if isinstance(event, Answered) and event.node != "service":
            life = lives[event.node, event.incarnation]
            life[0], life[1], life[2] = min(life[0], event.asked_at), max(life[1], event.at), life[2] + event.checks
    seconds = sum(last - first for first, last, _ in lives.values())
    return sum(checks for _, _, checks in lives.values()) / seconds if seconds else 0.0


def _kept(work: Path) -> Path:
    kept = Path(tempfile.mkdtemp(prefix="revoker-chaos.kept."))
    for name in ("logs", "history"):
        shutil.move(work / name, kept / name)
    return kept


if __name__ == "__main__":
    sys.exit(main())

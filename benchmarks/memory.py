"""Bytes per revocation on the whole host, with one worker process and with eight.

Worker processes hold a store full of revocations, and have asked it for many tokens, so that what a look-up touches is
there. Counted is what they occupy over the same processes with an empty store: their own memory (anonymous pages: heap
and the like) and every page of the store's files once, touched or not. Pages of libraries are left out: they are the
same for any store, and how much of them falls to a process depends on what else the machine runs. ``…_pss_…`` is the
plain sum of the proportional set sizes, with all that. Beside `shared`: our own `memory` store, a dict
of identifiers with their expiry, a TTLCache, and a Redis, which is one process however many workers ask it.

    python -m benchmarks.memory --json
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cachetools import TTLCache

from benchmarks.peers import RedisServer, end_in_order
from benchmarks.population import ISS, LIFE_S, identifiers, revocations, slices, tokens, work_directory
from benchmarks.report import result_line
from consumers.denylist.memory import MemoryDenyList
from consumers.denylist.shared import SharedDenyList
from revoker.cli.children import die_with_parent

STORES: Final = ("shared", "memory", "dict", "ttlcache")


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Bytes of some worker processes. ``own``: their anonymous pages; ``pss``: all of them, shared ones in proportion;
    ``files``: what the store's files occupy.
    """

    own: int
    pss: int
    files: int

    @property
    def host(self) -> int:
        """Of the whole host."""
        return self.own + self.files


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--looked-up", type=int, default=30_000, help="tokens each worker asks for")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    parser.add_argument("--hold", choices=STORES, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        hold(options)
        return
    end_in_order()
    line = measure(options)
    if not options.json:
        found = json.loads(line)
        for name, value in (found["figures"] | found["ratios"]).items():
            print(f"{name:44} {value:14.2f}")
    print(line)


def measure(options: argparse.Namespace) -> str:
    """Run it all; returns the result line."""
    figures: dict[str, float] = {}
    by_store: dict[tuple[str, int], float] = {}
    for workers in options.workers:
        # A store that every process has for itself: a quarter of the entries shows the same, dicts double in size.
        private = options.entries if workers == 1 else options.entries // 4
        bare = taken("dict", 0, workers, options)
        for store in options.stores:
            shared = store == "shared"
            entries = options.entries if shared else private
            empty = taken(store, 1, workers, options) if shared else bare
            full = taken(store, entries, workers, options)
            suffix = suffix_of(workers)
            by_store[store, workers] = (full.host - empty.host) / entries
            figures[f"{store}_bytes_per_entry_{suffix}"] = by_store[store, workers]
            if shared:
                figures[f"{store}_pss_bytes_per_entry_{suffix}"] = (full.pss - empty.pss) / entries
                figures[f"{store}_file_bytes_per_entry_{suffix}"] = full.files / entries
    redis_bytes, redis_rss, version = redis_taken(options.entries)
    figures |= {"redis_bytes_per_entry": redis_bytes, "redis_rss_bytes_per_entry": redis_rss}
    figures |= {"entries": options.entries, "looked_up": options.looked_up}
    return result_line(
        "memory", figures=figures, ratios=ratios_of(by_store, redis_bytes, options.workers), versions={"redis": version}
    )


def ratios_of(by_store: dict[tuple[str, int], float], redis_bytes: float, counts: Sequence[int]) -> dict[str, float]:
    """The bytes per entry of `shared`, and how many times as many the others take."""
    ratios: dict[str, float] = {}
    for workers in counts:
        if ("shared", workers) not in by_store:
            continue
        ours = by_store["shared", workers]
        suffix = suffix_of(workers)
        ratios[f"shared_bytes_per_entry_{suffix}"] = ours
        for (store, count), theirs in by_store.items():
            if count == workers and store != "shared":
                ratios[f"{store}_over_shared_{suffix}"] = theirs / ours
        ratios[f"redis_over_shared_{suffix}"] = redis_bytes / ours
    return ratios


def suffix_of(workers: int) -> str:
    """As the names of the ratios end."""
    return f"{workers}_worker" if workers == 1 else f"{workers}_workers"


def taken(store: str, entries: int, workers: int, options: argparse.Namespace) -> Taken:
    """Start the workers, wait until all hold what they shall hold, and look at their memory."""
    with ExitStack() as opened:
        directory = opened.enter_context(work_directory(in_memory=True))
        processes = []
        for number in range(workers):
            reader = store == "shared" and number > 0
            process = opened.enter_context(worker(store, entries, directory, options, reader=reader))
            processes.append(process)
            if store == "shared" and number == 0:
                wait_ready([process])  # the writer makes what the others open
        wait_ready(processes if store != "shared" else processes[1:])
        found = [memory_of(process.pid) for process in processes]
        files = sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())
    return Taken(own=sum(own for own, _ in found), pss=sum(pss for _, pss in found), files=files)


@contextmanager
def worker(
    store: str, entries: int, directory: Path, options: argparse.Namespace, *, reader: bool
) -> Iterator[subprocess.Popen[str]]:
    """A worker process, started; it ends when its standard input does."""
    command = [*(sys.executable, "-m", "benchmarks.memory", "--hold", store, "--entries", str(entries))]
    command += ["--directory", str(directory), "--looked-up", str(options.looked_up)]
    process = subprocess.Popen(
        die_with_parent(command + ["--reader"] * reader),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_ready(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Until each has said so."""
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("a worker ended before it was ready")


def memory_of(pid: int) -> tuple[int, int]:
    """Bytes of anonymous memory of one process, and its PSS (proc_pid_smaps(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return kib["Anonymous"] * 1024, kib["Pss"] * 1024


def redis_taken(entries: int) -> tuple[float, float, str]:
    """Bytes per entry of Redis: what it counts itself, and its resident set; and its version."""
    with RedisServer() as server:
        before = server.info("memory")
        server.fill((f"bl:{name}" for name in identifiers(entries, seed=1)), ttl_s=2 * LIFE_S)
        after = server.info("memory")
        used, resident = (
            (int(after[name]) - int(before[name])) / entries for name in ("used_memory", "used_memory_rss")
        )
        return used, resident, server.version


def hold(options: argparse.Namespace) -> None:
    """A worker: fill or open the store, ask it for tokens, say so, and stay until standard input ends."""
    now_s = int(time.time())
    ask, kept = BUILDERS[options.hold](options, now_s)
    for start in range(0, options.looked_up, 1000):
        for verified in tokens(min(1000, options.looked_up - start), now_s=now_s, seed=start + 10):
            if ask(verified.claims):
                raise RuntimeError("a token that nobody revoked is refused")
    for number, name in enumerate(identifiers(1000, seed=1)):
        if ask({"iss": ISS, "jti": name}) != (number < options.entries):
            raise RuntimeError(f"of {options.entries} revoked tokens, number {number} is not judged so")
    gc.collect()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    del kept


Ask = Callable[[Mapping[str, Any]], bool]


def build_memory(options: argparse.Namespace, now_s: int) -> tuple[Ask, object]:
    """Our store of one process."""
    denylist = MemoryDenyList(max_entries=2_000_000)
    fill(denylist, options.entries, now_s)
    return lambda claims: denylist.suspects(claims, None), denylist


def build_dict(options: argparse.Namespace, now_s: int) -> tuple[Ask, object]:
    """Identifiers and their expiry, nothing else."""
    expiries = {name: now_s + number for number, name in enumerate(identifiers(options.entries, seed=1))}
    return lambda claims: claims["jti"] in expiries, expiries


def build_ttlcache(options: argparse.Namespace, _now_s: int) -> tuple[Ask, object]:
    """The usual cache with one time to live."""
    cache: TTLCache[str, bool] = TTLCache(maxsize=2_000_000, ttl=2 * LIFE_S)
    for name in identifiers(options.entries, seed=1):
        cache[name] = True
    return lambda claims: claims["jti"] in cache, cache


def build_shared(options: argparse.Namespace, now_s: int) -> tuple[Ask, object]:
    """The table of the host: the first worker writes it, the others only read."""
    denylist = SharedDenyList(options.directory / "table", max_entries=2_000_000)
    if options.reader:
        if problem := denylist.open():
            raise RuntimeError(problem)
    else:
        denylist.take()
        fill(denylist, options.entries, now_s)

    def ask(claims: Mapping[str, Any]) -> bool:
        # The first question after another process wrote something only says that it has to be asked properly.
        return denylist.suspects(claims, None) and denylist.listed(("token", claims["iss"], claims["jti"]))

    return ask, denylist


def fill(denylist: MemoryDenyList | SharedDenyList, entries: int, now_s: int) -> None:
    """As a follower does, in slices."""
    for batch in slices(revocations(entries, now_s=now_s)):
        denylist.apply_all(batch)
    if isinstance(denylist, SharedDenyList):
        denylist.step(1_000_000)  # the growth under way, which a node goes on with in idle turns
    if (held := sum(denylist.counts().values())) != entries:
        raise RuntimeError(f"the store holds {held} of {entries} revocations")


BUILDERS: Final[dict[str, Callable[[argparse.Namespace, int], tuple[Ask, object]]]] = {
    "shared": build_shared,
    "memory": build_memory,
    "dict": build_dict,
    "ttlcache": build_ttlcache,
}


if __name__ == "__main__":
    main()

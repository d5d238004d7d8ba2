"""Requests a second of a whole handler under wrk: what authentication costs where it is used.

Three servers (aiohttp; Starlette and a bare ASGI function under uvicorn), each in variants that differ only in what is
asked before the same handler answers: nothing; the signature with plain PyJWT; the signature with our strict verifier;
ours without the cache of verified claims; ours with it; PyJWT and then Redis. Each variant is a process of its own, the
tokens are RS256 from a pool that repeats, and short runs of wrk go round the variants until each had its share.

    python -m benchmarks.requests --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.peers import PATIENCE_S, Load, RedisServer, Wrk, end_in_order, package_version
from benchmarks.population import LIFE_S, key_pair, signed, tokens, work_directory
from benchmarks.report import result_line
from benchmarks.requests_server import FRAMEWORKS, VARIANTS, serve
from revoker.cli.children import die_with_parent, free_ports

RATIOS: Final = {
    "rate_over_verify_only": ("uncached", "verify"),
    "rate_over_bare_pyjwt": ("uncached", "pyjwt"),
    "cached_rate_over_verify_only": ("cached", "verify"),
    "cached_rate_over_bare_pyjwt": ("cached", "pyjwt"),
    "cached_rate_over_no_auth": ("cached", "none"),
    # What any cache could reach at most: as if authentication cost nothing.
    "no_auth_rate_over_verify_only": ("none", "verify"),
    "redis_rate_over_verify_only": ("redis", "verify"),
}
#: The ratios the whole is judged by are of these two; the bare ASGI function shows what is left without a framework.
JUDGED: Final = ("aiohttp", "starlette")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of wrk. ``cpu_s``: processor time of the server meanwhile."""

    load: Load
    cpu_s: float


#: By framework and variant, the rounds in order.
Runs = dict[tuple[str, str], list[Run]]


def processor_s(pid: int) -> float:
    """Processor time of a process so far, in user and kernel mode (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(
    framework: str, variant: str, options: argparse.Namespace, *, key_file: Path, redis_port: int, directory: Path
) -> Iterator[tuple[str, int]]:
    """A server process, up; yields its URL and process id."""
    port = free_ports(1)[0]
    process = subprocess.Popen(
        die_with_parent(
            [
                *(sys.executable, "-m", "benchmarks.requests", "--serve", f"{framework}:{variant}"),
                *("--port", str(port), "--key-file", str(key_file), "--redis-port", str(redis_port)),
                *("--entries", str(options.entries), "--store", options.store, "--directory", str(directory)),
            ]
        ),
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the server {framework}:{variant} did not start")
        yield f"http://127.0.0.1:{port}/", process.pid
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def measure(options: argparse.Namespace) -> str:
    """Run it all; returns the result line."""
    runs: Runs = {}
    with ExitStack() as opened:
        folder = opened.enter_context(work_directory())
        memory = opened.enter_context(work_directory(in_memory=True))
        wrk = Wrk(connections=options.connections, folder=folder)
        redis_server = opened.enter_context(RedisServer())
        private, key_file = key_pair(folder)
        pool = folder / "tokens"
        now_s = int(time.time())
        pool.write_text("".join(f"{signed(one, private)}\n" for one in tokens(options.tokens, now_s=now_s)))
        redis_server.fill((f"bl:{number}" for number in range(options.entries)), ttl_s=LIFE_S)
        redis_version = redis_server.version
        for framework in options.frameworks:
            # One framework after the other: so no more than six servers are up at once.
            with ExitStack() as up:
                servers = {
                    variant: up.enter_context(
                        server(
                            framework,
                            variant,
                            options,
                            key_file=key_file,
                            redis_port=redis_server.port,
                            directory=memory / f"{framework}-{variant}",
                        )
                    )
                    for variant in VARIANTS
                }
                for number in range(-1, options.rounds):  # the first warms up
                    for variant in VARIANTS if number % 2 else reversed(VARIANTS):
                        url, pid = servers[variant]
                        before = processor_s(pid)
                        load = wrk.run(url, tokens=pool, seconds=options.seconds)
                        if number >= 0:
                            runs.setdefault((framework, variant), []).append(Run(load, processor_s(pid) - before))
    return result(runs, options, redis_version=redis_version)


def result(runs: Runs, options: argparse.Namespace, *, redis_version: str) -> str:
    """Medians of the rounds, and their ratios; the worse of the frameworks under the plain name."""
    figures: dict[str, float] = {}
    for (framework, variant), some in runs.items():
        name = f"{framework}_{variant}"
        figures[f"{name}_per_s"] = statistics.median(run.load.per_s for run in some)
        figures[f"{name}_cpu_us"] = statistics.median(run.cpu_s / run.load.requests for run in some) * 1e6
        figures[f"{name}_p99_ms"] = statistics.median(run.load.p99_ms for run in some)
    ratios: dict[str, float] = {}
    for name, (ours, theirs) in RATIOS.items():
        # Of the two runs of one round, which met the same machine; then the median of the rounds.
        each = {
            one: statistics.median(
                mine.load.per_s / other.load.per_s
                for mine, other in zip(runs[one, ours], runs[one, theirs], strict=True)
            )
            for one in options.frameworks
        }
        ratios[name] = min((each[one] for one in JUDGED if one in each), default=min(each.values()))
        ratios |= {f"{one}_{name}": value for one, value in each.items()}
    sizes = ("rounds", "seconds", "connections", "tokens", "entries")
    return result_line(
        "requests",
        figures=figures | {name: getattr(options, name) for name in sizes},
        ratios=ratios,
        versions={"redis": redis_version, "wrk": package_version("wrk")} | versions(),
    )


def versions() -> dict[str, str]:
    """Those of what serves."""
    from importlib.metadata import version

    found = {name: version(name) for name in ("uvicorn", "starlette", "uvloop", "httptools", "hiredis")}
    return found | {"redis-py": version("redis")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=1, help="of one run of wrk")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=1000, help="different tokens, sent in turn")
    parser.add_argument("--entries", type=int, default=100_000, help="revocations in force, of three kinds")
    parser.add_argument("--store", choices=("memory", "shared"), default="shared")
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    parser.add_argument("--serve", metavar="FRAMEWORK:VARIANT", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--key-file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--redis-port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        framework, _, variant = options.serve.partition(":")
        asyncio.run(serve(framework, variant, options))
        return
    end_in_order()
    line = measure(options)
    if not options.json:
        found = json.loads(line)
        for name, value in (found["figures"] | found["ratios"]).items():
            print(f"{name:48} {value:12.4g}")
    print(line)


if __name__ == "__main__":
    main()

"""What asking costs a request: the guard's whole answer about a verified token that is not revoked.

Both stores, at two sizes, hot (64 tokens over and over) and cold (every token once), with one kind of revocation
present and with three. Beside it, in the same rounds: the signature check that every request pays anyway (PyJWT,
RS256 with 2048 bits), Redis EXISTS over loopback, a dict and a TTLCache. Each figure is the median of the rounds.

    python -m benchmarks.check --json
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from typing import Any, Final

import jwt
import redis
import redis.asyncio
from cachetools import TTLCache

from benchmarks.peers import RedisServer, end_in_order
from benchmarks.population import (
    ISS,
    ONE_KIND,
    THREE_KINDS,
    identifiers,
    key_pair,
    live_node,
    revocations,
    signed,
    tokens,
    work_directory,
)
from benchmarks.report import result_line
from consumers.denylist import DenyList
from consumers.guard import Guard, Status
from revoker.keys import StaticKeys
from revoker.settings import Settings
from revoker.tokens import Verified, Verifier

HOT: Final = 64
KINDS: Final = {"1kind": ONE_KIND, "3kinds": THREE_KINDS}

#: Nanoseconds per call over the items of one round.
Timed = Callable[[int], float]


@dataclass
class Bench:
    """The variants by name, and what each took in every round."""

    rounds: int
    timed: dict[str, Timed] = field(default_factory=dict)

    def add(self, name: str, call: Callable[[Any], object], items: Callable[[int], Sequence[Any]]) -> None:
        """A variant: ``call`` for each of ``items(round)``."""
        self.timed[name] = lambda number: _ns(call, items(number))

    def run(self) -> dict[str, float]:
        """Median nanoseconds by name. The order changes from round to round."""
        took: dict[str, list[float]] = {name: [] for name in self.timed}
        names = list(self.timed)
        gc.collect()
        gc.freeze()
        gc.disable()
        for number in range(-1, self.rounds):  # the first warms up
            for name in names if number % 2 else reversed(names):
                ns = self.timed[name](number)
                if number >= 0:
                    took[name].append(ns)
        gc.enable()
        return {name: statistics.median(values) for name, values in took.items()}


def _ns(call: Callable[[Any], object], items: Sequence[Any]) -> float:
    began = time.perf_counter_ns()
    for item in items:
        call(item)
    return (time.perf_counter_ns() - began) / len(items)


@dataclass
class Tokens:
    """The tokens that are checked."""

    hot: list[Verified]
    cold: list[list[Verified]]

    @cached_property
    def repeated(self) -> list[Verified]:
        """The hot ones, as often as makes a round of the cold ones' length."""
        return list(chain.from_iterable(repeat(self.hot, max(1, len(self.cold[0]) // HOT))))


def always(items: Sequence[Any]) -> Callable[[int], Sequence[Any]]:
    """The same items in every round."""
    return lambda _: items


def in_turn(slices_of: Sequence[Sequence[Any]], at: int) -> Callable[[int], Sequence[Any]]:
    """Another slice in every round, and in no round the one of another ``at``."""
    return lambda number: slices_of[(number + at) % len(slices_of)]


def words(count: int) -> str:
    """10000 → 10k."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


@contextmanager
def guarded(name: str, size: int, *, kinds: Sequence[str], now_s: int) -> Iterator[tuple[DenyList, Guard]]:
    """A store with so many revocations, as a follower brings them, and a guard whose node is live, on real clocks."""
    with work_directory(in_memory=True) as folder:
        where: dict[str, Any] = {"denylist": "shared", "shared_dir": str(folder / "table")}
        settings = Settings(
            algorithms=("HS256",),
            key_secret="no token is verified with this one",
            staleness_bound_s=1e6,
            max_entries=2 * size,
            **(where if name == "shared" else {}),
        )
        with live_node(settings, revocations(size, kinds=kinds, now_s=now_s)) as node:
            yield node.denylist, node.guard


def add_ours(
    bench: Bench,
    name: str,
    ours: tuple[DenyList, Guard],
    checked: Tokens,
    revoked: list[Verified],
    at: int,
) -> None:
    """The variants of one store: the guard hot and cold, the store's own call, and a revoked token."""
    denylist, guard = ours
    check = guard.check_verified
    for expected, some in ((Status.ACTIVE, checked.hot), (Status.REVOKED, revoked)):
        for verified in some:
            if (found := check(verified).status) is not expected:
                raise RuntimeError(f"{name}: a token is {found}, not {expected}")

    def ask_store(verified: Verified) -> object:
        return denylist.suspects(verified.claims, verified.kid)

    hits = list(chain.from_iterable(repeat(revoked, 16)))
    bench.add(f"{name.replace('_', '_hot_', 1)}", check, always(checked.repeated))
    bench.add(f"{name.replace('_', '_cold_', 1)}", check, in_turn(checked.cold, at))
    bench.add(f"{name.replace('_', '_store_hot_', 1)}", ask_store, always(checked.repeated))
    bench.add(f"{name.replace('_', '_hit_', 1)}", check, always(hits))


def add_containers(bench: Bench, size: int, checked: Tokens, at: int) -> None:
    """A dict and a TTLCache of identifiers: no issuer, no freshness, no kinds."""
    expiries = dict.fromkeys(identifiers(size, seed=1), 0.0)
    cache: TTLCache[str, bool] = TTLCache(maxsize=2 * size, ttl=1e6)
    for name in expiries:
        cache[name] = True
    containers: dict[str, Container[str]] = {"dict": expiries, "ttlcache": cache}
    for number, (label, container) in enumerate(containers.items()):
        called = container.__contains__
        hot = [verified.claims["jti"] for verified in checked.repeated]
        cold = [[verified.claims["jti"] for verified in some] for some in checked.cold]
        bench.add(f"{label}_hot_{words(size)}", called, always(hot))
        bench.add(f"{label}_cold_{words(size)}", called, in_turn(cold, at + number))


def add_verification(bench: Bench, calls: int, *, now_s: int, folder: Path) -> None:
    """PyJWT's decode as an application calls it, and our strict verifier."""
    private, key_file = key_pair(folder)
    public = private.public_key()
    raws = [signed(verified, private) for verified in tokens(HOT, now_s=now_s, seed=4)]
    raws = list(islice(chain.from_iterable(repeat(raws)), calls))

    def decode(raw: str) -> object:
        return jwt.decode(raw, public, algorithms=["RS256"], issuer=ISS, audience="api")

    keys = StaticKeys(algorithms=["RS256"], key_files=[f"k1={key_file}"])
    strict = Verifier(keys=keys, algorithms=["RS256"], issuer=ISS, audience=["api"], leeway_s=30)
    bench.add("verify_pyjwt", decode, always(raws))
    bench.add("verify_strict", strict.verify, always(raws))


def add_redis(bench: Bench, server: RedisServer, calls: int, size: int, loop: asyncio.AbstractEventLoop) -> Any:
    """One connection each, one question after the other: what a request waits for. Returns what has to be closed."""
    server.fill((f"bl:{name}" for name in identifiers(size, seed=1)), ttl_s=7200)
    keys = [f"bl:{name}" for name in identifiers(calls, seed=5)]
    sync = redis.Redis(host="127.0.0.1", port=server.port, single_connection_client=True)
    asynchronous = redis.asyncio.Redis(host="127.0.0.1", port=server.port, single_connection_client=True)

    async def ask() -> float:
        began = time.perf_counter_ns()
        for key in keys:
            await asynchronous.exists(key)
        return (time.perf_counter_ns() - began) / len(keys)

    if not sync.exists(f"bl:{next(identifiers(1, seed=1))}") or sync.exists(keys[0]):
        raise RuntimeError("Redis does not hold what it was given")
    bench.add("redis_sync", sync.exists, always(keys))
    bench.timed["redis_asyncio"] = lambda _: loop.run_until_complete(ask())

    async def close() -> None:
        await asynchronous.aclose()
        sync.close()

    return close


def measure(*, sizes: Sequence[int], rounds: int, calls: int, names: Sequence[str]) -> str:
    """Run it all; returns the result line."""
    now_s = int(time.time())
    bench = Bench(rounds)
    cold = 1 + len(sizes) * (len(names) * len(KINDS) + 2)
    checked = Tokens(
        hot=tokens(HOT, now_s=now_s, seed=2),
        cold=[tokens(calls, now_s=now_s, seed=100 + number) for number in range(cold)],
    )
    places: Iterator[int] = iter(range(cold))
    with ExitStack() as opened:
        server = opened.enter_context(RedisServer())
        loop = opened.enter_context(asyncio.Runner()).get_loop()
        for size in sizes:
            for label, kinds in KINDS.items():
                named = cycle(islice(identifiers(size, seed=1), 0, None, len(kinds)))
                revoked = tokens(HOT, now_s=now_s, seed=3, revoked_by=named)
                for name in names:
                    ours = opened.enter_context(guarded(name, size, kinds=kinds, now_s=now_s))
                    add_ours(bench, f"{name}_{label}_{words(size)}", ours, checked, revoked, next(places))
            add_containers(bench, size, checked, next(places))
            next(places)
        folder = opened.enter_context(work_directory())
        add_verification(bench, max(HOT, calls // 80), now_s=now_s, folder=folder)
        close = add_redis(bench, server, max(HOT, calls // 40), max(sizes), loop)
        took = bench.run()
        loop.run_until_complete(close())
        version = server.version
    figures = {f"{name}_ns": ns for name, ns in took.items()} | {"rounds": rounds, "calls_per_round": calls}
    versions = {"redis": version, "redis-py": redis.__version__}
    return result_line("check", figures=figures, ratios=ratios_of(took, sizes, names), versions=versions)


def ratios_of(took: dict[str, float], sizes: Sequence[int], names: Sequence[str]) -> dict[str, float]:
    """Ours over one verification, the worse of the sizes under the short name; Redis over ours."""
    ratios: dict[str, float] = {}
    for name in names:
        for label in KINDS:
            hot, cold = (
                {words(size): took[f"{name}_{temperature}_{label}_{words(size)}"] for size in sizes}
                for temperature in ("hot", "cold")
            )
            ratios[f"{name}_hot_{label}_over_verify"] = max(hot.values()) / took["verify_pyjwt"]
            ratios[f"{name}_hot_{label}_over_strict_verify"] = max(hot.values()) / took["verify_strict"]
            for temperature, by_size in (("hot", hot), ("cold", cold)):
                for size, ns in by_size.items():
                    ratios[f"{name}_{temperature}_{label}_{size}_over_verify"] = ns / took["verify_pyjwt"]
        for client in ("redis_sync", "redis_asyncio"):
            # The sync client has the plain name: it is the quicker one.
            plain = "redis" if client == "redis_sync" else client
            # Look-up against look-up has the short name; the guard does what Redis leaves to its caller.
            for short, variant in ((name, f"{name}_store_hot"), (f"{name}_guard", f"{name}_hot")):
                ours = max(took[f"{variant}_1kind_{words(size)}"] for size in sizes)
                ratios[f"{plain}_over_{short}"] = took[client] / ours
    return ratios


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--calls", type=int, default=10_000, help="checks of one variant in one round")
    parser.add_argument("--stores", nargs="+", choices=("memory", "shared"), default=["memory", "shared"])
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    arguments = parser.parse_args()
    end_in_order()
    line = measure(sizes=arguments.entries, rounds=arguments.rounds, calls=arguments.calls, names=arguments.stores)
    if not arguments.json:
        result = json.loads(line)
        for name, value in (result["figures"] | result["ratios"]).items():
            print(f"{name:44} {value:14.5g}")
    print(line)


if __name__ == "__main__":
    main()

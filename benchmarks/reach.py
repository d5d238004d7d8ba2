"""What each ratio is to reach, and which way each of them is better."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

__all__ = ["REACH", "SHOWN", "Better", "Reach", "better", "missing", "wanted"]


class Better(Enum):
    """Which way a ratio is better."""

    LOWER = "≤"
    HIGHER = "≥"


@dataclass(frozen=True, slots=True)
class Reach:
    """``name``, a ratio or figure of ``benchmark``, is to be ``sign`` ``bound``; bound None: it is shown, and that is
    all.
    """

    benchmark: str
    name: str
    sign: Better | None = None
    bound: float | None = None

    def value(self, result: Mapping[str, Any]) -> float:
        """Its value in a result. Raises KeyError: it is not there."""
        found = result["ratios"] | result["figures"]
        return float(found[self.name])

    def reached(self, result: Mapping[str, Any]) -> bool | None:
        """Whether this result reaches it; None: there is no bound."""
        if self.bound is None:
            return None
        value = self.value(result)
        return value <= self.bound if self.sign is Better.LOWER else value >= self.bound


_LOWER, _HIGHER = Better.LOWER, Better.HIGHER

REACH: Final[tuple[Reach, ...]] = (
    Reach("check", "shared_hot_1kind_over_verify", _LOWER, 0.010),
    Reach("check", "shared_hot_3kinds_over_verify", _LOWER, 0.025),
    Reach("check", "memory_hot_1kind_over_verify", _LOWER, 0.010),
    Reach("check", "memory_hot_3kinds_over_verify", _LOWER, 0.025),
    Reach("check", "redis_over_shared", _HIGHER, 150),
    Reach("memory", "shared_bytes_per_entry_1_worker", _LOWER, 26),
    Reach("memory", "shared_bytes_per_entry_8_workers", _LOWER, 26),
    Reach("replay", "shared_over_bare", _HIGHER, 0.85),
    Reach("replay", "memory_over_bare", _HIGHER, 0.30),
    Reach("restart", "warm_ready_s", _LOWER, 0.3),
    Reach("restart", "warm_over_replay"),
    *(
        Reach("propagation", f"p{percent}_over_bare_{nodes}", _LOWER, bound)
        for nodes in (1, 4, 16)
        for percent, bound in ((50, 1.3), (99, 1.5))
    ),
    Reach("publish", "p50_over_bare_1", _LOWER, 1.8),
    Reach("publish", "rate_over_bare_256", _HIGHER, 0.4),
    Reach("publish", "direct_p50_over_bare_1", _LOWER, 1.8),
    Reach("publish", "direct_rate_over_bare_256", _HIGHER, 0.4),
    Reach("requests", "rate_over_verify_only", _HIGHER, 0.98),
    Reach("requests", "cached_rate_over_verify_only", _HIGHER, 3),
    Reach("requests", "cached_rate_over_bare_pyjwt"),
    Reach("fleet", "model_error_left_out", _LOWER, 0.20),
)

#: By benchmark, patterns of whole names in order; the first that matches says which way is better.
_DIRECTIONS: Final[Mapping[str, tuple[tuple[str, Better], ...]]] = {
    "check": ((r".*_over_(strict_)?verify", _LOWER), (r"redis.*_over_.*", _HIGHER)),
    "memory": ((r"shared_bytes_per_entry_.*", _LOWER), (r".*_over_shared_.*", _HIGHER)),
    "replay": ((r".*_over_bare", _HIGHER),),
    "restart": ((r".*_over_replay", _LOWER),),
    "propagation": ((r"p\d+_over_bare_\d+", _LOWER),),
    "publish": ((r".*p50_over_bare_\d+", _LOWER), (r".*rate_over_bare_\d+", _HIGHER)),
    # Not those of no_auth and redis: they are no work of ours.
    "requests": ((r"(.*_)?(?<!no_auth_)(?<!redis_)rate_over_.*", _HIGHER),),
    "fleet": ((r"model_error_.*", _LOWER),),
    "outbox": ((r"ours_over_.*", _HIGHER),),
    "signatures": ((r".*_to_unsigned", _LOWER),),
}


#: By benchmark, patterns of whole names that its section shows besides.
SHOWN: Final[Mapping[str, str]] = {
    "check": r"redis_asyncio_over_shared|shared_cold_3kinds_.*_over_verify|\w+_hot_1kind_over_strict_verify",
    "memory": r"(memory|dict|ttlcache|redis)_bytes_per_entry(_.*)?",
    "replay": r"(.*_)?over_confluent|stage_.*",
    "restart": r"(replay|warm|beside|snapshot)_(process_)?ready_s|replay_records_per_s",
    "requests": r"(aiohttp|starlette|asgi)_(cached|no_auth)_rate_over_verify_only|redis_rate_over_verify_only",
    "fleet": r"model_(error_left_out_)?(egress|broker|nodes|p50)_.*|far_.*|ends_.*",
}


def better(benchmark: str, ratio: str) -> Better | None:
    """Which way ``ratio`` is better; None: nobody has said, so it is compared with nothing."""
    for pattern, way in _DIRECTIONS.get(benchmark, ()):
        if re.fullmatch(pattern, ratio):
            return way
    return None


def wanted(benchmark: str) -> tuple[Reach, ...]:
    """What is named for ``benchmark``."""
    return tuple(one for one in REACH if one.benchmark == benchmark)


def missing(result: Mapping[str, Any]) -> list[str]:
    """Names that a result of this benchmark must have and has not."""
    found = result["ratios"].keys() | result["figures"].keys()
    return [one.name for one in wanted(result["benchmark"]) if one.name not in found]

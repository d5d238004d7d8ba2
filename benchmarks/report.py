"""The form of every benchmark's result: one JSON object on the last line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["percentile", "result_line"]

_PACKAGES = ("revoker", "aiokafka", "aiohttp", "pyjwt", "cachetools", "msgspec")
#: What the deny list `shared` and the peers bring: left out of the versions where they are not installed.
_IF_INSTALLED = ("numpy", "xxhash", "confluent-kafka")


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was measured, not one in between."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def result_line(
    benchmark: str, *, figures: Mapping[str, float], ratios: Mapping[str, float], versions: Mapping[str, str]
) -> str:
    """``figures`` carry their unit in the name; ``ratios`` are ours over the peer's."""
    return json.dumps(
        {
            "benchmark": benchmark,
            "machine": {
                "processor": _processor(),
                "cores": os.cpu_count(),
                "system": f"{platform.system()} {platform.release()}",
            },
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES}
            | _installed(_IF_INSTALLED)
            | dict(versions),
            "figures": {name: float(f"{value:.6g}") for name, value in figures.items()},
            "ratios": {name: float(f"{value:.4g}") for name, value in ratios.items()},
        }
    )


def _installed(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Every benchmark, with sizes that mean nothing, ends with a result that has all its names. No time is judged.

The long ones are ``make bench``.
"""

from __future__ import annotations

import asyncio
import math
import os
from pathlib import Path

import pytest

from benchmarks import plots
from benchmarks.reach import missing
from benchmarks.suite import BENCHMARKS, run_one

#: Far more than it takes, on a machine that does much else.
LONGEST_S = 240.0


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.skipif(bool(os.environ.get("REVOKER_TEST_BOOTSTRAP")), reason="benchmarks start brokers of their own")
@pytest.mark.parametrize("name", BENCHMARKS)
async def test_a_benchmark_ends_with_every_name_it_owes(name: str, tmp_path: Path) -> None:
    """The last line is its result, with the ratios to reach among the numbers, and every number is one. It can be
    drawn, the same bytes each time, with the command and the date below.
    """
    result = await asyncio.to_thread(run_one, name, BENCHMARKS[name].smoke.split(), limit_s=LONGEST_S)
    assert set(missing(result)) == BENCHMARKS[name].smoke_lacks
    numbers = result["figures"] | result["ratios"]
    assert [key for key, value in numbers.items() if not math.isfinite(value)] == []
    kept = result | {"command": f"python -m benchmarks.{name}", "date": "2030-01-01"}
    for file in ("one.svg", "two.svg"):
        plots.draw(kept, tmp_path / file)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert f"{kept['command']}, 2030-01-01" in drawn

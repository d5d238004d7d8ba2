"""The figures of a Markdown page, written from the results: nobody copies a number by hand.

A page holds pairs of comments, ``<!-- figures NAME -->`` and ``<!-- end of figures -->``; what stands between them is
rewritten. ``NAME`` is a benchmark, or ``reached`` for the table of what was to be reached.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.reach import REACH, SHOWN, Reach, wanted

__all__ = ["PAGES", "caption", "read_results", "rewritten", "shown"]

Results = Mapping[str, Mapping[str, Any]]

#: Pages with blocks of figures, and where the pictures are as seen from there.
PAGES: Final[Mapping[str, str]] = {"docs/performance.md": "plots", "README.md": "docs/plots"}

_BLOCK: Final = re.compile(r"(<!-- figures ([a-z]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
#: Versions named first in a caption, the others follow.
_FIRST: Final = ("python", "revoker", "apache_kafka", "aiokafka", "redis", "pyjwt")


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results in ``folder``, by benchmark."""
    found = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    return {result["benchmark"]: result for result in found}


def shown(value: float) -> str:
    """A number for readers: three significant digits, thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def caption(result: Mapping[str, Any]) -> str:
    """How a result came about: the command, the day, the machine, the versions."""
    machine = result["machine"]
    versions = result["versions"]
    names = [name for name in _FIRST if name in versions] + sorted(versions.keys() - set(_FIRST))
    return (
        f"{result['command']}, {result['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}; {', '.join(f'{name} {versions[name]}' for name in names)}"
    )


def rewritten(text: str, results: Results, *, plots: str) -> str:
    """``text`` with its blocks as ``results`` say. ``plots``: where the pictures are, as seen from the page."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name == "reached":
            lines = _reached(results)
        elif name in results:
            lines = _of(name, results[name], plots=plots)
        else:
            lines = [f"Not measured yet: `python -m benchmarks.{name}`."]
        return match[1] + "\n".join(lines) + "\n" + match[3]

    return _BLOCK.sub(block, text)


def _reached(results: Results) -> list[str]:
    lines = ["| benchmark | ratio | measured | to reach | |", "|---|---|---:|---:|---|"]
    lines += [f"| {one.benchmark} {_row(one, results[one.benchmark])}" for one in REACH if one.benchmark in results]
    return lines


def _row(one: Reach, result: Mapping[str, Any]) -> str:
    bound = "" if one.bound is None or one.sign is None else f"{one.sign.value} {one.bound:g}"
    verdict = {True: "reached", False: "**not reached**", None: ""}[one.reached(result)]
    return f"| `{one.name}` | {shown(one.value(result))} | {bound} | {verdict} |"


def _of(name: str, result: Mapping[str, Any], *, plots: str) -> list[str]:
    lines = [f"![{name}]({plots}/{name}.svg)", "", "| name | measured | to reach | |", "|---|---:|---:|---|"]
    named = wanted(name)
    lines += [_row(one, result) for one in named]
    besides = re.compile(SHOWN.get(name, ""))
    lines += [
        _row(Reach(name, other), result)
        for other in result["ratios"] | result["figures"]
        if besides.fullmatch(other) and all(other != one.name for one in named)
    ]
    return [*lines, "", f"`{caption(result)}`. All figures: `benchmarks/results/{name}.json`."]

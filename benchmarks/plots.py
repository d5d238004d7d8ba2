"""The results as pictures, ``docs/plots/NAME.svg``, and as the figures of the pages that show them.

The same results give the same bytes: no date but the results' own, and ids that do not change.

    python -m benchmarks.plots
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.figure import Figure

from benchmarks.drawings import DRAWINGS
from benchmarks.page import PAGES, caption, read_results, rewritten

__all__ = ["draw", "draw_all"]

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
PLOTS: Final = ROOT / "docs" / "plots"

_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "revoker",
    "svg.fonttype": "none",  # text stays text: small files, and screen readers can read them
    "font.size": 8,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw one result, with how it came about below."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.0, 4.2), layout="constrained")
        DRAWINGS[result["benchmark"]](figure, result["figures"])
        figure.supxlabel("\n".join(textwrap.wrap(caption(result), 150)), fontsize=5.5, color="#636363")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def draw_all(results: Path = RESULTS, *, plots: Path = PLOTS, root: Path | None = ROOT) -> None:
    """Draw every result there is, and rewrite the pages of the checkout at ``root``; None: of none."""
    found = read_results(results)
    for name in DRAWINGS:
        if name in found:
            draw(found[name], plots / f"{name}.svg")
    if root is not None:
        for page, place in PAGES.items():
            text = (root / page).read_text(encoding="utf-8")
            (root / page).write_text(rewritten(text, found, plots=place), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="other results, drawn beside them; the pages stay as they are")
    options = parser.parse_args(arguments)
    if options.results is None:
        draw_all()
    else:
        draw_all(options.results, plots=options.results, root=None)


if __name__ == "__main__":
    main()

"""What commands print: JSON for programs, tables for people; progress and logs go to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from revoker import moments

if TYPE_CHECKING:
    from consumers.freshness import Progress

__all__ = ["Output", "clean", "output_options", "progress_bar", "rfc3339", "table"]

_BAR_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Output:
    """Prints each answer in one of two forms. ``as_json``: one line of JSON an answer, else the text for people."""

    as_json: bool

    def write(self, fields: Mapping[str, Any], text: str | Callable[[], str]) -> None:
        """One answer. ``text`` may be a function: it is called only if people read along."""
        if self.as_json:
            click.echo(json.dumps(fields, ensure_ascii=False))
        else:
            click.echo(text if isinstance(text, str) else text())
        sys.stdout.flush()


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--json/--table``; the command gets ``output``."""

    def chosen(_context: click.Context, _parameter: click.Parameter, value: bool | None) -> Output:
        return Output(as_json=not sys.stdout.isatty() if value is None else value)

    return click.option(
        "--json/--table",
        "output",
        default=None,
        callback=chosen,
        help="Print JSON, or text for people.  [default: text on a terminal, else JSON]",
    )(function)


def rfc3339(seconds: float | None) -> str | None:
    """Unix seconds in RFC 3339, UTC; milliseconds if there is a fraction. None stays None."""
    if seconds is None:
        return None
    return moments.rfc3339(seconds, milliseconds=not float(seconds).is_integer())


def clean(text: str) -> str:
    """``text`` with what is not printable spelled out: an identifier must not be able to steer the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns under headings; None prints as ``-``."""
    cells = [["-" if cell is None else clean(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(headings), *cells]) for column in range(len(headings))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    return "\n".join([click.style(line([heading.upper() for heading in headings]), bold=True), *map(line, cells)])


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error; what it yields shows a newer state. Without a terminal there, nothing is shown."""
    if not sys.stderr.isatty():
        yield lambda _progress: None
        return

    def words(progress: Progress | None) -> str:
        if progress is None:
            return ""
        left = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
        return f"{progress.records:,} records, {progress.rate:,.0f}/s{left}"

    with click.progressbar(
        length=_BAR_STEPS, label=label, file=sys.stderr, show_eta=False, item_show_func=words, width=30
    ) as bar:

        def show(progress: Progress) -> None:
            bar.update(max(0, int(progress.fraction * _BAR_STEPS) - bar.pos), progress)

        yield show

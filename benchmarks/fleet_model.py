"""What a fleet costs, as sums of named terms fitted to measured points. Pure.

Publications come at random (a Poisson process of ``r`` a second). A broker answers a fetch once there is a record, and
holds an empty one for ``wait`` seconds: a node gets ``r`` answers with a record a second, and
``r / (exp(r × wait) - 1)`` empty ones, none when records are many, ``1 / wait`` when there are none. A record reaches
all nodes at once, so that those of one process are woken once for all, and their empty fetches run out together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy

__all__ = ["LAWS", "Law", "Point", "answers_per_s", "empty_per_s", "error", "fit", "predict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A fleet: nodes, publications a second, revocations in force, processes that share the nodes out among them."""

    nodes: int
    per_s: float
    live: int
    processes: int = 1
    wait_s: float = 0.1

    @property
    def name(self) -> str:
        return f"{self.nodes}n_{self.per_s:.0f}ps_{self.live}live"


def empty_per_s(per_s: float, *, wait_s: float) -> float:
    """Empty answers to the fetches of one node a second."""
    return 1 / wait_s if per_s <= 0 else per_s / math.expm1(per_s * wait_s)


def answers_per_s(per_s: float, *, wait_s: float) -> float:
    """Answers to the fetches of one node a second, empty or not."""
    return per_s + empty_per_s(per_s, wait_s=wait_s)


#: A term by its name: what a point has of it.
Terms = Mapping[str, Callable[[Point], float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """``quantity`` is the sum of the terms, each times its coefficient."""

    quantity: str
    terms: Terms


def _one(_point: Point) -> float:
    return 1.0


def _nodes(point: Point) -> float:
    return point.nodes


def _processes(point: Point) -> float:
    return point.processes


def _entries(point: Point) -> float:
    return point.nodes * point.live


def _publications(point: Point) -> float:
    return point.per_s


def _records(point: Point) -> float:
    return point.nodes * point.per_s


def _empty(point: Point) -> float:
    return point.nodes * empty_per_s(point.per_s, wait_s=point.wait_s)


def _wakeups(point: Point) -> float:
    return point.processes * answers_per_s(point.per_s, wait_s=point.wait_s)


#: The laws. Coefficients come in the unit of the quantity per unit of the term.
LAWS: Final[tuple[Law, ...]] = (
    Law(quantity="egress_bytes_per_s", terms={"per_node": _nodes, "per_record": _records, "per_empty_answer": _empty}),
    Law(
        quantity="broker_cpu",
        terms={
            "idle": _one,
            "per_publication": _publications,
            "per_record": _records,
            "per_empty_answer": _empty,
        },
    ),
    Law(
        quantity="nodes_cpu",
        terms={"per_node": _nodes, "per_wakeup": _wakeups, "per_record": _records, "per_entry": _entries},
    ),
    Law(quantity="nodes_bytes", terms={"per_process": _processes, "per_node": _nodes, "per_entry": _entries}),
    # The last of many waits for the others before it, and for those of the publications before.
    Law(quantity="p50_s", terms={"idle": _one, "per_node": _nodes, "per_record": _records}),
)


def fit(law: Law, points: Sequence[tuple[Point, float]]) -> dict[str, float]:
    """The coefficient of each term, by least squares of the relative errors, so that small fleets count as much.

    Raises ValueError if there are fewer points than terms, or a value that is not above 0.
    """
    if len(points) < len(law.terms):
        raise ValueError(f"{law.quantity} has {len(law.terms)} terms, and there are {len(points)} points")
    values = numpy.array([value for _, value in points])
    if not (values > 0).all():
        raise ValueError(f"{law.quantity} was measured as {values.min():g}, must be above 0")
    rows = numpy.array([[term(point) for term in law.terms.values()] for point, _ in points])
    found, *_ = numpy.linalg.lstsq(rows / values[:, None], numpy.ones(len(values)), rcond=None)
    return {name: float(value) for name, value in zip(law.terms, found, strict=True)}


def predict(law: Law, coefficients: Mapping[str, float], point: Point) -> float:
    """What the law says of ``point``."""
    return sum(coefficients[name] * term(point) for name, term in law.terms.items())


def error(predicted: float, measured: float) -> float:
    """How far off, as a fraction of what was measured."""
    return abs(predicted - measured) / measured

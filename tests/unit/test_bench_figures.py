"""What is said of benchmarks agrees with what they measured, and the model of a fleet with what it is fitted to."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.fleet_model import LAWS, Law, Point, answers_per_s, empty_per_s, error, fit, predict
from benchmarks.page import PAGES, read_results, rewritten
from benchmarks.reach import REACH, Better, better, missing
from benchmarks.suite import BENCHMARKS

_ROOT = Path(__file__).parents[2]
_RESULTS = _ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("page", PAGES)
def test_the_page_agrees_with_the_results(page: str) -> None:
    """The figures on a page are those in benchmarks/results: `python -m benchmarks.plots` would change nothing."""
    text = (_ROOT / page).read_text(encoding="utf-8")
    assert rewritten(text, read_results(_RESULTS), plots=PAGES[page]) == text


def test_every_result_that_is_kept_is_whole() -> None:
    """Each file in benchmarks/results is of a benchmark of the suite and holds every ratio named for it."""
    found = read_results(_RESULTS)
    assert found.keys() <= BENCHMARKS.keys()
    assert {name: missing(result) for name, result in found.items()} == {name: [] for name in found}


def test_every_ratio_that_is_named_has_a_direction() -> None:
    """A bound and the comparison of revisions agree on which way is better."""
    for one in REACH:
        if one.bound is not None and one.name != "warm_ready_s":  # a figure, not a ratio
            assert better(one.benchmark, one.name) is one.sign, one.name


def test_a_fit_finds_the_coefficients_that_made_the_points() -> None:
    """Points computed by a law give its coefficients back, and a point left out is told exactly."""
    points = [
        Point(nodes=nodes, per_s=per_s, live=live, processes=min(nodes, 4))
        for nodes, per_s, live in [(1, 10, 1000), (4, 100, 1000), (16, 1, 1000), (64, 20, 1000), (4, 20, 100_000)]
    ]
    for law in LAWS:
        made = {name: 0.5 + number for number, name in enumerate(law.terms)}
        found = fit(law, [(point, predict(law, made, point)) for point in points])
        far = Point(nodes=1000, per_s=50, live=50_000, processes=1000)
        assert error(predict(law, found, far), predict(law, made, far)) < 1e-6, law.quantity


def test_too_few_points_are_no_fit() -> None:
    """A law with more terms than points, or with a point at 0, is refused rather than fitted to nothing."""
    law = Law(quantity="x", terms={"a": lambda _: 1.0, "b": lambda one: one.nodes})
    point = Point(nodes=1, per_s=1, live=1)
    with pytest.raises(ValueError, match="2 terms"):
        fit(law, [(point, 1.0)])
    with pytest.raises(ValueError, match="above 0"):
        fit(law, [(point, 1.0), (point, 0.0)])


def test_answers_go_from_the_empty_ones_to_one_for_each_record() -> None:
    """A silent topic answers every 100 ms; a busy one once for each record, and hardly ever in vain."""
    assert answers_per_s(0, wait_s=0.1) == pytest.approx(10)
    assert empty_per_s(1e-9, wait_s=0.1) == pytest.approx(10)
    assert answers_per_s(10, wait_s=0.1) == pytest.approx(10 / (1 - math.exp(-1)))
    assert empty_per_s(200, wait_s=0.1) == pytest.approx(0, abs=1e-5)


def test_directions_are_asked_by_whole_names() -> None:
    """The peers' own ratios are nobody's work of ours and have no direction."""
    assert better("requests", "starlette_cached_rate_over_verify_only") is Better.HIGHER
    assert better("requests", "starlette_redis_rate_over_verify_only") is None
    assert better("requests", "no_auth_rate_over_verify_only") is None
    assert better("memory", "shared_bytes_per_entry_8_workers") is Better.LOWER

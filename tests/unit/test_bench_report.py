"""The form of a benchmark's result, and what becomes of it: the file, the page, the verdict."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.page import caption, read_results, rewritten, shown
from benchmarks.reach import REACH, missing, wanted
from benchmarks.report import percentile, result_line
from benchmarks.suite import BENCHMARKS, BenchmarkFailed, last_line, save


def a_result(name: str = "fleet", **ratios: float) -> dict[str, Any]:
    """A result as a benchmark prints it."""
    line = result_line(name, figures={"points": 3}, ratios=ratios or {"model_error_left_out": 0.1}, versions={"x": "1"})
    return dict(json.loads(line))


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """The nearest rank, never a value between two."""
    assert [percentile([3.0, 1.0, 2.0, 4.0], percent) for percent in (0, 50, 75, 99, 100)] == [1, 2, 3, 4, 4]


def test_a_result_is_one_line_with_all_its_parts() -> None:
    """The line holds what every result owes, and no line break."""
    line = result_line("fleet", figures={"a_s": 0.12345678}, ratios={"b": 0.0061234}, versions={})
    assert "\n" not in line
    found = json.loads(line)
    assert set(found) == {"benchmark", "machine", "versions", "figures", "ratios"}
    assert (found["figures"], found["ratios"]) == ({"a_s": 0.123457}, {"b": 0.006123})


def test_the_versions_name_what_the_shared_table_is_made_with() -> None:
    """Versions of numpy and xxhash stand beside the packages that are always there, and beside the benchmark's own."""
    pytest.importorskip("numpy")
    pytest.importorskip("xxhash")
    found = a_result()["versions"]
    assert {name: found[name] for name in ("numpy", "xxhash", "aiokafka", "x")} == {
        "numpy": version("numpy"),
        "xxhash": version("xxhash"),
        "aiokafka": version("aiokafka"),
        "x": "1",
    }


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result can be had without the extra packages."""
    monkeypatch.setattr(report, "_IF_INSTALLED", ("surely-not-installed",))
    assert "surely-not-installed" not in a_result()["versions"]


def test_only_the_last_line_counts() -> None:
    """What a benchmark prints before its result is passed over."""
    result = a_result()
    assert last_line(f"words\n{json.dumps(result)}\n", name="fleet") == result


@pytest.mark.parametrize("said", ["", "words\n", "[1]\n", '{"benchmark": "fleet"}\n'])
def test_no_result_is_an_error_that_names_the_benchmark(said: str) -> None:
    """Nothing, no JSON, and half a result are refused."""
    with pytest.raises(BenchmarkFailed, match="fleet"):
        last_line(said, name="fleet")


def test_the_result_of_another_benchmark_is_refused() -> None:
    """A result under a foreign name is no result."""
    with pytest.raises(BenchmarkFailed, match="publish"):
        last_line(json.dumps(a_result("fleet")), name="publish")


def test_a_saved_result_says_when_and_how_it_came_about(tmp_path: Path) -> None:
    """Command, date and duration are in the file, the caption says the first two, and nothing is left beside it."""
    save(a_result(), folder=tmp_path, command="python -m benchmarks.fleet", date="2026-01-02", took_s=1.26)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.json"]
    found = read_results(tmp_path)["fleet"]
    assert found["took_s"] == 1.3
    assert caption(found).startswith("python -m benchmarks.fleet, 2026-01-02, ")
    assert f"numpy {found['versions']['numpy']}" in caption(found)


def test_every_benchmark_of_the_suite_has_names_to_reach() -> None:
    """The table of what is to be reached, and the suite, are about the same benchmarks."""
    assert {one.benchmark for one in REACH} == set(BENCHMARKS)


def test_a_name_that_is_owed_and_not_there_is_missing() -> None:
    """A result without a ratio it was to have is told apart from one that has it."""
    assert missing(a_result(other=1.0)) == ["model_error_left_out"]
    assert missing(a_result()) == []


@pytest.mark.parametrize(("value", "reached"), [(0.20, True), (0.201, False)])
def test_the_bound_itself_is_reached(value: float, reached: bool) -> None:
    """At most 0.20 includes 0.20."""
    (one,) = wanted("fleet")
    assert one.reached(a_result(model_error_left_out=value)) is reached


@pytest.mark.parametrize(("value", "text"), [(0.012345, "0.0123"), (12.345, "12.3"), (1234567.0, "1 234 567")])
def test_numbers_are_shown_with_three_digits(value: float, text: str) -> None:
    """Three significant digits, and thousands apart."""
    assert shown(value) == text


def test_a_block_of_a_page_is_rewritten_and_the_rest_is_left() -> None:
    """The figures of the page are those of the result; a second time changes nothing."""
    result = a_result() | {"command": "c", "date": "2026-01-02"}
    page = "before\n<!-- figures fleet -->\nold\n<!-- end of figures -->\nafter\n"
    after = rewritten(page, {"fleet": result}, plots="plots")
    assert after.startswith("before\n")
    assert after.endswith("after\n")
    assert "old" not in after
    assert "| `model_error_left_out` | 0.1 | ≤ 0.2 | reached |" in after
    assert rewritten(after, {"fleet": result}, plots="plots") == after


def test_a_block_without_a_result_says_so() -> None:
    """What has not been measured shows the command that measures it, never old figures."""
    after = rewritten("<!-- figures publish -->\nold\n<!-- end of figures -->\n", {}, plots="plots")
    assert after == (
        "<!-- figures publish -->\nNot measured yet: `python -m benchmarks.publish`.\n<!-- end of figures -->\n"
    )

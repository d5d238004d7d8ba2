"""What is a regression between two revisions, and what a comparison leaves behind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.compare import USUAL, changes, checked_out, main, table
from benchmarks.suite import BENCHMARKS, BenchmarkFailed

LOWER = "p50_over_bare_1"
HIGHER = "rate_over_bare_256"


def verdict(ratio: str, base: list[float], ours: list[float], *, tolerance: float = 0.1) -> str:
    """What became of one ratio of `publish`."""
    (one,) = changes(
        "publish", [{ratio: value} for value in base], [{ratio: value} for value in ours], tolerance=tolerance
    )
    return one.verdict


@pytest.mark.parametrize(
    ("ratio", "base", "ours", "said"),
    [
        (LOWER, [1.0, 1.1], [1.5, 1.6], "worse"),
        (LOWER, [1.5, 1.6], [1.0, 1.1], "better"),
        (HIGHER, [0.5, 0.6], [0.3, 0.4], "worse"),
        (HIGHER, [0.3, 0.4], [0.5, 0.6], "better"),
        (LOWER, [1.0, 1.1], [1.05, 1.12], "ok"),
    ],
)
def test_worse_depends_on_which_way_is_better(ratio: str, base: list[float], ours: list[float], said: str) -> None:
    """A time that rises is worse, a rate that rises is better, and within the tolerance nothing is."""
    assert verdict(ratio, base, ours) == said


def test_a_move_within_the_noise_is_no_regression() -> None:
    """The median is far worse, but one run of ours was as good as one of the base."""
    assert verdict(LOWER, [1.0, 1.0, 2.0], [1.6, 2.1, 2.2]) == "ok"
    assert verdict(HIGHER, [0.2, 0.5, 0.5], [0.1, 0.2, 0.3]) == "ok"


def test_the_tolerance_is_an_argument() -> None:
    """The same move is a regression or none."""
    assert [verdict(LOWER, [1.0], [1.2], tolerance=tolerance) for tolerance in (0.1, 0.3)] == ["worse", "ok"]


def test_a_ratio_that_is_gone_fails_and_a_new_one_does_not() -> None:
    """A figure cannot be improved by no longer measuring it."""
    gone, new = changes("publish", [{LOWER: 1.0}], [{HIGHER: 0.5}], tolerance=0.1)
    assert (gone.ratio, gone.verdict, gone.failed) == (LOWER, "gone", True)
    assert (new.ratio, new.verdict, new.failed) == (HIGHER, "new", False)


def test_a_ratio_nobody_spoke_of_is_shown_and_judged_by_nobody() -> None:
    """Without a better way there is no regression."""
    (one,) = changes("publish", [{"something": 1.0}], [{"something": 9.0}], tolerance=0.1)
    assert (one.verdict, one.failed) == ("-", False)


def test_the_table_has_a_line_for_each_ratio() -> None:
    """Both medians, by how much, and the verdict stand beside the name."""
    lines = table(changes("publish", [{LOWER: 1.0}], [{LOWER: 1.5}], tolerance=0.1)).splitlines()
    assert len(lines) == 2
    assert lines[1].split() == ["publish", LOWER, "1", "1.5", "+50.0%", "worse"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose benchmark `publish` says what its file says; its second, uncommitted state is worse."""
    root = tmp_path / "repository"
    (root / "benchmarks").mkdir(parents=True)
    (root / "benchmarks" / "__init__.py").touch()
    write(root, 1.0)
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example",
            "-c",
            "commit.gpgsign=false",
            "commit",
            "--quiet",
            "-m",
            "one",
        ],
    ):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    return root


def write(root: Path, ratio: float) -> None:
    """Have the benchmark of this checkout say so."""
    result = {"benchmark": "publish", "machine": {}, "versions": {}, "figures": {}, "ratios": {LOWER: ratio}}
    (root / "benchmarks" / "publish.py").write_text(f"print({json.dumps(result)!r})\n")


def worktrees(root: Path) -> int:
    """How many working trees git knows of."""
    done = subprocess.run(["git", "-C", str(root), "worktree", "list"], check=True, capture_output=True, text=True)
    return len(done.stdout.splitlines())


@pytest.mark.parametrize(("ratio", "code"), [(1.0, 0), (2.0, 1)])
def test_a_comparison_runs_both_sides_and_exits_by_the_outcome(repository: Path, ratio: float, code: int) -> None:
    """The base runs as committed, ours as the working tree is; 1 = a regression; no worktree stays."""
    write(repository, ratio)
    assert main(["--base", "HEAD", "--only", "publish", "--rounds", "2"], root=repository) == code
    assert worktrees(repository) == 1


def test_a_worktree_is_removed_when_the_run_fails(repository: Path) -> None:
    """Neither the directory nor git's note of it outlives an error."""
    seen: list[Path] = []

    def fail_half_way() -> None:
        with checked_out("HEAD", root=repository) as tree:
            seen.append(tree)
            assert (tree / "benchmarks" / "publish.py").exists()
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail_half_way()
    assert not seen[0].exists()
    assert worktrees(repository) == 1


def test_an_unknown_revision_is_named(repository: Path) -> None:
    """Nothing is compared, and the error says with what."""
    with pytest.raises(BenchmarkFailed, match="no-such-revision"), checked_out("no-such-revision", root=repository):
        pass
    assert main(["--base", "no-such-revision"], root=repository) == 2


def test_a_benchmark_that_fails_compares_nothing(repository: Path) -> None:
    """A side without a result is no side that is better; the exit code is not that of a regression."""
    (repository / "benchmarks" / "publish.py").write_text("raise SystemExit(3)\n")
    assert main(["--base", "HEAD", "--only", "publish", "--rounds", "1"], root=repository) == 2
    assert worktrees(repository) == 1


def test_usual_benchmarks_exist() -> None:
    """What is compared when nobody names anything can be run."""
    assert set(USUAL) <= set(BENCHMARKS)

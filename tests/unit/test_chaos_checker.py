"""The checker's rules of excuse and measure, its files, its report, and that it keeps up with a long run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos import report
from tests.chaos.checker import judge
from tests.chaos.history import (
    Answer,
    Answered,
    AnswerLog,
    Erased,
    Event,
    Fault,
    Final,
    NodeReady,
    NodeStale,
    NodeStarted,
    Outcome,
    Recorder,
    Recovered,
    Revoked,
    Run,
    load,
    read,
)
from tests.chaos.mutants import with_clock_of

ROOT = Path(__file__).parents[2]
BOUND_S = 2.0
RUN = Run(at=0.0, wall_at=1000.0, seed=7, command="make chaos FAULTS=1 SEED=7")


def started(node: str, at: float = 1.0, *, incarnation: int = 1, ready_at: float | None = None) -> list[Event]:
    return [
        NodeStarted(at=at, node=node, incarnation=incarnation),
        NodeReady(at=at + 1.0 if ready_at is None else ready_at, node=node, incarnation=incarnation),
    ]


def revoked(token: str, asked_at: float, *, state: Outcome = "acknowledged", exp: float = 9000.0) -> Revoked:
    return Revoked(at=asked_at + 0.5, asked_at=asked_at, tokens=(token,), state=state, exp=exp, by="s", incarnation=1)


def answer(
    node: str, token: str, said: Answer, at: float, *, incarnation: int = 1, last: float | None = None, checks: int = 1
) -> Answered:
    return Answered(
        at=last or at,
        node=node,
        incarnation=incarnation,
        token=token,
        answer=said,
        asked_at=at,
        last_asked_at=last,
        checks=checks,
    )


def rules(*events: Event, leeway_s: float = 0.0, converged: bool = False) -> set[str]:
    return set(judge([RUN, *events], bound_s=BOUND_S, leeway_s=leeway_s, converged=converged).rules)


def erased(began_at: float, ended_at: float) -> Erased:
    return Erased(at=ended_at, how="topic_replaced", began_at=began_at, ended_at=ended_at)


def test_who_started_after_an_erasure_cannot_know() -> None:
    """A node that starts once the records are gone may allow what they revoked."""
    events = [*started("n", 30.0), revoked("t", 10.0), erased(20.0, 21.0), answer("n", "t", "allowed", 40.0)]
    assert rules(*events) == set()


def test_who_was_up_to_date_before_an_erasure_knows() -> None:
    """A node that was live well after the acknowledgement has no excuse."""
    events = [*started("n"), revoked("t", 10.0), erased(20.0, 21.0), answer("n", "t", "allowed", 40.0)]
    assert rules(*events) == {"allowed_after_bound"}


def test_who_was_stale_until_an_erasure_cannot_know() -> None:
    """A node that lost its proof before the acknowledgement, and until the records were gone, could not read them."""
    events = [
        *started("n"),
        NodeStale(at=9.0, node="n", incarnation=1),
        revoked("t", 10.0),
        erased(20.0, 21.0),
        answer("n", "t", "allowed", 40.0),
    ]
    assert rules(*events) == set()


def test_who_was_told_at_its_start_knows_after_an_erasure() -> None:
    """A node that was live before the erasure has read everything acknowledged before it started."""
    events = [
        revoked("t", 5.0),
        *started("n", 10.0, ready_at=11.0),
        erased(12.5, 13.0),
        answer("n", "t", "allowed", 14.0),
    ]
    assert rules(*events) == {"ready_too_early"}


def test_what_is_revoked_again_after_an_erasure_counts_from_then() -> None:
    """The later acknowledgement is in the new log, and binds those who start after the erasure."""
    events = [
        revoked("t", 10.0),
        erased(20.0, 21.0),
        *started("n", 30.0),
        revoked("t", 40.0),
        answer("n", "t", "allowed", 39.0),
        answer("n", "t", "allowed", 42.4),
    ]
    assert rules(*events) == set()
    assert rules(*events, answer("n", "t", "allowed", 42.6)) == {"allowed_after_bound"}


def test_nothing_is_judged_once_no_verifier_accepts_the_token() -> None:
    """Until exp plus leeway a token must stay out; after it, nobody minds."""
    events = [*started("n"), revoked("t", 10.0, exp=1020.0)]
    assert rules(*events, answer("n", "t", "allowed", 24.9), leeway_s=5.0) == {"allowed_after_bound"}
    assert rules(*events, answer("n", "t", "allowed", 25.0), leeway_s=5.0) == set()


def test_a_denial_binds_every_node() -> None:
    """What one node denies is in the log, whatever the publisher was told: nodes that start later have to know it."""
    events = [*started("n"), revoked("t", 10.0, state="unknown"), answer("n", "t", "denied", 12.0)]
    assert rules(*events, *started("m", 20.0), answer("m", "t", "allowed", 22.0)) >= {"ready_too_early"}
    assert rules(*events, *started("m"), answer("m", "t", "allowed", 14.0)) <= {"vacuous"}


def test_a_stretch_is_judged_by_its_last_check_before_expiry() -> None:
    """A summary that ends too late is a violation, however early it began."""
    events = [*started("n"), revoked("t", 10.0)]
    assert rules(*events, answer("n", "t", "allowed", 9.0, last=12.0, checks=50)) == set()
    assert rules(*events, answer("n", "t", "allowed", 9.0, last=13.0, checks=50)) == {"allowed_after_bound"}


def test_a_node_that_is_cut_off_may_allow_for_one_bound() -> None:
    """Cut off twice in a row, it has to stop one bound after the first; before, and once it is back, it may allow."""
    cuts = [
        Fault(at=9.0, kind="cut", target="n", began_at=began, ended_at=ended, verified=True, blinds=("n",))
        for began, ended in ((5.0, 7.5), (5.25, 8.0), (12.0, 13.0))
    ]
    events = [*started("n"), revoked("t", 1.0), *cuts]
    for at in (5.0, 7.0, 8.0, 12.5, 14.5):
        assert rules(*events, answer("n", "c", "allowed", at)) == set()
    for at in (7.0625, 7.75):
        assert rules(*events, answer("n", "c", "allowed", at)) == {"unproven"}


def test_staleness_and_recovery_are_measured() -> None:
    """The figures of the report: how long a token was still allowed, how late the last denial, how slow a recovery."""
    events: list[Event] = [
        RUN,
        *started("n"),
        revoked("t", 10.0),
        answer("n", "t", "allowed", 9.0, last=11.25, checks=9),
        answer("n", "t", "denied", 11.5),
        Fault(at=15.0, kind="kill", target="broker 1", began_at=12.0, ended_at=15.0, verified=True),
        Recovered(at=18.0, kind="kill", seconds=3.0),
        Recovered(at=19.0, kind="kill", seconds=1.0),
        Final(at=20.0, node="n", incarnation=1, asked_at=20.0, denied=("t",)),
    ]
    verdict = judge(events, bound_s=BOUND_S)
    assert verdict.violations == []
    assert verdict.worst_staleness_s == 0.75
    assert verdict.slowest_denial_s == 1.0
    assert verdict.checks == 10
    assert (verdict.faults["kill"].count, verdict.faults["kill"].slowest_recovery_s) == (1, 3.0)


def test_a_run_that_shows_nothing_is_no_success() -> None:
    """Without an accepted revocation, or with a node that was asked nothing, the verdict says so."""
    assert rules(*started("n"), answer("n", "t", "allowed", 5.0)) == {"vacuous"}
    assert rules(*started("n"), revoked("t", 5.0)) == {"vacuous"}


def test_a_history_with_a_gap_is_refused() -> None:
    """Answers of a process that never started, or no Run, mean that a file is missing."""
    with pytest.raises(ValueError, match="n/1"):
        rules(revoked("t", 1.0), answer("n", "t", "allowed", 5.0))
    with pytest.raises(ValueError, match="Run"):
        judge(started("n"), bound_s=BOUND_S)


def test_files_of_several_processes_are_merged_by_time(tmp_path: Path) -> None:
    """What a killed process left half-written is left out; everything else comes back, in order."""
    with Recorder(tmp_path / "driver.jsonl") as record:
        record(RUN)
        record(revoked("t", 2.0))
    with Recorder(tmp_path / "n.jsonl") as record:
        for event in started("n", 1.0):
            record(event)
    with (tmp_path / "n.jsonl").open("ab") as file:
        file.write(b'{"event":"answered","at":3.')
    assert [event.at for event in load(tmp_path)] == [0.0, 1.0, 2.0, 2.5]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """Only the last line may be torn: anything else would hide what happened."""
    (tmp_path / "n.jsonl").write_bytes(b'{"event":"answered"}\n')
    with pytest.raises(ValueError, match=r"n\.jsonl line 1"):
        read(tmp_path / "n.jsonl")


def test_checks_that_say_the_same_become_one_event() -> None:
    """The first check of an answer stands alone, the others are summed up with the times of the first and last."""
    events: list[Event] = []
    log = AnswerLog(events.append, node="n", incarnation=1)
    for number in range(5):
        log.saw("t", "unknown", asked_at=float(number), answered_at=number + 0.5)
    log.saw("t", "denied", asked_at=5.0, answered_at=5.5)
    log.summarize()
    told = [one for one in events if isinstance(one, Answered)]
    assert [(one.answer, one.asked_at, one.last_asked_at, one.at, one.checks) for one in told] == [
        ("unknown", 0.0, None, 0.5, 1),
        ("unknown", 1.0, 4.0, 4.5, 4),
        ("denied", 5.0, None, 5.5, 1),
    ]


def test_no_outage_hides_in_a_summary() -> None:
    """A node that goes on allowing while it is cut off is caught, however rarely its checks are summed up."""
    events: list[Event] = [RUN, *started("n"), revoked("t", 2.0), answer("n", "t", "denied", 2.75)]
    log = AnswerLog(events.append, node="n", incarnation=1)
    for number in range(400):
        log.saw(f"c{number % 9}", "allowed", asked_at=3.0 + number / 20, answered_at=3.0 + number / 20)
    log.summarize()
    events.append(
        Fault(at=9.0, kind="cut", target="n", began_at=6.0, ended_at=8.5, verified=True, blinds=("n",)),
    )
    assert rules(*events) == {"unproven"}
    assert sum(isinstance(one, Answered) for one in events) < 110


def test_the_report_names_what_broke_and_how_to_repeat_it() -> None:
    """Table, offending events and the command; the last line is JSON and says how many violations."""
    events: list[Event] = [RUN, *started("n"), revoked("t", 10.0), answer("n", "t", "allowed", 13.0)]
    events.append(Fault(at=15.0, kind="kill", target="broker 1", began_at=12.0, ended_at=15.0, verified=True))
    verdict = judge(events, bound_s=BOUND_S, converged=False)
    text = report.text(verdict)
    assert "allowed_after_bound" in text
    assert "make chaos FAULTS=1 SEED=7" in text
    assert '"event":"revoked"' in text
    line = json.loads(report.json_line(verdict, figures={"wall_s": 1.0}))
    assert line["violations"] == {"allowed_after_bound": 1}
    assert line["seed"] == 7
    assert line["figures"]["faults_kill"] == 1


def test_every_bug_can_be_planted() -> None:
    """What the mutants patch still exists under its name: else they would be the product, and prove nothing."""
    plant_all = "from tests.chaos.mutants import MUTANTS, plant\nfor name in MUTANTS: plant(name)"
    done = subprocess.run(
        [sys.executable, "-c", plant_all], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_planted_clock_is_off_by_what_its_file_says(tmp_path: Path) -> None:
    """From the next reading on, and from one moment to the next."""
    file, now = tmp_path / "clock", [50.0]
    file.write_text("0")
    clock = with_clock_of(file, true_time=lambda: 1000.0, monotonic=lambda: now[0])
    assert clock() == 1000.0
    file.write_text("-3600")
    now[0] += 1.0
    assert clock() == -2600.0


def test_a_quarter_of_a_million_summaries_are_judged_in_seconds() -> None:
    """Twenty-five million checks of five nodes, in summaries: the time grows with the events alone."""
    events: list[Event] = [RUN]
    for number in range(5):
        events += started(f"n{number}")
    for number in range(5000):
        events.append(revoked(f"t{number}", 10.0 + number / 10))
    for turn in range(50):
        for number in range(1000):
            token, at = f"t{number}", 2.0 + turn * 10.0
            said: Answer = "denied" if at > 10.5 + number / 10 else "allowed"
            events += [answer(f"n{node}", token, said, at, checks=100) for node in range(5)]
    for number in range(1000):
        at = 600.0 + number
        events.append(
            Fault(at=at, kind="cut", target="n1", began_at=at - 5, ended_at=at, verified=True, blinds=("n1",))
        )
    began = time.process_time()
    verdict = judge(events, bound_s=BOUND_S, converged=False)
    assert time.process_time() - began < 10.0
    assert verdict.checks == 25_000_000
    assert not verdict.violations

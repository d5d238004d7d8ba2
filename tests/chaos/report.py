"""How a chaos run's verdict reads: a table, the offending events, how to repeat it, and one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from benchmarks.report import result_line
from tests.chaos.verdict import RULES, Verdict, Violation

__all__ = ["json_line", "table", "text"]

#: So many violations are printed with what led to them; the table counts all.
_MOST_SHOWN = 10


def text(verdict: Verdict) -> str:
    """The table; after it, if a promise was broken, the first violations and the command that repeats the run."""
    parts = [table(verdict)]
    shown = sorted(verdict.violations, key=lambda one: not one.excerpt)[:_MOST_SHOWN]
    parts += [_told(violation) for violation in shown]
    if more := len(verdict.violations) - len(shown):
        parts.append(f"… and {more} more")
    if verdict.violations and verdict.run is not None:
        parts.append(f"repeat it: {verdict.run.command or f'seed {verdict.run.seed}'}")
    return "\n\n".join(parts)


def table(verdict: Verdict) -> str:
    """Faults by kind, then what was asked and found; Markdown, for the documentation as well."""
    faults = [
        (kind, str(one.count), "–" if one.slowest_recovery_s is None else f"{one.slowest_recovery_s:.2f}")
        for kind, one in sorted(verdict.faults.items())
    ]
    total = str(sum(one.count for one in verdict.faults.values()))
    slowest = max((one.slowest_recovery_s or 0.0 for one in verdict.faults.values()), default=0.0)
    outcomes, answers = verdict.outcomes, verdict.answers
    facts = [
        ("nodes (processes)", f"{verdict.nodes} ({verdict.processes})"),
        *(
            (f"revocations {state}", f"{outcomes[state]:,}")
            for state in ("acknowledged", "stored", "unknown", "refused")
        ),
        ("checks", f"{verdict.checks:,}"),
        *((f"· {answer}", f"{answers[answer]:,}") for answer in ("allowed", "denied", "unknown", "flagged", "invalid")),
        ("worst staleness", f"{verdict.worst_staleness_s:.3f} s"),
        ("slowest first denial", f"{verdict.slowest_denial_s:.3f} s"),
        ("violations", f"{len(verdict.violations):,}"),
        *((f"· {rule} ({RULES[rule]})", f"{count:,}") for rule, count in sorted(verdict.rules.items())),
    ]
    return "\n\n".join(
        (
            _markdown(("fault", "count", "slowest recovery, s"), [*faults, ("all", total, f"{slowest:.2f}")]),
            _markdown(("", ""), facts),
        )
    )


def json_line(verdict: Verdict, *, figures: Mapping[str, float]) -> str:
    """One line: the machine, the figures (units in the names), violations by rule, the seed."""
    counted: dict[str, float] = {
        "acknowledged": verdict.outcomes["acknowledged"],
        "stored": verdict.outcomes["stored"],
        "checks": verdict.checks,
        "violations": len(verdict.violations),
        "worst_staleness_s": verdict.worst_staleness_s,
        "slowest_denial_s": verdict.slowest_denial_s,
    }
    for kind, one in sorted(verdict.faults.items()):
        counted[f"faults_{kind}"] = one.count
        if one.slowest_recovery_s is not None:
            counted[f"recovery_{kind}_s"] = one.slowest_recovery_s
    line = json.loads(result_line("chaos", figures=counted | dict(figures), ratios={}, versions={}))
    del line["ratios"]
    line["seed"] = None if verdict.run is None else verdict.run.seed
    line["violations"] = dict(sorted(verdict.rules.items()))
    return json.dumps(line)


def _told(violation: Violation) -> str:
    who = f"{violation.node}/{violation.incarnation}" if violation.incarnation else violation.node or "the run"
    about = f", token {violation.token}" if violation.token else ""
    head = f"{violation.promise} {violation.rule} at {violation.at:.3f}: {who}{about}: {violation.text}"
    events = (f"    {msgspec.json.encode(event).decode()}" for event in violation.excerpt)
    return "\n".join((head, *events))


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    aligned = [
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in lines
    ]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join((aligned[0], rule, *aligned[1:]))

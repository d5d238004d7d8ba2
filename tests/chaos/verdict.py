"""What the checker finds: the promises by rule, and how much there was to look at.

====================== ======= =====================================================================================
rule                   promise broken when
====================== ======= =====================================================================================
allowed_after_bound    P1      a check asked more than the bound after the acknowledgement is allowed
forgotten              P1      a process that denied a token allows it later
not_converged          P1      in the end a node allows what is in force, cannot say, or was not asked
ready_too_early        P2      a process allows what was acknowledged before it started
unproven               P3      a node allows although nothing honest has reached it for longer than the bound
false_claim            P3      a node claims to know all up to a time and allows what was acknowledged before
stored_lost            P5      what was accepted as stored is not in force in the end
acceptor_allows        P5      the very process that accepted a revocation allows the token
denied_without_cause   truth   a token is denied that nobody asked to revoke, or before anybody did
refused_in_force       truth   a revocation was certainly refused, and is in force
exception, crashed     truth   a check raised, or a process ended that nobody had ended
fault_without_effect   proof   a fault had no effect, so surviving it shows nothing
vacuous                proof   nothing was acknowledged, or a node was asked nothing: the run shows nothing
====================== ======= =====================================================================================

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.history import Event, Run

__all__ = ["RULES", "Faults", "Verdict", "Violation"]

#: Each rule and the promise it guards.
RULES: Mapping[str, str] = {
    "allowed_after_bound": "P1",
    "forgotten": "P1",
    "not_converged": "P1",
    "ready_too_early": "P2",
    "unproven": "P3",
    "false_claim": "P3",
    "stored_lost": "P5",
    "acceptor_allows": "P5",
    "denied_without_cause": "truth",
    "refused_in_force": "truth",
    "exception": "truth",
    "crashed": "truth",
    "fault_without_effect": "proof",
    "vacuous": "proof",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken promise. ``excerpt``: the events it follows from, in order; empty beyond the first few of a rule."""

    rule: str
    text: str
    at: float
    node: str = ""
    incarnation: int = 0
    token: str = ""
    excerpt: tuple[Event, ...] = ()

    @property
    def promise(self) -> str:
        return RULES[self.rule]


@dataclass(slots=True, kw_only=True)
class Faults:
    """Faults of one kind: how many, and the slowest recovery, None if none was measured."""

    count: int = 0
    slowest_recovery_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was found, and how much there was to look at.

    ``outcomes``: revocations asked for, by what the publisher was told. ``answers``: checks by answer.
    ``worst_staleness_s``: longest after its acknowledgement that a token was still allowed. ``slowest_denial_s``:
    longest from an acknowledgement to the first denial by a process that ran before.
    """

    violations: list[Violation] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    faults: dict[str, Faults] = field(default_factory=dict)
    nodes: int = 0
    processes: int = 0
    worst_staleness_s: float = 0.0
    slowest_denial_s: float = 0.0
    run: Run | None = None

    @property
    def checks(self) -> int:
        return sum(self.answers.values())

    @property
    def rules(self) -> Counter[str]:
        """Violations by rule."""
        return Counter(violation.rule for violation in self.violations)

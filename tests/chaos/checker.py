"""Judges the history of a chaos run: which promise was broken, by whom, when. Pure, and near linear in the events.

The ideas are those of Jepsen's queue checkers (https://github.com/jepsen-io/redpanda, workload/queue.clj): what was
acknowledged must be seen by everybody, from a stated time on, for ever. The rules are in
`tests.chaos.verdict`.

A record that one node has shown to know (by denying) is in the log for all, whatever its publisher was told: from then
on it is judged as if acknowledged. `Erased` excuses those who could not know, see there.

No slack anywhere: a node that answers ``allowed`` to a question put at *q* must hold a proof younger than *q* - bound,
which covers everything acknowledged before. So the bound to judge by is the node's own ``staleness_bound_s``.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

from tests.chaos.excerpts import excerpt
from tests.chaos.history import (
    Answered,
    Erased,
    Event,
    Fault,
    Final,
    NodeException,
    NodeReady,
    NodeStale,
    NodeStarted,
    NodeStopped,
    Recovered,
    Revoked,
    Run,
    ServiceStarted,
    ServiceStopped,
)
from tests.chaos.verdict import Faults, Verdict, Violation

__all__ = ["judge"]

#: So many violations of a rule get an excerpt; all are counted.
_EXCERPTS_PER_RULE = 3
#: `NodeStale` is seen a little late; whoever was live this long before an `Erased` was live.
_WATCHER_LATE_S = 1.0
#: Sums of floats that stand for the same time may differ by their rounding.
_ROUNDING_S = 1e-6

Process = tuple[str, int]
E = TypeVar("E")


@dataclass(slots=True)
class _Token:
    """What is known of one token: when its revocation was asked for, and from when on it was in force, for whom."""

    until: float = math.inf
    first_asked_at: float = math.inf
    refused: bool = False
    #: (asked at, acknowledged at)
    acknowledged: list[tuple[float, float]] = field(default_factory=list)
    stored: bool = False
    #: The last request that was acknowledged or stored.
    last_accepted_at: float = -math.inf
    #: The first denial by any node.
    denied_at: float = math.inf

    def in_force(self) -> list[tuple[float, float]]:
        """(asked at, in force from): what was acknowledged, and the first denial as if it were an acknowledgement."""
        seen = [] if self.denied_at == math.inf else [(self.first_asked_at, self.denied_at)]
        return self.acknowledged + seen


@dataclass(slots=True)
class _Life:
    """One process of a node."""

    started_at: float
    live: list[tuple[float, float]] = field(default_factory=list)
    #: For each `Erased`, the last time before it at which this process was certainly live; minus infinity: never.
    last_live: list[float] = field(default_factory=list)
    denied: dict[str, float] = field(default_factory=dict)
    from_when: dict[str, float] = field(default_factory=dict)


def judge(history: Iterable[Event], *, bound_s: float, leeway_s: float = 0.0, converged: bool = True) -> Verdict:
    """Find every broken promise.

    ``bound_s``: the nodes' ``staleness_bound_s``. ``leeway_s``: the largest leeway of any verifier; until ``exp`` plus
    leeway a revoked token must stay out, after it nothing is judged. ``converged``: whether the run ended in a `Final`
    of each node; without, what is stored may still be on its way. Raises ValueError for a history without `Run`.
    """
    return _Judge(sorted(history, key=lambda event: event.at), bound_s, leeway_s).verdict(converged=converged)


class _Judge:
    def __init__(self, history: Sequence[Event], bound_s: float, leeway_s: float) -> None:
        self._history = history
        self._bound_s = bound_s
        self._verdict = Verdict()
        self._found: dict[tuple[str, str, int, str], Violation] = {}
        by_type: defaultdict[type, list[Event]] = defaultdict(list)
        for event in history:
            by_type[type(event)].append(event)
        self._by_type = by_type
        if not by_type[Run]:
            raise ValueError("the history has no Run event: the clocks cannot be related")
        self._verdict.run = run = _of(by_type, Run)[0]
        self._until_offset_s = run.at - run.wall_at + leeway_s
        self._services = {event.service for event in _of(by_type, ServiceStarted)}
        self._services |= {event.by for event in _of(by_type, Revoked)}
        self._erased = _of(by_type, Erased)
        self._tokens: defaultdict[str, _Token] = defaultdict(_Token)
        self._accepted: dict[tuple[str, int, str], float] = {}
        self._lives: dict[Process, _Life] = {}
        self._blind: dict[str, list[tuple[float, float]]] = {}

    def verdict(self, *, converged: bool) -> Verdict:
        self._take_revocations()
        self._take_lives()
        self._take_faults()
        self._take_denials()
        for event in _of(self._by_type, Answered):
            self._verdict.answers[event.answer] += event.checks
            if event.node in self._services:
                self._judge_service(event)
            elif event.answer == "allowed":
                self._judge_allowed(event)
            elif event.answer == "denied":
                self._judge_denied(event)
        if converged:
            self._judge_final()
        self._judge_processes()
        verdict = self._verdict
        verdict.nodes = len({node for node, _ in self._lives})
        verdict.processes = len(self._lives)
        verdict.violations = _with_excerpts(self._found.values(), self._history)
        return verdict

    # What there is to know

    def _take_revocations(self) -> None:
        for event in _of(self._by_type, Revoked):
            self._verdict.outcomes[event.state] += 1
            for name in event.tokens:
                token = self._tokens[name]
                token.until = min(token.until, event.exp + self._until_offset_s)
                if event.state == "refused":
                    token.refused = True
                    continue
                token.first_asked_at = min(token.first_asked_at, event.asked_at)
                if event.state == "unknown":
                    continue
                token.last_accepted_at = max(token.last_accepted_at, event.asked_at)
                self._accepted.setdefault((event.by, event.incarnation, name), event.at)
                if event.state == "stored":
                    token.stored = True
                else:
                    token.acknowledged.append((event.asked_at, event.at))

    def _take_lives(self) -> None:
        for event in _of(self._by_type, NodeStarted):
            self._lives[event.node, event.incarnation] = _Life(started_at=event.at)
        changes: list[NodeReady | NodeStale | NodeStopped] = [
            *_of(self._by_type, NodeReady),
            *_of(self._by_type, NodeStale),
            *_of(self._by_type, NodeStopped),
        ]
        live_since: dict[Process, float] = {}
        for change in sorted(changes, key=lambda event: event.at):
            process = change.node, change.incarnation
            if isinstance(change, NodeReady):
                live_since.setdefault(process, change.at)
            elif (since := live_since.pop(process, None)) is not None:
                self._life(process).live.append((since, change.at))
        for process, since in live_since.items():
            self._life(process).live.append((since, math.inf))
        for life in self._lives.values():
            life.last_live = [_last_live(life.live, before=erased.began_at) for erased in self._erased]

    def _life(self, process: Process) -> _Life:
        try:
            return self._lives[process]
        except KeyError:
            raise ValueError(f"the history tells of {process[0]}/{process[1]}, which never started") from None

    def _take_faults(self) -> None:
        blind: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for event in _of(self._by_type, Fault):
            self._verdict.faults.setdefault(event.kind, Faults()).count += 1
            if not event.verified:
                text = f"{event.kind} of {event.target} had no effect: {event.detail or 'it was not observed'}"
                self._report("fault_without_effect", event.at, text, node=event.target)
            from_at = event.began_at + self._bound_s
            for node in event.blinds:
                if from_at < event.ended_at:
                    blind[node].append((from_at, event.ended_at))
        self._blind = {node: _merged(spans) for node, spans in blind.items()}
        for recovered in _of(self._by_type, Recovered):
            faults = self._verdict.faults.setdefault(recovered.kind, Faults())
            faults.slowest_recovery_s = max(faults.slowest_recovery_s or 0.0, recovered.seconds)

    def _take_denials(self) -> None:
        for event in _of(self._by_type, Answered):
            if event.answer == "denied" and event.node not in self._services:
                token = self._tokens.get(event.token)
                if token is not None and token.first_asked_at <= event.at < token.denied_at:
                    token.denied_at = event.at

    # Judging

    def _judge_allowed(self, event: Answered) -> None:
        last = event.asked_at if event.last_asked_at is None else event.last_asked_at
        self._judge_proof(event, last)
        token = self._tokens.get(event.token)
        if token is None:
            return
        asked_at = last if last < token.until else event.asked_at
        if asked_at >= token.until:
            return
        life = self._life((event.node, event.incarnation))
        if asked_at > (denied_at := life.denied.get(event.token, math.inf)):
            self._blame("forgotten", event, f"allowed {asked_at - denied_at:.3f} s after it denied the same token")
        since = self._in_force_for(life, event.token, token)
        if asked_at <= since:
            return
        self._verdict.worst_staleness_s = max(self._verdict.worst_staleness_s, asked_at - since)
        what = "known to another node" if since == token.denied_at else "acknowledged"
        if since < life.started_at:
            text = f"started {life.started_at - since:.3f} s after the revocation was {what}, and allowed the token"
            self._blame("ready_too_early", event, text)
        elif asked_at > since + self._bound_s:
            text = f"allowed {asked_at - since:.3f} s after the revocation was {what}; the bound is {self._bound_s:g} s"
            self._blame("allowed_after_bound", event, text)
        if event.proved_at is not None and event.proved_at > since + _ROUNDING_S and asked_at == last:
            text = f"claimed to know everything up to {event.proved_at - since:.3f} s after the revocation was {what}"
            self._blame("false_claim", event, text)

    def _judge_proof(self, event: Answered, last: float) -> None:
        if event.proved_at is not None and last > event.proved_at + self._bound_s + _ROUNDING_S:
            self._blame("unproven", event, f"allowed {last - event.proved_at:.3f} s after its own last proof")
        spans = self._blind.get(event.node, ())
        for asked_at in {event.asked_at, last}:
            # The last span that began before; they do not overlap.
            at = bisect_left(spans, (asked_at,)) - 1
            if at >= 0 and asked_at < spans[at][1]:
                since = spans[at][0] - self._bound_s
                self._blame(
                    "unproven", event, f"allowed {asked_at - since:.3f} s after it was cut off from the cluster"
                )

    def _in_force_for(self, life: _Life, name: str, token: _Token) -> float:
        """From when on this process has to know the token's revocation; infinity: never."""
        known = life.from_when.get(name)
        if known is None:
            due = [at for asked_at, at in token.in_force() if not self._excused(life, asked_at, at)]
            known = min(due, default=math.inf)
            life.from_when[name] = known
        return known

    def _excused(self, life: _Life, asked_at: float, in_force_at: float) -> bool:
        for erased, last_live in zip(self._erased, life.last_live, strict=True):
            if asked_at >= erased.ended_at:
                continue
            was_told = in_force_at < life.started_at and last_live > -math.inf
            if not was_told and last_live < in_force_at + self._bound_s:
                return True
        return False

    def _judge_denied(self, event: Answered) -> None:
        self._judge_cause(event.token, at=event.at, node=event.node, incarnation=event.incarnation)
        life = self._life((event.node, event.incarnation))
        if event.token in life.denied:
            return
        life.denied[event.token] = event.at
        token = self._tokens.get(event.token)
        acknowledged_at = min((at for _, at in token.acknowledged), default=math.inf) if token else math.inf
        if acknowledged_at > life.started_at:
            self._verdict.slowest_denial_s = max(self._verdict.slowest_denial_s, event.at - acknowledged_at)

    def _judge_cause(self, name: str, *, at: float, node: str, incarnation: int) -> None:
        token = self._tokens.get(name)
        if token is not None and at >= token.first_asked_at:
            return
        if token is not None and token.refused and token.first_asked_at == math.inf:
            text = "denied a token whose revocation was certainly refused"
            self._report("refused_in_force", at, text, node=node, incarnation=incarnation, token=name)
        else:
            text = "denied a token that nobody had asked to revoke"
            self._report("denied_without_cause", at, text, node=node, incarnation=incarnation, token=name)

    def _judge_service(self, event: Answered) -> None:
        last = event.asked_at if event.last_asked_at is None else event.last_asked_at
        accepted_at = self._accepted.get((event.node, event.incarnation, event.token), math.inf)
        if event.answer == "allowed" and accepted_at < last < self._tokens[event.token].until:
            self._blame(
                "acceptor_allows", event, f"allowed {last - accepted_at:.3f} s after it accepted the revocation"
            )

    def _judge_final(self) -> None:
        finals = {(final.node, final.incarnation): final for final in _of(self._by_type, Final)}
        last = dict(sorted(self._lives))
        for node, incarnation in last.items():
            if (node, incarnation) not in finals:
                self._report("not_converged", math.inf, "gave no final answer", node=node, incarnation=incarnation)
        denied = {name for final in finals.values() for name in final.denied}
        for process, final in finals.items():
            for name in final.denied:
                self._judge_cause(name, at=final.at, node=process[0], incarnation=process[1])
            if final.unknown:
                self._accuse(final, final.unknown[0], f"cannot say of {len(final.unknown)} tokens")
            answered = {*final.denied, *final.unknown, *final.invalid}
            allowed = frozenset(final.allowed)
            for name, token in self._tokens.items():
                if name in answered or token.until <= final.at:
                    continue
                if name in allowed:
                    self._judge_missing(final, name, token, elsewhere=name in denied)
                elif token.in_force() or token.stored:
                    self._accuse(final, name, "was not asked about a token that is revoked")

    def _judge_missing(self, final: Final, name: str, token: _Token, *, elsewhere: bool) -> None:
        life = self._life((final.node, final.incarnation))
        if self._in_force_for(life, name, token) < math.inf:
            self._accuse(final, name, "allows in the end what is revoked")
        elif token.stored and not self._excused(life, token.last_accepted_at, math.inf):
            text = "allows in the end what was stored for delivery"
            self._report("stored_lost", final.at, text, node=final.node, incarnation=final.incarnation, token=name)
        elif elsewhere and not self._excused(life, token.first_asked_at, math.inf):
            self._accuse(final, name, "allows in the end what another node denies")

    def _judge_processes(self) -> None:
        for event in _of(self._by_type, NodeException):
            self._report("exception", event.at, f"{event.where} raised {event.error}", event.node, event.incarnation)
        for stopped in _of(self._by_type, NodeStopped):
            if stopped.how == "crashed":
                self._report("crashed", stopped.at, f"ended: {stopped.detail}", stopped.node, stopped.incarnation)
        for ended in _of(self._by_type, ServiceStopped):
            if ended.how == "crashed":
                self._report("crashed", ended.at, f"ended: {ended.detail}", ended.service, ended.incarnation)
        if not self._verdict.outcomes["acknowledged"] and not self._verdict.outcomes["stored"]:
            self._report("vacuous", math.inf, "no revocation was accepted: the run shows nothing")
        asked = {event.node for event in _of(self._by_type, Answered)}
        for node in sorted({name for name, _ in self._lives} - asked):
            self._report("vacuous", math.inf, "was never asked about a token", node=node)

    def _accuse(self, final: Final, token: str, text: str) -> None:
        self._report("not_converged", final.at, text, node=final.node, incarnation=final.incarnation, token=token)

    def _blame(self, rule: str, event: Answered, text: str) -> None:
        self._report(rule, event.at, text, node=event.node, incarnation=event.incarnation, token=event.token)

    def _report(self, rule: str, at: float, text: str, node: str = "", incarnation: int = 0, token: str = "") -> None:
        self._found.setdefault(
            (rule, node, incarnation, token),
            Violation(rule=rule, at=at, text=text, node=node, incarnation=incarnation, token=token),
        )


def _last_live(spans: Sequence[tuple[float, float]], *, before: float) -> float:
    certain = [min(to_at, before) - _WATCHER_LATE_S for from_at, to_at in spans if from_at < before]
    return max(certain, default=-math.inf)


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same times as spans that do not overlap, in order."""
    merged: list[tuple[float, float]] = []
    for from_at, to_at in sorted(spans):
        if merged and from_at <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], to_at)
        else:
            merged.append((from_at, to_at))
    return merged


def _of(by_type: Mapping[type, list[Event]], kind: type[E]) -> list[E]:
    """The events of one type; the mapping is by type, which its own type cannot say."""
    return cast("list[E]", by_type.get(kind, []))


def _with_excerpts(found: Iterable[Violation], history: Sequence[Event]) -> list[Violation]:
    done: list[Violation] = []
    so_far: Counter[str] = Counter()
    for one in sorted(found, key=lambda violation: violation.at):
        so_far[one.rule] += 1
        if so_far[one.rule] <= _EXCERPTS_PER_RULE:
            one = replace(one, excerpt=excerpt(history, node=one.node, token=one.token, until_at=one.at))  # noqa: PLW2901
        done.append(one)
    return done

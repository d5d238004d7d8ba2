"""The checker of the chaos proof: silent about fleets that keep every promise, and never about one that breaks one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.chaos.checker import judge
from tests.chaos.history import (
    Answer,
    Answered,
    Event,
    Fault,
    Final,
    NodeException,
    NodeStarted,
    NodeStopped,
    Revoked,
)
from tests.chaos.verdict import RULES, Verdict
from tests.property.chaos_model import BOUND_S, SERVICE, WALL_OFFSET_S, fleet_history

seeds = st.integers(min_value=0, max_value=2**32)
SOON_S = 1 / 1024

History = list[Event]


def verdict_of(history: History) -> Verdict:
    return judge(history, bound_s=BOUND_S)


def rules_of(history: History) -> set[str]:
    """The rules broken; a simulated fleet may have nothing to revoke, which is no fault of anybody's."""
    return set(verdict_of(history).rules) - {"vacuous"}


@given(seed=seeds, erase=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_fleet_that_keeps_its_promises_is_not_accused(seed: int, erase: bool) -> None:
    """Cut off, killed, slow, stored and lost requests, erased records, coinciding times: no violation."""
    assert rules_of(fleet_history(seed, erase=erase)) == set()


def answered(
    node: str, incarnation: int, token: str, answer: Answer, at: float, *, proved_at: float | None = None
) -> Answered:
    return Answered(
        at=at, node=node, incarnation=incarnation, token=token, answer=answer, asked_at=at, proved_at=proved_at
    )


def lasting(history: History, state: str) -> list[Revoked]:
    """Requests with this outcome about tokens that outlive the run."""
    end = max(event.at for event in history)
    found = [one for one in history if isinstance(one, Revoked) and one.state == state]
    return [one for one in found if one.exp > end + WALL_OFFSET_S]


def started(history: History) -> list[NodeStarted]:
    return [one for one in history if isinstance(one, NodeStarted)]


def allow_after_bound(history: History) -> None:
    """A process that ran before is asked just after the bound."""
    one = lasting(history, "acknowledged")[0]
    node = next(process for process in started(history) if process.at <= one.at)
    history.append(answered(node.node, node.incarnation, one.tokens[0], "allowed", one.at + BOUND_S + SOON_S))


def allow_too_early(history: History) -> None:
    """A process that starts just after the acknowledgement is asked at once."""
    one = lasting(history, "acknowledged")[0]
    history.append(NodeStarted(at=one.at + SOON_S, node="late", incarnation=1))
    history.append(answered("late", 1, one.tokens[0], "allowed", one.at + 2 * SOON_S))
    end = max(event.at for event in history)
    template = next(event for event in history if isinstance(event, Final))
    history.append(msgspec.structs.replace(template, node="late", incarnation=1, at=end))


def allow_after_denial(history: History) -> None:
    """What was denied is allowed in the next moment, by the same process."""
    unforgettable = {one.tokens[0] for one in lasting(history, "unknown") + lasting(history, "acknowledged")}
    denials = [one for one in history if isinstance(one, Answered) and one.answer == "denied"]
    one = next(one for one in denials if one.token in unforgettable)
    history.append(answered(one.node, one.incarnation, one.token, "allowed", one.at + SOON_S))


def allow_while_blind(history: History) -> None:
    """Cut off from everything, a node allows a token of which nobody knows anything."""
    node = started(history)[0]
    fault = Fault(
        at=200.0, kind="cut", target=node.node, began_at=110.0, ended_at=120.0, verified=True, blinds=(node.node,)
    )
    history += [fault, answered(node.node, node.incarnation, "c0", "allowed", 110.0 + BOUND_S + SOON_S)]


def allow_without_proof(history: History) -> None:
    """By its own account the node's last proof is too old."""
    node = started(history)[0]
    history.append(answered(node.node, node.incarnation, "c0", "allowed", 110.0, proved_at=110.0 - BOUND_S - SOON_S))


def claim_falsely(history: History) -> None:
    """Within the bound, but the node claims to know what it shows not to know."""
    one = lasting(history, "acknowledged")[0]
    node = next(process for process in started(history) if process.at <= one.at)
    at = one.at + 3 * SOON_S
    history.append(answered(node.node, node.incarnation, one.tokens[0], "allowed", at, proved_at=one.at + SOON_S))


def lose_what_was_stored(history: History) -> None:
    """No node ever denies it."""
    (token,) = lasting(history, "stored")[0].tokens
    replace_everywhere(history, token)


def lose_what_was_acknowledged(history: History) -> None:
    """In the end one node allows it, having never been asked before."""
    (token,) = lasting(history, "acknowledged")[0].tokens
    replace_everywhere(history, token)


def replace_everywhere(history: History, token: str) -> None:
    """Take all answers about the token out, and let all final ones allow it."""
    history[:] = [one for one in history if not (isinstance(one, Answered) and one.token == token)]
    for index, event in enumerate(history):
        if isinstance(event, Final):
            denied = tuple(name for name in event.denied if name != token)
            history[index] = msgspec.structs.replace(event, denied=denied, allowed=(*event.allowed, token))


def differ_in_the_end(history: History) -> None:
    """Of a revocation with an unknown outcome one node knows and another does not."""
    (token,) = lasting(history, "unknown")[0].tokens
    replace_everywhere(history, token)
    index, final = next((index, event) for index, event in enumerate(history) if isinstance(event, Final))
    allowed = tuple(name for name in final.allowed if name != token)
    history[index] = msgspec.structs.replace(final, denied=(*final.denied, token), allowed=allowed)


def cannot_say_in_the_end(history: History) -> None:
    """A node that never recovered."""
    index, final = next((index, event) for index, event in enumerate(history) if isinstance(event, Final))
    history[index] = msgspec.structs.replace(final, allowed=(), unknown=final.allowed)


def give_no_final_answer(history: History) -> None:
    """A node that is not there in the end."""
    index = next(index for index, event in enumerate(history) if isinstance(event, Final))
    del history[index]


def forget_to_ask(history: History) -> None:
    """The final questions leave out a revoked token."""
    (token,) = lasting(history, "acknowledged")[0].tokens
    replace_everywhere(history, token)
    for index, event in enumerate(history):
        if isinstance(event, Final):
            allowed = tuple(name for name in event.allowed if name != token)
            history[index] = msgspec.structs.replace(event, allowed=allowed)


def let_the_acceptor_allow(history: History) -> None:
    """The service allows what it has just stored."""
    one = lasting(history, "stored")[0]
    history.append(answered(SERVICE, 1, one.tokens[0], "allowed", one.at + SOON_S))


def deny_without_cause(history: History) -> None:
    """A token that nobody revoked is denied."""
    node = started(history)[0]
    history.append(answered(node.node, node.incarnation, "c0", "denied", node.at + SOON_S))


def deny_before_the_cause(history: History) -> None:
    """A token is denied just before its revocation was asked for."""
    one = lasting(history, "acknowledged")[0]
    node = next(process for process in started(history) if process.at <= one.at)
    history.append(answered(node.node, node.incarnation, one.tokens[0], "denied", one.asked_at - SOON_S))


def enforce_what_was_refused(history: History) -> None:
    """A revocation that was certainly refused is in force."""
    one = lasting(history, "refused")[0]
    node = started(history)[0]
    history.append(answered(node.node, node.incarnation, one.tokens[0], "denied", one.at + SOON_S))


def raise_in_a_check(history: History) -> None:
    history.append(NodeException(at=110.0, node="n0", incarnation=1, error="KeyError('x')"))


def crash(history: History) -> None:
    history.append(NodeStopped(at=1e6, node="n0", incarnation=1, how="crashed", detail="SIGSEGV"))


def have_no_effect(history: History) -> None:
    history.append(Fault(at=110.0, kind="kill", target="broker 1", began_at=109.0, ended_at=110.0, verified=False))


Break = Callable[[History], None]

BREAKS: Sequence[tuple[Break, str]] = (
    (allow_after_bound, "allowed_after_bound"),
    (allow_too_early, "ready_too_early"),
    (allow_after_denial, "forgotten"),
    (allow_while_blind, "unproven"),
    (allow_without_proof, "unproven"),
    (claim_falsely, "false_claim"),
    (lose_what_was_stored, "stored_lost"),
    (lose_what_was_acknowledged, "not_converged"),
    (differ_in_the_end, "not_converged"),
    (cannot_say_in_the_end, "not_converged"),
    (give_no_final_answer, "not_converged"),
    (forget_to_ask, "not_converged"),
    (let_the_acceptor_allow, "acceptor_allows"),
    (deny_without_cause, "denied_without_cause"),
    (deny_before_the_cause, "denied_without_cause"),
    (enforce_what_was_refused, "refused_in_force"),
    (raise_in_a_check, "exception"),
    (crash, "crashed"),
    (have_no_effect, "fault_without_effect"),
)


@pytest.mark.parametrize(("plant", "rule"), BREAKS, ids=[plant.__name__ for plant, _ in BREAKS])
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_one_broken_promise_is_found_in_any_history(plant: Break, rule: str, seed: int) -> None:
    """One violation of a kind, planted anywhere, is found as that kind, with the events it follows from."""
    history = fleet_history(seed)
    try:
        plant(history)
    except (IndexError, StopIteration):
        assume(False)  # this fleet had nothing of the kind, such as no stored revocation
    verdict = verdict_of(history)
    found = [one for one in verdict.violations if one.rule == rule]
    assert found, verdict.rules
    assert all(event.at <= found[0].at for event in found[0].excerpt if not isinstance(event, Fault))


def test_every_rule_is_broken_once() -> None:
    """No rule of the checker goes untested here, but the one that needs an empty history."""
    assert {rule for _, rule in BREAKS} == set(RULES) - {"vacuous"}


@given(seed=seeds)
@settings(max_examples=50, deadline=None)
def test_the_very_edge_of_the_bound_is_allowed(seed: int) -> None:
    """A check asked exactly one bound after the acknowledgement, or with a proof exactly as old, breaks nothing."""
    history = fleet_history(seed)
    acknowledged = lasting(history, "acknowledged")
    assume(acknowledged)
    one = acknowledged[0]
    node = next(process for process in started(history) if process.at <= one.at)
    # Without the answers that contradict it, and without faults that would make the answer impossible.
    history[:] = [
        event
        for event in history
        if not isinstance(event, Fault) and not (isinstance(event, Answered) and event.token == one.tokens[0])
    ]
    history.append(answered(node.node, node.incarnation, one.tokens[0], "allowed", one.at + BOUND_S, proved_at=one.at))
    assert rules_of(history) == set()

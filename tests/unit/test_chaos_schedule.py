"""The schedule of a chaos run: drawn from its seed alone."""

from __future__ import annotations

import hashlib
import random

import pytest

from tests.chaos.population import LEEWAY_S, draw_user
from tests.chaos.schedule import BROKERS, KINDS, NODES, Fault, schedule

KEY = "a secret of the population's, long enough for HS256"


def faults_of(seed: int, faults: int = 200) -> list[Fault]:
    """All faults of a schedule in order."""
    return [fault for one in schedule(seed=seed, faults=faults) for fault in one.faults]


def test_one_seed_gives_one_schedule() -> None:
    """The schedule of a seed is the same on every machine, so that a failure can be played again."""
    told = "\n".join(f"{fault} {fault.alone} {fault.after_s}" for fault in faults_of(7))
    assert schedule(seed=7, faults=200) == schedule(seed=7, faults=200)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "5398cad2ce3537af"


def test_another_seed_gives_another_schedule() -> None:
    """Seeds differ from one another."""
    assert len({tuple(map(str, faults_of(seed))) for seed in range(20)}) == 20


def test_every_kind_comes() -> None:
    """As many faults as there are kinds already hold each kind once."""
    assert {fault.kind for fault in faults_of(3, faults=len(KINDS))} == set(KINDS)


def test_rounds_hold_all_faults_in_order() -> None:
    """Rounds of 20, the last one shorter, numbered from 1."""
    rounds = schedule(seed=1, faults=47)
    assert [len(one.faults) for one in rounds] == [20, 20, 7]
    assert [one.number for one in rounds] == [1, 2, 3]
    assert [fault.number for one in rounds for fault in one.faults] == list(range(1, 48))


@pytest.mark.parametrize("seed", range(5))
def test_faults_are_short_and_strike_what_exists(seed: int) -> None:
    """Targets are brokers, their networks, nodes, the service and its disk; a broker cut off outlives its session."""
    known = {f"broker {n}" for n in BROKERS} | {f"network {n}" for n in BROKERS} | {f"node {n}" for n in NODES}
    known |= {"service", "disk"}
    for fault in faults_of(seed):
        assert set(fault.targets) <= known
        assert 1 <= fault.lasts_s <= (10 if len(fault.targets) > 1 else 5)
        assert fault.alone or fault.targets


def test_an_unknown_kind_is_refused_by_name() -> None:
    """A kind that does not exist is named, with those that do."""
    with pytest.raises(ValueError, match="no such kind of fault: node-tickle; there are broker-kill, "):
        schedule(seed=1, faults=1, kinds=["node-tickle"])


def test_some_kinds_can_be_chosen() -> None:
    """With a choice of kinds no other comes."""
    rounds = schedule(seed=1, faults=30, kinds=["node-kill", "net-stall"])
    assert {fault.kind for one in rounds for fault in one.faults} == {"node-kill", "net-stall"}


def test_a_user_is_logged_out_while_his_tokens_are_valid() -> None:
    """Tokens of one user end together, and the revocation covers some of them, before they end."""
    chance = random.Random(1)
    for number in range(300):
        user = draw_user(chance, number=number, key=KEY, wall_s=1e9, now_s=500.0, longest_life_s=100)
        assert len({token.exp for token in user.tokens}) == 1
        assert {token.until_at for token in user.tokens} == {500.0 + user.tokens[0].exp - 1e9 + LEEWAY_S}
        if user.logout is not None:
            assert set(user.logout.tokens) <= {token.name for token in user.tokens}
            assert user.logout.tokens
            assert user.logout.after_s < user.tokens[0].exp - 1e9

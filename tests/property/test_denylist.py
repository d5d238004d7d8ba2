"""One state machine for every deny list store: order, duplicates, replays and purges change no answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from revoker.errors import DenyListFull
from revoker.events import Revocation, Withdrawal
from tests.property.denylist_model import (
    LATEST,
    STORES,
    UNBOUNDED,
    Bearer,
    Model,
    Store,
    bearers,
    entry_of,
    event_ids,
    events,
    opened,
    picture,
    probes,
    refuses,
)


def withdrawal(event_id: str, *, until: int) -> Revocation:
    return Revocation(id="w", selector=Withdrawal(event_id=event_id), revoked_at=0, expires_at=until)


class StoreMachine(RuleBasedStateMachine):
    """Whatever is published, repeated, reordered, withdrawn or purged: the store answers as the model does."""

    make: Callable[[int], Store]

    published = Bundle("published")

    @initialize(
        bound=st.sampled_from([UNBOUNDED, UNBOUNDED, 1, 3, 6]), strangers=st.lists(bearers, min_size=3, max_size=6)
    )
    def begin(self, bound: int, strangers: list[Bearer]) -> None:
        self.bound = bound
        self.strangers = strangers
        self.store = type(self).make(bound)
        self.model = Model()

    def _apply(self, one: Revocation) -> bool:
        before = picture(self.store) if self.bound != UNBOUNDED else None
        is_new = entry_of(one) not in self.model.entries()
        try:
            self.store.apply(one)
        except DenyListFull:
            assert self.model.most_entries() >= self.bound, "refused although there was room"
            assert picture(self.store) == before, "refused, and changed something"
            return False
        grows = is_new and one.expires_at > self.model.now
        assert not grows or self.model.least_entries() < self.bound, "took more entries than the bound"
        return True

    @rule(target=published, one=events)
    def publish(self, one: Revocation) -> Any:
        if not self._apply(one):
            return multiple()
        self.model.events.append(one)
        return one

    @rule(one=published)
    def duplicate(self, one: Revocation) -> None:
        assert self._apply(one), "what is known or has expired needs no room"

    @rule(one=consumes(published), later=st.integers(0, 5))
    def raise_expiry(self, one: Revocation, later: int) -> None:
        again = Revocation(
            id=one.id, selector=one.selector, revoked_at=0, expires_at=one.expires_at + later, cutoff=one.cutoff
        )
        if self._apply(again):
            self.model.events.append(again)

    @rule(start=st.integers(0, 40))
    def replay_suffix(self, start: int) -> None:
        for one in self.model.events[start:]:
            assert self._apply(one)

    @rule(random=st.randoms(use_true_random=False))
    def replay_from_other_partitions(self, random: Any) -> None:
        again = list(self.model.events)
        random.shuffle(again)
        for one in again:
            assert self._apply(one)

    @rule(event_id=event_ids, until=st.integers(0, LATEST))
    def withdraw_maybe_before(self, event_id: str, until: int) -> None:
        self.publish_quietly(withdrawal(event_id, until=until))

    @rule(one=published)
    def withdraw_after(self, one: Revocation) -> None:
        self.publish_quietly(withdrawal(one.id, until=one.expires_at + 1))

    def publish_quietly(self, one: Revocation) -> None:
        if self._apply(one):
            self.model.events.append(one)

    @rule(now=st.integers(-1, LATEST + 6))
    def advance(self, now: int) -> None:
        self.store.advance(now_s=now)
        self.model.now = max(self.model.now, now)

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.store.close()

    @invariant()
    def answers_as_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        for bearer in (*self.strangers, *probes(self.model.events[-12:])):
            answer = refuses(self.store, bearer)
            if self.model.must_refuse(bearer):
                assert answer, f"lost: {bearer}"
            if not self.model.may_refuse(bearer):
                assert not answer, f"made up: {bearer}"

    @invariant()
    def counts_what_it_holds(self) -> None:
        if not hasattr(self, "model"):
            return
        held = sum(self.store.counts().values())
        assert self.model.least_entries() <= held <= self.model.most_entries()
        kinds = {one.selector.kind for one in self.model.events if one.expires_at > self.model.now}
        assert kinds <= set(self.store.kinds)


def _machine_case(name: str) -> Any:
    machine: Any = type(f"{name.title()}Machine", (StoreMachine,), {"make": staticmethod(STORES[name])})
    # Files cost more than dicts; what a store means is the same in all three.
    machine.TestCase.settings = settings(
        max_examples=800 if name == "memory" else 250, stateful_step_count=16, deadline=None
    )
    return machine.TestCase


TestMemoryMachine = _machine_case("memory")
TestSharedMachine = _machine_case("shared")
TestSharedreaderMachine = _machine_case("sharedreader")


def test_every_store_has_a_machine() -> None:
    """No store is registered without a state machine of its own."""
    assert {
        name.removeprefix("Test").removesuffix("Machine").lower() for name in globals() if name.endswith("Machine")
    } - {
        "store",
        "rulebasedstate",
    } == set(STORES)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Revocation], list[Revocation]]:
    """A history in its order, and as another node might meet it: repartitioned, duplicated, suffixes replayed."""
    history = draw(st.lists(events, min_size=1, max_size=14))
    delivered = list(draw(st.permutations(history)))
    for start in draw(st.lists(st.integers(0, len(history) - 1), max_size=2)):
        at = draw(st.integers(0, len(delivered)))
        delivered[at:at] = history[start:]
    return history, delivered


@pytest.mark.parametrize("name", sorted(STORES))
@settings(max_examples=1200, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(both=histories(), strangers=st.lists(bearers, max_size=6))
def test_order_duplicates_and_replays_change_nothing(
    name: str, both: tuple[list[Revocation], list[Revocation]], strangers: list[Bearer]
) -> None:
    """Two stores that met the same events in any order, any number of times, show and answer the same."""
    history, delivered = both
    with opened(name) as one, opened(name) as other:
        for item in history:
            one.apply(item)
        for item in delivered:
            other.apply(item)
        assert picture(one) == picture(other)
        for bearer in (*strangers, *probes(history)):
            assert refuses(one, bearer) == refuses(other, bearer)


@pytest.mark.parametrize("name", sorted(STORES))
@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(
    both=histories(),
    strangers=st.lists(bearers, max_size=6),
    steps=st.lists(st.integers(0, LATEST + 2), max_size=30),
    end=st.integers(0, LATEST + 2),
)
def test_purging_in_between_changes_nothing_for_tokens_that_live(
    name: str, both: tuple[list[Revocation], list[Revocation]], strangers: list[Bearer], steps: list[int], end: int
) -> None:
    """A store that purged on the way and one that met the history otherwise agree on every unexpired token."""
    history, delivered = both
    end = max([end, *steps])
    model = Model(events=history, now=end)
    with opened(name) as one, opened(name) as other:
        for number, item in enumerate(history):
            if number < len(steps):
                one.advance(now_s=steps[number])
            one.apply(item)
        for item in delivered:
            other.apply(item)
        for store in (one, other):
            store.advance(now_s=end)
        for bearer in (*strangers, *probes(history)):
            must, may = model.must_refuse(bearer), model.may_refuse(bearer)
            if must or not may:
                assert refuses(one, bearer) == refuses(other, bearer) == must

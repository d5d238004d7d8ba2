"""What every deny list store does, one behaviour at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from consumers.denylist import FOREVER, DenyList
from revoker.errors import DenyListFull
from revoker.events import (
    KINDS,
    Claim,
    Client,
    Everything,
    Issuer,
    Key,
    Revocation,
    Selector,
    Session,
    Subject,
    Token,
    Withdrawal,
)
from tests.property.denylist_model import STORES, UNBOUNDED, picture

ISS = "https://issuer.example"

Make = Callable[[int], DenyList]


@pytest.fixture(params=sorted(STORES))
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """How to make each store, with its bound."""
    with ExitStack() as opened:
        yield lambda bound: opened.enter_context(closing(STORES[request.param](bound)))


@pytest.fixture
def store(make: Make) -> DenyList:
    """Each store, without a bound that matters."""
    return make(UNBOUNDED)


def event(selector: Selector, *, cutoff: int | None = None, until: int = 100, event_id: str = "e") -> Revocation:
    return Revocation(id=event_id, selector=selector, revoked_at=0, expires_at=until, cutoff=cutoff)


def test_an_empty_store_knows_nothing(store: DenyList) -> None:
    """An empty store lists nothing, has no cut-off, and shows no kind, entry or claim."""
    assert not store.listed(("token", ISS, "j"))
    assert store.cutoff(("all",)) is None
    assert store.key_cutoff(ISS) is None
    assert picture(store) == (set(), dict.fromkeys(KINDS, 0), set(), {})


def test_an_exact_entry_is_its_issuers_alone(store: DenyList) -> None:
    """A jti is unique only per issuer, so the same jti of another issuer is not listed."""
    store.apply(event(Token(iss=ISS, jti="j")))
    assert store.listed(("token", ISS, "j"))
    assert not store.listed(("token", "https://other.example", "j"))


def test_the_exact_kinds_do_not_mix(store: DenyList) -> None:
    """The same text as jti and as sid names two different things."""
    store.apply(event(Session(iss=ISS, sid="same")))
    assert not store.listed(("token", ISS, "same"))


def test_the_latest_of_several_cutoffs_counts(store: DenyList) -> None:
    """An older cut-off that arrives later does not shadow a newer one."""
    store.apply(event(Issuer(iss=ISS), cutoff=50, event_id="new"))
    store.apply(event(Issuer(iss=ISS), cutoff=40, event_id="old"))
    assert store.cutoff(("issuer", ISS)) == 50


def test_a_key_without_cutoff_is_revoked_for_good(store: DenyList) -> None:
    """A key revoked in its entirety has a cut-off no time of issue can pass."""
    store.apply(event(Key(iss=ISS, kid="k")))
    assert store.cutoff(("key", ISS, "k")) == FOREVER
    assert store.key_cutoff(ISS) == FOREVER


def test_a_spared_session_does_not_count(store: DenyList) -> None:
    """A subject's rule that spares a session is no cut-off for that session, and one for every other."""
    store.apply(event(Subject(iss=ISS, sub="u", spare_sid="mine"), cutoff=50))
    assert store.cutoff(("subject", ISS, "u"), sid="mine") is None
    assert store.cutoff(("subject", ISS, "u"), sid="other") == 50
    assert store.cutoff(("subject", ISS, "u")) == 50


def test_a_spared_session_is_not_a_spared_token(store: DenyList) -> None:
    """Sparing the session named x does not spare the token named x."""
    store.apply(event(Subject(iss=ISS, sub="u", spare_sid="x"), cutoff=50))
    assert store.cutoff(("subject", ISS, "u"), jti="x") == 50


def test_two_rules_that_spare_different_sessions_refuse_both(store: DenyList) -> None:
    """Logging out elsewhere from two sessions ends both: each is hit by the other's rule."""
    store.apply(event(Subject(iss=ISS, sub="u", spare_sid="a"), cutoff=50, event_id="1"))
    store.apply(event(Subject(iss=ISS, sub="u", spare_sid="b"), cutoff=60, event_id="2"))
    assert store.cutoff(("subject", ISS, "u"), sid="a") == 60
    assert store.cutoff(("subject", ISS, "u"), sid="b") == 50


@pytest.mark.parametrize("first", ["rule", "withdrawal"])
def test_a_withdrawal_takes_its_rule_back_whichever_comes_first(store: DenyList, first: str) -> None:
    """Published minus withdrawn: the order of the two events does not matter, and other rules stay."""
    rule_ = event(Client(iss=ISS, client_id="c"), cutoff=50, event_id="mistake")
    withdrawal = event(Withdrawal(event_id="mistake"), event_id="w")
    store.apply(event(Client(iss=ISS, client_id="c"), cutoff=10, event_id="meant"))
    for one in (rule_, withdrawal) if first == "rule" else (withdrawal, rule_):
        store.apply(one)
    assert store.cutoff(("client", ISS, "c")) == 10


@pytest.mark.parametrize(
    ("selector", "cutoff"),
    [(Token(iss=ISS, jti="j"), None), (Session(iss=ISS, sid="s"), None), (Subject(iss=ISS, sub="u"), 50)],
)
def test_what_is_not_wide_cannot_be_withdrawn(store: DenyList, selector: Selector, cutoff: int | None) -> None:
    """The revocation of a token, a session or a subject is final."""
    store.apply(event(selector, cutoff=cutoff, event_id="final"))
    store.apply(event(Withdrawal(event_id="final"), event_id="w"))
    assert store.cutoff(selector.key) == 50 if cutoff else store.listed(selector.key)


def test_the_cutoff_for_tokens_without_kid_follows_withdrawals(store: DenyList) -> None:
    """The latest cut-off of an issuer's keys forgets a rule that is withdrawn, and no other issuer has it."""
    store.apply(event(Key(iss=ISS, kid="a"), cutoff=10, event_id="1"))
    store.apply(event(Key(iss=ISS, kid="b"), cutoff=20, event_id="2"))
    assert store.key_cutoff(ISS) == 20
    assert store.key_cutoff("https://other.example") is None
    store.apply(event(Withdrawal(event_id="2"), event_id="w"))
    assert store.key_cutoff(ISS) == 10


def test_claim_names_tell_a_guard_what_to_look_at(store: DenyList) -> None:
    """The claims that rules name are shown by issuer, and vanish with the last rule."""
    store.apply(event(Claim(iss=ISS, claim="tenant", value="t"), cutoff=1, until=10))
    store.apply(event(Claim(iss=ISS, claim="role", value="r"), cutoff=1, until=20, event_id="2"))
    assert {iss: set(names) for iss, names in store.claim_names.items()} == {ISS: {"tenant", "role"}}
    store.advance(now_s=15)
    assert {iss: set(names) for iss, names in store.claim_names.items()} == {ISS: {"role"}}


def test_expired_entries_are_forgotten(store: DenyList) -> None:
    """Past its expiry by the purge clock an entry of any kind is gone, and so is its kind."""
    store.apply(event(Token(iss=ISS, jti="j"), until=10))
    store.apply(event(Everything(), cutoff=1, until=10))
    store.apply(event(Withdrawal(event_id="w"), until=10))
    store.advance(now_s=10)
    assert picture(store) == (set(), dict.fromkeys(KINDS, 0), set(), {})


def test_before_the_clock_moves_nothing_expires(store: DenyList) -> None:
    """A store whose purge clock has not started forgets nothing, however old."""
    store.apply(event(Token(iss=ISS, jti="j"), until=0))
    assert store.listed(("token", ISS, "j"))


def test_the_purge_clock_never_goes_back(store: DenyList) -> None:
    """After the clock has been at 10, an event that expired at 5 stays out although the clock is set to 0."""
    store.advance(now_s=10)
    store.advance(now_s=0)
    store.apply(event(Token(iss=ISS, jti="j"), until=5))
    assert not store.listed(("token", ISS, "j"))


def test_a_later_expiry_is_kept(store: DenyList) -> None:
    """Of two events for one selector the later expiry holds, also if it came first."""
    store.apply(event(Token(iss=ISS, jti="j"), until=20))
    store.apply(event(Token(iss=ISS, jti="j"), until=10))
    store.advance(now_s=15)
    assert store.listed(("token", ISS, "j"))


def test_an_expired_rule_is_not_shown_beside_its_living_neighbour(store: DenyList) -> None:
    """What is shown as in force has not expired, though it may share a selector with what has not."""
    store.apply(event(Everything(), cutoff=1, until=10, event_id="short"))
    store.apply(event(Everything(), cutoff=1, until=20, event_id="long"))
    store.advance(now_s=15)
    assert [entry.event_id for entry in store.in_force()] == ["long"]


def test_an_expired_rule_is_not_taken_in_beside_a_living_one(store: DenyList) -> None:
    """A replayed rule that has expired takes no room under a selector that is still in force."""
    store.advance(now_s=15)
    store.apply(event(Everything(), cutoff=1, until=20, event_id="long"))
    store.apply(event(Everything(), cutoff=2, until=10, event_id="short"))
    assert store.counts()["all"] == 1


def test_a_withdrawn_rule_is_not_in_force(store: DenyList) -> None:
    """A withdrawn rule is not shown as in force."""
    store.apply(event(Everything(), cutoff=1, event_id="oops"))
    store.apply(event(Withdrawal(event_id="oops"), event_id="w"))
    assert list(store.in_force()) == []


def test_at_the_bound_a_new_entry_is_refused_and_nothing_changes(make: Make) -> None:
    """The bound raises DenyListFull, names itself, and leaves every entry as it was."""
    store = make(2)
    store.apply(event(Token(iss=ISS, jti="1")))
    store.apply(event(Session(iss=ISS, sid="2")))
    before = picture(store)
    with pytest.raises(DenyListFull, match=r"may hold 2 .*max_entries"):
        store.apply(event(Token(iss=ISS, jti="3")))
    assert picture(store) == before


def test_rules_under_one_selector_count_against_the_bound(make: Make) -> None:
    """Many rules for the same tokens fill the list as well: memory is bounded, not selectors."""
    store = make(3)
    for number in range(3):
        store.apply(event(Everything(), cutoff=1, event_id=str(number)))
    with pytest.raises(DenyListFull):
        store.apply(event(Everything(), cutoff=1, event_id="more"))


def test_at_the_bound_a_known_entry_can_still_be_raised(make: Make) -> None:
    """A later cut-off or expiry of what is known needs no room."""
    store = make(1)
    store.apply(event(Subject(iss=ISS, sub="u"), cutoff=10, until=20))
    store.apply(event(Subject(iss=ISS, sub="u"), cutoff=15, until=30))
    assert store.cutoff(("subject", ISS, "u")) == 15


def test_what_expires_makes_room(make: Make) -> None:
    """The bound counts what is in force, not what ever was."""
    store = make(1)
    store.apply(event(Token(iss=ISS, jti="1"), until=10))
    store.advance(now_s=10)
    store.apply(event(Token(iss=ISS, jti="2"), until=20))
    assert store.listed(("token", ISS, "2"))

"""The guard's quick way for verified tokens: when it is taken, and what it must not overlook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from consumers.denylist.memory import MemoryDenyList
from consumers.freshness import Freshness
from consumers.guard import Guard, Status, refusal_of
from revoker.errors import DenyListUnreadable, NotProven
from revoker.events import Claim, Client, Digest, Everything, Issuer, Key, Revocation, Selector, Session, Subject, Token
from revoker.tokens import TokenRevoked, Verified
from tests.unit.guard_bench import ISS, LIFETIMES, NOW, RAW, Bench, claims, kind_of


def verified(*, kid: str | None = "k", **changes: Any) -> Verified:
    return Verified(claims=claims(**changes), kid=kid, raw=RAW)


def quickly(bench: Bench, token: Verified) -> bool:
    """Whether the token passes without being asked about properly: the quick way has one answer for all."""
    return bench.guard.check_verified(token) is bench.guard.check_verified(token)


def test_an_ordinary_token_takes_the_quick_way() -> None:
    """Live, with other tokens, sessions and subjects revoked, an ordinary token is answered at once."""
    bench = Bench()
    for selector in (Token(iss=ISS, jti="x"), Session(iss=ISS, sid="x"), Subject(iss=ISS, sub="x")):
        bench.revoke(selector, cutoff=NOW)
        assert quickly(bench, verified())


def test_one_decision_serves_until_something_further_is_proved() -> None:
    """The same object answers every token; a new proof makes one with its own as_of."""
    bench = Bench()
    first = bench.guard.check_verified(verified())
    assert bench.guard.check_verified(verified(jti="other")) is first
    bench.prove()
    second = bench.guard.check_verified(verified())
    assert first.as_of != second.as_of == bench.freshness.as_of


@pytest.mark.parametrize(
    ("selector", "cutoff"),
    [
        (Token(iss=ISS, jti="j"), None),
        (Session(iss=ISS, sid="s"), None),
        (Subject(iss=ISS, sub="u"), NOW),
        (Client(iss=ISS, client_id="c"), NOW),
        (Client(iss=ISS, client_id="party"), NOW),
        (Claim(iss=ISS, claim="sub", value="u"), NOW),
        (Claim(iss=ISS, claim="roles", value="a"), NOW),
        (Claim(iss=ISS, claim="level", value="5"), NOW),
        (Key(iss=ISS, kid="k"), None),
        (Issuer(iss=ISS), NOW),
        (Everything(), NOW),
    ],
)
def test_every_kind_is_found(selector: Selector, cutoff: int | None) -> None:
    """A token that any kind of revocation hits is refused, with that kind."""
    bench = Bench()
    token = verified(azp="party", roles=["a", "b"], level=5)
    assert kind_of(bench.guard.check_verified(token)) is None
    bench.revoke(selector, cutoff=cutoff)
    assert kind_of(bench.guard.check_verified(token)) == selector.kind


def test_a_token_without_jti_is_found_by_its_digest() -> None:
    """A token without jti is hashed once a digest is revoked, and not before."""
    bench = Bench()
    token = verified(jti=...)
    assert quickly(bench, token)
    bench.revoke(Digest(iss=ISS, digest=token.digest))
    assert kind_of(bench.guard.check_verified(token)) == "digest"


def test_a_token_without_kid_is_found_if_any_key_of_its_issuer_was_revoked() -> None:
    """It may have been signed with that key; a token that names another key passes, and quickly."""
    bench = Bench()
    bench.revoke(Key(iss=ISS, kid="leaked"))
    assert kind_of(bench.guard.check_verified(verified(kid=None))) == "key"
    assert quickly(bench, verified(kid="k"))


def test_a_table_that_was_written_anew_is_the_one_looked_at() -> None:
    """After most of a large table has expired, what is revoked next is found, and what is left still is."""
    bench = Bench()
    bench.denylist = MemoryDenyList(max_entries=10_000)
    guard = guard_over(bench.denylist, bench.freshness)
    for number in range(3000):
        lasting = number == 0
        bench.denylist.apply(
            Revocation(
                id=f"event-{number}",
                selector=Token(iss=ISS, jti=f"old-{number}"),
                revoked_at=NOW,
                expires_at=NOW + (500 if lasting else 100),
            )
        )
    bench.denylist.advance(now_s=NOW + 200)
    assert sum(bench.denylist.counts().values()) == 1
    bench.revoke(Token(iss=ISS, jti="new"))
    for jti in ("old-0", "new"):
        assert kind_of(guard.check_verified(verified(jti=jti))) == "token"


@pytest.mark.parametrize("selector", [Everything(), Issuer(iss=ISS), Client(iss=ISS, client_id="c")])
def test_tokens_issued_after_a_wide_rule_stay_quick(selector: Selector) -> None:
    """For a day after "revoke all", everybody's new token meets that rule: it must not cost everybody the long way."""
    bench = Bench()
    bench.revoke(selector, cutoff=NOW - 100)
    assert quickly(bench, verified())
    assert kind_of(bench.guard.check_verified(verified(iat=NOW - 100))) == selector.kind


def test_a_kind_purged_away_is_asked_for_no_longer() -> None:
    """When the last session entry has expired, tokens without jti and with that session pass quickly again."""
    bench = Bench()
    bench.revoke(Session(iss=ISS, sid="s"))
    bench.denylist.advance(now_s=NOW + LIFETIMES.keep_s + 1)
    assert quickly(bench, verified())


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 60 + 3601},  # lives a second too long
        {"iat": NOW + 5000, "exp": NOW + 5600},  # looks short-lived, from the future
        {"exp": ...},
        {"exp": NOW + 7200, "iat": ...},
    ],
)
def test_long_lived_tokens_are_refused(changes: dict[str, Any]) -> None:
    """A token that outlives its own revocation does not slip through the quick way."""
    assert kind_of(Bench().guard.check_verified(verified(**changes))) == "long_lived"


def test_a_token_newer_than_the_last_proof_is_quick_within_the_margin() -> None:
    """A token issued since the last proof passes; one from beyond the clock margin goes the long way."""
    bench = Bench()
    margin_s = LIFETIMES.clock_margin_s
    assert quickly(bench, verified(iat=NOW + margin_s, exp=NOW + margin_s + 60))
    late = verified(iat=NOW + margin_s + 1, exp=NOW + margin_s + 60)
    assert not quickly(bench, late)
    assert kind_of(bench.guard.check_verified(late)) is None


def test_accepted_long_lived_tokens_are_quick() -> None:
    """Where long-lived tokens are accepted, a token needs neither exp nor iat to be quick."""
    assert quickly(Bench(long_lived_tokens="accept"), verified(exp=..., iat=...))


def test_a_stale_node_does_not_know() -> None:
    """Once the proof has run out the quick way answers nothing, and the policy decides."""
    bench = Bench(when_unknown="accept")
    bench.now += 60
    decision = bench.guard.check_verified(verified())
    assert (decision.status, decision.admitted) == (Status.UNKNOWN, True)
    assert not bench.guard.check_verified(verified(), when_unknown="refuse").admitted


def test_both_ways_count_together() -> None:
    """Each answer is counted once, whichever way it went."""
    bench = Bench()
    bench.guard.check_verified(verified())
    bench.check()
    bench.revoke(Token(iss=ISS, jti="j"))
    bench.guard.check_verified(verified())
    bench.guard.check_verified(verified(jti="other"))
    assert dict(bench.guard.counts) == {"active": 3, "revoked": 1}


class OnLookUp(MemoryDenyList):
    """A real deny list during whose look-ups something happens."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__(max_entries=10)
        self._happens = happens
        self.suspects = self._asked

    def _asked(self, _claims: Mapping[str, Any], _kid: str | None) -> bool:
        self._happens()
        return False

    @property
    def kinds(self) -> AbstractSet[str]:
        self._happens()
        return super().kinds


def guard_over(store: MemoryDenyList, freshness: Freshness, **kwargs: Any) -> Guard:
    return Guard(denylist=store, freshness=freshness, lifetimes=LIFETIMES, wall=lambda: NOW, **kwargs)


def both_ways(guard: Guard) -> list[Any]:
    return [guard.check_verified(verified()), guard.check(claims(), kid="k", token=RAW)]


def test_a_process_suspended_during_a_look_up_does_not_answer_from_it() -> None:
    """If a minute passes between the look-up and the answer, what was looked at is too old to answer from."""
    bench = Bench()

    def suspended() -> None:
        bench.now += 60

    for ask in (0, 1):
        bench.prove()
        guard = guard_over(OnLookUp(suspended), bench.freshness)
        decision = guard.check_verified(verified()) if ask else guard.check(claims(), kid="k", token=RAW)
        assert decision.status is Status.UNKNOWN


def test_a_proof_that_comes_during_a_look_up_is_not_claimed_by_it() -> None:
    """as_of never names a proof later than the look-up: what came with it may not have been looked at."""
    bench = Bench()
    guard = guard_over(OnLookUp(bench.prove), bench.freshness)
    for _ in range(2):
        before = bench.freshness.as_of
        assert guard.check_verified(verified()).as_of == before
        before = bench.freshness.as_of
        assert guard.check(claims(), kid="k", token=RAW).as_of == before


def test_a_deny_list_that_cannot_be_read_admits_nobody() -> None:
    """It is UNKNOWN with the reason, under whatever policy, and answered 503."""

    def unreadable() -> None:
        raise DenyListUnreadable("the table is of another version")

    bench = Bench()
    guard = guard_over(OnLookUp(unreadable), bench.freshness, when_unknown="accept")
    for decision in both_ways(guard):
        assert (decision.status, decision.admitted, decision.kind) == (Status.UNKNOWN, False, None)
        assert "another version" in str(decision.reason)
        assert isinstance(refusal_of(decision), NotProven)
    assert dict(guard.counts) == {"unknown": 2}
    assert DenyListUnreadable("x").http_status == 503


def test_malformed_claims_are_refused_before_the_deny_list_is_read() -> None:
    """What a token's shape already refuses is 401, whether or not the deny list can be read."""

    def unreadable() -> None:
        raise DenyListUnreadable("gone")

    guard = guard_over(OnLookUp(unreadable), Bench().freshness)
    assert isinstance(refusal_of(guard.check_verified(verified(jti=5))), TokenRevoked)

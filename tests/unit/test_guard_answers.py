"""The guard where it cannot simply look up: strange claims, tokens that live too long, and nobody knows."""

from __future__ import annotations

import inspect
from typing import Any

import jwt
import pytest

from consumers.guard import Decision, Policy, Status
from revoker.errors import NotProven
from revoker.events import Digest, Session, Subject, Token
from revoker.tokens import TokenRevoked
from tests.unit.guard_bench import ISS, NOW, SURROGATE, Bench, claims, kind_of, short


@pytest.fixture
def bench() -> Bench:
    """A live node with an empty deny list."""
    return Bench()


class TestStrangeClaims:
    @pytest.mark.parametrize("name", ["iss", "jti", "sid", "sub", "client_id", "azp"])
    @pytest.mark.parametrize(
        "value", [7, 7.5, True, None, [], ["u"], {"a": {"b": 1}}, b"u", SURROGATE, "x" * 1025], ids=short
    )
    def test_an_identifier_of_a_strange_shape_is_refused(self, bench: Bench, name: str, value: Any) -> None:
        """An identifier no revocation could name is refused with a reason that names the claim and not its value."""
        decision = bench.check(**{name: value})
        assert kind_of(decision) == "malformed"
        assert decision.reason is not None
        assert f"claim {name} " in decision.reason

    @pytest.mark.parametrize("name", ["jti", "sid", "sub", "client_id", "azp"])
    def test_an_empty_identifier_is_refused(self, bench: Bench, name: str) -> None:
        """No revocation can name an empty identifier, so a token that has one could never be revoked by it."""
        assert kind_of(bench.check(**{name: ""})) == "malformed"

    @pytest.mark.parametrize("name", ["iat", "exp"])
    @pytest.mark.parametrize(
        "value", [None, "1", True, [], {}, float("nan"), float("inf"), -float("inf"), 10**400, 1e300], ids=short
    )
    def test_a_time_of_a_strange_shape_is_refused(self, bench: Bench, name: str, value: Any) -> None:
        """What is no time in seconds cannot be compared with a cut-off, and is refused with a reason."""
        decision = bench.check(**{name: value})
        assert kind_of(decision) == "malformed"
        assert decision.reason is not None
        assert f"claim {name} " in decision.reason

    @pytest.mark.parametrize("value", [None, [], "claims", 7], ids=repr)
    def test_claims_that_are_no_object_are_refused(self, bench: Bench, value: Any) -> None:
        """Claims of any other type are refused, not crashed on."""
        assert kind_of(bench.guard.check(value)) == "malformed"

    def test_a_token_without_jti_needs_the_token_itself(self, bench: Bench) -> None:
        """Without jti and without the token nothing could recognise it: refused, even if no digest is revoked yet."""
        assert kind_of(bench.check(jti=..., token=None)) == "malformed"

    @pytest.mark.parametrize("token", ["", "a.b", "a.b.c.d.e", "ü.b.c", SURROGATE, 7, b"a.b.c"], ids=short)
    def test_a_token_that_is_no_token_is_refused_where_digests_matter(self, bench: Bench, token: Any) -> None:
        """Text that is no compact JWS has no digest to look up."""
        bench.revoke(Digest(iss=ISS, digest="0" * 64))
        assert kind_of(bench.check(jti=..., token=token)) == "malformed"

    def test_the_reason_never_quotes_the_token(self, bench: Bench) -> None:
        """Reasons end up in logs and responses, so no identifier may stand in them."""
        bench.revoke(Subject(iss=ISS, sub="secret-subject"), cutoff=NOW)
        reason = bench.check(sub="secret-subject", jti="secret-jti").reason
        assert reason is not None
        assert "secret" not in reason


class TestLongLived:
    @pytest.mark.parametrize(
        "changes",
        [
            {"exp": ...},
            {"iat": NOW, "exp": NOW + 3601},
            {"iat": ..., "exp": NOW + 3600 + 301},
            {"iat": NOW + 10**6, "exp": NOW + 10**6 + 60},
        ],
        ids=["never expires", "lives longer", "has longer left, without iat", "issued in the far future"],
    )
    def test_a_token_that_outlives_revocations_is_refused(self, changes: dict[str, Any]) -> None:
        """Its revocation would be forgotten first, so it is refused, unless the setting accepts such tokens."""
        bench = Bench()
        bench.now = 0.0
        assert kind_of(bench.check(**changes)) == "long_lived"
        assert kind_of(Bench(long_lived_tokens="accept").check(**changes)) is None

    @pytest.mark.parametrize("changes", [{"iat": NOW, "exp": NOW + 3600}, {"iat": ..., "exp": NOW + 3600}])
    def test_a_token_of_the_longest_life_passes(self, bench: Bench, changes: dict[str, Any]) -> None:
        """The longest life itself is allowed."""
        assert kind_of(bench.check(**changes)) is None

    def test_an_accepted_long_lived_token_is_still_looked_up(self) -> None:
        """Accepting long-lived tokens does not exempt them from the deny list."""
        bench = Bench(long_lived_tokens="accept")
        bench.revoke(Token(iss=ISS, jti="j"))
        assert kind_of(bench.check(exp=...)) == "token"


class TestUnknown:
    def stale(self, **kwargs: Any) -> Bench:
        bench = Bench(**kwargs)
        bench.now += 60
        return bench

    def test_unknown_is_refused_by_default_and_says_what_is_missing(self) -> None:
        """A node that lost its proofs answers UNKNOWN, does not admit, and names the missing proof."""
        decision = self.stale().check()
        assert (decision.status, decision.admitted, decision.kind) == (Status.UNKNOWN, False, None)
        assert decision.reason is not None
        assert decision.reason.startswith("poll: ")

    def test_unknown_is_admitted_under_accept_and_counted(self) -> None:
        """Under the policy accept the request goes on, flagged UNKNOWN and counted apart."""
        bench = self.stale(when_unknown="accept")
        decision = bench.check()
        assert (decision.status, decision.admitted) == (Status.UNKNOWN, True)
        assert (bench.guard.counts["unknown"], bench.guard.counts["accepted_unknown"]) == (1, 1)

    @pytest.mark.parametrize(
        ("general", "route", "admitted"), [("refuse", "accept", True), ("accept", "refuse", False)]
    )
    def test_a_routes_policy_overrides_the_guards(self, general: Policy, route: Policy, admitted: bool) -> None:
        """A route that names a policy gets it, whatever the guard's."""
        bench = self.stale(when_unknown=general)
        assert bench.guard.check(claims(), kid="k", when_unknown=route).admitted is admitted

    def test_before_first_ready_no_policy_admits(self) -> None:
        """A node that never was live knows nothing: accept does not apply."""
        bench = Bench(live=False, when_unknown="accept")
        decision = bench.guard.check(claims(), kid="k", when_unknown="accept")
        assert (decision.status, decision.admitted, decision.as_of) == (Status.UNKNOWN, False, None)

    def test_accept_holds_no_longer_than_the_outage_budget(self) -> None:
        """From the budget's end, counted from the end of the last proof, accept is refuse, and the reason says so."""
        bench = Bench(when_unknown="accept", outage_budget_s=60)
        end_of_proof = bench.freshness.fresh_until
        bench.now = end_of_proof + 59
        assert bench.check().admitted
        bench.now = end_of_proof + 60
        decision = bench.check()
        assert (decision.status, decision.admitted) == (Status.UNKNOWN, False)
        assert decision.reason is not None
        assert "outage_budget_s" in decision.reason
        assert bench.guard.counts["accepted_unknown"] == 1

    def test_a_new_attempt_to_follow_is_no_new_budget(self) -> None:
        """A follower that starts over again and again does not extend the outage it is in."""
        bench = Bench(when_unknown="accept", outage_budget_s=60)
        for _ in range(10):
            bench.now += 10
            bench.freshness.connecting("no broker reached")
            bench.freshness.begin(starts={0: 0}, barriers={0: 5})
        assert not bench.check().admitted

    def test_a_proof_that_ends_early_starts_the_budget_then(self) -> None:
        """When the follower's session fails, the outage begins, not when the proof would have run out."""
        bench = Bench(when_unknown="accept", outage_budget_s=60)
        failed_at = bench.now
        bench.freshness.connecting("the topic was replaced")
        bench.now = failed_at + 60
        assert not bench.check().admitted

    def test_a_proof_regained_renews_the_budget(self) -> None:
        """After a node was live again, the next outage has the whole budget."""
        bench = Bench(when_unknown="accept", outage_budget_s=60)
        bench.now += 500
        assert not bench.check().admitted
        bench.prove()
        bench.now = bench.freshness.fresh_until + 59
        assert bench.check().admitted

    def test_a_node_that_has_stopped_accepts_nothing(self) -> None:
        """Closed, dead or forked away from its follower is no outage that could end: the policy does not apply."""
        bench = Bench(when_unknown="accept", outage_budget_s=60)
        bench.freshness.stop("closed")
        assert not bench.check().admitted

    @pytest.mark.parametrize("live", [True, False])
    def test_what_is_known_to_be_revoked_is_revoked_whatever_the_state(self, live: bool) -> None:
        """A stale or replaying node still refuses with 401 what it knows to be revoked."""
        bench = Bench(live=live, when_unknown="accept")
        bench.revoke(Token(iss=ISS, jti="j"))
        bench.now += 60
        assert kind_of(bench.check()) == "token"

    def test_answers_are_counted_by_status(self, bench: Bench) -> None:
        """Every answer is counted once."""
        bench.check()
        bench.revoke(Token(iss=ISS, jti="j"))
        bench.check()
        bench.now += 60
        bench.check(jti="other")
        assert dict(bench.guard.counts) == {"active": 1, "revoked": 1, "unknown": 1}


class TestEnforce:
    def test_an_active_token_gets_its_decision(self, bench: Bench) -> None:
        """enforce returns what check returns if the token may pass."""
        assert bench.guard.enforce(claims(), kid="k") == bench.check()

    def test_a_revoked_token_raises_what_jwt_handlers_catch(self, bench: Bench) -> None:
        """TokenRevoked is a jwt.InvalidTokenError, so code that answers 401 for those needs no change."""
        bench.revoke(Session(iss=ISS, sid="s"))
        with pytest.raises(jwt.InvalidTokenError, match="session was revoked") as caught:
            bench.guard.enforce(claims(), kid="k")
        assert isinstance(caught.value, TokenRevoked)
        assert caught.value.kind == "session"

    def test_unknown_raises_not_proven(self) -> None:
        """NotProven is no token error: it is answered 503, and says which proof is missing."""
        bench = Bench()
        bench.now += 60
        with pytest.raises(NotProven, match="poll") as caught:
            bench.guard.enforce(claims(), kid="k")
        assert not isinstance(caught.value, jwt.InvalidTokenError)
        assert bench.guard.enforce(claims(), kid="k", when_unknown="accept").admitted


def test_a_check_awaits_and_asks_nothing(bench: Bench) -> None:
    """check is a plain function: it answers without a running event loop."""
    assert not inspect.iscoroutinefunction(bench.guard.check)
    assert isinstance(bench.check(), Decision)

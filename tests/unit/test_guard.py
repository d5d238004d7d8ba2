"""The guard: which tokens each kind of revocation refuses, and which it does not."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from consumers.guard import Status
from revoker.events import (
    Claim,
    Client,
    Digest,
    Everything,
    Issuer,
    Key,
    Selector,
    Session,
    Subject,
    Token,
    Withdrawal,
)
from revoker.tokens import Verified
from tests.unit.guard_bench import ISS, NOW, RAW, SURROGATE, Bench, claims, kind_of, short


@pytest.fixture
def bench() -> Bench:
    """A live node with an empty deny list."""
    return Bench()


class TestEveryKind:
    def test_an_unrevoked_token_is_active(self, bench: Bench) -> None:
        """With nothing revoked a token is active, admitted, without a reason, and dated."""
        decision = bench.check()
        assert (decision.status, decision.admitted, decision.kind, decision.reason) == (Status.ACTIVE, True, None, None)
        assert decision.as_of is not None
        assert decision.as_of <= NOW + bench.now

    @pytest.mark.parametrize(
        ("selector", "cutoff"),
        [
            (Token(iss=ISS, jti="j"), None),
            (Session(iss=ISS, sid="s"), None),
            (Subject(iss=ISS, sub="u"), NOW),
            (Client(iss=ISS, client_id="c"), NOW),
            (Claim(iss=ISS, claim="tenant", value="t"), NOW),
            (Key(iss=ISS, kid="k"), NOW),
            (Key(iss=ISS, kid="k"), None),
            (Issuer(iss=ISS), NOW),
            (Everything(), NOW),
        ],
        ids=lambda value: (
            value.kind
            if isinstance(value, Token | Session | Subject | Client | Claim | Key | Issuer | Everything)
            else ""
        ),
    )
    def test_each_kind_refuses_its_token_and_says_so(
        self, bench: Bench, selector: Selector, cutoff: int | None
    ) -> None:
        """A revocation of each kind refuses the token it selects, and the decision names the kind."""
        bench.revoke(selector, cutoff=cutoff)
        assert kind_of(bench.check(tenant="t")) == selector.kind

    @pytest.mark.parametrize(
        ("selector", "cutoff"),
        [
            (Token(iss="https://other.example", jti="j"), None),
            (Session(iss="https://other.example", sid="s"), None),
            (Subject(iss="https://other.example", sub="u"), NOW),
            (Client(iss="https://other.example", client_id="c"), NOW),
            (Claim(iss="https://other.example", claim="tenant", value="t"), NOW),
            (Key(iss="https://other.example", kid="k"), None),
            (Issuer(iss="https://other.example"), NOW),
        ],
    )
    def test_another_issuers_revocation_does_not_refuse(
        self, bench: Bench, selector: Selector, cutoff: int | None
    ) -> None:
        """Identifiers are unique per issuer only, so another issuer's revocation of the same name is no hit."""
        bench.revoke(selector, cutoff=cutoff)
        assert kind_of(bench.check(tenant="t")) is None

    def test_a_token_without_issuer_is_under_the_empty_one(self, bench: Bench) -> None:
        """Tokens that name no issuer are revoked under the empty name."""
        bench.revoke(Token(iss="", jti="j"))
        assert kind_of(bench.check(iss=...)) == "token"

    @pytest.mark.parametrize("token", [RAW, Verified(claims={}, kid=None, raw=RAW)], ids=["text", "verified"])
    def test_a_token_without_jti_is_known_by_its_digest(self, bench: Bench, token: str | Verified) -> None:
        """Without jti the SHA-256 of header.payload decides, whatever the signature is spelled like."""
        bench.revoke(Digest(iss=ISS, digest=hashlib.sha256(RAW.rpartition(".")[0].encode()).hexdigest()))
        assert kind_of(bench.check(jti=..., token=token)) == "digest"
        assert kind_of(bench.check(jti=..., token="eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJ5In0.c2ln")) is None

    def test_a_token_with_jti_is_not_looked_up_by_digest(self, bench: Bench) -> None:
        """A token is revoked by its jti if it has one, so a digest does not hit it."""
        bench.revoke(Digest(iss=ISS, digest=hashlib.sha256(RAW.rpartition(".")[0].encode()).hexdigest()))
        assert kind_of(bench.check(token=RAW)) is None

    def test_azp_names_a_client_as_well(self, bench: Bench) -> None:
        """OpenID Connect says azp where RFC 9068 says client_id; either is hit."""
        bench.revoke(Client(iss=ISS, client_id="app"), cutoff=NOW)
        assert kind_of(bench.check(client_id=..., azp="app")) == "client"
        assert kind_of(bench.check(client_id="c", azp="app")) == "client"


class TestCutoffs:
    @pytest.mark.parametrize(
        ("iat", "kind"),
        [(NOW - 1, "subject"), (NOW, "subject"), (NOW + 0.9, "subject"), (NOW + 1, None), (..., "subject")],
        ids=["before", "the same second", "a fraction later", "the next second", "without iat"],
    )
    def test_the_time_of_issue_decides_in_whole_seconds(self, bench: Bench, iat: Any, kind: str | None) -> None:
        """Issued at or before the cut-off's second is refused, and so is what does not say when it was issued."""
        bench.revoke(Subject(iss=ISS, sub="u"), cutoff=NOW)
        assert kind_of(bench.check(iat=iat)) == kind

    def test_a_missing_iat_alone_refuses_nothing(self, bench: Bench) -> None:
        """Only a cut-off that matches the token needs its iat."""
        bench.revoke(Subject(iss=ISS, sub="somebody else"), cutoff=NOW)
        assert kind_of(bench.check(iat=...)) is None

    @pytest.mark.parametrize("order", [(NOW - 100, NOW), (NOW, NOW - 100)])
    def test_a_weaker_rule_does_not_shadow_a_stronger_one(self, bench: Bench, order: tuple[int, int]) -> None:
        """Of two cut-offs for one subject, in either order, the later refuses."""
        for cutoff in order:
            bench.revoke(Subject(iss=ISS, sub="u"), cutoff=cutoff)
        assert kind_of(bench.check()) == "subject"

    def test_any_one_of_several_rules_refuses(self, bench: Bench) -> None:
        """A subject's old cut-off that lets the token pass does not keep the issuer's from refusing it."""
        bench.revoke(Subject(iss=ISS, sub="u"), cutoff=NOW - 1000)
        bench.revoke(Client(iss=ISS, client_id="c"), cutoff=NOW - 1000)
        bench.revoke(Issuer(iss=ISS), cutoff=NOW)
        assert kind_of(bench.check()) == "issuer"

    def test_a_withdrawn_rule_no_longer_refuses(self, bench: Bench) -> None:
        """After its withdrawal the panic button lets tokens pass again."""
        bench.revoke(Everything(), cutoff=NOW, event_id="panic")
        bench.revoke(Withdrawal(event_id="panic"))
        assert kind_of(bench.check()) is None

    @pytest.mark.parametrize(
        ("spare", "changes", "kind"),
        [
            ({"spare_sid": "s"}, {}, None),
            ({"spare_sid": "s"}, {"sid": "other"}, "subject"),
            ({"spare_sid": "s"}, {"sid": ...}, "subject"),
            ({"spare_jti": "j"}, {"sid": ...}, None),
            ({"spare_jti": "j"}, {"jti": "other"}, "subject"),
            ({"spare_jti": "j"}, {"jti": "other", "sid": "j"}, "subject"),
        ],
    )
    def test_only_the_spared_session_or_token_passes(
        self, bench: Bench, spare: dict[str, str], changes: dict[str, Any], kind: str | None
    ) -> None:
        """Logging out elsewhere refuses everything of the subject but what it spares."""
        bench.revoke(Subject(iss=ISS, sub="u", **spare), cutoff=NOW)
        assert kind_of(bench.check(**changes)) == kind

    def test_sparing_does_not_undo_a_full_logout(self, bench: Bench) -> None:
        """A session spared by one rule is still refused by another that spares nothing."""
        bench.revoke(Subject(iss=ISS, sub="u", spare_sid="s"), cutoff=NOW)
        bench.revoke(Subject(iss=ISS, sub="u"), cutoff=NOW)
        assert kind_of(bench.check()) == "subject"


class TestKeys:
    def test_a_token_that_names_no_key_may_be_the_revoked_keys(self, bench: Bench) -> None:
        """Without kid it cannot be told which key signed, so a revoked key of the issuer refuses."""
        bench.revoke(Key(iss=ISS, kid="other"))
        assert kind_of(bench.check(kid=None)) == "key"

    def test_a_token_that_names_no_key_but_was_issued_after_the_cutoff_passes(self, bench: Bench) -> None:
        """Whichever key signed it, the key's cut-off does not reach a later token."""
        bench.revoke(Key(iss=ISS, kid="other"), cutoff=NOW - 100)
        assert kind_of(bench.check(kid=None)) is None

    def test_a_withdrawn_key_rule_does_not_refuse_tokens_without_kid(self, bench: Bench) -> None:
        """A key rule taken back is taken back for tokens that name no key, too."""
        bench.revoke(Key(iss=ISS, kid="other"), event_id="mistake")
        bench.revoke(Withdrawal(event_id="mistake"))
        assert kind_of(bench.check(kid=None)) is None

    def test_another_issuers_key_does_not_refuse_a_token_without_kid(self, bench: Bench) -> None:
        """A key belongs to its issuer."""
        bench.revoke(Key(iss="https://other.example", kid="k"))
        assert kind_of(bench.check(kid=None)) is None

    def test_a_kid_that_is_no_string_is_refused_where_keys_are_revoked(self, bench: Bench) -> None:
        """While a key is revoked, a kid that cannot be compared hides which key signed."""
        bench.revoke(Key(iss="https://other.example", kid="k"))
        assert kind_of(bench.guard.check(claims(), kid=7)) == "malformed"  # type: ignore[arg-type]


class TestClaims:
    @pytest.mark.parametrize(
        ("held", "value"),
        [
            ("t", "t"),
            (["a", "t"], "t"),
            ([["t"]], '["t"]'),
            (5, "5"),
            ("5", "5"),
            ([4, 5], "5"),
            (1.5, "1.5"),
            (True, "true"),
            (None, "null"),
            ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
            ("", ""),
            (0, "0"),
        ],
        ids=repr,
    )
    def test_a_claim_matches_by_value_or_element(self, bench: Bench, held: Any, value: str) -> None:
        """Strings, numbers, null and objects are compared in one normal form; a list matches by any element."""
        bench.revoke(Claim(iss=ISS, claim="tenant", value=value), cutoff=NOW)
        assert kind_of(bench.check(tenant=held)) == "claim"
        assert kind_of(bench.check(tenant="another")) is None
        assert kind_of(bench.check()) is None

    def test_the_name_is_part_of_the_match(self, bench: Bench) -> None:
        """The same value in another claim is no hit."""
        bench.revoke(Claim(iss=ISS, claim="tenant", value="t"), cutoff=NOW)
        assert kind_of(bench.check(role="t")) is None

    @pytest.mark.parametrize("held", [SURROGATE, [SURROGATE], 10**5000, object(), {"x": SURROGATE}], ids=short)
    def test_a_claim_that_cannot_be_compared_is_refused_where_rules_name_it(self, bench: Bench, held: Any) -> None:
        """What has no JSON form may hide the revoked value; where no rule names the claim it does not matter."""
        assert kind_of(bench.check(tenant=held)) is None
        bench.revoke(Claim(iss=ISS, claim="tenant", value="t"), cutoff=NOW)
        assert kind_of(bench.check(tenant=held)) == "malformed"

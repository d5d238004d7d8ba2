"""Composing an event: defaults, checks, and what a logout revokes, before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest

from revoker.errors import InvalidRevocation, TokenOutlivesTopic
from revoker.events import (
    KINDS,
    Claim,
    Client,
    Digest,
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
from revoker.expiry import Lifetimes
from revoker.publisher import compose, logout_selector
from revoker.record import decode, encode
from revoker.tokens import Verified

ISS = "https://issuer.example"
NOW = 1_800_000_000
LIFETIMES = Lifetimes(longest_token_life_s=3600, leeway_s=30, clock_margin_s=300)
KEEP_S = 3600 + 30 + 300
RAW = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"

TOKEN = Token(iss=ISS, jti="j")
DIGEST = Digest(iss=ISS, digest="0" * 64)
SESSION = Session(iss=ISS, sid="s")
SUBJECT = Subject(iss=ISS, sub="u")
CLIENT = Client(iss=ISS, client_id="c")
CLAIM = Claim(iss=ISS, claim="tenant", value="t")
KEY = Key(iss=ISS, kid="k")
ISSUER = Issuer(iss=ISS)
EVERYTHING = Everything()
WITHDRAWAL = Withdrawal(event_id="e-0")
ALL_KINDS = [TOKEN, DIGEST, SESSION, SUBJECT, CLIENT, CLAIM, KEY, ISSUER, EVERYTHING, WITHDRAWAL]


def of(selector: Selector, **arguments: Any) -> Revocation:
    return compose(selector=selector, lifetimes=LIFETIMES, now_s=NOW, event_id="e-1", **arguments)


def by_kind(selector: Selector) -> str:
    return selector.kind


class TestCompose:
    @pytest.mark.parametrize("selector", ALL_KINDS, ids=by_kind)
    def test_every_kind_can_be_composed_from_its_selector_alone(self, selector: Selector) -> None:
        """What is composed can be written and is read back equal, with id and time as given."""
        revocation = of(selector)
        assert (revocation.id, revocation.selector, revocation.revoked_at) == ("e-1", selector, NOW)
        assert decode(encode(revocation)[1]) == revocation

    def test_every_kind_is_tried(self) -> None:
        """The examples hold every kind there is."""
        assert {selector.kind for selector in ALL_KINDS} == set(KINDS)

    @pytest.mark.parametrize("selector", [SUBJECT, CLIENT, CLAIM, ISSUER, EVERYTHING], ids=by_kind)
    def test_a_cutoff_defaults_to_now(self, selector: Selector) -> None:
        """Revoking a subject means every token issued so far."""
        assert of(selector).cutoff == NOW

    @pytest.mark.parametrize("selector", [TOKEN, DIGEST, SESSION, KEY, WITHDRAWAL], ids=by_kind)
    def test_what_is_revoked_for_good_has_no_cutoff(self, selector: Selector) -> None:
        """Exact kinds and withdrawals have none, and a key by default is revoked whenever its tokens were issued."""
        assert of(selector).cutoff is None

    def test_a_key_may_have_a_cutoff(self) -> None:
        """A key that leaked at a known time can be revoked until then."""
        assert of(KEY, cutoff=NOW - 5).cutoff == NOW - 5

    @pytest.mark.parametrize("selector", [TOKEN, DIGEST], ids=by_kind)
    def test_a_tokens_own_expiry_bounds_its_entry(self, selector: Selector) -> None:
        """With exp known the entry lives as long as the token, with leeway and margin."""
        assert of(selector, exp=NOW + 10.5).expires_at == NOW + 11 + 330

    def test_a_withdrawal_outlives_every_rule_it_may_take_back(self) -> None:
        """A rule published this very second with the latest cut-off allowed is gone before its withdrawal."""
        assert of(WITHDRAWAL).expires_at >= of(EVERYTHING, cutoff=NOW + 60).expires_at

    def test_reason_and_actor_are_carried(self) -> None:
        """Why and by whom stand in the record."""
        revocation = of(TOKEN, reason="stolen", actor="security")
        assert (revocation.reason, revocation.actor) == ("stolen", "security")


class TestRefused:
    @pytest.mark.parametrize("cutoff", [NOW + 61, NOW * 1000])
    def test_a_cutoff_in_the_future_is_refused(self, cutoff: int) -> None:
        """More than 60 s ahead of the clock, milliseconds among it, it would refuse later logins."""
        with pytest.raises(InvalidRevocation, match=r"in the future, at most 60 s|no whole number"):
            of(SUBJECT, cutoff=cutoff)

    def test_a_cutoff_a_minute_ahead_is_allowed(self) -> None:
        """Clocks differ: an issuer slightly ahead must be coverable."""
        assert of(SUBJECT, cutoff=NOW + 60).expires_at == NOW + 60 + KEEP_S

    @pytest.mark.parametrize("cutoff", [-1, 1.5, True, "1", float("nan"), float("-inf"), 10**400])
    def test_a_cutoff_that_is_no_whole_second_is_refused(self, cutoff: Any) -> None:
        """A cut-off is a whole number of Unix seconds, and the error names it."""
        with pytest.raises(InvalidRevocation, match="cutoff"):
            of(SUBJECT, cutoff=cutoff)

    @pytest.mark.parametrize("selector", [TOKEN, DIGEST, SESSION, WITHDRAWAL], ids=by_kind)
    def test_a_cutoff_for_what_has_none_is_refused(self, selector: Selector) -> None:
        """A caller who gives a cut-off to an exact kind misunderstands it."""
        with pytest.raises(InvalidRevocation, match=f"kind {selector.kind} has no cutoff"):
            of(selector, cutoff=NOW)

    @pytest.mark.parametrize("selector", [SESSION, SUBJECT, KEY, EVERYTHING, WITHDRAWAL], ids=by_kind)
    def test_an_exp_for_what_has_none_is_refused(self, selector: Selector) -> None:
        """Only a single token has an expiry."""
        with pytest.raises(InvalidRevocation, match="exp belongs to a single token"):
            of(selector, exp=NOW + 5)

    @pytest.mark.parametrize("exp", [-1, True, "1", float("nan"), float("inf"), 10**400])
    def test_an_exp_that_is_no_time_is_refused(self, exp: Any) -> None:
        """An expiry is Unix seconds, and the error names it."""
        with pytest.raises(InvalidRevocation, match="exp is no time"):
            of(TOKEN, exp=exp)

    def test_a_token_that_outlives_the_topic_is_refused_before_anything_is_sent(self) -> None:
        """The error names the token's life and the topic's."""
        with pytest.raises(TokenOutlivesTopic, match=r"another 10000 s.* 3600 s"):
            of(TOKEN, exp=NOW + 10_000)

    def test_a_token_that_has_expired_for_everybody_is_refused(self) -> None:
        """There is nothing left to revoke, and a caller that passes an old exp should hear of it."""
        with pytest.raises(InvalidRevocation, match="nothing to revoke"):
            of(TOKEN, exp=NOW - 10_000)

    @pytest.mark.parametrize(
        ("selector", "field"),
        [
            (Token(iss=ISS, jti=""), "jti"),
            (Token(iss=ISS, jti="x" * 1025), "jti"),
            (Token(iss=ISS, jti="\ud800"), "jti"),
            (Token(iss=ISS, jti=7), "jti"),  # type: ignore[arg-type]
            (Digest(iss=ISS, digest="xyz"), "digest"),
            (Subject(iss=ISS, sub="u", spare_sid="a", spare_jti="b"), "spares"),
            (Subject(iss=ISS, sub="u", spare_sid=""), "spare_sid"),
        ],
    )
    def test_a_selector_no_node_could_read_is_refused(self, selector: Selector, field: str) -> None:
        """What could not be read back is refused here, naming the field."""
        with pytest.raises(InvalidRevocation, match=field):
            of(selector)

    @pytest.mark.parametrize(("name", "value"), [("reason", "x" * 1025), ("actor", "\ud800")])
    def test_a_note_no_node_could_read_is_refused(self, name: str, value: str) -> None:
        """Reason and actor are capped and have to have a UTF-8 form."""
        with pytest.raises(InvalidRevocation, match=name):
            of(TOKEN, **{name: value})


class TestLogout:
    def verified(self, **claims: Any) -> Verified:
        return Verified(claims={"iss": ISS, "iat": NOW, "exp": NOW + 60} | claims, kid=None, raw=RAW)

    @pytest.mark.parametrize(
        ("scope", "claims", "selector"),
        [
            ("token", {"jti": "j", "sub": "u"}, TOKEN),
            ("everywhere", {"jti": "j", "sub": "u", "sid": "s"}, SUBJECT),
            ("elsewhere", {"jti": "j", "sub": "u", "sid": "s"}, Subject(iss=ISS, sub="u", spare_sid="s")),
            ("elsewhere", {"jti": "j", "sub": "u"}, Subject(iss=ISS, sub="u", spare_jti="j")),
        ],
    )
    def test_each_scope_ends_what_it_says(self, scope: Any, claims: dict[str, Any], selector: Selector) -> None:
        """This token, all of the subject's, or all but this session's; without sid this token alone is spared."""
        assert logout_selector(self.verified(**claims), scope=scope) == selector

    def test_a_token_without_jti_is_revoked_by_its_digest(self) -> None:
        """Such a token is known by the digest of its signing input."""
        token = self.verified()
        assert logout_selector(token, scope="token") == Digest(iss=ISS, digest=token.digest)

    @pytest.mark.parametrize(
        ("scope", "claims", "missing"),
        [
            ("everywhere", {"jti": "j"}, "the claim sub"),
            ("elsewhere", {"jti": "j"}, "the claim sub"),
            ("elsewhere", {"sub": "u"}, "a claim sid or jti"),
            ("nowhere", {"sub": "u", "jti": "j"}, "must be token, everywhere or elsewhere"),
        ],
    )
    def test_what_the_token_cannot_say_is_refused(self, scope: Any, claims: dict[str, Any], missing: str) -> None:
        """A logout that needs a claim the token lacks, or an unknown scope, is refused with what is needed."""
        with pytest.raises(InvalidRevocation, match=missing):
            logout_selector(self.verified(**claims), scope=scope)

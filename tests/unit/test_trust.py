"""Whom a node believes: keys and their dates, scopes, and who may withdraw whose rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

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
from revoker.signature import Claimed, Signer, read_signature
from revoker.trust import NARROW_KINDS, Refusal, Scope, Trust, TrustedKey, TrustedPublisher, filed_under
from tests.publishers import TOPIC, signer, together, trusted

A, B = "https://a.example", "https://b.example"
EVERY = frozenset(KINDS)
VALUE = b"{}"
NOW_MS = 1_800_000_000_000

#: One selector of each kind, under issuer A where there is one.
SELECTORS: dict[str, Selector] = {
    "token": Token(iss=A, jti="j"),
    "digest": Digest(iss=A, digest="0" * 64),
    "session": Session(iss=A, sid="s"),
    "subject": Subject(iss=A, sub="u"),
    "client": Client(iss=A, client_id="c"),
    "claim": Claim(iss=A, claim="tenant", value="acme"),
    "key": Key(iss=A, kid="k"),
    "issuer": Issuer(iss=A),
    "all": Everything(),
    "withdrawal": Withdrawal(event_id="e"),
}


def claimed(one: Signer, value: bytes = VALUE) -> Claimed | None:
    return read_signature(one.headers(value))


def asked(trust: Trust, claim: Claimed | None, **changes: Any) -> TrustedKey | Refusal:
    arguments: dict[str, Any] = {"value": VALUE, "topic": TOPIC, "timestamp_ms": NOW_MS}
    return trust.signer(claim, **arguments | changes)


def reason(trust: Trust, claim: Claimed | None, **changes: Any) -> str | None:
    found = asked(trust, claim, **changes)
    return found.reason if isinstance(found, Refusal) else None


def publisher(name: str = "p", **scope: Any) -> TrustedPublisher:
    return TrustedPublisher(id=name, scope=Scope(**{"kinds": EVERY} | scope))


class TestSigner:
    def test_a_trusted_signature_names_its_publisher(self) -> None:
        """The answer is the trusted key, with its publisher and scope."""
        found = asked(trusted(signer()), claimed(signer()))
        assert isinstance(found, TrustedKey)
        assert found.publisher.id == "service"

    def test_what_does_not_count_has_a_reason(self) -> None:
        """Each way of not counting is told apart, and none quotes more than the publisher's name."""
        trust, good = trusted(signer()), claimed(signer())
        assert good is not None
        assert reason(trust, None) == "unsigned"
        assert reason(trust, good, value=b"{ }") == "bad_signature"
        assert reason(trust, replace(good, alg="ES256")) == "bad_signature"
        assert reason(trust, good, topic="other") == "wrong_topic"
        assert reason(trust, claimed(signer(topic="other"))) == "wrong_topic"
        assert reason(trust, claimed(signer(key="k9"))) == "unknown_key"
        assert reason(trust, claimed(signer("stranger"))) == "unknown_publisher"
        assert reason(trust, replace(good, kid=signer(key="k9").key.kid)) == "unknown_key"

    def test_a_signature_cannot_be_borrowed(self) -> None:
        """One publisher's signature under another's kid does not verify, for the kid is signed."""
        trust = together(trusted(signer("a", key="k1")), trusted(signer("b", key="k2")))
        good = claimed(signer("a", key="k1"))
        assert good is not None
        assert reason(trust, replace(good, kid=signer("b", key="k2").key.kid)) == "bad_signature"

    @pytest.mark.parametrize(
        ("at_ms", "counts"),
        [(NOW_MS - 1, False), (NOW_MS, True), (NOW_MS + 9, True), (NOW_MS + 10, False), (-1, False)],
    )
    def test_a_keys_dates_are_compared_with_the_record(self, at_ms: int, counts: bool) -> None:
        """From not_before on, until before not_after, by the record's own time: the same on every node, at any time."""
        trust = trusted(signer(), begin_ms=NOW_MS, end_ms=NOW_MS + 10)
        assert reason(trust, claimed(signer()), timestamp_ms=at_ms) == (None if counts else "key_not_valid")

    @pytest.mark.parametrize(("begin_ms", "end_ms"), [(5, None), (None, 5)])
    def test_a_record_without_a_time_is_outside_any_dates(self, begin_ms: int | None, end_ms: int | None) -> None:
        """Kafka's -1 for "no timestamp" is neither before nor after."""
        assert (
            reason(trusted(signer(), begin_ms=begin_ms, end_ms=end_ms), claimed(signer()), timestamp_ms=-1)
            == "key_not_valid"
        )
        assert reason(trusted(signer()), claimed(signer()), timestamp_ms=-1) is None


class TestScope:
    def test_by_default_a_publisher_may_what_a_logout_needs(self) -> None:
        """Single tokens, sessions and subjects; nothing wide, and no withdrawal."""
        allowed = {kind for kind, selector in SELECTORS.items() if Scope().outside(selector) is None}
        assert allowed == NARROW_KINDS == {"token", "digest", "session", "subject"}

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_kind_is_granted_by_name(self, kind: str) -> None:
        """A scope of one kind lets that kind through and no other."""
        scope = Scope(kinds=frozenset({kind}))
        assert {name for name, selector in SELECTORS.items() if scope.outside(selector) is None} == {kind}

    @pytest.mark.parametrize("kind", sorted(EVERY - {"all", "withdrawal"}))
    def test_issuers_limit_every_kind_that_has_one(self, kind: str) -> None:
        """Another issuer's tokens are out of scope; so is the empty issuer."""
        scope = Scope(kinds=EVERY, issuers=frozenset({A}))
        assert scope.outside(SELECTORS[kind]) is None
        assert Scope(kinds=EVERY, issuers=frozenset({B})).outside(SELECTORS[kind]) is not None
        assert Scope(kinds=EVERY, issuers=frozenset({""})).outside(SELECTORS[kind]) is not None

    def test_all_reaches_every_issuer(self) -> None:
        """A publisher limited to some issuers may not press the panic button."""
        assert Scope(kinds=EVERY, issuers=frozenset({A})).outside(Everything()) is not None

    @pytest.mark.parametrize(
        ("claim", "value", "inside"),
        [("tenant", "acme", True), ("tenant", "other", False), ("role", "acme", False), ("device", "any", True)],
    )
    def test_claims_limit_the_kind_claim(self, claim: str, value: str, inside: bool) -> None:
        """Only the claims named, and of each only the values named, or all where none are."""
        scope = Scope(kinds=EVERY, claims={"tenant": frozenset({"acme"}), "device": None})
        assert (scope.outside(Claim(iss=A, claim=claim, value=value)) is None) is inside
        assert scope.outside(Client(iss=A, client_id="c")) is None


class TestFiling:
    def event(self, selector: Selector, event_id: str = "e") -> Revocation:
        return Revocation(id=event_id, selector=selector, revoked_at=0, expires_at=9, cutoff=None)

    def trust(self, *publishers: TrustedPublisher) -> Trust:
        keys = [signer(one.id, key=f"k{number}").key for number, one in enumerate(publishers)]
        return Trust(
            keys={key.kid: TrustedKey(publisher=one, key=key) for key, one in zip(keys, publishers, strict=True)}
        )

    def withdrawn(self, by: TrustedPublisher, *others: TrustedPublisher) -> set[str]:
        """Whose rule of id e a withdrawal by this publisher takes back."""
        filed = self.trust(by, *others).filed(self.event(Withdrawal(event_id="e")), publisher=by)
        selectors = [one.selector for one in filed]
        assert all(isinstance(one, Withdrawal) and filed_under(one.event_id)[1] == "e" for one in selectors)
        return {filed_under(one.event_id)[0] for one in selectors if isinstance(one, Withdrawal)}

    def test_rules_are_filed_under_their_publisher(self) -> None:
        """Two publishers' rules of one id are two rules, and the id can be had back."""
        one = publisher("p")
        (filed,) = self.trust(one).filed(self.event(SELECTORS["client"], "e/1"), publisher=one)
        assert filed.id == "p/e/1"
        assert filed_under(filed.id) == ("p", "e/1")

    @pytest.mark.parametrize("kind", sorted(NARROW_KINDS))
    def test_what_is_final_is_filed_as_it_is(self, kind: str) -> None:
        """Exact kinds and subjects cannot be withdrawn and need no name."""
        one = publisher("p")
        event = self.event(SELECTORS[kind])
        assert self.trust(one).filed(event, publisher=one) == (event,)

    def test_a_publisher_takes_back_its_own_rules(self) -> None:
        """And not those of a publisher that may more."""
        assert self.withdrawn(publisher("p", issuers=frozenset({A})), publisher("q")) == {"p"}

    @pytest.mark.parametrize(
        "narrower",
        [
            {"issuers": frozenset({A})},
            {"kinds": frozenset({"client"})},
            {"claims": {"tenant": frozenset({"acme"})}},
            {},
        ],
    )
    def test_and_those_of_publishers_within_its_scope(self, narrower: dict[str, Any]) -> None:
        """Whoever may publish all that another may is able to take it back too."""
        assert self.withdrawn(publisher("p"), publisher("q", **narrower)) == {"p", "q"}

    @pytest.mark.parametrize(
        ("own", "other"),
        [
            ({"kinds": frozenset({"client", "withdrawal"})}, {"kinds": frozenset({"client", "key"})}),
            ({"issuers": frozenset({A})}, {"issuers": frozenset({A, B})}),
            ({"issuers": frozenset({A})}, {"issuers": None}),
            ({"claims": {"tenant": frozenset({"acme"})}}, {}),
            ({"claims": {"tenant": frozenset({"acme"})}}, {"claims": {"tenant": None}}),
            ({"claims": {"tenant": frozenset({"acme"})}}, {"claims": {"tenant": frozenset({"acme", "b"})}}),
            ({"claims": {"tenant": None}}, {"claims": {"role": frozenset({"x"})}}),
        ],
    )
    def test_but_not_of_those_who_may_anything_more(self, own: dict[str, Any], other: dict[str, Any]) -> None:
        """One kind, issuer, claim or value more, and the rules are out of reach."""
        assert self.withdrawn(publisher("p", **own), publisher("q", **other)) == {"p"}

    def test_a_publisher_without_rules_has_none_to_take_back(self) -> None:
        """Withdrawals are not filed for publishers of narrow kinds: they would only take room."""
        assert self.withdrawn(publisher("p"), TrustedPublisher(id="q", scope=Scope())) == {"p"}

"""What identifies a verified token, however it is spelled."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from revoker.algorithms import ALGORITHMS, bind
from revoker.errors import InvalidRevocation
from revoker.events import Digest, Session, Subject, Token
from revoker.keys import Keys, StaticKeys
from revoker.tokens import (
    TokenMalformed,
    Verified,
    Verifier,
    sign,
    signing_input_digest,
)
from tests.signing import (
    SECRET,
    FixedKeys,
    b64,
    claims,
    private_key,
    secret_keys,
    signing_key,
)

ISSUER = "https://issuer.example"
#: The order of P-256, FIPS 186-5.
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def keys_for(algorithm: str) -> Keys:
    if ALGORITHMS[algorithm] == "secret":
        return StaticKeys(algorithms=[algorithm], secret=SECRET)
    public = private_key(algorithm).public_key()
    return FixedKeys(bind(public, kid=None, allowed=[algorithm]))


def signed(algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: object) -> str:
    return sign(claims(**changes), key=signing_key(algorithm), algorithm=algorithm, headers=headers)


def verifier(**changes: Any) -> Verifier:
    return Verifier(**{"keys": secret_keys(), "algorithms": ["HS256"], **changes})


class TestIdentity:
    def test_a_token_with_jti_is_selected_by_it(self) -> None:
        """The jti under its issuer selects the token."""
        assert verifier().verify(signed()).selector == Token(iss=ISSUER, jti="t-1")

    def test_a_token_without_jti_is_selected_by_its_signing_input(self) -> None:
        """Without jti it is the SHA-256 of the bytes before the last dot, and an absent issuer is the empty text."""
        raw = signed(jti=None, iss=None)
        digest = hashlib.sha256(raw.rpartition(".")[0].encode()).hexdigest()
        assert verifier().verify(raw).selector == Digest(iss="", digest=digest)
        assert signing_input_digest(raw) == digest

    def test_session_and_subject(self) -> None:
        """The sid selects the session and the sub the subject; a token without them has neither."""
        both, neither = verifier().verify(signed()), verifier().verify(signed(sid=None, sub=None))
        assert (both.session, both.subject()) == (Session(iss=ISSUER, sid="s-1"), Subject(iss=ISSUER, sub="alice"))
        assert (neither.session, neither.subject(spare=True)) == (None, None)

    def test_sparing_prefers_the_session_and_falls_back_to_the_token(self) -> None:
        """Sparing spares the session by its sid, or without one the token by its jti."""
        by_sid, by_jti = verifier().verify(signed()), verifier().verify(signed(sid=None))
        assert by_sid.subject(spare=True) == Subject(iss=ISSUER, sub="alice", spare_sid="s-1")
        assert by_jti.subject(spare=True) == Subject(iss=ISSUER, sub="alice", spare_jti="t-1")

    def test_a_token_with_neither_sid_nor_jti_cannot_be_spared(self) -> None:
        """Sparing a token that nothing tells from its siblings is refused rather than ignored."""
        with pytest.raises(InvalidRevocation, match="neither sid nor jti"):
            verifier().verify(signed(sid=None, jti=None)).subject(spare=True)

    def test_times_are_those_of_the_claims(self) -> None:
        """Expiry and issue come out as the claims have them, and None where they may be absent."""
        lax = verifier(required_claims=())
        found, absent = lax.verify(signed(exp=4102444800.5, iat=7)), lax.verify(signed(exp=None, iat=None))
        assert ((found.exp, found.iat), (absent.exp, absent.iat)) == ((4102444800.5, 7), (None, None))

    def test_the_kid_is_that_of_the_key_and_not_of_the_header(self) -> None:
        """A holder of a key cannot relabel tokens: the kid reported is the name of the key that verified them."""
        key = bind(private_key("ES256").public_key(), kid="k-1", allowed=["ES256"])
        relabelled = signed("ES256", headers={"kid": "another"})
        assert Verifier(keys=FixedKeys(key), algorithms=["ES256"]).verify(relabelled).kid == "k-1"

    @pytest.mark.parametrize("signer", ["a", "b"])
    def test_all_candidates_are_tried(self, signer: str) -> None:
        """Where several keys may have signed, the one that did is found, and reported."""
        first, second = (
            bind(private_key("ES256", name).public_key(), kid=name, allowed=["ES256"]) for name in ("a", "b")
        )
        raw = sign(claims(), key=private_key("ES256", signer), algorithm="ES256")
        assert Verifier(keys=FixedKeys(first, second), algorithms=["ES256"]).verify(raw).kid == signer


def spare_bits(raw: str) -> str:
    """The last character of the signature changed in the bits that decoding drops."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return raw[:-1] + alphabet[alphabet.index(raw[-1]) ^ 1]


def negated_s(raw: str) -> str:
    """(r, n-s) for (r, s): verifies as well, and needs no key to compute."""
    signing_input, _, signature = raw.rpartition(".")
    pair = base64.urlsafe_b64decode(signature + "==")
    s = P256_ORDER - int.from_bytes(pair[32:])
    return f"{signing_input}.{b64(pair[:32] + s.to_bytes(32))}"


RESPELLED: dict[str, Callable[[str], str]] = {
    "spare bits": spare_bits,
    "padding": lambda raw: raw + "==",
    "junk": lambda raw: raw + "!!!!",
    "whitespace": lambda raw: raw[:-10] + " \n" + raw[-10:],
    "negated s": negated_s,
}


@pytest.mark.parametrize("name", RESPELLED)
def test_a_respelled_token_without_jti_is_refused_or_is_the_same_token(name: str) -> None:
    """Each way to respell a token without its key is refused or keeps its identity (GHSA-hxm8-2xgr-2p9m)."""
    checking = Verifier(keys=keys_for("ES256"), algorithms=["ES256"])
    raw = signed("ES256", jti=None)
    revoked = checking.verify(raw).selector
    respelled = RESPELLED[name](raw)
    assert respelled != raw
    try:
        found: Verified | None = checking.verify(respelled)
    except jwt.InvalidTokenError:
        found = None
    assert (name == "negated s") == (found is not None), "only (r, n-s) is known to verify"
    assert found is None or found.selector == revoked


def test_the_digest_of_what_is_no_token_is_refused() -> None:
    """A text that is no compact JWS has no digest."""
    with pytest.raises(TokenMalformed):
        signing_input_digest("no token")

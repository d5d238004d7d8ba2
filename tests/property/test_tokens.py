"""Whatever is handed to the verifier, nothing but a refusal comes out."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import jwt
from hypothesis import example, given
from hypothesis import strategies as st

from revoker.algorithms import ALGORITHMS, bind
from revoker.keys import Key, Keys
from revoker.tokens import TokenMalformed, Verified, Verifier, sign, signing_input_digest
from tests.signing import SECRET, FixedKeys, b64, claims, private_key, secret_keys, token_of_bytes

#: One asymmetric algorithm of each kind, whose signature parsers differ.
KINDS = ("RS256", "PS256", "ES256", "ES512", "EdDSA")

HMAC = Verifier(keys=secret_keys(), algorithms=["HS256"], required_claims=())

names = st.sampled_from(["iss", "sub", "sid", "jti", "client_id", "azp", "exp", "iat", "nbf", "aud", "events", "typ"])
members = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "cty", "jku", "x5u", "jwk", "zip", "enc"])
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["HS256", "\ud800", 10**400])
)
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
segments = st.text(alphabet="ABCDEFabcdef019-_", min_size=1, max_size=40)


def judged(verifier: Verifier, raw: Any) -> Verified | None:
    """The verified token or None; anything but jwt.InvalidTokenError goes through, and fails the test."""
    try:
        return verifier.verify(raw)
    except jwt.InvalidTokenError as error:
        message = str(error)
    assert not isinstance(raw, str) or len(raw) < 20 or raw not in message
    return None


def keys_for(algorithm: str) -> Keys:
    public: Key = bind(private_key(algorithm).public_key(), kid=None, allowed=[algorithm])
    return FixedKeys(public)


ASYMMETRIC = {algorithm: Verifier(keys=keys_for(algorithm), algorithms=[algorithm]) for algorithm in KINDS}
SIGNED = {
    algorithm: sign(claims(exp=4102444800), key=private_key(algorithm), algorithm=algorithm) for algorithm in KINDS
}


@given(raw=st.text() | st.binary() | st.none() | st.integers() | segments.map(lambda text: f"{text}.{text}.{text}"))
@example(raw="..")
@example(raw="\ud800")
def test_arbitrary_input_is_refused(raw: Any) -> None:
    """Text, bytes or anything else that nobody signed is refused, and never crashes."""
    assert judged(HMAC, raw) is None


@given(raw=st.text())
def test_the_digest_of_arbitrary_text_is_a_digest_or_a_refusal(raw: str) -> None:
    """Any text has a digest or is refused as malformed."""
    with contextlib.suppress(TokenMalformed):
        assert len(signing_input_digest(raw)) == 64


@given(header=st.dictionaries(members | st.text(), values), payload=st.dictionaries(names | st.text(), values))
def test_arbitrary_header_and_claims_truly_signed_are_judged(header: dict[str, Any], payload: dict[str, Any]) -> None:
    """Any JSON as header and claims, under a signature that holds, has an identity or is refused."""
    for head in (header, {**header, "alg": "HS256"}, {"alg": "HS256"}):
        try:
            raw = token_of_bytes(json.dumps(payload).encode(), header=json.dumps(head).encode())
        except ValueError:
            continue  # an integer too long for Python to write
        verified = judged(HMAC, raw)
        if verified is not None:
            assert verified.selector.key
            assert verified.session is None or verified.session.sid
            assert verified.subject() is None or verified.iss is not None
            assert verified.exp is None or 0 <= float(verified.exp) < 1e12
            assert verified.iat is None or 0 <= float(verified.iat) < 1e12


@given(payload=st.binary(max_size=200), header=st.binary(max_size=60))
def test_arbitrary_bytes_truly_signed_are_judged(payload: bytes, header: bytes) -> None:
    """Any bytes as payload or header, under a signature that holds, are judged without a crash."""
    if payload:
        judged(HMAC, token_of_bytes(payload))
    if header:
        judged(HMAC, token_of_bytes(b"{}", header=header))


@given(algorithm=st.sampled_from(KINDS), signature=st.binary(min_size=1, max_size=600))
def test_arbitrary_signatures_are_refused(algorithm: str, signature: bytes) -> None:
    """Any bytes in place of the signature are refused by every kind of key."""
    raw = SIGNED[algorithm].rpartition(".")[0] + "." + b64(signature)
    assert judged(ASYMMETRIC[algorithm], raw) is None


@given(algorithm=st.sampled_from(KINDS), data=st.data())
def test_a_mutated_token_is_refused_or_the_same_token(algorithm: str, data: st.DataObject) -> None:
    """A valid token with some characters replaced, dropped or added is refused, or names the same token."""
    raw = SIGNED[algorithm]
    start = data.draw(st.integers(0, len(raw)))
    stop = data.draw(st.integers(start, min(len(raw), start + 6)))
    mutated = raw[:start] + data.draw(st.text(alphabet="AZaz09-_.= \n!é", max_size=6)) + raw[stop:]
    verified = judged(ASYMMETRIC[algorithm], mutated)
    assert verified is None or verified.digest == signing_input_digest(raw)
    assert verified is not None or mutated != raw


@given(algorithm=st.sampled_from(sorted(ALGORITHMS)), kid=st.none() | st.text())
def test_a_token_of_any_algorithm_meets_any_key(algorithm: str, kid: str | None) -> None:
    """A token that claims any algorithm and any kid is refused by a verifier of another, whatever its keys."""
    head = {"alg": algorithm} if kid is None else {"alg": algorithm, "kid": kid}
    raw = token_of_bytes(json.dumps(claims()).encode(), header=head)
    for verifier in ASYMMETRIC.values():
        assert judged(verifier, raw) is None
    assert SECRET not in raw

"""`Verifier` checks signatures and claims by itself; PyJWT's `decode` is the reference."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revoker.algorithms import bind
from revoker.tokens import TokenMalformed, Verified, Verifier, sign
from tests.signing import SECRET, FixedKeys, claims, private_key, secret_keys, token_of_bytes

NOW = int(time.time())

#: Far from now, so that no time passes the edge during a test; the edges are in tests/unit/test_token_times.py.
times = st.sampled_from([0, 1, NOW - 7200, NOW - 1800.5, NOW + 1800.5, NOW + 7200, NOW + 10**6])
texts = st.sampled_from(["a", "b", ""])
audiences = st.one_of(texts, st.lists(texts | st.integers(), max_size=3), st.just({"a": 1}), st.none(), st.just(0))
payloads = st.fixed_dictionaries(
    {},
    optional={
        "iat": times,
        "nbf": times,
        "exp": times,
        "iss": texts,
        "aud": audiences,
        "sub": st.just("u"),
        "jti": st.just("j"),
        "scope": st.none() | texts,
    },
)
options = st.fixed_dictionaries(
    {
        "issuer": st.none() | texts,
        "audience": st.lists(texts, max_size=2),
        "leeway_s": st.sampled_from([0, 3600, 0.5]),
        "required_claims": st.lists(st.sampled_from(["exp", "iat", "nbf", "scope", "sub"]), max_size=3),
    }
)


def of_pyjwt(raw: str, key: Any, algorithm: str, **chosen: Any) -> Any:
    """The claims, or the class of the error."""
    audience = chosen["audience"]
    try:
        return jwt.decode(
            raw,
            key,
            algorithms=[algorithm],
            options={"require": chosen["required_claims"], "verify_aud": bool(audience)},
            issuer=chosen["issuer"],
            audience=audience or None,
            leeway=chosen["leeway_s"],
        )
    except jwt.InvalidTokenError as error:
        return type(error)


def of_ours(verifier: Verifier, raw: str) -> Any:
    try:
        found: Verified = verifier.verify(raw)
    except jwt.InvalidTokenError as error:
        return type(error)
    return found.claims


@settings(max_examples=1500, deadline=None)
@given(payload=payloads, chosen=options)
def test_claims_hold_where_pyjwt_says_so(payload: dict[str, Any], chosen: dict[str, Any]) -> None:
    """The same claims, or the same error, whatever is required of issuer, audience, times and presence."""
    raw = token_of_bytes(json.dumps(payload).encode())
    verifier = Verifier(keys=secret_keys(), algorithms=["HS256"], **chosen)
    assert of_ours(verifier, raw) == of_pyjwt(raw, SECRET, "HS256", **chosen)


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "PS256", "ES256", "ES512", "EdDSA"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_token_passes_that_pyjwt_refuses(algorithm: str, data: st.DataObject) -> None:
    """A token spoiled anywhere passes only if PyJWT passes it, with the same claims; what is refused may be more."""
    if algorithm == "HS256":
        signing: Any = SECRET
        checking: Any = SECRET
        keys: Any = secret_keys()
    else:
        signing = private_key(algorithm)
        checking = signing.public_key()
        keys = FixedKeys(bind(checking, kid=None, allowed=[algorithm]))
    raw = sign(claims(exp=4102444800), key=signing, algorithm=algorithm)
    start = data.draw(st.integers(0, len(raw)))
    stop = data.draw(st.integers(start, min(len(raw), start + 3)))
    spoiled = raw[:start] + data.draw(st.text(alphabet="AQgwEIMU019-_.=", max_size=4)) + raw[stop:]
    chosen: dict[str, Any] = {"issuer": None, "audience": [], "leeway_s": 0, "required_claims": ["exp"]}
    ours = of_ours(Verifier(keys=keys, algorithms=[algorithm], required_claims=["exp"]), spoiled)
    theirs = of_pyjwt(spoiled, checking, algorithm, **chosen)
    if isinstance(ours, dict) or not issubclass(ours, TokenMalformed):
        assert ours == theirs

"""At the edges of a token's validity, by a clock that stands still."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from revoker.compact import bytes_of, header_of
from revoker.tokens import TokenMalformed, Verifier, sign
from tests.signing import SECRET, b64, secret_keys

NOW = 1_700_000_000


def judged(now_s: float, leeway_s: float = 0, **claims: Any) -> type[Exception] | None:
    """The error at that time, None if the token holds."""
    verifier = Verifier(
        keys=secret_keys(), algorithms=["HS256"], required_claims=(), leeway_s=leeway_s, wall=lambda: now_s
    )
    try:
        verifier.verify(sign(claims, key=SECRET, algorithm="HS256"))
    except jwt.InvalidTokenError as error:
        return type(error)
    return None


@pytest.mark.parametrize("leeway_s", [0, 30])
@pytest.mark.parametrize("exp", [NOW, NOW + 0.9])
def test_a_token_expires_at_exp_in_whole_seconds_plus_leeway(exp: float, leeway_s: float) -> None:
    """RFC 7519 section 4.1.4: not accepted on or after exp, of which PyJWT drops the fraction."""
    assert judged(NOW - 0.001 + leeway_s, leeway_s, exp=exp) is None
    assert judged(NOW + leeway_s, leeway_s, exp=exp) is jwt.ExpiredSignatureError


@pytest.mark.parametrize("leeway_s", [0, 30])
@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_a_token_holds_from_its_first_second(name: str, leeway_s: float) -> None:
    """iat and nbf may be now, and ahead by the leeway, no more."""
    assert judged(NOW - leeway_s, leeway_s, **{name: NOW}) is None
    assert judged(NOW - leeway_s - 0.001, leeway_s, **{name: NOW}) is jwt.ImmatureSignatureError


@pytest.mark.parametrize("size", range(1, 9))
def test_a_segment_has_one_spelling(size: int) -> None:
    """Of all last characters exactly those decode that an encoder writes."""
    segment = b64(bytes(size))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for last in alphabet:
        spelled = segment[:-1] + last
        try:
            assert b64(bytes_of(spelled, part="payload")) == spelled
        except TokenMalformed:
            assert size % 3


def test_headers_are_kept_within_bounds() -> None:
    """Headers that anybody may make up neither fill the memory nor change what another header says."""
    for number in range(1000):
        assert header_of(b64(b'{"alg":"HS256","kid":"%d"}' % number)) == ("HS256", str(number))
    long = b64(b'{"alg":"HS256","kid":"' + b"x" * 5000 + b'"}')
    assert header_of(long) == header_of(long) == ("HS256", "x" * 5000)

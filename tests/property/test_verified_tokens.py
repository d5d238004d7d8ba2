"""With or without the cache of verified tokens: the same verdict for any tokens, key rotations and clocks."""

from __future__ import annotations

from typing import Any

import jwt
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.verified import VerifiedTokens
from revoker.algorithms import Key
from revoker.tokens import Verified, Verifier, sign
from tests.signing import FixedKeys

NOW = 1_700_000_000
SECRETS = {kid: f"secret {kid}, as long as HS256 asks for: 32 bytes" for kid in "abc"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
times = st.integers(NOW - 40, NOW + 40) | st.floats(NOW - 40, NOW + 40)


@st.composite
def tokens(draw: st.DrawFn) -> str:
    """A token signed with some key, with times near now and anything else in it."""
    claims = draw(
        st.fixed_dictionaries(
            {}, optional={"iat": times, "nbf": times, "exp": times, "x": json_values, "aud": st.just("a")}
        )
    )
    kid = draw(st.sampled_from("abc"))
    return sign(claims, key=SECRETS[kid], algorithm="HS256", headers=draw(st.sampled_from([None, {"kid": kid}])))


def verdict(verify: Any, raw: str) -> Verified | type[Exception]:
    """The token or the class of the refusal."""
    try:
        found: Verified = verify(raw)
    except jwt.InvalidTokenError as error:
        return type(error)
    return found


def exactly(value: Any) -> Any:
    """The value with its types, so that 1, 1.0 and True differ, and -0.0 and 0.0."""
    if isinstance(value, dict):
        return [(name, exactly(inner)) for name, inner in value.items()]
    return [exactly(inner) for inner in value] if isinstance(value, list) else (type(value), repr(value))


asks = st.tuples(st.just("ask"), st.integers(0, 3))
spoils = st.tuples(st.just("spoil"), st.tuples(st.integers(0, 3), st.integers(0, 2**16), st.sampled_from("AQgw-_.=")))
ticks = st.tuples(st.just("tick"), st.integers(-30, 30) | st.floats(-30, 30))
rotations = st.tuples(st.just("rotate"), st.sets(st.sampled_from("abc")))
steps = st.lists(asks | asks | asks | spoils | ticks | rotations, max_size=30)


@settings(max_examples=800, deadline=None)
@given(
    known=st.lists(tokens(), min_size=4, max_size=4),
    steps=steps,
    max_entries=st.integers(1, 4),
    max_bytes=st.sampled_from([900, 3000, 10**6]),
    leeway_s=st.sampled_from([0, 10]),
)
def test_the_cache_changes_no_verdict(
    known: list[str], steps: list[tuple[str, Any]], max_entries: int, max_bytes: int, leeway_s: int
) -> None:
    """Every answer is the one that the verifier gives at that moment, to the claim, its type, and the key's name."""
    now: list[float] = [NOW]
    keys = FixedKeys(*(Key(kid=kid, algorithm="HS256", material=secret.encode()) for kid, secret in SECRETS.items()))
    all_keys = keys.keys
    verifier = Verifier(keys=keys, algorithms=["HS256"], leeway_s=leeway_s, required_claims=(), wall=lambda: now[0])
    cache = VerifiedTokens(verifier=verifier, max_entries=max_entries, max_bytes=max_bytes)
    for step, what in steps:
        if step == "tick":
            now[0] += what
        elif step == "rotate":
            keys.keys = tuple(key for key in all_keys if key.kid in what)
        else:
            raw = known[what if step == "ask" else what[0]]
            if step == "spoil":
                at = what[1] % len(raw)
                raw = raw[:at] + what[2] + raw[at + 1 :]
            expected, found = verdict(verifier.verify, raw), verdict(cache.verify, raw)
            assert found == expected
            if isinstance(found, Verified) and isinstance(expected, Verified):
                assert exactly(found.claims) == exactly(expected.claims)
        assert cache.entries <= max_entries
        assert cache.size_bytes <= max_bytes

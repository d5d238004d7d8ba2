"""The guard on any claims at all: it never raises, and it refuses exactly what its deny list refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.denylist import DenyList
from consumers.freshness import Freshness
from consumers.guard import Decision, Guard, Policy, Status
from revoker.events import Digest, Revocation
from revoker.expiry import Lifetimes
from revoker.tokens import Verified, signing_input_digest
from tests.property.denylist_model import STORES, UNBOUNDED, Bearer, bearers, events, probes, refuses

#: Any text Python can hold, lone surrogates included, which JSON can smuggle in by escapes.
any_text = st.text(st.characters(exclude_categories=()), max_size=8)
any_number = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 10**4000, 2**63, 2**64, 1e15, float("nan"), float("inf")]),
)
any_json = st.recursive(
    st.none() | st.booleans() | any_number | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["iss", "jti", "sid", "sub", "client_id", "azp", "iat", "exp", "x", "y"])
plausible = st.sampled_from(["", "x", "y", "https://a.example", 0, 10, 20])
any_claims = st.dictionaries(names, plausible | any_json, max_size=10) | st.dictionaries(any_text, any_json, max_size=3)
any_token = (
    st.none()
    | any_text
    | st.just("eyJhbGciOiJIUzI1NiJ9.e30.c2ln")
    | st.builds(Verified, claims=st.just({}), kid=st.none(), raw=any_text)
)


def guard_over(store: DenyList, *, long_lived_tokens: Policy = "refuse") -> Guard:
    """A guard that is always live."""
    freshness = Freshness(bound_s=10, monotonic=lambda: 0.0, wall=lambda: 0.0)
    freshness.fresh_until = 1.0
    return Guard(
        denylist=store,
        freshness=freshness,
        lifetimes=Lifetimes(longest_token_life_s=3600, leeway_s=0, clock_margin_s=0),
        long_lived_tokens=long_lived_tokens,
        wall=lambda: 0.0,
    )


def filled(history: list[Revocation]) -> DenyList:
    store = STORES["memory"](UNBOUNDED)
    for one in history:
        store.apply(one)
    return store


@settings(max_examples=1000, deadline=None)
@given(
    history=st.lists(events, max_size=6),
    claims=any_claims | any_json,
    kid=st.none() | any_json,
    token=any_token | any_json,
    policy=st.sampled_from(["refuse", "accept"]),
)
def test_check_never_raises(history: list[Revocation], claims: Any, kid: Any, token: Any, policy: Policy) -> None:
    """Whatever the claims, kid and token are, the answer is a Decision, and what is refused has a kind and a reason."""
    decision = guard_over(filled(history), long_lived_tokens=policy).check(claims, kid=kid, token=token)
    assert isinstance(decision, Decision)
    refused = decision.status is Status.REVOKED
    assert refused is (decision.kind is not None)
    assert refused is (decision.reason is not None)
    assert decision.admitted is not refused


def _with_digest(event: Revocation, digest: str) -> Revocation:
    """The same event, about the one real token there is if it is about a digest of ones."""
    if isinstance(event.selector, Digest) and event.selector.digest == "f" * 64:
        return msgspec.structs.replace(event, selector=Digest(iss=event.selector.iss, digest=digest))
    return event


@settings(max_examples=600, deadline=None)
@given(history=st.lists(events, max_size=8), strangers=st.lists(bearers, min_size=1, max_size=4))
def test_the_guard_refuses_what_the_deny_list_refuses(history: list[Revocation], strangers: list[Bearer]) -> None:
    """For ordinary claims the guard asks for every kind: it refuses exactly the tokens some entry refuses."""
    raw = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"
    digest = signing_input_digest(raw)
    history = [_with_digest(one, digest) for one in history]
    store = filled(history)
    guard = guard_over(store, long_lived_tokens="accept")
    for bearer in (*strangers, *probes(history)):
        claims: dict[str, Any] = {"iat": bearer.iat, **bearer.claims}
        if bearer.iss:
            claims["iss"] = bearer.iss
        for name in ("jti", "sid", "sub", "client_id"):
            if (value := getattr(bearer, name)) is not None:
                claims[name] = value
        decision = guard.check(claims, kid=bearer.kid, token=raw)
        shown = dataclasses.replace(bearer, digest=digest)
        unnamed = store.key_cutoff(bearer.iss) if bearer.kid is None else None
        assert (decision.status is Status.REVOKED) == (
            refuses(store, shown) or (unnamed is not None and bearer.iat <= unnamed)
        )

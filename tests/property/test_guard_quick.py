"""`Guard.check_verified` answers as `Guard.check` does, whatever was revoked, proved or purged, over every store."""

from __future__ import annotations

import math
from array import array
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.denylist import DenyList
from consumers.denylist.control import AS_OF, FRESH_UNTIL
from consumers.freshness import Freshness
from consumers.guard import Guard, Policy, Status
from revoker.events import Digest, Revocation
from revoker.expiry import Lifetimes
from revoker.tokens import Verified, signing_input_digest
from tests.property.denylist_model import LATEST, STORES, Bearer, bearers, event_ids, events, opened, probes, refuses
from tests.property.test_guard import any_claims

RAW = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"
DIGEST = signing_input_digest(RAW)

times = st.integers(0, LATEST) | st.floats(0, LATEST)
policies: st.SearchStrategy[Policy] = st.sampled_from(["refuse", "accept"])
values = st.sampled_from(["x", "y", "", 5, True, None, ["x", "y"], [], {"x": 1}])
extras = st.fixed_dictionaries(
    {}, optional={"x": values, "y": values, "azp": st.sampled_from(["x", "y"]), "exp": times, "iat": times}
)


def token_of(bearer: Bearer, extra: dict[str, Any]) -> Verified:
    """The verified token that such a bearer carries; its digest is always that of RAW."""
    claims: dict[str, Any] = {"iat": bearer.iat, **bearer.claims}
    for name in ("iss", "jti", "sid", "sub", "client_id"):
        if value := getattr(bearer, name):
            claims[name] = value
    return Verified(claims={**claims, **extra}, kid=bearer.kid, raw=RAW)


def about_this_token(event: Revocation) -> Revocation:
    """The same event, about the one real token there is if it is about a digest of ones."""
    selector = event.selector
    if not isinstance(selector, Digest) or selector.digest != "f" * 64:
        return event
    return Revocation(
        id=event.id,
        selector=Digest(iss=selector.iss, digest=DIGEST),
        revoked_at=event.revoked_at,
        expires_at=event.expires_at,
    )


class Proved(Freshness):
    """A state machine whose proof is set by hand, as a page shared with its writer would be."""

    def prove(self, *, fresh_until: float, as_of: float | None, was_ready: bool) -> None:
        self.fresh_until, self.as_of, self.was_ready = fresh_until, as_of, was_ready
        self.proved_until = min(fresh_until, 0.0) if was_ready else -math.inf
        if self.times is not None:
            self.times[FRESH_UNTIL], self.times[AS_OF] = fresh_until, math.nan if as_of is None else as_of


def guards(store: DenyList, freshness: Freshness, wall: list[float], **kwargs: Any) -> tuple[Guard, Guard]:
    lifetimes = Lifetimes(longest_token_life_s=12, leeway_s=0, clock_margin_s=3)

    def made() -> Guard:
        return Guard(denylist=store, freshness=freshness, lifetimes=lifetimes, wall=lambda: wall[0], **kwargs)

    return made(), made()


proofs = st.tuples(st.sampled_from([-math.inf, -1.0, 0.0, 1.0]), st.none() | times, st.booleans(), st.integers(0, 9))


@pytest.mark.parametrize("name", sorted(STORES))
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(
    history=st.lists(st.tuples(events, proofs, st.none() | st.integers(0, LATEST)), max_size=6),
    strangers=st.lists(st.tuples(bearers, extras), min_size=1, max_size=4),
    when_unknown=policies,
    long_lived=policies,
    route=st.none() | policies,
    paged=st.booleans(),
)
def test_the_quick_way_answers_as_the_long_way(
    name: str,
    history: list[tuple[Revocation, Any, int | None]],
    strangers: list[tuple[Bearer, dict[str, Any]]],
    when_unknown: Policy,
    long_lived: Policy,
    route: Policy | None,
    paged: bool,
) -> None:
    """Decision and counts are the same for every token, after every event, purge and change of what is proved.

    Also where that is read off a page (``paged``), which the long way does not look at.
    """
    with opened(name) as store:
        freshness = Proved(bound_s=10, monotonic=lambda: 0.0, wall=lambda: 0.0)
        if paged:
            freshness.times = memoryview(array("d", [-math.inf] * 8))
        wall = [0.0]
        quick, long = guards(store, freshness, wall, when_unknown=when_unknown, long_lived_tokens=long_lived)
        met: list[Revocation] = []
        for event, (fresh_until, as_of, was_ready, passed), purge in history:
            store.apply(about_this_token(event))
            met.append(about_this_token(event))
            if purge is not None:
                store.advance(now_s=purge)
            freshness.prove(fresh_until=fresh_until, as_of=as_of, was_ready=was_ready)
            wall[0] = passed + (as_of or 0.0)  # a proof is dated by a reading of the same clock
            for bearer, extra in [*strangers, *((one, strangers[0][1]) for one in probes(met))]:
                token = token_of(bearer, extra)
                expected = long.check(token.claims, kid=token.kid, token=token, when_unknown=route)
                assert quick.check_verified(token, when_unknown=route) == expected
        assert quick.counts == long.counts


@pytest.mark.parametrize("name", sorted(STORES))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(
    history=st.lists(events, max_size=8),
    purges=st.lists(st.integers(0, LATEST), max_size=3),
    strangers=st.lists(bearers, max_size=4),
    withdrawn=event_ids,
)
def test_what_is_refused_is_suspected(
    name: str, history: list[Revocation], purges: list[int], strangers: list[Bearer], withdrawn: str
) -> None:
    """No token that an entry refuses, or whose unnamed key may be a revoked one, goes unsuspected."""
    with opened(name) as store:
        met = [about_this_token(one) for one in history if one.id != withdrawn]
        for number, event in enumerate(met):
            store.apply(event)
            if number < len(purges):
                store.advance(now_s=purges[number])
            for bearer in (*strangers, *probes(met)):
                token = token_of(bearer, {})
                unnamed = store.key_cutoff(bearer.iss) if bearer.kid is None else None
                if refuses(store, bearer) or (unnamed is not None and bearer.iat <= unnamed):
                    assert store.suspects(token.claims, token.kid)


@pytest.mark.parametrize("name", sorted(STORES))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(history=st.lists(events, max_size=6), claims=any_claims, kid=st.none() | st.text(max_size=2))
def test_claims_nobody_verified_raise_nothing(
    name: str, history: list[Revocation], claims: dict[str, Any], kid: str | None
) -> None:
    """Even claims no verifier would pass get an answer, and that of `check` but for shapes that a verifier refuses."""
    with opened(name) as store:
        for event in history:
            store.apply(event)
        freshness = Proved(bound_s=10, monotonic=lambda: 0.0, wall=lambda: 0.0)
        freshness.prove(fresh_until=1.0, as_of=5.0, was_ready=True)
        quick, long = guards(store, freshness, [5.0])
        token = Verified(claims=claims, kid=kid, raw=RAW)
        expected = long.check(claims, kid=kid, token=token)
        found = quick.check_verified(token)
        assert found == expected or (found.status is Status.ACTIVE and expected.kind == "malformed")

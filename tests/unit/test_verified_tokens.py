"""The cache of verified tokens: what it answers, and when it must not."""

from __future__ import annotations

import json
import threading
import tracemalloc
from typing import Any

import jwt
import pytest

from consumers.verified import VerifiedTokens
from revoker.algorithms import Key
from revoker.keys import KeyUnknown
from revoker.tokens import TokenMalformed, Verified, Verifier, sign
from tests.samples import live_topic, revocation_of, settings, token
from tests.signing import SECRET, FixedKeys, token_of_bytes

NOW = 1_700_000_000
OTHER = "another-secret, as long as HS256 asks for, and then some more."


def hmac_key(kid: str | None = None, secret: str = SECRET) -> Key:
    return Key(kid=kid, algorithm="HS256", material=secret.encode())


class Bench:
    """The cache over a real verifier, on a clock and with keys moved by hand."""

    def __init__(self, *, max_entries: int = 100, max_bytes: int = 10**6, leeway_s: float = 0) -> None:
        self.now: float = NOW
        self.keys = FixedKeys(hmac_key())
        self.verifier = Verifier(
            keys=self.keys, algorithms=["HS256"], leeway_s=leeway_s, required_claims=(), wall=lambda: self.now
        )
        self.cache = VerifiedTokens(verifier=self.verifier, max_entries=max_entries, max_bytes=max_bytes)

    def hit(self, raw: str) -> bool:
        """Whether the token, which is valid, was answered from the cache."""
        before = self.cache.hits
        assert self.cache.verify(raw) == self.verifier.verify(raw)
        return self.cache.hits > before


def signed(*, secret: str = SECRET, **claims: Any) -> str:
    return sign({"iat": NOW, "exp": NOW + 600} | claims, key=secret, algorithm="HS256")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_repeated_token_is_answered_from_the_cache(bench: Bench) -> None:
    """The second time a token comes, no signature is checked, and the answer is the same."""
    raw = signed(jti="a", roles=["x", {"y": 1.5}], big=2**70, unicode="é\u2028", nothing=None)
    assert [bench.hit(raw) for _ in range(3)] == [False, True, True]
    assert (bench.cache.hits, bench.cache.misses, bench.cache.entries) == (2, 1, 1)


def test_a_respelled_or_spoiled_token_is_another(bench: Bench) -> None:
    """Claims that are known under another signature, or none, are verified properly, and refused."""
    raw = signed()
    bench.hit(raw)
    head, payload, signature = raw.split(".")
    respelled = raw[:-1] + next(chr(ord(raw[-1]) + step) for step in (1, -1) if (chr(ord(raw[-1]) + step)).isalnum())
    for spoiled in (respelled, f"{head}.{payload}.{'A' * len(signature)}", f"{head}.{payload}.", raw + "=", f" {raw}"):
        with pytest.raises(jwt.InvalidTokenError):
            bench.cache.verify(spoiled)


@pytest.mark.parametrize("raw", [None, b"a.b.c", 7, "é.b.c", "\ud800", "A" * 20000])
def test_what_is_no_token_is_refused_as_by_the_verifier(bench: Bench, raw: Any) -> None:
    """Anything at all gets the verifier's own refusal."""
    with pytest.raises(TokenMalformed):
        bench.cache.verify(raw)


def test_nothing_is_answered_past_exp_though_the_leeway_admits_it() -> None:
    """From exp on, the whole second of it, the verifier decides: within the leeway it passes, then no more."""
    bench = Bench(leeway_s=30)
    raw = signed(exp=NOW + 60.9)
    bench.now = NOW + 59.9
    assert [bench.hit(raw), bench.hit(raw)] == [False, True]
    bench.now = NOW + 60
    assert [bench.hit(raw), bench.hit(raw)] == [False, False]
    bench.now = NOW + 90
    with pytest.raises(jwt.ExpiredSignatureError):
        bench.cache.verify(raw)


@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_nothing_is_answered_before_a_token_begins(name: str) -> None:
    """A token from the future is verified each time, also one that was known before the clock was set back."""
    bench = Bench(leeway_s=30)
    ahead: dict[str, Any] = {name: NOW + 20}
    raw = signed(**ahead)
    assert [bench.hit(raw), bench.hit(raw)] == [False, False]
    bench.now = NOW + 20
    assert [bench.hit(raw), bench.hit(raw)] == [False, True]
    bench.now = NOW
    assert not bench.hit(raw)
    bench.now = NOW - 11
    with pytest.raises(jwt.ImmatureSignatureError):
        bench.cache.verify(raw)


def test_a_withdrawn_key_stops_working_at_once(bench: Bench) -> None:
    """When the key is no longer among the keys, a token it signed is refused, though it was known a moment ago."""
    raw = signed()
    bench.hit(raw)
    assert bench.hit(raw)
    bench.keys.keys = (hmac_key(secret=OTHER),)
    with pytest.raises(jwt.InvalidSignatureError):
        bench.cache.verify(raw)
    bench.keys.keys = ()
    with pytest.raises(KeyUnknown):
        bench.cache.verify(raw)
    assert bench.cache.entries == 0


def test_keys_that_change_while_a_token_is_verified_leave_nothing_behind(bench: Bench) -> None:
    """What was being verified when the keys changed is not kept as if the new ones had verified it, not even if others
    were served under the new ones meanwhile.
    """
    raw = signed()
    candidates = bench.keys.candidates

    def rotated(kid: str | None, alg: str) -> tuple[Key, ...]:
        found = candidates(kid, alg)
        bench.keys.candidates = candidates  # type: ignore[method-assign]
        bench.keys.keys = (hmac_key(secret=OTHER),)
        bench.cache.verify(signed(secret=OTHER))
        return found

    bench.keys.candidates = rotated  # type: ignore[method-assign]  # the fetch that lands in between
    bench.cache.verify(raw)
    with pytest.raises(jwt.InvalidSignatureError):
        bench.cache.verify(raw)


def test_the_kid_is_that_of_the_key_that_verified(bench: Bench) -> None:
    """A known token shows the name of its key, so that the key's revocation finds it."""
    bench.keys.keys = (hmac_key("first", OTHER), hmac_key("second"))
    raw = sign({"exp": NOW + 60}, key=SECRET, algorithm="HS256", headers={"kid": "made up"})
    bench.hit(raw)
    assert (bench.hit(raw), bench.cache.verify(raw).kid) == (True, "second")


def test_a_refusal_is_not_kept(bench: Bench) -> None:
    """A token that was refused as not yet valid is accepted once it is."""
    raw = signed(nbf=NOW + 10)
    with pytest.raises(jwt.ImmatureSignatureError):
        bench.cache.verify(raw)
    assert bench.cache.entries == 0
    bench.now = NOW + 10
    assert not bench.hit(raw)


def test_who_changes_his_claims_changes_nobody_elses(bench: Bench) -> None:
    """A handler that writes into the claims it was given, however deep, is alone with that."""
    raw = signed(sub="alice", realm={"roles": ["reader"]})
    for _ in range(3):
        claims: Any = bench.cache.verify(raw).claims
        assert (claims["sub"], claims["realm"]) == ("alice", {"roles": ["reader"]})
        claims["sub"] = "admin"
        claims["realm"]["roles"].append("admin")


def test_the_least_recently_used_go_first() -> None:
    """At the bound on entries the one that was not used for longest makes room."""
    bench = Bench(max_entries=2)
    first, second, third = (signed(jti=name) for name in "abc")
    for raw in (first, second, first, third):
        bench.hit(raw)
    assert bench.cache.entries == 2
    assert [bench.hit(first), bench.hit(third), bench.hit(second)] == [True, True, False]


def test_the_bytes_are_bounded_too() -> None:
    """Large claims push out others at the bound on bytes, and claims larger than it are not kept at all."""
    bench = Bench(max_bytes=5000)
    for number in range(10):
        bench.hit(signed(jti=str(number), text="x" * 1500))
        assert bench.cache.size_bytes <= 5000
    assert bench.cache.entries == 2
    raw = signed(text="x" * 6000)
    assert [bench.hit(raw), bench.hit(raw)] == [False, False]


def test_the_estimate_of_its_bytes_is_honest() -> None:
    """What the entries really take is within a third of what is said."""
    bench = Bench(max_entries=2000, max_bytes=10**8)
    raws = [signed(jti=f"0f8fad5b-{number}", sub=f"user-{number}", aud=["api", "web"]) for number in range(2000)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for raw in raws:
            bench.cache.verify(raw)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 2 / 3 < taken / bench.cache.size_bytes < 4 / 3


def test_claims_nested_as_deeply_as_can_be_are_verified_each_time_or_known(bench: Bench) -> None:
    """Depth that a copy could not take does not fail a request."""
    payload = json.dumps({"iat": NOW, "exp": NOW + 600})[:-1] + ',"deep":' + '{"a":' * 400 + "1" + "}" * 400 + "}"
    raw = token_of_bytes(payload.encode())

    def from_deep_down(levels: int) -> Verified:
        return from_deep_down(levels - 1) if levels else bench.cache.verify(raw)

    bench.cache.verify(raw)
    for levels in (0, 100, 300, 400):
        try:
            expected = bench.verifier.verify(raw)
            assert from_deep_down(levels) == expected
        except TokenMalformed:
            assert levels, "only a stack that is deep already may stand in the way"


def test_nobody_waits_for_the_lock(bench: Bench) -> None:
    """A thread that finds the cache in use verifies properly, and leaves it alone."""
    raw = signed()
    bench.hit(raw)
    with bench.cache._lock:
        assert not bench.hit(raw)
    assert bench.hit(raw)


def test_threads_and_rotations_let_no_withdrawn_key_through(bench: Bench) -> None:
    """Whoever asks after a key was withdrawn is refused its tokens, however many threads fill the cache meanwhile."""
    by_key = {secret: [signed(secret=secret, jti=str(number)) for number in range(5)] for secret in (SECRET, OTHER)}
    wrong: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            for secret, raws in by_key.items():
                for raw in raws:
                    before = bench.keys.keys
                    try:
                        bench.cache.verify(raw)
                    except jwt.InvalidTokenError:
                        continue
                    if bench.keys.keys is before and before[0].material != secret.encode():
                        wrong.append(raw)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(400):
        bench.keys.keys = (hmac_key(secret=(SECRET, OTHER)[turn % 2]),)
        for raw in by_key[SECRET][:2]:
            if turn % 2:
                with pytest.raises(jwt.InvalidSignatureError):
                    bench.cache.verify(raw)
            else:
                bench.cache.verify(raw)
    done.set()
    for thread in threads:
        thread.join(timeout=30)
    assert not wrong
    assert bench.cache.hits


async def test_a_node_asks_the_deny_list_though_the_token_is_known() -> None:
    """A token that was admitted from the cache is refused as soon as it is revoked; metrics count both sorts."""
    topic, _ = live_topic()
    node = topic.node(settings())
    raw = token()
    verified = [node.authenticate(raw) for _ in range(3)][-1]
    assert node.verified is not None
    assert (node.verified.hits, node.verified.misses) == (2, 1)
    topic.publish(revocation_of(verified))
    with pytest.raises(jwt.InvalidTokenError, match="revoked"):
        node.authenticate(raw)
    (asked,) = [family for family in node.families() if family.name == "revoker_verified_tokens_asked"]
    assert asked.values == {("hit",): 3.0, ("miss",): 1.0}


async def test_a_node_without_a_cache_verifies_every_time() -> None:
    """claims_cache_entries 0 means none is kept."""
    topic, _ = live_topic()
    node = topic.node(settings(claims_cache_entries=0))
    assert node.verified is None
    raw = token()
    assert node.authenticate(raw) == node.authenticate(raw)

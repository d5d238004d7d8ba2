"""Keys from a JWKS URL, against a real HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import jwt
import pytest

from revoker.keys import UNKNOWN_KID_COOLDOWN_S, JwksKeys, KeyUnknown
from revoker.tokens import Verifier, sign
from tests.jwks_server import JwksServer
from tests.signing import b64, claims, jwk, private_key


def signed(algorithm: str, name: str = "", kid: str | None = None) -> str:
    headers = {"kid": kid} if kid is not None else None
    return sign(claims(), key=private_key(algorithm, name), algorithm=algorithm, headers=headers)


class Clock:
    """A monotonic clock that stands still until moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(holds: Callable[[], bool], *, deadline_s: float = 10) -> None:
    give_up = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < give_up, "it did not come to hold in time"
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def running(keys: JwksKeys) -> AsyncIterator[JwksKeys]:
    task = asyncio.create_task(keys.run())
    try:
        yield keys
        assert not task.done(), "the refresher died"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def refreshing(keys: JwksKeys, kid: str) -> bool | None:
    """What an unknown kid is told; None if the kid is known."""
    try:
        keys.candidates(kid, "ES256")
    except KeyUnknown as unknown:
        return unknown.refreshing
    return None


def published(name: str, **members: object) -> dict[str, Any]:
    return jwk(private_key("ES256", name), **{"kid": name, "alg": "ES256", "use": "sig", **members})


@pytest.fixture
def server() -> Iterator[JwksServer]:
    with JwksServer(published("a")) as made:
        yield made


def jwks(server: JwksServer, **changes: Any) -> JwksKeys:
    return JwksKeys(**{"url": server.url, "algorithms": ["ES256"], "jitter": lambda: 0.0, **changes})


class TestJwks:
    def test_before_the_first_fetch_a_token_may_yet_be_valid(self, server: JwksServer) -> None:
        """Keys that are not loaded make no token invalid: the answer is "not yet", and the state says so."""
        keys = jwks(server)
        assert refreshing(keys, "a") is True
        assert not keys.ready
        assert "not fetched so far" in str(keys.problem)

    async def test_the_first_fetch_makes_it_ready(self, server: JwksServer) -> None:
        """Running it loads the keys, and tokens verify under the kid of their key."""
        async with running(jwks(server)) as keys:
            await until(lambda: keys.ready)
            verified = Verifier(keys=keys, algorithms=["ES256"]).verify(signed("ES256", "a", kid="a"))
        assert (verified.kid, keys.problem, keys.notes) == ("a", None, ())

    async def test_fifty_unknown_kids_at_once_cause_one_fetch(self, server: JwksServer) -> None:
        """Fifty concurrent made-up kids cause a single further fetch, and later ones within the cooldown none."""
        clock = Clock()
        async with running(jwks(server, clock=clock)) as keys:
            await until(lambda: keys.ready)
            clock.now += UNKNOWN_KID_COOLDOWN_S

            async def ask(kid: str) -> bool | None:
                return refreshing(keys, kid)

            async with asyncio.TaskGroup() as group:
                answers = [group.create_task(ask(f"made-up-{n}")) for n in range(50)]
            assert {answer.result() for answer in answers} == {True}
            await until(lambda: refreshing(keys, "made-up") is False)
            for n in range(50):
                assert await asyncio.to_thread(refreshing, keys, f"later-{n}") is False
        assert server.requests == 2

    async def test_unknown_kids_from_threads_cause_one_fetch(self, server: JwksServer) -> None:
        """The look-up may be called from worker threads, and wakes the one refresher all the same."""
        clock = Clock()
        async with running(jwks(server, clock=clock)) as keys:
            await until(lambda: keys.ready)
            clock.now += UNKNOWN_KID_COOLDOWN_S
            await asyncio.gather(*(asyncio.to_thread(refreshing, keys, f"made-up-{n}") for n in range(50)))
            await until(lambda: refreshing(keys, "made-up") is False)
        assert server.requests == 2

    async def test_a_key_put_to_use_after_the_last_fetch_is_found(self, server: JwksServer) -> None:
        """A token with a newly published key is told to wait, and verifies once the set was fetched again."""
        clock = Clock()
        async with running(jwks(server, clock=clock)) as keys:
            await until(lambda: keys.ready)
            server.publish(published("a"), published("b"))
            assert refreshing(keys, "b") is False
            clock.now += UNKNOWN_KID_COOLDOWN_S
            assert refreshing(keys, "b") is True
            await until(lambda: refreshing(keys, "b") is None)
            verified = Verifier(keys=keys, algorithms=["ES256"]).verify(signed("ES256", "b", kid="b"))
        assert verified.kid == "b"

    async def test_the_set_is_fetched_again_by_itself_and_withdrawn_keys_go(self, server: JwksServer) -> None:
        """Without any unknown kid the set is fetched every refresh_s, and a key no longer published is dropped."""
        async with running(jwks(server, refresh_s=0.02)) as keys:
            await until(lambda: keys.ready)
            server.publish(published("b"))
            await until(lambda: refreshing(keys, "b") is None)
            assert refreshing(keys, "a") is False

    def test_before_the_first_fetch_there_is_no_edition(self, server: JwksServer) -> None:
        """Without keys there is nothing that could have been verified."""
        assert jwks(server).edition is None

    async def test_the_edition_changes_when_the_keys_do_and_not_before(self, server: JwksServer) -> None:
        """Fetching the same set again changes nothing for those who remember what was verified; another set does."""
        async with running(jwks(server, refresh_s=0.01)) as keys:
            await until(lambda: keys.ready)
            first, fetched = keys.edition, keys._kept.fetches
            await until(lambda: keys._kept.fetches > fetched + 3)
            assert keys.edition is first
            server.publish(published("a"), published("b"))
            await until(lambda: refreshing(keys, "b") is None)
            second = keys.edition
            assert second is not first
            server.publish(published("b"))
            await until(lambda: refreshing(keys, "a") is False)
            assert keys.edition not in (first, second)

    @pytest.mark.parametrize(
        ("misbehave", "said"),
        [
            (lambda server: setattr(server, "status", 500), "HTTP Error 500"),
            (lambda server: setattr(server, "document", b"<html>"), "JSONDecodeError"),
            (lambda server: setattr(server, "document", b"\xff\xfe\xfd"), "UnicodeDecodeError"),
            (lambda server: setattr(server, "document", b"[" * 100_000), "RecursionError"),
            (lambda server: setattr(server, "document", ["keys"]), "did not return a JSON object|no array named keys"),
            (lambda server: setattr(server, "document", {"key": []}), "no array named keys"),
            (lambda server: server.publish(), "it is empty"),
            (lambda server: server.publish(published("b", use="enc")), "not for verifying"),
            (lambda server: server.hang(), "no complete answer within 0.2 s|timed out"),
        ],
    )
    async def test_a_failed_fetch_keeps_the_keys_and_shows(
        self, server: JwksServer, misbehave: Callable[[JwksServer], None], said: str
    ) -> None:
        """Whatever comes in place of a set, the last good keys stay in use, and the trouble shows until it ends."""
        clock = Clock()
        async with running(jwks(server, clock=clock, timeout_s=0.2)) as keys:
            await until(lambda: keys.ready)
            good = server.document
            misbehave(server)
            clock.now += UNKNOWN_KID_COOLDOWN_S
            assert refreshing(keys, "b") is True
            await until(lambda: keys.problem is not None)
            assert keys.candidates("a", "ES256")
            assert refreshing(keys, "b") is True, "while the set cannot be fetched, an unknown kid may be a new one"
            assert re.search(said, str(keys.problem))
            assert "using what was fetched 30 s ago" in str(keys.problem)
            server.answer()
            server.document, server.status = good, 200
            clock.now += 60
            await until(lambda: keys.problem is None)

    async def test_an_unknown_kid_is_undecided_while_fetches_fail(self, server: JwksServer) -> None:
        """However recent the last good fetch, while later ones fail an unknown kid may be a new key."""
        async with running(jwks(server, refresh_s=0.02)) as keys:
            await until(lambda: keys.ready)
            server.status = 500
            await until(lambda: keys.problem is not None)
            assert refreshing(keys, "b") is True

    async def test_a_hanging_server_is_asked_by_one_thread_only(self, server: JwksServer) -> None:
        """While an answer hangs, retries wait for it instead of piling up threads and connections."""
        server.hang()
        async with running(jwks(server, timeout_s=0.05, refresh_s=0.01)) as keys:
            await until(lambda: server.requests == 1)
            await until(lambda: "in a row" in str(keys.problem))
            assert keys._kept.fetches <= server.requests + 1
            server.answer()
            await until(lambda: keys.ready)

    async def test_redirects_are_not_followed(self, server: JwksServer) -> None:
        """A redirect, by which a server could point anywhere, is a failed fetch."""
        server.status, server.location = 302, server.url
        async with running(jwks(server)) as keys:
            await until(lambda: "302" in str(keys.problem))
        assert server.requests == 1

    async def test_a_refused_connection_is_retried_until_it_works(self) -> None:
        """A server that is not there yet is a problem, not the end of the refresher: keys come once it is there."""
        with JwksServer(published("a")) as gone:
            url = gone.url
        async with running(JwksKeys(url=url, algorithms=["ES256"], refresh_s=0.02)) as keys:
            await until(lambda: "in a row" in str(keys.problem))
            assert "ConnectionRefusedError" in str(keys.problem) or "URLError" in str(keys.problem)
            assert "nothing was ever fetched" in str(keys.problem)
            assert refreshing(keys, "a") is True

    async def test_it_can_be_cancelled_while_a_fetch_hangs(self, server: JwksServer) -> None:
        """Cancelling the refresher ends it at once, although a thread is still waiting for the server."""
        server.hang()
        keys = jwks(server, timeout_s=5)
        task = asyncio.create_task(keys.run())
        await until(lambda: server.requests == 1)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 1
        server.answer()

    async def test_two_owners_are_refused(self, server: JwksServer) -> None:
        """Running it twice at once is an error: two refreshers would fetch twice as often."""
        async with running(jwks(server)) as keys:
            await until(lambda: keys.ready)
            with pytest.raises(RuntimeError, match="one owner"):
                await keys.run()

    async def test_it_can_run_again(self, server: JwksServer) -> None:
        """After its owner stopped it, another may run it, and the keys are fetched anew."""
        keys = jwks(server)
        for fetched in (1, 2):
            async with running(keys):
                await until(lambda fetched=fetched: server.requests == fetched and keys.problem is None)  # type: ignore[misc]

    async def test_the_query_of_the_url_never_shows(self, server: JwksServer) -> None:
        """An API key in the URL's query appears in no message."""
        server.status = 403
        async with running(jwks(server, url=f"{server.url}?key=hunter2")) as keys:
            await until(lambda: "403" in str(keys.problem))
        assert "hunter2" not in str(keys.problem)

    async def test_a_token_without_kid_is_tried_against_every_key_of_its_algorithm(self, server: JwksServer) -> None:
        """Without a kid all keys of the algorithm are candidates, nameless ones included."""
        server.publish(published("a"), published("b", kid=None), jwk(private_key("EdDSA"), kid="c"))
        async with running(jwks(server, algorithms=["ES256", "EdDSA"])) as keys:
            await until(lambda: keys.ready)
            assert [key.kid for key in keys.candidates(None, "ES256")] == ["a", None]

    async def test_a_key_is_used_with_its_own_alg_only(self, server: JwksServer) -> None:
        """A JWK that says RS256 verifies no PS256 token, although the key could."""
        server.publish(jwk(private_key("RS256"), kid="r", alg="RS256"))
        async with running(jwks(server, algorithms=["RS256", "PS256"])) as keys:
            await until(lambda: keys.ready)
            checking = Verifier(keys=keys, algorithms=["RS256", "PS256"])
            assert checking.verify(signed("RS256", kid="r")).kid == "r"
            with pytest.raises(jwt.InvalidAlgorithmError):
                checking.verify(signed("PS256", kid="r"))

    @pytest.mark.parametrize(
        ("member", "said"),
        [
            ("text", "is no JSON object"),
            (published("b", use="enc"), "not for verifying"),
            (published("b", key_ops=["sign"]), "not for verifying"),
            (published("b", kid=7), "kid that is no string"),
            (published("b", alg="ES384"), "has an alg that the setting algorithms does not name"),
            (published("b", alg=["ES256"]), "has an alg that the setting algorithms does not name"),
            (published("b", alg="RS256"), "its alg is for another kind"),
            (published("b", d=b64(b"1" * 32)), "published with its secret part"),
            ({"kty": "oct", "k": b64(b"1" * 32), "kid": "b"}, "published with its secret part"),
            ({"kty": "oct", "kid": "b"}, "kind .* not supported"),
            ({"kty": ["RSA"], "kid": "b"}, "kind .* not supported"),
            ({"kty": "OKP", "crv": "X25519", "x": b64(b"1" * 32), "kid": "b"}, "kind .* not supported"),
            (published("b", crv="secp256k1"), "kind .* not supported"),
            (published("b", x="AA"), "cannot be read"),
            (published("b", x=5), "cannot be read"),
            (published("b", y=b64(b"1" * 32)), "cannot be read"),
            ({"kty": "RSA", "kid": "b", "alg": "RS256"}, "cannot be read"),
            ({"kty": "RSA", "n": b64(b"\xff" * 64), "e": "AQAB", "kid": "b", "alg": "RS256"}, "512 bits"),
            (jwk(private_key("RS256"), kid="b"), "RS256 and PS256"),
        ],
    )
    async def test_a_key_that_cannot_be_used_is_noted_and_spoils_no_other(
        self, server: JwksServer, member: object, said: str
    ) -> None:
        """One unusable key in the set is left out and noted; the others verify."""
        server.document = {"keys": [member, published("a")]}
        async with running(jwks(server, algorithms=["ES256", "RS256", "PS256"])) as keys:
            await until(lambda: keys.ready)
            assert [key.kid for key in keys.candidates(None, "ES256")] == ["a"]
        (note,) = keys.notes
        assert re.search(said, note)
        assert keys.problem is None

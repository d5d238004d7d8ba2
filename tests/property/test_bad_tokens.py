"""Thousands of bad tokens: refused by name, or the very token they were made from; what is let in can be revoked."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from fastapi import Depends, FastAPI
from multidict import CIMultiDict, CIMultiDictProxy

from consumers.aiohttp import protection
from consumers.asgi import ASGIApp, Receive, RevokerMiddleware, Scope, Send
from consumers.fastapi import Bearer
from consumers.node import Node
from revoker.algorithms import bind
from revoker.errors import NotProven
from revoker.tokens import InvalidTokenError, TokenRevoked, Verifier, sign
from tests import samples
from tests.asgi_client import call, http_scope, status_and_headers
from tests.bad_inputs import tried
from tests.mutations import spoiled_bytes, spoiled_json
from tests.signing import SECRET, FixedKeys, b64, claims, private_key, secret_keys, token_of_bytes

_ALGORITHMS: Final = ("HS256", "RS256", "ES256", "EdDSA")
_STRANGERS: Final = (
    "crit",
    "b64",
    "kid",
    "jku",
    "x5u",
    "jwk",
    "cty",
    "zip",
    "enc",
    "nbf",
    "aud",
    "events",
    "azp",
    "__proto__",
    "",
)
_HEADER: Final = {"alg": "HS256", "typ": "JWT"}


def verifier(algorithm: str) -> Verifier:
    if algorithm == "HS256":
        return Verifier(keys=secret_keys(), algorithms=[algorithm])
    key = bind(private_key(algorithm).public_key(), kid=None, allowed=[algorithm])
    return Verifier(keys=FixedKeys(key), algorithms=[algorithm])


def signed(algorithm: str) -> str:
    return sign(claims(), key=SECRET if algorithm == "HS256" else private_key(algorithm), algorithm=algorithm)


def respelled(rng: random.Random, raw: str, other: str) -> str:
    """A token with its text, its segments or its header changed, and its signature as it was."""
    segments = raw.split(".")
    match rng.randrange(10):
        case 0:
            rng.shuffle(segments)
        case 1:
            segments[rng.randrange(3)] = rng.choice(other.split("."))
        case 2:
            segments.insert(rng.randrange(4), rng.choice(("", "e30", *segments)))
        case 3:
            del segments[rng.randrange(3)]
        case 4:
            head = {"alg": rng.choice(("none", "None", "NONE", "HS256", "hs256", "RS256", "HS512", "ES256", "", "dir"))}
            segments[0] = b64(json.dumps(head).encode())
            if rng.random() < 0.3:
                segments[2] = rng.choice(("", "AA"))
        case 5:
            segments[0] = b64(spoiled_json(rng, _HEADER, strangers=_STRANGERS))
        case 6:
            segments[1] = b64(spoiled_json(rng, claims(), strangers=_STRANGERS))
        case 7:
            place = rng.randrange(3)
            segments[place] += rng.choice(("=", "==", "A", "\n", " ", "%3D", "\u200b", "\ud800", "é", "A" * 20_000))
        case 8:
            # Spare bits of the last digit, and the other base64 alphabet: the same bytes to a lenient reader.
            place = rng.randrange(3)
            segments[place] = segments[place][:-1] + rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef0189-_+/")
        case _:
            return spoiled_bytes(rng, raw.encode()).decode(rng.choice(("latin-1", "utf-8")), "surrogateescape")
    return rng.choice((".", ".", ".", ".", "..", " . ", "\n")).join(segments)


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_a_spoiled_token_is_refused_or_the_same_token(algorithm: str) -> None:
    """With text, segments, header or signature changed a token is refused by name, or the same token still."""
    judge, raw, other = verifier(algorithm), signed(algorithm), signed("ES256" if algorithm != "ES256" else "HS256")
    genuine = judge.verify(raw)
    with tried("tokens, spoiled", share=1 / len(_ALGORITHMS)) as inputs:
        for rng in inputs:
            text = respelled(rng, raw, other)
            try:
                found = judge.verify(text)
            except InvalidTokenError as error:
                message = str(error)
                assert len(message) < 200
                assert raw not in message
            else:
                assert (found.claims, found.digest, found.kid) == (genuine.claims, genuine.digest, genuine.kid)


def node_of_signing_secret() -> tuple[Node, Any]:
    topic, _clock = samples.live_topic()
    return topic.node(samples.settings(key_secret=SECRET, required_claims=())), topic


def test_what_is_let_in_can_be_revoked_and_then_stays_out() -> None:
    """Any JSON truly signed is refused by name, or is read as every strict reader reads it; and if a node lets it in,
    its revocation takes effect.
    """
    node, topic = node_of_signing_secret()
    let_in = 0
    with tried("tokens, crafted and truly signed") as inputs:
        for number, rng in enumerate(inputs):
            header = (
                spoiled_json(rng, _HEADER, strangers=_STRANGERS) if rng.random() < 0.3 else json.dumps(_HEADER).encode()
            )
            own = claims(jti=f"t-{number}" if rng.random() < 0.9 else None, sid=f"s-{number}")
            payload = (
                spoiled_json(rng, own, strangers=_STRANGERS)
                if header or rng.random() < 0.9
                else json.dumps(own).encode()
            )
            raw = token_of_bytes(payload or b"0", header=header or b"0")
            try:
                verified, decision = node.judge(raw)
            except (InvalidTokenError, NotProven):
                continue
            let_in += 1
            assert decision.admitted
            assert verified.claims == json.loads(payload)
            topic.publish(samples.revocation_of(verified))
            with pytest.raises(TokenRevoked):
                node.judge(raw)
            node.authenticate(token_of_bytes(json.dumps(claims(jti=f"bystander-{number}", sid="another")).encode()))
    assert let_in > 100, "the generator has become so wild that nothing is let in any more"


_topic, _clock = samples.live_topic()
_node = _topic.node(samples.settings())


async def _asgi(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _fastapi() -> FastAPI:
    app = FastAPI(dependencies=[Depends(Bearer(_node))])
    app.get("/")(lambda: "in")
    return app


_APPS: Final[dict[str, ASGIApp]] = {"asgi": RevokerMiddleware(_asgi, _node, run_node=False), "fastapi": _fastapi()}


def credentials(rng: random.Random, raw: str) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Headers that carry a token, spoiled or whole, in some way; and whether all that is in them is whole."""
    text = (
        raw if rng.random() < 0.5 else respelled(rng, raw, samples.token(secret="another secret, long enough as well"))
    )
    value = text.encode("utf-8", "surrogatepass")
    match rng.randrange(8):
        case 0:
            headers = [(b"authorization", b"Bearer " + value), (b"authorization", b"Bearer " + value)]
        case 1:
            headers = [
                (b"authorization", rng.choice((b"Bearer", b"bearer\t", b"BEARER  ", b"Basic ", b"DPoP ", b"")) + value)
            ]
        case 2:
            headers = [(b"cookie", b"USER_SESSION=" + value)]
        case 3:
            headers = [(b"cookie", b"USER_SESSION=" + value + b"; USER_SESSION=" + rng.choice((value, b"", b"x")))]
        case 4:
            headers = [(b"cookie", spoiled_bytes(rng, b'a=1; USER_SESSION="' + value + b'"; b=2'))]
        case 5:
            headers = [
                (b"authorization", spoiled_bytes(rng, b"Bearer " + value)),
                (b"cookie", b"USER_SESSION=" + value),
            ]
        case 6:
            headers = [
                (b"authorization", b"Bearer " + value + rng.choice((b",", b", Bearer x", b" x", b"\xa0", b"\x00")))
            ]
        case _:
            headers = [(b"authorization", b"Bearer " + value)]
    return headers, text == raw


async def _status_of_aiohttp(headers: list[tuple[bytes, bytes]]) -> int:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response()

    decoded = [(name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in headers]
    request = make_mocked_request("GET", "/")
    request._headers = CIMultiDictProxy(CIMultiDict(decoded))
    match_info: Any = request.match_info
    match_info._route = web.ResourceRoute("GET", handler, web.PlainResource("/"))
    return (await protection(_node)(request, handler)).status


@pytest.mark.parametrize("adapter", ["aiohttp", *_APPS])
def test_an_adapter_answers_401_or_lets_the_owner_in(adapter: str) -> None:
    """Spoiled credentials of any kind are answered 401; 200 only where the whole token is what they carry."""
    raw = samples.token()
    statuses: dict[int, int] = {}

    async def ask_all() -> None:
        with tried("requests to the adapters", share=1 / 3) as inputs:
            for rng in inputs:
                headers, whole = credentials(rng, raw)
                if adapter == "aiohttp":
                    status = await _status_of_aiohttp(headers)
                else:
                    status, _ = status_and_headers(await call(_APPS[adapter], http_scope(headers=headers)))
                statuses[status] = statuses.get(status, 0) + 1
                assert status == 401 or (status == 200 and any(raw.encode() in value for _, value in headers)), headers
                assert status == 200 or not (whole and headers == [(b"authorization", b"Bearer " + raw.encode())])

    asyncio.run(ask_all())
    assert set(statuses) == {200, 401}, "both must have been met, or this test shows nothing"

"""Tokens for OAUTHBEARER: from a real token endpoint or a function, bounded in time, and never deadly to the client."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError

from revoker.errors import SettingsError
from revoker.oauth import SourceFailed, Token, TokenProvider, client_credentials, from_callable, token_provider
from revoker.settings import Settings
from tests.token_endpoint import CLIENT_ID, CLIENT_SECRET, TokenEndpoint

TOKEN = "s3cr3t-access-token"


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Source:
    """Gives out numbered tokens of a fixed life, or fails."""

    def __init__(self, *, life_s: float | None = 100.0) -> None:
        self.life_s = life_s
        self.asked = 0
        self.failure: BaseException | None = None

    async def __call__(self) -> Token:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return Token(value=f"token-{self.asked}", life_s=self.life_s)


Ask = Callable[[], Awaitable[Token]]


def provider(ask: Ask, *, clock: Clock | None = None, timeout_s: float = 5.0) -> TokenProvider:
    """A provider of tokens from ``ask``."""
    return TokenProvider(ask=ask, what="the source", timeout_s=timeout_s, clock=clock or Clock())


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    """A token endpoint that answers."""
    with TokenEndpoint(subject="node", issuer="https://issuer.test", audience="kafka") as running:
        yield running


def asking(endpoint: TokenEndpoint, **changes: str) -> Callable[[], Awaitable[Token]]:
    """Asks that endpoint with the right credentials, unless ``changes`` say otherwise."""
    values = {"url": endpoint.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    return client_credentials(**values | changes)


class TestProvider:
    async def test_a_token_is_kept_until_shortly_before_it_expires(self) -> None:
        """A tenth of its life, at most half a minute, is left when the next is asked for."""
        clock, source = Clock(), Source(life_s=100)
        tokens = provider(source, clock=clock)
        assert await tokens.token() == "token-1"
        clock.now_s += 89.9
        assert await tokens.token() == "token-1"
        clock.now_s += 0.2
        assert await tokens.token() == "token-2"

    async def test_a_token_of_unknown_life_is_kept_for_a_minute(self) -> None:
        """An endpoint need not say how long its tokens live (RFC 6749 section 5.1)."""
        clock, source = Clock(), Source(life_s=None)
        tokens = provider(source, clock=clock)
        await tokens.token()
        clock.now_s += 53
        assert await tokens.token() == "token-1"
        clock.now_s += 2
        assert await tokens.token() == "token-2"

    async def test_connections_that_are_made_at_once_share_a_question(self) -> None:
        """Ten brokers do not mean ten tokens."""
        source = Source()
        tokens = provider(source)
        assert set(await asyncio.gather(*(tokens.token() for _ in range(10)))) == {"token-1"}
        assert source.asked == 1

    @pytest.mark.parametrize(
        "failure", [RuntimeError("no"), SourceFailed("no"), asyncio.CancelledError(), ValueError(), TimeoutError("no")]
    )
    async def test_whatever_goes_wrong_is_a_connection_error(self, failure: BaseException) -> None:
        """aiokafka survives those alone; the cause, which may hold a secret, is not chained."""
        source = Source()
        source.failure = failure
        with pytest.raises(KafkaConnectionError, match="no OAuth token from the source: ") as caught:
            await provider(source).token()
        assert caught.value.__cause__ is None

    async def test_a_source_that_hangs_is_given_up_in_time(self) -> None:
        """The wait is bounded for every caller, those behind the first included."""

        async def hang() -> Token:
            await asyncio.Event().wait()
            raise AssertionError

        tokens = provider(hang, timeout_s=0.05)
        outcomes = await asyncio.gather(*(tokens.token() for _ in range(3)), return_exceptions=True)
        assert all("no answer within 0.05 s" in str(one) for one in outcomes)

    async def test_a_source_that_fails_is_left_alone_for_a_while(self) -> None:
        """A client retries ten times a second; the reason stays the same meanwhile, and the pauses grow."""
        clock, source = Clock(), Source()
        source.failure = RuntimeError("down")
        tokens = provider(source, clock=clock)
        for _ in range(100):
            with pytest.raises(KafkaConnectionError, match="RuntimeError: down"):
                await tokens.token()
            clock.now_s += 0.1
        assert 4 <= source.asked <= 8
        source.failure = None
        clock.now_s += 5.1
        assert await tokens.token() == f"token-{source.asked}"

    async def test_a_refused_token_is_not_used_again(self) -> None:
        """After a pause another is asked for; until then the refusal is told."""
        clock, source = Clock(), Source()
        tokens = provider(source, clock=clock)
        await tokens.token()
        tokens.refused('{"status":"invalid_token"}')
        with pytest.raises(KafkaConnectionError, match=r"the broker refused the last one and said .*invalid_token"):
            await tokens.token()
        clock.now_s += 0.3
        assert await tokens.token() == "token-2"

    @pytest.mark.parametrize("value", ["", "two words", "a\x01auth=b", "a\n", "ü", None, 7, b"bytes"])
    async def test_what_is_no_token_is_not_sent(self, value: Any) -> None:
        """Other characters could end the SASL message early; what it was is not told."""

        async def ask() -> Token:
            return Token(value=value, life_s=None)

        with pytest.raises(KafkaConnectionError, match="what it returned is no token"):
            await provider(ask).token()

    async def test_a_token_is_in_no_repr(self) -> None:
        """Neither of itself nor of who keeps it."""
        tokens = provider(Source())
        value = await tokens.token()
        assert value not in repr(tokens) + repr(Token(value=value, life_s=1))


class TestClientCredentials:
    async def test_the_endpoint_is_asked_as_the_rfc_says(self, endpoint: TokenEndpoint) -> None:
        """Grant type and scope in the form; id and secret, quoted, in Basic (the endpoint checks them)."""
        token = await asking(endpoint, scope="kafka read")()
        assert token.value.count(".") == 2
        assert token.life_s == 300
        assert endpoint.forms == [{"grant_type": ["client_credentials"], "scope": ["kafka read"]}]

    @pytest.mark.parametrize(
        ("status", "body", "said"),
        [
            (500, b"", "it answered status 500"),
            (400, b'{"error":"invalid_scope"}', "it answered status 400, error 'invalid_scope'"),
            (400, b'{"error":"a\\u0001b"}', "it answered status 400"),
            (200, b"", "its answer is no JSON object"),
            (200, b"[]", "its answer is no JSON object"),
            (200, b'{"token_type":"Bearer"}', "its answer is no JSON object with access_token"),
            (200, b'{"access_token":"a","token_type":"mac"}', "of another type than Bearer"),
            (200, b'{"access_token":"' + b"a" * 100_000 + b'","token_type":"Bearer"}', "its answer is no JSON object"),
        ],
    )
    async def test_other_answers_are_named(self, endpoint: TokenEndpoint, status: int, body: bytes, said: str) -> None:
        """Status and error code, never the body, which may hold anything."""
        endpoint.status, endpoint.body = status, body
        with pytest.raises(SourceFailed) as caught:
            await asking(endpoint)()
        assert said in str(caught.value)
        assert caught.value.denied == (status == 400)

    async def test_a_life_written_as_text_is_read(self, endpoint: TokenEndpoint) -> None:
        """Some endpoints do that."""
        endpoint.body = json.dumps({"access_token": TOKEN, "token_type": "bearer", "expires_in": "60"}).encode()
        assert await asking(endpoint)() == Token(value=TOKEN, life_s=60)

    async def test_a_wrong_secret_is_named_and_not_shown(self, endpoint: TokenEndpoint) -> None:
        """The message says which settings to look at."""
        with pytest.raises(SourceFailed, match=r"invalid_client.*kafka_oauth_client_secret") as caught:
            await asking(endpoint, client_secret="s3cr3t-but-wrong")()
        assert caught.value.denied
        assert "s3cr3t-but-wrong" not in str(caught.value)

    async def test_a_redirect_is_not_followed(self, endpoint: TokenEndpoint) -> None:
        """It would take the secret elsewhere."""
        endpoint.status, endpoint.location = 302, endpoint.url
        with pytest.raises(SourceFailed, match="it answered status 302"):
            await asking(endpoint)()
        assert len(endpoint.forms) == 1

    async def test_an_endpoint_that_is_not_there_is_named(self) -> None:
        """The error of the connection, without a header."""
        ask = client_credentials(url="http://127.0.0.1:1/token", client_id=CLIENT_ID, client_secret=CLIENT_SECRET)
        with pytest.raises(SourceFailed, match=r"Cannot connect to host 127\.0\.0\.1:1"):
            await ask()


class TestCallable:
    async def test_a_function_is_called_off_the_loop(self) -> None:
        """It may block, so it has a thread of its own."""
        names: list[str] = []

        def ask() -> str:
            names.append(threading.current_thread().name)
            return TOKEN

        assert (await from_callable(ask, name="m:off_the_loop")()).value == TOKEN
        assert names == ["revoker-m:off_the_loop"]

    async def test_a_coroutine_function_is_awaited(self) -> None:
        """As is a function that returns an awaitable."""

        async def ask() -> str:
            return TOKEN

        assert (await from_callable(ask, name="m:a")()).value == TOKEN
        assert (await from_callable(partial(ask), name="m:b")()).value == TOKEN

    @pytest.mark.parametrize("error", [RuntimeError("down"), SystemExit("down"), KeyboardInterrupt("down")])
    async def test_whatever_a_function_raises_is_a_failure(self, error: BaseException) -> None:
        """Even what would end the process."""

        def ask() -> str:
            raise error

        with pytest.raises(SourceFailed, match="down"):
            await from_callable(ask, name=f"m:{type(error).__name__}")()

    async def test_a_coroutine_function_may_ask_to_exit(self) -> None:
        """The loop would pass that on and end."""

        async def ask() -> str:
            raise SystemExit("down")

        with pytest.raises(SourceFailed, match="SystemExit: down"):
            await from_callable(ask, name="m:exit")()

    async def test_a_function_that_hangs_is_joined_not_started_again(self) -> None:
        """Each retry would leave another thread behind; once it returns, so does the token."""
        calls, go_on = [], threading.Event()

        def ask() -> str:
            calls.append(1)
            go_on.wait(20)
            return TOKEN

        tokens = TokenProvider(ask=from_callable(ask, name="m:hanging"), what="it", timeout_s=0.05)
        for _ in range(3):
            with pytest.raises(KafkaConnectionError):
                await tokens.token()
        other = TokenProvider(ask=from_callable(ask, name="m:hanging"), what="it", timeout_s=5)
        waiting = asyncio.create_task(other.token())
        for _ in range(10):  # until it waits as well
            await asyncio.sleep(0)
        go_on.set()
        assert await waiting == TOKEN
        assert len(calls) == 1


def settings(name: str) -> Settings:
    """Settings that take tokens from this function."""
    return Settings(kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="OAUTHBEARER", kafka_oauth_callable=name)


async def test_a_function_is_found_by_name() -> None:
    """MODULE:FUNCTION, and what is inside of something."""
    assert await token_provider(settings("tests.unit.test_oauth:give_token")).token() == TOKEN


def give_token() -> str:
    """What a user would write."""
    return TOKEN


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:f", "cannot be loaded: ModuleNotFoundError"),
        ("tests.unit.test_oauth:none", "cannot be loaded: AttributeError"),
        ("tests.unit.test_oauth:TOKEN", "is no function but str"),
    ],
)
def test_a_function_that_is_not_there_is_named(name: str, said: str) -> None:
    """At the start, rather than at each connection."""
    with pytest.raises(SettingsError, match=said):
        token_provider(settings(name))


async def test_other_clients_keep_their_authenticator() -> None:
    """A provider that is not ours, in the same process, meets aiokafka's own behaviour."""
    token_provider(settings("tests.unit.test_oauth:give_token"))

    class Foreign(AbstractTokenProvider):
        async def token(self) -> str:
            return TOKEN

    connection = AIOKafkaConnection("127.0.0.1", 1, sasl_mechanism="OAUTHBEARER", sasl_oauth_token_provider=Foreign())
    assert type(connection.authenticator_oauth()) is OAuthAuthenticator

"""Tokens for OAUTHBEARER, from a token endpoint or a function of the user's; and refusals made visible.

aiokafka asks its provider while it connects. Any exception it does not expect ends the tasks that fetch and refresh for
good, silently, and a provider that hangs holds the connection for ever. So whatever goes wrong here, exceptions of a
foreign function included, becomes a `KafkaConnectionError` in bounded time, which aiokafka logs and retries.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
import threading
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final, Literal
from urllib.parse import quote_plus

import msgspec
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError

from revoker.errors import SettingsError
from revoker.settings import Settings

__all__ = ["Token", "TokenProvider", "client_credentials", "from_callable", "token_provider"]

#: A token is asked for anew when a tenth of its life is left, or so many seconds, whichever is less.
_LEAST_LEFT_S: Final = 30.0

#: How long a token is used whose life the endpoint does not tell (RFC 6749 section 5.1 only recommends it).
_UNTOLD_LIFE_S: Final = 60.0

#: After a failure the source is left alone for so long, doubled each time, up to the longest. aiokafka retries ten
#: times a second, and a fleet of nodes would keep down a token endpoint that is trying to come up.
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0

_LONGEST_ANSWER_BYTES: Final = 65_536

#: RFC 6750 section 2.1. Anything else could end the SASL message early and add to it.
_BEARER: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")

#: RFC 6749 section 5.2: characters of an error code.
_ERROR_CODE: Final = re.compile(r"[\x20-\x21\x23-\x5B\x5D-\x7E]{1,64}")


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An access token. ``life_s``: seconds from when it was asked for; None = not told, 0 = never use it twice."""

    value: str
    life_s: float | None

    def __repr__(self) -> str:
        return f"Token(value='***', life_s={self.life_s})"


class SourceFailed(Exception):
    """No token could be had; the text says why, without any secret. ``denied``: the source refused this client."""

    def __init__(self, reason: str, *, denied: bool = False) -> None:
        super().__init__(reason)
        self.denied = denied


class TokenProvider:
    """Hands out tokens to one Kafka client: the same one until shortly before it expires, one question at a time.

    ``ask`` gets a token. ``what`` names it in messages. ``timeout_s``: longest wait for it. ``clock``: monotonic
    seconds.
    """

    def __init__(
        self,
        *,
        ask: Callable[[], Awaitable[Token]],
        what: str,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._what = what
        self._timeout_s = timeout_s
        self._clock = clock
        self._asking = asyncio.Lock()
        self._kept: Token | None = None
        self._until = 0.0
        self._failures = 0
        self._failure = SourceFailed("none was asked for so far")
        self._resting_until = 0.0

    async def token(self) -> str:
        """A token that is valid now.

        Raises KafkaConnectionError, within ``timeout_s`` seconds, saying why there is none.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._asking:
                if (value := await self._current()) is not None:
                    return value
        except TimeoutError:
            self._failed(SourceFailed(f"no answer within {self._timeout_s:g} s"))
        # Not chained: what the source met may hold its secret, and what is raised here is logged.
        error = KafkaConnectionError(f"no OAuth token from {self._what}: {self._failure}")
        error.denied = self._failure.denied  # type: ignore[attr-defined]  # what `is_denial` looks for
        raise error

    async def _current(self) -> str | None:
        """A token, or None if there is none now; `_failure` says why."""
        now = self._clock()
        if self._kept is not None and now < self._until:
            return self._kept.value
        if now < self._resting_until:
            return None
        try:
            token = await self._ask_apart()
        except SourceFailed as error:
            self._failed(error)
            return None
        life_s = _UNTOLD_LIFE_S if token.life_s is None else token.life_s
        self._kept, self._until = token, now + life_s - min(_LEAST_LEFT_S, life_s / 10)
        return token.value

    async def _ask_apart(self) -> Token:
        # In a task of its own: a source that raises CancelledError must not look like our own cancellation.
        asking = asyncio.ensure_future(self._ask())
        asking.add_done_callback(_look_at)
        try:
            await asyncio.wait({asking})
        finally:
            asking.cancel()
        if asking.cancelled():
            raise SourceFailed("it cancelled itself")
        error = asking.exception()
        if isinstance(error, SourceFailed):
            raise error
        if error is not None:
            raise SourceFailed(f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": "))
        token = asking.result()
        value: object = token.value  # a function of the user's may return anything
        if not isinstance(value, str) or not _BEARER.fullmatch(value):
            raise SourceFailed(
                "what it returned is no token: must be text of the characters RFC 6750 section 2.1 allows"
            )
        return token

    def accepted(self) -> None:
        """A broker took the token."""
        self._failures = 0

    def refused(self, said: str) -> None:
        """A broker did not take the token, and said why: ask for another next time, after a pause."""
        self._kept = None
        self._failed(SourceFailed(f"the broker refused the last one and said {said!r}", denied=True))

    def _failed(self, failure: SourceFailed) -> None:
        pause_s = min(_FIRST_PAUSE_S * 2.0 ** min(self._failures, 16), _LONGEST_PAUSE_S)
        self._failures += 1
        self._resting_until = self._clock() + pause_s
        self._failure = failure.with_traceback(None)

    def __repr__(self) -> str:
        return f"TokenProvider({self._what})"


# aiokafka asks for an instance of its class, of which type checkers know nothing.
AbstractTokenProvider.register(TokenProvider)


def token_provider(settings: Settings) -> TokenProvider:
    """The provider that the settings describe. Raises SettingsError if ``kafka_oauth_callable`` cannot be loaded."""
    _show_refusals()
    if settings.kafka_oauth_callable is not None:
        name = settings.kafka_oauth_callable
        ask, what = from_callable(_loaded(name), name=name), f"kafka_oauth_callable {name}"
    else:
        url = settings.kafka_oauth_token_url or ""
        what = f"kafka_oauth_token_url {url.partition('?')[0]}"
        ask = client_credentials(
            url=url,
            client_id=settings.kafka_oauth_client_id or "",
            client_secret=settings.kafka_oauth_client_secret or "",
            scope=settings.kafka_oauth_scope,
        )
    # Sooner than what waits for the connection, so that the reason is known when that gives up.
    return TokenProvider(ask=ask, what=what, timeout_s=0.8 * settings.request_timeout_s)


def client_credentials(
    *, url: str, client_id: str, client_secret: str, scope: str | None = None
) -> Callable[[], Awaitable[Token]]:
    """Asks a token endpoint, as RFC 6749 section 4.4 has it. The client authenticates by HTTP Basic (section 2.3.1).

    Redirects are not followed: they would take the secret elsewhere. The endpoint's certificate is checked against the
    system's CAs (those of ``SSL_CERT_FILE``, if that is set when the process starts).
    """
    form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})

    async def ask() -> Token:
        import aiohttp  # only who uses OAUTHBEARER needs it here

        login = b64encode(f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()).decode()
        headers = {"Accept": "application/json", "Authorization": f"Basic {login}"}
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, data=form, headers=headers, allow_redirects=False) as response,
            ):
                status = response.status
                body = await response.content.read(_LONGEST_ANSWER_BYTES)
                while len(body) < _LONGEST_ANSWER_BYTES and (more := await response.content.read(4096)):
                    body += more
        except (aiohttp.ClientError, OSError) as error:
            raise SourceFailed(f"{type(error).__name__}: {error}") from None
        return _granted(status, body)

    return ask


class _Grant(msgspec.Struct):
    """RFC 6749 section 5.1."""

    access_token: str
    token_type: str
    expires_in: float | None = None


class _Refusal(msgspec.Struct):
    """RFC 6749 section 5.2."""

    error: str


def _granted(status: int, body: bytes) -> Token:
    if status != 200:
        try:
            code = msgspec.json.decode(body, type=_Refusal).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            code = ""
        said = f", error {code!r}" if _ERROR_CODE.fullmatch(code) else ""
        cure = ": are kafka_oauth_client_id and kafka_oauth_client_secret right?" if code == "invalid_client" else ""
        # RFC 6749 section 5.2: 400 or 401 means that this client gets no token, whatever the network does.
        raise SourceFailed(f"it answered status {status}{said}{cure}", denied=status in (400, 401, 403))
    try:
        # Not strict: some endpoints write expires_in as text.
        grant = msgspec.json.decode(body, type=_Grant, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise SourceFailed(
            "its answer is no JSON object with access_token and token_type (RFC 6749 section 5.1)"
        ) from None
    if grant.token_type.lower() != "bearer":
        raise SourceFailed("the token it gave is of another type than Bearer")
    life_s = grant.expires_in
    return Token(value=grant.access_token, life_s=None if life_s is None else max(0.0, life_s))


def from_callable(function: Callable[[], Any], *, name: str) -> Callable[[], Awaitable[Token]]:
    """Asks a function without arguments, synchronous or not, that returns a token as text.

    A synchronous one runs on a thread of its own, never two at a time: one that hangs is joined, not started again.
    How long its tokens live is not known, so it is called for each connection: let it keep them itself.
    """
    if inspect.iscoroutinefunction(function):

        async def ask() -> Token:
            try:
                return Token(value=await function(), life_s=0)
            except SystemExit as error:  # the event loop would pass it on and end
                raise SourceFailed(f"SystemExit: {error}") from None
    else:

        async def ask() -> Token:
            value = await asyncio.wrap_future(_running(function, name))
            if inspect.isawaitable(value):
                value = await value
            return Token(value=value, life_s=0)

    return ask


def _look_at(asking: asyncio.Future[Token]) -> None:
    """One that fails after it was given up is nobody's business any more, and asyncio need not complain."""
    if not asking.cancelled():
        asking.exception()


#: Calls under way, by the name of the function. A thread cannot be cancelled, and clients come and go.
_calls: dict[str, Future[Any]] = {}
_calls_lock = threading.Lock()


def _running(function: Callable[[], Any], name: str) -> Future[Any]:
    with _calls_lock:
        call = _calls.get(name)
        if call is None or call.done():
            call = _calls[name] = Future()
            call.set_running_or_notify_cancel()  # from here on nobody who stops waiting can cancel it for the others
            # A daemon, or a function that hangs would keep the process from ending.
            threading.Thread(target=_call, args=(function, call), name=f"revoker-{name}", daemon=True).start()
        return call


def _call(function: Callable[[], Any], call: Future[Any]) -> None:
    try:
        value = function()
    except BaseException as error:  # noqa: BLE001  - SystemExit of a foreign function included
        call.set_exception(SourceFailed(f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")))
    else:
        call.set_result(value)


def _loaded(name: str) -> Callable[[], Any]:
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        # The module is the user's: importing it may raise anything.
        raise SettingsError(
            f"kafka_oauth_callable {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise SettingsError(f"kafka_oauth_callable {name!r} is no function but {type(found).__name__}")
    function: Callable[[], Any] = found
    return function


class _HonestAuthenticator(OAuthAuthenticator):
    """RFC 7628 section 3.2.3: a broker answers a token it refuses with the reason, waits for one more message, and only
    then ends the exchange by an error.

    aiokafka takes that reason for success, logs "Authenticated", and its next request is answered with nothing.
    """

    def __init__(self, *, sasl_oauth_token_provider: TokenProvider) -> None:
        super().__init__(sasl_oauth_token_provider=sasl_oauth_token_provider)  # type: ignore[no-untyped-call]
        self._provider = sasl_oauth_token_provider
        self._sent = False

    async def step(self, payload: bytes | None) -> tuple[bytes, Literal[True]] | None:
        if self._sent and payload:
            self._provider.refused(payload[:200].decode(errors="replace"))
            return b"\x01", True
        if self._sent:
            self._provider.accepted()
        self._sent = True
        step: tuple[bytes, Literal[True]] | None = await super().step(payload)  # type: ignore[no-untyped-call]
        return step


def _show_refusals() -> None:
    """Give connections whose tokens come from a `TokenProvider` the honest authenticator; others stay as they are."""
    original = AIOKafkaConnection.authenticator_oauth
    if getattr(original, "_revoker", False):
        return

    def authenticator_oauth(connection: AIOKafkaConnection) -> OAuthAuthenticator:
        provider = connection._sasl_oauth_token_provider  # noqa: SLF001 - it has no public door
        if isinstance(provider, TokenProvider):
            return _HonestAuthenticator(sasl_oauth_token_provider=provider)
        other: OAuthAuthenticator = original(connection)  # type: ignore[no-untyped-call]
        return other

    authenticator_oauth._revoker = True  # type: ignore[attr-defined]  # noqa: SLF001
    AIOKafkaConnection.authenticator_oauth = authenticator_oauth  # type: ignore[method-assign]

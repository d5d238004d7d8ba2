"""``revoke()`` → Receipt: compose the event, check it, publish it, and say what is certain about it."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    CorruptRecordException,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from revoker import record
from revoker.cluster import look
from revoker.diagnosis import explain, quiet_logs
from revoker.errors import BrokerError, InvalidRevocation, NotAccepted, OutcomeUnknown, TokenOutlivesTopic
from revoker.events import Digest, Key, Revocation, Selector, Subject, Token, Withdrawal
from revoker.expiry import FUTURE_CUTOFF_S, Lifetimes
from revoker.kafka import prepare, producer_arguments, unreachable
from revoker.settings import Settings
from revoker.tokens import Verified

__all__ = ["LogoutScope", "Publisher", "Receipt", "compose", "logout_selector"]

#: What a logout ends: the token presented, all of the subject's tokens, or all but those of the session presented.
LogoutScope = Literal["token", "everywhere", "elsewhere"]

#: The broker read the record and refused it, so it is not in the log. Every other error may have struck after it was
#: written.
_REFUSALS: Final = (
    CorruptRecordException,
    InvalidTopicError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof of a publication.

    ``state``: ``acknowledged`` = on every in-sync replica. ``timestamp_ms``: the record's timestamp, Unix milliseconds.
    ``took_s``: seconds from the call to the acknowledgement.
    """

    revocation: Revocation
    state: Literal["acknowledged"]
    partition: int
    offset: int
    timestamp_ms: int
    took_s: float


def compose(
    *,
    selector: Selector,
    lifetimes: Lifetimes,
    now_s: int,
    event_id: str,
    exp: float | None = None,
    cutoff: int | None = None,
    reason: str | None = None,
    actor: str | None = None,
) -> Revocation:
    """The event that revokes ``selector``, checked as far as it can be without a broker. Pure.

    ``exp``: the token's expiry, for the kinds ``token`` and ``digest``; None assumes the longest life. ``cutoff``:
    whole Unix seconds, for the kinds that have one; None means now, for a key every token it ever signed. Raises
    InvalidRevocation, or its subclass TokenOutlivesTopic, naming the field.
    """
    if exp is not None:
        if not isinstance(selector, Token | Digest):
            raise InvalidRevocation(f"exp belongs to a single token; a revocation of kind {selector.kind} has none")
        if not _is_time(exp):
            raise InvalidRevocation("exp is no time in Unix seconds")
    if selector.exact or isinstance(selector, Withdrawal):
        if cutoff is not None:
            raise InvalidRevocation(f"a revocation of kind {selector.kind} has no cutoff: presence alone decides")
    elif cutoff is None:
        cutoff = None if isinstance(selector, Key) else now_s
    elif not _is_time(cutoff) or cutoff != int(cutoff):
        raise InvalidRevocation("cutoff is no whole number of Unix seconds")
    elif cutoff > now_s + FUTURE_CUTOFF_S:
        raise InvalidRevocation(
            f"cutoff lies {cutoff - now_s} s in the future, at most {FUTURE_CUTOFF_S} s are allowed: "
            "it would refuse later logins"
        )
    if isinstance(selector, Subject) and selector.spare_sid is not None and selector.spare_jti is not None:
        raise InvalidRevocation("a subject revocation spares a session or a token, not both")
    if isinstance(selector, Withdrawal):
        # The rule withdrawn may have been published just now, with a cut-off ahead of the clock; the withdrawal must
        # outlive it.
        expires_at = lifetimes.expires_at(selector, now_s=now_s, cutoff=now_s + FUTURE_CUTOFF_S)
    else:
        expires_at = lifetimes.expires_at(selector, now_s=now_s, cutoff=cutoff, exp=exp)
    revocation = Revocation(
        id=event_id,
        selector=selector,
        revoked_at=now_s,
        expires_at=expires_at,
        cutoff=cutoff,
        reason=reason,
        actor=actor,
    )
    record.encode(revocation)
    return revocation


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


def logout_selector(token: Verified, *, scope: LogoutScope) -> Selector:
    """What a logout with this token revokes. Raises InvalidRevocation if the token lacks the claims that ``scope``
    needs.
    """
    if scope == "token":
        return token.selector
    sub = token.claims.get("sub")
    if not sub:
        raise InvalidRevocation(f"logging out {scope} needs the claim sub, and the token has none")
    if scope == "everywhere":
        return Subject(iss=token.iss, sub=sub)
    if scope == "elsewhere":
        if sid := token.claims.get("sid"):
            return Subject(iss=token.iss, sub=sub, spare_sid=sid)
        if jti := token.claims.get("jti"):
            return Subject(iss=token.iss, sub=sub, spare_jti=jti)
        raise InvalidRevocation(
            "logging out elsewhere needs a claim sid or jti to tell this session apart, and the token has neither"
        )
    raise InvalidRevocation(f"scope is {scope!r}, must be token, everywhere or elsewhere")


class Publisher:
    """Publishes revocations to the topic. Use it as ``async with Publisher(settings) as publisher``.

    ``on_acknowledged`` is called with each event once it is acknowledged: hand it a node's ``apply`` to have the same
    process refuse at once. ``wall`` gives Unix seconds; ``new_id`` the id of an event.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_acknowledged: Callable[[Revocation], None] | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._settings = settings
        self._lifetimes = settings.lifetimes
        self._on_acknowledged = on_acknowledged
        self._wall = wall
        self._monotonic = monotonic
        self._new_id = new_id
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        #: Events by outcome: ``acknowledged``, ``refused``, ``unknown``.
        self.outcomes: dict[str, int] = {"acknowledged": 0, "refused": 0, "unknown": 0}

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect, unless connected; may be called again. Raises BrokerUnreachable, TopicMissing or a BrokerError.

        Asks whether the topic exists before the producer can ask for it in its own way, which may create it.
        """
        await self._connected()

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                self._producer = await self._new_producer()
            return self._producer

    async def _new_producer(self) -> AIOKafkaProducer:
        settings = self._settings
        producer = AIOKafkaProducer(**producer_arguments(settings))
        prepare(producer.client)
        before = quiet_logs.last_problem
        quiet_logs.install()
        try:
            async with asyncio.timeout(settings.request_timeout_s):
                await producer.start()
                await look(producer.client, settings.topic, timeout_s=settings.request_timeout_s)
        except BaseException as error:
            quiet_logs.uninstall()
            await producer.stop()
            if isinstance(error, KafkaError | OSError):
                raise unreachable(settings, explain(error), before=before) from error
            raise
        return producer

    async def close(self) -> None:
        """Disconnect. What was acknowledged stays so; what was not has already raised."""
        producer, self._producer = self._producer, None
        if producer is not None:
            quiet_logs.uninstall()
            await producer.stop()

    async def probe(self) -> None:
        """Connect if need be and ask the brokers for the topic: returns if revocations can probably be published now,
        else raises BrokerError.
        """
        producer = await self._connected()
        await look(producer.client, self._settings.topic, timeout_s=self._settings.request_timeout_s)

    async def revoke(
        self,
        *,
        selector: Selector,
        exp: float | None = None,
        cutoff: int | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Receipt:
        """Revoke ``selector`` for the whole fleet; see `compose` for the arguments.

        Returns once every in-sync replica has it. Raises InvalidRevocation before anything is sent; NotAccepted if it
        is certainly not in the topic; OutcomeUnknown if it may be: then call again, or `publish` ``error.revocation``
        again under its own id.
        """
        return await self.publish(
            compose(
                selector=selector,
                lifetimes=self._lifetimes,
                now_s=math.floor(self._wall()),
                event_id=self._new_id(),
                exp=exp,
                cutoff=cutoff,
                reason=reason,
                actor=actor,
            )
        )

    async def logout(
        self, token: Verified, *, scope: LogoutScope = "token", reason: str | None = "logout", actor: str | None = None
    ) -> Receipt:
        """Revoke what a user who logs out with ``token`` means to end. Raises as `revoke` does."""
        selector = logout_selector(token, scope=scope)
        exp = None
        if isinstance(selector, Token | Digest):
            exp = token.exp
            if exp is None:
                longest_s = self._lifetimes.longest_token_life_s
                raise TokenOutlivesTopic(
                    f"this token never expires, but revocations are kept for tokens that live at most {longest_s} s "
                    "(setting longest_token_life_s): its revocation would be forgotten",
                    token_life_s=math.inf,
                    longest_token_life_s=longest_s,
                )
        cutoff = None
        if isinstance(selector, Subject):
            # An issuer whose clock runs ahead of ours signs tokens of our future: the one presented has to be covered.
            now_s = math.floor(self._wall())
            cutoff = min(max(now_s, math.floor(token.claims.get("iat") or 0)), now_s + FUTURE_CUTOFF_S)
        return await self.revoke(selector=selector, exp=exp, cutoff=cutoff, reason=reason, actor=actor)

    async def publish(self, revocation: Revocation) -> Receipt:
        """Send one composed event and wait for its acknowledgement, for ``publish_timeout_s`` at most. Raises as
        `revoke` does.
        """
        key, value, headers = record.encode(revocation)
        began = self._monotonic()
        deadline = asyncio.get_running_loop().time() + self._settings.publish_timeout_s
        try:
            # Callers wait for one another here: without a bound of its own, each would wait for all before it to fail.
            async with asyncio.timeout_at(deadline):
                producer = await self._connected()
        except (BrokerError, TimeoutError) as error:
            self.outcomes["refused"] += 1
            raise NotAccepted(f"the revocation was not sent: {explain(error)}") from error
        try:
            async with asyncio.timeout_at(deadline):
                metadata = await producer.send_and_wait(self._settings.topic, value, key=key, headers=headers)
        except _REFUSALS as error:
            self.outcomes["refused"] += 1
            raise NotAccepted(f"the broker refused the revocation: {explain(error)}") from error
        except (KafkaError, OSError, TimeoutError) as error:
            self.outcomes["unknown"] += 1
            raise OutcomeUnknown(
                f"no acknowledgement within {self._settings.publish_timeout_s:g} s; the revocation may be in the topic "
                f"or not, publishing it again is harmless: {explain(error)}",
                revocation=revocation,
            ) from error
        self.outcomes["acknowledged"] += 1
        if self._on_acknowledged is not None:
            self._on_acknowledged(revocation)
        return Receipt(
            revocation=revocation,
            state="acknowledged",
            partition=metadata.partition,
            offset=metadata.offset,
            timestamp_ms=metadata.timestamp,
            took_s=self._monotonic() - began,
        )

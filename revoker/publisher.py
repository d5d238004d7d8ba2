"""``revoke()`` → Receipt: compose the event, check it, publish it, and say what is certain about it."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self

from revoker import record
from revoker.delivery import Delivery
from revoker.errors import InvalidRevocation, NotAccepted, OutcomeUnknown, RevokerError, TokenOutlivesTopic
from revoker.events import Digest, Key, Revocation, Selector, Subject, Token, Withdrawal
from revoker.expiry import FUTURE_CUTOFF_S, Lifetimes
from revoker.outbox.file import Entry
from revoker.seal import Seal
from revoker.sender import Sender
from revoker.settings import Settings
from revoker.tokens import Verified

__all__ = ["LogoutScope", "Publisher", "Receipt", "compose", "logout_selector"]

logger: logging.Logger = logging.getLogger(__name__)

#: What a logout ends: the token presented, all of the subject's tokens, or all but those of the session presented.
LogoutScope = Literal["token", "everywhere", "elsewhere"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof of a publication.

    ``state``: ``acknowledged`` = on every in-sync replica; ``stored`` = on this machine's disk, in the outbox, from
    where it is delivered: the fleet does not know of it yet. ``timestamp_ms``: the record's timestamp, Unix
    milliseconds; None, like ``partition`` and ``offset``, while it is stored. ``took_s``: seconds from the call.
    """

    revocation: Revocation
    state: Literal["acknowledged", "stored"]
    partition: int | None
    offset: int | None
    timestamp_ms: int | None
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
    revocation = _drafted(
        selector=selector,
        lifetimes=lifetimes,
        now_s=now_s,
        event_id=event_id,
        exp=exp,
        cutoff=cutoff,
        reason=reason,
        actor=actor,
    )
    record.encode(revocation)
    return revocation


def _drafted(
    *,
    selector: Selector,
    lifetimes: Lifetimes,
    now_s: int,
    event_id: str,
    exp: float | None,
    cutoff: int | None,
    reason: str | None,
    actor: str | None,
) -> Revocation:
    """`compose`, but for what only encoding it tells: for a caller that encodes it next."""
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
    return Revocation(
        id=event_id,
        selector=selector,
        revoked_at=now_s,
        expires_at=expires_at,
        cutoff=cutoff,
        reason=reason,
        actor=actor,
    )


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


#: Namespace of the ids of single tokens' logouts (RFC 9562 section 5.5).
_LOGOUTS: Final = uuid.UUID("3d1f6a3e-6a8b-4b7e-9c53-6f0c1c3b7a55")


class Publisher:
    """Publishes revocations to the topic. Use it as ``async with Publisher(settings) as publisher``.

    With the setting ``outbox_file`` a revocation is accepted once it is on disk, whether or not Kafka is there, and
    then delivered for as long as this publisher, or a later one on the same file, is open.

    ``on_accepted`` is called with each event once it is accepted: on disk, or without an outbox acknowledged. Hand it a
    node's ``apply`` to have the same process refuse at once. It hears again of what waits in the outbox at the start.
    What it raises is logged, and makes no failure of the publication.
    ``wall`` gives Unix seconds; ``new_id`` the id of an event.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_accepted: Callable[[Revocation], None] | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._settings = settings
        self._lifetimes = settings.lifetimes
        self._on_accepted = None if on_accepted is None else _beside(on_accepted)
        self._wall = wall
        self._monotonic = monotonic
        self._new_id = new_id
        #: Signs what is published; None = the settings name no key.
        self.seal: Seal | None = Seal.from_settings(settings, monotonic=monotonic)
        #: The connection to the brokers, for whatever else this process has to send.
        self.sender: Sender = Sender(settings)
        #: What waits on disk and who delivers it; None without the setting ``outbox_file``.
        self.delivery: Delivery | None = None
        if settings.outbox_file is not None:
            self.delivery = Delivery(
                settings, sender=self.sender, on_accepted=self._on_accepted, wall=wall, monotonic=monotonic
            )
        #: Events by outcome: ``acknowledged``, ``stored``, ``refused``, ``unknown``.
        self.outcomes: dict[str, int] = {"acknowledged": 0, "stored": 0, "refused": 0, "unknown": 0}

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()  # nobody else does, and an outbox would keep its file from the next attempt
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect, unless connected; may be called again. Raises BrokerUnreachable, TopicMissing or a BrokerError.

        With an outbox: open it instead, and deliver what waits once there are brokers. Raises OutboxUnavailable.
        """
        if self.delivery is not None:
            await self.delivery.open()
        else:
            await self.sender.connect()

    async def close(self) -> None:
        """Disconnect. What was acknowledged or stored stays so; what was not has already raised."""
        try:
            if self.delivery is not None:
                await self.delivery.stop()
            await self.sender.close()
        finally:
            if self.delivery is not None:
                await self.delivery.close()

    async def probe(self) -> None:
        """Connect if need be and ask the brokers for the topic: returns if revocations can probably be published now,
        else raises BrokerError. Looks at the outbox as well, whose `Delivery.check` says how it is.
        """
        if self.delivery is not None:
            await self.delivery.probe()
        await self.sender.probe()

    async def revoke(
        self,
        *,
        selector: Selector,
        event_id: str | None = None,
        exp: float | None = None,
        cutoff: int | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Receipt:
        """Revoke ``selector`` for the whole fleet; see `compose` for the arguments. ``event_id``: None = a new one.

        Returns once every in-sync replica has it, or with an outbox after ``publish_timeout_s`` at most, once it is on
        disk. Raises InvalidRevocation before anything is sent; NotAccepted (OutboxUnavailable) if it is certainly not
        in the topic, nor on disk; OutcomeUnknown, never with an outbox, if it may be: then call again, or `publish`
        ``error.revocation`` again under its own id.
        """
        return await self.publish(
            _drafted(
                selector=selector,
                lifetimes=self._lifetimes,
                now_s=math.floor(self._wall()),
                event_id=self._new_id() if event_id is None else event_id,
                exp=exp,
                cutoff=cutoff,
                reason=reason,
                actor=actor,
            )
        )

    async def logout(
        self, token: Verified, *, scope: LogoutScope = "token", reason: str | None = "logout", actor: str | None = None
    ) -> Receipt:
        """Revoke what a user who logs out with ``token`` means to end. Raises as `revoke` does.

        The logout of one token has the same event id however often it is repeated, so that no repetition adds to what
        waits in an outbox.
        """
        selector = logout_selector(token, scope=scope)
        exp = event_id = None
        if isinstance(selector, Token | Digest):
            exp, event_id = token.exp, str(uuid.uuid5(_LOGOUTS, "\0".join(selector.key)))
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
        return await self.revoke(
            selector=selector, event_id=event_id, exp=exp, cutoff=cutoff, reason=reason, actor=actor
        )

    async def publish(self, revocation: Revocation) -> Receipt:
        """Send one composed event and wait for its acknowledgement, for ``publish_timeout_s`` at most. Raises as
        `revoke` does.
        """
        began = self._monotonic()
        entry = self._encoded(revocation)
        try:
            if self.delivery is not None:
                landed = await self.delivery.accept(revocation, entry)
            else:
                landed = await self.sender.send(entry.value, key=entry.key, headers=entry.headers)
        except NotAccepted:
            self.outcomes["refused"] += 1
            raise
        except OutcomeUnknown as error:
            self.outcomes["unknown"] += 1
            error.revocation = revocation
            raise
        state: Literal["acknowledged", "stored"] = "stored" if landed is None else "acknowledged"
        self.outcomes[state] += 1
        if self.delivery is None and self._on_accepted is not None:
            self._on_accepted(revocation)
        return Receipt(
            revocation=revocation,
            state=state,
            partition=None if landed is None else landed.partition,
            offset=None if landed is None else landed.offset,
            timestamp_ms=None if landed is None else landed.timestamp_ms,
            took_s=self._monotonic() - began,
        )

    def _encoded(self, revocation: Revocation) -> Entry:
        """The record as it will be sent, and stored: everything that is ever added to one is added here."""
        key, value, headers = record.encode(revocation)
        if self.seal is not None:
            self.seal.check(revocation)
            headers += self.seal.sign(value)
        return Entry(event_id=revocation.id, key=key, value=value, headers=headers, expires_at=revocation.expires_at)


def _beside(on_accepted: Callable[[Revocation], None]) -> Callable[[Revocation], None]:
    """Its errors to the log: the event is accepted, and whoever was told otherwise would not know of it."""

    def hear(revocation: Revocation) -> None:
        try:
            on_accepted(revocation)
        except Exception as error:
            defect = not isinstance(error, RevokerError)  # a deny list that is full says all that is to say
            logger.log(
                logging.ERROR, "event %s is accepted, and on_accepted failed: %r", revocation.id, error, exc_info=defect
            )

    return hear

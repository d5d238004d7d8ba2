"""What the handlers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from revoker.health import Check
from revoker.heartbeat import Heartbeats
from revoker.keys import Keys
from revoker.publisher import Publisher
from revoker.service.admins import Admin
from revoker.service.audit import Audit
from revoker.service.confirmation import Confirmations
from revoker.service.lifecycle import Background, BrokerWatch
from revoker.settings import Settings
from revoker.tokens import Verified, Verifier

__all__ = ["SERVICE", "Service"]


@dataclass(kw_only=True, eq=False)
class Service:
    """The parts of one service, made once by `revoker.service.app.create_app`.

    ``answers``: how many, by route and class of status. ``clearing_cookie``: the header that clears the cookie, or
    empty. ``wall``: Unix seconds; ``new_id``: of an event.
    """

    settings: Settings
    publisher: Publisher
    verifier: Verifier
    keys: Keys
    is_revoked: Callable[[Verified], bool | None] | None
    admins: tuple[Admin, ...]
    confirmations: Confirmations
    audit: Audit
    wall: Callable[[], float]
    new_id: Callable[[], str]
    listed_origins: frozenset[str]
    clearing_cookie: str
    revocation_forms: Mapping[str, type[msgspec.Struct]]
    openapi: bytes
    body_timeout_s: float
    watch: BrokerWatch
    heartbeats: Heartbeats | None = None
    background: Background = field(default_factory=Background)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)

    def checks(self) -> tuple[Check, ...]:
        """What ``/readyz`` reports: Kafka, the outbox, the keys, and any task that died."""
        return (
            self.watch.check(),
            *((self.publisher.delivery.check(),) if self.publisher.delivery is not None else ()),
            Check(name="keys", ok=self.keys.ready, detail=self.keys.problem or ""),
            *self.audit.checks(),
            *self.deaths(),
        )

    def deaths(self) -> tuple[Check, ...]:
        """A failed check for every background task that died; none while all is well."""
        dead = dict(self.background.deaths)
        if self.publisher.delivery is not None and (error := self.publisher.delivery.death) is not None:
            dead["relay"] = error
        return tuple(
            Check(name=name, ok=False, detail=f"the task died ({type(error).__name__}): restart this process")
            for name, error in dead.items()
        )


SERVICE: web.AppKey[Service] = web.AppKey("revoker_service", Service)

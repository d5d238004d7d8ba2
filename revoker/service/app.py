"""The service as an aiohttp application: routes, middlewares, lifecycle."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from aiohttp import web

from revoker.heartbeat import Heartbeats
from revoker.keys import Keys
from revoker.publisher import Publisher
from revoker.service import admin, bodies, health
from revoker.service.admins import admins_from_setting
from revoker.service.audit import Audit
from revoker.service.confirmation import Confirmations
from revoker.service.credentials import clearing_cookie
from revoker.service.lifecycle import BrokerWatch
from revoker.service.logout import logout
from revoker.service.openapi import document
from revoker.service.origin import listed_origins
from revoker.service.problems import Refused, problems, respond, route_of
from revoker.service.state import SERVICE, Service
from revoker.settings import Settings
from revoker.tokens import Verified, Verifier

__all__ = ["create_app"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(
    settings: Settings,
    *,
    publisher: Publisher,
    verifier: Verifier,
    keys: Keys,
    is_revoked: Callable[[Verified], bool | None] | None = None,
    body_timeout_s: float = 10.0,
    watch_every_s: float = 2.0,
    monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> web.Application:
    """The logout service. Serve it with `revoker.service.server.serving`.

    ``publisher`` and ``keys`` belong to the application from here on: it connects the one, runs the other, and closes
    both. It starts without Kafka, answers 503 until there is one, or 202 if it has an outbox, and says so in
    ``/readyz``.

    ``is_revoked``: whether a verified token has been revoked; None = not known. A revoked token may repeat its own
    logout, and nothing wider; without it every token that verifies may act. ``body_timeout_s``: longest time for a
    request's body to arrive. ``watch_every_s``: between two questions to Kafka, and two looks at the audit file.
    ``wall`` gives Unix seconds; ``new_id`` the id of an admin's event.

    Raises SettingsError for a cookie no browser would take, an origin that is none, or malformed admin tokens.
    """
    forms = admin.forms(issuer=settings.issuer)
    admins = admins_from_setting(settings.admin_tokens)
    service = Service(
        settings=settings,
        publisher=publisher,
        verifier=verifier,
        keys=keys,
        is_revoked=is_revoked,
        admins=admins,
        confirmations=Confirmations(admins),
        audit=Audit(settings.admin_audit_file, wall=wall, monotonic=monotonic),
        wall=wall,
        new_id=new_id,
        listed_origins=listed_origins(settings.allowed_origins),
        clearing_cookie=clearing_cookie(settings),
        revocation_forms=forms,
        openapi=document(settings, forms=forms),
        body_timeout_s=body_timeout_s,
        watch=BrokerWatch(
            publisher, every_s=watch_every_s, monotonic=monotonic, storing=publisher.delivery is not None
        ),
        heartbeats=_heartbeats(publisher, settings, wall=wall),
    )
    app = web.Application(middlewares=[_counted, problems(realm=settings.realm, retry_after_s=settings.retry_after_s)])
    app[SERVICE] = service
    app.on_response_prepare.append(_never_stored)
    app.cleanup_ctx.append(_lifecycle)
    expect_handler = partial(_expectation, max_bytes=settings.max_body_bytes)
    app.router.add_post("/logout", logout, expect_handler=expect_handler)
    app.router.add_post("/revocations", admin.revoke, expect_handler=expect_handler)
    app.router.add_get("/livez", health.livez)
    # Kubernetes has deprecated /healthz; where it is still asked, it decides about a restart.
    app.router.add_get("/healthz", health.livez)
    app.router.add_get("/readyz", health.ready)
    app.router.add_get("/metrics", health.metrics)
    app.router.add_get("/openapi.json", health.openapi)
    return app


def _heartbeats(publisher: Publisher, settings: Settings, *, wall: Callable[[], float]) -> Heartbeats | None:
    if not settings.heartbeat_interval_s:
        return None
    sign = None if publisher.seal is None else publisher.seal.sign
    return Heartbeats(publisher.sender, settings, sign=sign, wall=wall)


async def _lifecycle(app: web.Application) -> AsyncIterator[None]:
    service = app[SERVICE]
    service.background.start("keys", service.keys.run())
    service.background.start("broker-watch", service.watch.run())
    if service.heartbeats is not None:
        service.background.start("heartbeats", service.heartbeats.run())
    if service.audit.to_file:
        await service.audit.look()
        service.background.start("audit-watch", service.audit.watch(every_s=service.watch.every_s))
    try:
        yield
    finally:
        await service.background.close()
        await service.publisher.close()
        await service.audit.close()


@web.middleware
async def _counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    request.app[SERVICE].answers[route_of(request), f"{response.status // 100}xx"] += 1
    return response


async def _never_stored(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001  - aiohttp's signature
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Server"] = "revoker"  # aiohttp names itself, Python, and both versions
    response.headers.setdefault("X-Content-Type-Options", "nosniff")


async def _expectation(request: web.Request, *, max_bytes: int) -> web.StreamResponse | None:
    # Outside of the middlewares, so the answer is made here.
    try:
        await bodies.expectation(request, max_bytes=max_bytes)
    except Refused as refused:
        return respond(refused.answer)
    return None

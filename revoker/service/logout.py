"""``POST /logout``: whoever holds a token ends it, all of the subject's, or all but this session's."""

from __future__ import annotations

import logging
from typing import Final, Literal, get_args

import msgspec
from aiohttp import web

from revoker.events import FreeText
from revoker.nearest import nearest
from revoker.publisher import LogoutScope
from revoker.service import bodies
from revoker.service.credentials import find_credential
from revoker.service.origin import refusal
from revoker.service.problems import Refused, answer_to, respond
from revoker.service.state import SERVICE, Service
from revoker.tokens import InvalidTokenError, KeyUnknown, TokenRevoked

__all__ = ["LogoutRequest", "LogoutStored", "logout", "parse"]

logger: logging.Logger = logging.getLogger(__name__)

SCOPES: Final = get_args(LogoutScope)


class LogoutRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``scope``: this token, everything of its subject's, or everything but this session.

    ``reason``: for the audit trail.
    """

    scope: LogoutScope = "token"
    reason: FreeText | None = None


class LogoutStored(msgspec.Struct, frozen=True, kw_only=True):
    """The answer 202: the logout is on the service's disk, and on its way to every node. ``event_id``: under which it
    will be in the topic.
    """

    state: Literal["stored"]
    detail: str
    event_id: str


def parse(body: bytes, *, media_type: str) -> LogoutRequest:
    """What the body asks for; an empty one asks for the default.

    Raises Refused: 415, 400 or 422, saying what would be right.
    """
    if not body:
        return LogoutRequest()
    if media_type == bodies.JSON:
        fields = bodies.fields_of_json(body)
    elif media_type == bodies.FORM:
        fields = bodies.fields_of_form(body, known=LogoutRequest.__struct_fields__)
    else:
        raise Refused(
            415,
            code="unsupported_media_type",
            detail=f"The body must be {bodies.JSON} or {bodies.FORM}, or absent",
            headers=(("Accept", f"{bodies.JSON}, {bodies.FORM}"),),
        )
    scope = fields.get("scope", "token")
    if scope not in SCOPES:
        raise Refused(422, code="invalid_body", detail=f"The scope is none that exists{nearest(scope, SCOPES)}")
    return bodies.typed(fields, LogoutRequest, known=LogoutRequest.__struct_fields__, of="a logout")


async def logout(request: web.Request) -> web.Response:
    """204 once the broker has acknowledged, and never before: then no node that is ready and fresh lets the token
    in. 202 if it is only stored by then."""
    service = request.app[SERVICE]
    credential = find_credential(
        authorization=request.headers.getall("Authorization", ()),
        cookies=request.headers.getall("Cookie", ()),
        cookie_name=service.settings.cookie_name,
    )
    by_cookie = credential.source == "cookie"
    if by_cookie and (reason := _foreign(request, service)):
        raise Refused(403, code="origin_refused", detail=reason)
    try:
        token = service.verifier.verify(credential.raw)
    except KeyUnknown:
        # Perhaps a new key of the issuer's that we have not seen: nodes may know it, so the cookie is not dead weight.
        raise
    except InvalidTokenError as error:
        return _refuse(service, error, clear=by_cookie)
    body = await bodies.read(request, max_bytes=service.settings.max_body_bytes, timeout_s=service.body_timeout_s)
    asked = parse(body, media_type=request.content_type)
    if asked.scope != "token" and service.is_revoked is not None and service.is_revoked(token):
        # Or a thief whose copy was revoked could go on ending every session its owner opens. Unknown (None) goes on:
        # that somebody cannot log out hurts more than what a revoked token could do here.
        return _refuse(service, TokenRevoked(), clear=by_cookie)
    # A token known to be revoked is published again: its record need not be in the topic any more. The deny list
    # outlives the log, and a topic made again is read by nodes that never knew the old one.
    # If this raises, the cookie stays: the token may still be valid, and without it the user could not try again.
    receipt = await service.publisher.logout(token, scope=asked.scope, reason=asked.reason or "logout", actor="self")
    logger.info("logout, scope %s: event %s %s", asked.scope, receipt.revocation.id, receipt.state)
    acknowledged = receipt.state == "acknowledged"
    response = web.Response(status=204) if acknowledged else _stored(receipt.revocation.id)
    # "elsewhere" spares this very session. A cookie with another token than the one in Authorization is not ended by
    # this.
    if credential.in_cookie and asked.scope != "elsewhere":
        response.headers.add("Set-Cookie", service.clearing_cookie)
    return response


def _stored(event_id: str) -> web.Response:
    answer = LogoutStored(
        state="stored",
        detail="The logout is stored and will be sent to every node; one that it has not reached may still accept the "
        "token",
        event_id=event_id,
    )
    return web.Response(status=202, body=msgspec.json.encode(answer), content_type=bodies.JSON)


def _foreign(request: web.Request, service: Service) -> str | None:
    return refusal(
        origins=request.headers.getall("Origin", ()),
        fetch_sites=request.headers.getall("Sec-Fetch-Site", ()),
        own=f"{request.scheme}://{request.host}",
        listed=service.listed_origins,
    )


def _refuse(service: Service, error: Exception, *, clear: bool) -> web.Response:
    answer = answer_to(error, realm=service.settings.realm, retry_after_s=service.settings.retry_after_s)
    if answer is None:
        raise error
    response = respond(answer)
    if clear:
        response.headers.add("Set-Cookie", service.clearing_cookie)
    return response

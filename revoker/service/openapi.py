"""The description of the API, OpenAPI 3.1, made from the types that read and write the bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from revoker.service import confirmation
from revoker.service.admin import RevocationReceipt, Unconfirmed
from revoker.service.bodies import FORM, JSON
from revoker.service.logout import LogoutRequest, LogoutStored
from revoker.service.problems import MEDIA_TYPE, Problem
from revoker.settings import Settings

__all__ = ["API_VERSION", "document"]

#: Of the API described, not of the software: it changes when a client would have to.
API_VERSION: Final = "2.0.0"

_SCHEMAS: Final = "#/components/schemas/"

_CHALLENGE: Final = {
    "WWW-Authenticate": {"schema": {"type": "string"}, "description": "RFC 6750: what is wrong with the token"}
}
_RETRY_AFTER: Final = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}


def document(settings: Settings, *, forms: Mapping[str, type[msgspec.Struct]]) -> bytes:
    """The document as JSON. ``forms``: the body of each kind, from `revoker.service.admin.forms`."""
    types = (LogoutRequest, LogoutStored, RevocationReceipt, Problem, Unconfirmed, *forms.values())
    _, schemas = msgspec.json.schema_components(types, ref_template=_SCHEMAS + "{name}")
    schemas["Revocation"] = {
        "oneOf": [{"$ref": _SCHEMAS + form.__name__} for form in forms.values()],
        "discriminator": {
            "propertyName": "kind",
            "mapping": {kind: _SCHEMAS + form.__name__ for kind, form in forms.items()},
        },
    }
    token_schemes: dict[str, Any] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    if settings.cookie_name:
        token_schemes["cookie"] = {
            "type": "apiKey",
            "in": "cookie",
            "name": settings.cookie_name,
            "description": "From browsers only with an Origin that is allowed, or Sec-Fetch-Site: same-origin.",
        }
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "revoker",
                "version": API_VERSION,
                "summary": "Log out once, refused by every node.",
                "description": "Every time is Unix time in seconds. Every error is a problem (RFC 9457).",
            },
            "paths": {
                "/logout": {"post": _logout([{name: []} for name in token_schemes])},
                "/revocations": {"post": _revocations()},
                "/livez": {"get": _probe("Is the process worth keeping?", "A background task died: restart it.")},
                "/healthz": {"get": _probe("The old name of /livez.", "A background task died: restart it.")},
                "/readyz": {"get": _readyz()},
                "/metrics": {"get": _metrics()},
                "/openapi.json": {"get": _itself()},
            },
            "components": {
                "schemas": schemas,
                "securitySchemes": {
                    **token_schemes,
                    "admin": {"type": "http", "scheme": "bearer", "description": "One of the setting admin_tokens."},
                },
            },
        }
    )


def _logout(security: list[dict[str, list[str]]]) -> dict[str, Any]:
    body = {"schema": {"$ref": _SCHEMAS + "LogoutRequest"}}
    return {
        "operationId": "logout",
        "summary": "End the token presented, all of its subject's, or all but this session's",
        "security": security,
        "requestBody": {"required": False, "content": {JSON: body, FORM: body}},
        "responses": {
            "204": {
                "description": "Acknowledged by the broker. The cookie is cleared, unless scope is elsewhere.",
                "headers": {"Set-Cookie": {"schema": {"type": "string"}}},
            },
            "202": {
                "description": "Stored by the service, to be sent to every node: Kafka is away. The cookie is cleared.",
                "headers": {"Set-Cookie": {"schema": {"type": "string"}}},
                "content": {JSON: {"schema": {"$ref": _SCHEMAS + "LogoutStored"}}},
            },
            "400": _problem("The body is malformed."),
            "401": _problem("No token, or one that is not valid or was revoked.", headers=_CHALLENGE),
            "403": _problem("The cookie came with a request from another origin."),
            **_common_refusals(),
            "503": _problem("Not acknowledged: the user is not logged out. Send it again.", headers=_RETRY_AFTER),
        },
    }


def _revocations() -> dict[str, Any]:
    return {
        "operationId": "revoke",
        "summary": "Publish a revocation of any kind",
        "description": (
            "The wide kinds (client, claim, key, issuer, all) are answered 428 first: what would be refused, and a "
            f"confirmation. The same request with it in the header {confirmation.HEADER} publishes that."
        ),
        "security": [{"admin": []}],
        "parameters": [
            {
                "name": confirmation.HEADER,
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": confirmation.MAX_CHARS},
                "description": f"From the 428 before, for {confirmation.VALID_S} s; with wide kinds alone.",
            }
        ],
        "requestBody": {"required": True, "content": {JSON: {"schema": {"$ref": _SCHEMAS + "Revocation"}}}},
        "responses": {
            "200": {
                "description": "Acknowledged by the broker.",
                "content": {JSON: {"schema": {"$ref": _SCHEMAS + "RevocationReceipt"}}},
            },
            "202": {
                "description": "Stored by the service, to be sent to every node: Kafka is away.",
                "content": {JSON: {"schema": {"$ref": _SCHEMAS + "RevocationReceipt"}}},
            },
            "400": _problem("The body is malformed."),
            "401": _problem("No admin token, or none that is known.", headers=_CHALLENGE),
            "403": _problem("The admin token is not for this kind, or there are no admins.", headers=_CHALLENGE),
            **_common_refusals(),
            "428": _problem(
                "A wide rule, not confirmed or not in time: nothing was published. code says which.",
                schema="Unconfirmed",
            ),
            "503": _problem(
                "Not acknowledged: outcome says what is certain. Or the audit cannot be written (audit_unavailable): "
                "nothing was published. Send it again.",
                headers=_RETRY_AFTER,
            ),
        },
    }


def _common_refusals() -> dict[str, Any]:
    return {
        "408": _problem("The body arrived too slowly."),
        "413": _problem("The body is too long."),
        "415": _problem("The body is of another type, or compressed."),
        "417": _problem("The header Expect asks for something else than 100-continue."),
        "422": _problem("The body or the token asks for what cannot be revoked; detail names the field."),
    }


def _problem(description: str, *, headers: Mapping[str, Any] | None = None, schema: str = "Problem") -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": _SCHEMAS + schema}}},
    }
    if headers:
        response["headers"] = dict(headers)
    return response


def _text(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}


def _probe(summary: str, failed: str) -> dict[str, Any]:
    return {"summary": summary, "security": [], "responses": {"200": _text("Yes."), "503": _text(failed)}}


def _readyz() -> dict[str, Any]:
    verbose = {
        "name": "verbose",
        "in": "query",
        "required": False,
        "allowEmptyValue": True,
        "schema": {"type": "string"},
        "description": "List every check, not only those that fail.",
    }
    return {
        **_probe("Can revocations be accepted?", "Neither Kafka nor the outbox takes them, or there are no keys."),
        "parameters": [verbose],
    }


def _metrics() -> dict[str, Any]:
    return {"summary": "For Prometheus", "security": [], "responses": {"200": _text("Metrics.")}}


def _itself() -> dict[str, Any]:
    content = {JSON: {"schema": {"type": "object"}}}
    return {
        "summary": "This document",
        "security": [],
        "responses": {"200": {"description": "OpenAPI 3.1.", "content": content}},
    }

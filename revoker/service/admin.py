"""``POST /revocations``: revoke anything, for admins with a bearer token and a scope per kind."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web

from revoker.bearer import bearer_token
from revoker.events import IDENTIFIER_MAX_CHARS, KINDS, FreeText, Selector, UnixSeconds, Withdrawal, claim_text
from revoker.publisher import Receipt
from revoker.service import bodies
from revoker.service.admins import Admin, identify
from revoker.service.problems import Refused, challenge
from revoker.service.state import SERVICE, Service
from revoker.tokens import TokenMalformed, TokenMissing

__all__ = ["RevocationReceipt", "forms", "kind_of", "parse", "revoke"]

logger: logging.Logger = logging.getLogger(__name__)

#: Claims are not always text in tokens, and an admin copies what the token shows; `claim_text` makes them comparable.
_ClaimValue = Annotated[str, msgspec.Meta(max_length=IDENTIFIER_MAX_CHARS)] | int | float | bool
_Expiry = Annotated[
    float, msgspec.Meta(ge=0, le=253_402_300_799, description="The token's exp, Unix time; unknown = the longest life")
]

_NOT_SELECTING: Final[tuple[str, ...]] = ("exp", "cutoff", "reason")


class RevocationReceipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer: on every in-sync replica. Times are Unix seconds; ``cutoff`` is absent for kinds without one."""

    event_id: str
    kind: str
    state: Literal["acknowledged"]
    partition: int
    offset: int
    expires_at: int
    took_ms: float
    cutoff: int | None = None


def forms(*, issuer: str | None) -> dict[str, type[msgspec.Struct]]:
    """The body each kind takes, flat: the selector's fields, then exp or cutoff where the kind has one, and reason.

    ``issuer``: the default of ``iss``; None = it has to be given.
    """
    return {kind: _form(cls, issuer=issuer) for kind, cls in KINDS.items()}


def kind_of(fields: Mapping[str, Any]) -> str:
    """The kind a body names. Raises Refused with 422 if it names none that exists."""
    kind = fields.get("kind")
    if kind is None:
        raise Refused(422, code="invalid_body", detail=f"The field kind is missing{bodies.nearest(None, KINDS)}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise Refused(422, code="invalid_body", detail=f"The kind is none that exists{bodies.nearest(kind, KINDS)}")
    return kind


def parse(fields: Mapping[str, Any], *, form: type[msgspec.Struct]) -> tuple[Selector, dict[str, Any]]:
    """The selector, and the other arguments of `Publisher.revoke`. Raises Refused with 422 naming the field."""
    kind = str(form.__struct_config__.tag)
    asked = bodies.typed(fields, form, known=("kind", *form.__struct_fields__), of=f"a revocation of kind {kind}")
    given = msgspec.structs.asdict(asked)
    others = {name: given.pop(name) for name in _NOT_SELECTING if name in given}
    if kind == "claim":
        given["value"] = claim_text(given["value"])
    return KINDS[kind](**given), others


async def revoke(request: web.Request) -> web.Response:
    """200 and a receipt once the broker has acknowledged."""
    service = request.app[SERVICE]
    admin = _admin(request, service)
    if request.content_type != bodies.JSON:
        raise Refused(
            415,
            code="unsupported_media_type",
            detail=f"The body must be {bodies.JSON}",
            headers=(("Accept", bodies.JSON),),
        )
    body = await bodies.read(request, max_bytes=service.settings.max_body_bytes, timeout_s=service.body_timeout_s)
    fields = bodies.fields_of_json(body)
    kind = kind_of(fields)
    if kind not in admin.kinds:
        detail = f"This admin token may not publish revocations of kind {kind}"
        header = challenge(realm=service.settings.realm, error="insufficient_scope", description=detail)
        raise Refused(403, code="insufficient_scope", detail=detail, headers=(header,))
    selector, others = parse(fields, form=service.revocation_forms[kind])
    receipt = await service.publisher.revoke(selector=selector, actor=f"admin:{admin.name}", **others)
    logger.info("admin %s revoked, kind %s: event %s acknowledged", admin.name, kind, receipt.revocation.id)
    return web.Response(body=msgspec.json.encode(_shown(receipt)), content_type=bodies.JSON)


def _admin(request: web.Request, service: Service) -> Admin:
    if not service.admins:
        raise Refused(
            403, code="no_admins", detail="Nobody may publish revocations here: the setting admin_tokens is empty"
        )
    secret = bearer_token(request.headers.getall("Authorization", ()))
    if secret is None:
        raise TokenMissing("the request carries no bearer token")
    admin = identify(service.admins, secret=secret)
    if admin is None:
        raise TokenMalformed("this is none of the admin tokens")
    return admin


def _shown(receipt: Receipt) -> RevocationReceipt:
    revocation = receipt.revocation
    return RevocationReceipt(
        event_id=revocation.id,
        kind=revocation.selector.kind,
        state=receipt.state,
        partition=receipt.partition,
        offset=receipt.offset,
        expires_at=revocation.expires_at,
        took_ms=round(receipt.took_s * 1000, 3),
        cutoff=revocation.cutoff,
    )


def _form(cls: type[Selector], *, issuer: str | None) -> type[msgspec.Struct]:
    columns: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for column in msgspec.structs.fields(cls):
        hint = _ClaimValue if column.name == "value" else column.type
        if column.name == "iss" and issuer is not None:
            columns.append(("iss", hint, issuer))
        elif column.default is msgspec.NODEFAULT:
            columns.append((column.name, hint))
        else:
            columns.append((column.name, hint, column.default))
    if cls in (KINDS["token"], KINDS["digest"]):
        columns.append(("exp", _Expiry | None, None))
    if not cls.exact and cls is not Withdrawal:
        columns.append(("cutoff", UnixSeconds | None, None))
    columns.append(("reason", FreeText | None, None))
    return msgspec.defstruct(
        f"{cls.__name__}Revocation",
        columns,
        namespace={"__doc__": cls.__doc__},
        kw_only=True,
        frozen=True,
        tag_field="kind",
        tag=str(cls.__struct_config__.tag),
        forbid_unknown_fields=True,
    )

"""``POST /revocations``: revoke anything, for admins with a bearer token and a scope per kind.

A wide rule takes two requests: the first is answered 428 with what it would refuse, the second brings the confirmation
given there (RFC 6585 section 3: a request that has to be made conditional). A 2xx would pass for a publication with
whoever looks at the class of the status alone, and 202 means that it is under way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web

from revoker.bearer import bearer_token
from revoker.errors import NotAccepted, OutcomeUnknown
from revoker.events import (
    IDENTIFIER_MAX_CHARS,
    KINDS,
    FreeText,
    Revocation,
    Selector,
    UnixSeconds,
    Withdrawal,
    claim_text,
)
from revoker.nearest import nearest
from revoker.publisher import Receipt, compose
from revoker.service import bodies, confirmation
from revoker.service.admins import Admin, identify
from revoker.service.audit import STRANGER, Entry, Outcome
from revoker.service.preview import Preview, preview, selector_fields
from revoker.service.problems import Answer, Problem, Refused, answer_to, challenge, respond
from revoker.service.state import SERVICE, Service
from revoker.tokens import TokenMalformed, TokenMissing

__all__ = ["RevocationReceipt", "Unconfirmed", "forms", "kind_of", "parse", "revoke"]

#: Claims are not always text in tokens, and an admin copies what the token shows; `claim_text` makes them comparable.
_ClaimValue = Annotated[str, msgspec.Meta(max_length=IDENTIFIER_MAX_CHARS)] | int | float | bool
_Expiry = Annotated[
    float, msgspec.Meta(ge=0, le=253_402_300_799, description="The token's exp, Unix time; unknown = the longest life")
]

_NOT_SELECTING: Final[tuple[str, ...]] = ("exp", "cutoff", "reason")


class RevocationReceipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer. ``state``: acknowledged = on every in-sync replica; stored = on the service's disk, and on its way:
    ``partition`` and ``offset`` are absent then. Times are Unix seconds; ``cutoff`` is absent for kinds without one.
    """

    event_id: str
    kind: str
    state: Literal["acknowledged", "stored"]
    expires_at: int
    took_ms: float
    partition: int | None = None
    offset: int | None = None
    cutoff: int | None = None


class Unconfirmed(Problem, frozen=True, kw_only=True, omit_defaults=True):
    """The answer 428 to a wide rule: nothing was published. ``confirmation`` belongs into the header
    Revoker-Confirmation of the same request, sent again by ``confirm_before``, Unix seconds; it then publishes exactly
    what ``preview`` says. Sending that twice is harmless.
    """

    preview: Preview
    confirmation: str
    confirm_before: int


def forms(*, issuer: str | None) -> dict[str, type[msgspec.Struct]]:
    """The body each kind takes, flat: the selector's fields, then exp or cutoff where the kind has one, and reason.

    ``issuer``: the default of ``iss``; None = it has to be given.
    """
    return {kind: _form(cls, issuer=issuer) for kind, cls in KINDS.items()}


def kind_of(fields: Mapping[str, Any]) -> str:
    """The kind a body names. Raises Refused with 422 if it names none that exists."""
    kind = fields.get("kind")
    if kind is None:
        raise Refused(422, code="invalid_body", detail=f"The field kind is missing{nearest(None, KINDS)}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise Refused(422, code="invalid_body", detail=f"The kind is none that exists{nearest(kind, KINDS)}")
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
    """200 and a receipt once the broker has acknowledged, 202 while it is stored; 428 and a preview for a wide rule not
    confirmed yet.

    Every use is in the audit before it is answered, and before anything is published.
    """
    service = request.app[SERVICE]
    use = _Use(peer=request.remote or None)
    try:
        return await _revoke(request, service, use)
    except Exception as error:
        if not use.without_audit:
            answer = answer_to(error, realm=service.settings.realm, retry_after_s=service.settings.retry_after_s)
            code = answer.problem.code if answer is not None else "internal_server_error"
            await service.audit.note(use.entry(_outcome(error, use), code=code))
        raise


@dataclass
class _Use:
    """What is known of one use so far, for the audit. ``publishing``: the event may be on its way."""

    peer: str | None
    who: str = STRANGER
    kind: str | None = None
    event: Revocation | None = None
    confirmed: bool = False
    publishing: bool = False
    without_audit: bool = False

    def entry(
        self, outcome: Outcome, *, code: str | None = None, partition: int | None = None, offset: int | None = None
    ) -> Entry:
        entry = Entry(
            who=self.who,
            outcome=outcome,
            peer=self.peer,
            kind=self.kind,
            confirmed=self.confirmed,
            code=code,
            partition=partition,
            offset=offset,
        )
        if self.event is None:
            return entry
        return msgspec.structs.replace(
            entry,
            event_id=self.event.id,
            selector=selector_fields(self.event.selector),
            cutoff=self.event.cutoff,
            expires_at=self.event.expires_at,
            reason=self.event.reason,
        )


async def _revoke(request: web.Request, service: Service, use: _Use) -> web.Response:
    admin = _admin(request, service)
    use.who = admin.name
    if request.content_type != bodies.JSON:
        raise Refused(
            415,
            code="unsupported_media_type",
            detail=f"The body must be {bodies.JSON}",
            headers=(("Accept", bodies.JSON),),
        )
    body = await bodies.read(request, max_bytes=service.settings.max_body_bytes, timeout_s=service.body_timeout_s)
    fields = bodies.fields_of_json(body)
    kind = use.kind = kind_of(fields)
    if kind not in admin.kinds:
        detail = f"This admin token may not publish revocations of kind {kind}"
        header = challenge(realm=service.settings.realm, error="insufficient_scope", description=detail)
        raise Refused(403, code="insufficient_scope", detail=detail, headers=(header,))
    asked = _Asked(service, *parse(fields, form=service.revocation_forms[kind]), admin=admin)
    brought = request.headers.getall(confirmation.HEADER, ())
    if not KINDS[kind].wide:
        if brought:
            # Perhaps another body than the one that was previewed: better asked about than published.
            detail = f"A revocation of kind {kind} is not confirmed: leave out the header {confirmation.HEADER}"
            raise Refused(422, code="confirmation_not_needed", detail=detail)
        use.event = asked.event()
    else:
        event, objection = await asked.confirmed(brought)
        use.event, use.confirmed = event, objection is None
        if objection is not None:
            await _audited(service, use, "previewed", code=objection[0])
            return respond(await asked.unconfirmed(event, *objection))
    await _audited(service, use, "publishing")
    use.publishing = True
    receipt = await service.publisher.publish(use.event)
    await service.audit.note(use.entry(receipt.state, partition=receipt.partition, offset=receipt.offset))
    status = HTTPStatus.OK if receipt.state == "acknowledged" else HTTPStatus.ACCEPTED
    return web.Response(status=status, body=msgspec.json.encode(_shown(receipt)), content_type=bodies.JSON)


async def _audited(service: Service, use: _Use, outcome: Outcome, *, code: str | None = None) -> None:
    reason = await service.audit.refusal(use.entry(outcome, code=code))
    if reason is not None:
        use.without_audit = True
        raise Refused(
            503,
            code="audit_unavailable",
            detail=f"Nothing was published: the audit file (setting admin_audit_file) cannot be written: {reason}",
            headers=(("Retry-After", str(service.settings.retry_after_s)),),
        )


def _outcome(error: Exception, use: _Use) -> Outcome:
    if not use.publishing:
        return "refused"
    if isinstance(error, NotAccepted):
        return "not_accepted"
    return "unknown" if isinstance(error, OutcomeUnknown) else "failed"


class _Asked:
    """A request that was understood: what it asks for, and by whom."""

    def __init__(self, service: Service, selector: Selector, others: Mapping[str, Any], *, admin: Admin) -> None:
        self._service = service
        self._selector = selector
        self._others = others
        self._admin = admin

    def event(self, said: confirmation.Claimed | None = None) -> Revocation:
        """The event to publish: of this moment, or the one of the preview that ``said`` speaks of."""
        return compose(
            selector=self._selector,
            lifetimes=self._service.settings.lifetimes,
            now_s=math.floor(self._service.wall()) if said is None else said.issued_at,
            event_id=self._service.new_id() if said is None else said.event_id,
            actor=f"admin:{self._admin.name}",
            **self._others,
        )

    async def confirmed(self, brought: Sequence[str]) -> tuple[Revocation, tuple[str, str] | None]:
        """The event that the confirmation brought stands for, or a new one, with the code and the words of what is
        missing.
        """
        if not brought:
            return self.event(), ("confirmation_needed", "Nothing was published")
        said = confirmation.claimed(brought[0]) if len(brought) == 1 else None
        if said is None:
            return self.event(), ("confirmation_refused", "This is no confirmation of this service")
        if reason := confirmation.untimely(said, now_s=math.floor(self._service.wall())):
            return self.event(), ("confirmation_expired", reason)
        previewed = self.event(said)
        if not await self._service.confirmations.holds(said, event=previewed, admin=self._admin):
            return self.event(), (
                "confirmation_refused",
                "The confirmation was given for another request, to another admin, or under other settings",
            )
        return previewed, None

    async def unconfirmed(self, event: Revocation, code: str, reason: str) -> Answer:
        """The preview of ``event`` and its confirmation, saying why they come."""
        return Answer(
            problem=Unconfirmed(
                title=HTTPStatus.PRECONDITION_REQUIRED.phrase,
                status=HTTPStatus.PRECONDITION_REQUIRED,
                detail=(
                    f"{reason}. A wide rule is published once the same request comes again within "
                    f"{confirmation.VALID_S} s with the confirmation below in the header {confirmation.HEADER}"
                ),
                code=code,
                preview=preview(event, own_issuer=self._service.settings.issuer),
                confirmation=await self._service.confirmations.issue(event, admin=self._admin),
                confirm_before=event.revoked_at + confirmation.VALID_S,
            )
        )


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

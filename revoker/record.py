"""Event ⇄ Kafka record: a self-contained JSON value, a readable key, CloudEvents headers.

The value is one flat JSON object: the selector's fields, the event's fields, and ``v``, the schema version. The headers
follow the CloudEvents 1.0 Kafka protocol binding in binary mode, so that any consumer can route the record without
reading the value. The key is the selector as a JSON array; nothing in revoker depends on it, it groups records for
tools. docs/record.md tells other languages.

What cannot be decoded is a value (`Undecodable`), not an exception: a node must go on reading, and must know that it
missed something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from revoker.errors import InvalidRevocation
from revoker.events import (
    KINDS,
    EventId,
    FreeText,
    Heartbeat,
    Identifier,
    IssuerName,
    Revocation,
    Selector,
    Session,
    Subject,
    Token,
    UnixSeconds,
)
from revoker.moments import rfc3339

__all__ = [
    "SCHEMA_VERSION",
    "VALUE_MAX_BYTES",
    "Category",
    "Undecodable",
    "decode",
    "encode",
    "encode_heartbeat",
    "json_schema",
]

SCHEMA_VERSION: Final = 1

#: A longer value is refused unread. The longest one revoker can write is about 31 KiB: five texts of 1,024
#: characters, each escaped to six bytes.
VALUE_MAX_BYTES: Final = 65536

#: Why a record could not be decoded. ``newer_version`` is an order to upgrade this node, the others are an incident.
Category = Literal["empty", "oversized", "not_json", "invalid", "newer_version"]

Headers = list[tuple[str, bytes]]


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    id: EventId
    revoked_at: UnixSeconds
    expires_at: UnixSeconds
    cutoff: UnixSeconds | None = None
    reason: FreeText | None = None
    actor: FreeText | None = None


class _Version(msgspec.Struct, frozen=True):
    v: int


class _HeartbeatEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    v: Literal[1]


class Undecodable(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be read. ``detail`` names the place, never the content: it may hold an identifier."""

    category: Category
    detail: str


class _TokenRecord(_Envelope, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="token"):
    iss: IssuerName
    jti: Identifier


class _SessionRecord(_Envelope, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="session"):
    iss: IssuerName
    sid: Identifier


class _SubjectRecord(_Envelope, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="subject"):
    iss: IssuerName
    sub: Identifier
    spare_sid: Identifier | None = None
    spare_jti: Identifier | None = None


#: What nearly every record is, read in one pass instead of two. Anything else, and anything wrong, goes the long way.
_usual = msgspec.json.Decoder(_TokenRecord | _SessionRecord | _SubjectRecord)
_envelope = msgspec.json.Decoder(_Envelope)
_selector = msgspec.json.Decoder(Selector)
_version = msgspec.json.Decoder(_Version)
_heartbeat = msgspec.json.Decoder(Heartbeat)
_heartbeat_envelope = msgspec.json.Decoder(_HeartbeatEnvelope)


def encode(revocation: Revocation) -> tuple[bytes, bytes, Headers]:
    """Key, value and headers of the record that carries ``revocation``.

    Raises InvalidRevocation, naming the field, for anything `decode` would not read back: what is refused here is never
    sent.
    """
    selector = revocation.selector
    try:
        fields = {"v": SCHEMA_VERSION, "id": revocation.id} | _without_none(selector)
        for name in ("cutoff", "revoked_at", "expires_at", "reason", "actor"):
            if (value := getattr(revocation, name)) is not None:
                fields[name] = value
        value_bytes = msgspec.json.encode(fields)
        key = msgspec.json.encode(selector.key)
    except (UnicodeEncodeError, TypeError, OverflowError) as error:
        raise InvalidRevocation(f"{_culprit(revocation)} has no JSON form: {error}") from error
    read_back = decode(value_bytes)
    if isinstance(read_back, Undecodable):
        raise InvalidRevocation(read_back.detail)
    if read_back != revocation:
        # A UUID or bytes would be written as some text, and then not be the value that a node compares with.
        raise InvalidRevocation(f"{_difference(revocation, read_back)}: must be text as it stands in the token")
    what = "revocation.withdrawn" if selector.kind == "withdrawal" else f"{selector.kind}.revoked"
    return (
        key,
        value_bytes,
        _headers(
            id=revocation.id,
            type=f"revoker.{what}.v1",
            at=revocation.revoked_at,
            expires_at=revocation.expires_at,
        ),
    )


def encode_heartbeat(heartbeat: Heartbeat) -> tuple[bytes, bytes, Headers]:
    """Key, value and headers of the record that carries ``heartbeat``. Raises InvalidRevocation, naming the field."""
    value = msgspec.json.encode({"v": SCHEMA_VERSION} | msgspec.to_builtins(heartbeat))
    if decode(value) != heartbeat:
        raise InvalidRevocation(f"this is no heartbeat that could be read back: {decode(value)}")
    return b'["heartbeat"]', value, _headers(id=heartbeat.id, type="revoker.heartbeat.v1", at=heartbeat.sent_at)


def _culprit(revocation: Revocation) -> str:
    """The name of the first field that cannot be written."""
    for part in (revocation.selector, revocation):
        for name in part.__struct_fields__:
            try:
                msgspec.json.encode(getattr(part, name))
            except (UnicodeEncodeError, TypeError, OverflowError):
                if name != "selector":
                    return name
    return "the revocation"


def _difference(written: Revocation, read: Revocation | Heartbeat) -> str:
    """The first field that did not come back as it was, and its type."""
    for part, other in ((written.selector, getattr(read, "selector", None)), (written, read)):
        for name in part.__struct_fields__:
            if (value := getattr(part, name)) != getattr(other, name, None):
                return f"{name} is of type {type(value).__name__}"
    return "the selector is of another kind"


def decode(value: bytes | None) -> Revocation | Heartbeat | Undecodable:
    """The event in a record's value, or why there is none. Never raises, whatever the bytes."""
    if not value:
        return Undecodable(category="empty", detail="the record has no value (a tombstone)")
    if len(value) > VALUE_MAX_BYTES:
        return Undecodable(
            category="oversized", detail=f"the value has {len(value)} bytes, at most {VALUE_MAX_BYTES} are read"
        )
    try:
        usual = _usual.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_any(value)
    cutoff = usual.cutoff
    selector: Selector
    if usual.v != SCHEMA_VERSION:
        return _decode_any(value)
    if type(usual) is _TokenRecord:
        if cutoff is not None:
            return _decode_any(value)
        selector = Token(iss=usual.iss, jti=usual.jti)
    elif type(usual) is _SessionRecord:
        if cutoff is not None:
            return _decode_any(value)
        selector = Session(iss=usual.iss, sid=usual.sid)
    else:
        if cutoff is None or usual.spare_sid is not None or usual.spare_jti is not None:
            return _decode_any(value)
        selector = Subject(iss=usual.iss, sub=usual.sub)
    return Revocation(
        id=usual.id,
        selector=selector,
        revoked_at=usual.revoked_at,
        expires_at=usual.expires_at,
        cutoff=cutoff,
        reason=usual.reason,
        actor=usual.actor,
    )


def _decode_any(value: bytes) -> Revocation | Heartbeat | Undecodable:
    """Any kind, in two passes, and what is wrong, told in full."""
    try:
        envelope = _envelope.decode(value)
        if envelope.v != SCHEMA_VERSION:
            return _other_version(envelope.v)
        selector = _selector.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _explain(value, error)
    if problem := _contradiction(selector, envelope):
        return Undecodable(category="invalid", detail=problem)
    return Revocation(
        id=envelope.id,
        selector=selector,
        revoked_at=envelope.revoked_at,
        expires_at=envelope.expires_at,
        cutoff=envelope.cutoff,
        reason=envelope.reason,
        actor=envelope.actor,
    )


def _contradiction(selector: Selector, envelope: _Envelope) -> str | None:
    """What the types cannot say: which kinds have a cut-off, and that a subject spares one thing."""
    kind = selector.kind
    if kind in ("token", "digest", "session", "withdrawal"):
        if envelope.cutoff is not None:
            return f"a revocation of kind {kind} has no cutoff: presence alone decides"
    elif kind == "subject":
        if selector.spare_sid is not None and selector.spare_jti is not None:  # type: ignore[union-attr]
            return "a subject revocation spares a session or a token, not both"
        if envelope.cutoff is None:
            return "a revocation of kind subject needs a cutoff"
    elif envelope.cutoff is None and kind != "key":
        return f"a revocation of kind {kind} needs a cutoff"
    return None


def _explain(value: bytes, error: Exception) -> Heartbeat | Undecodable:
    """A heartbeat, or an upgrade order told from garbage: a newer version may have changed any field but ``v``."""
    try:
        _heartbeat_envelope.decode(value)
        return _heartbeat.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # not a heartbeat either: described by the first error
    try:
        version = _version.decode(value).v
    except (msgspec.ValidationError, RecursionError):
        pass  # JSON, but not an object with a whole number v: described by the first error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Undecodable(category="not_json", detail="the value is not UTF-8 JSON")
    else:
        if version != SCHEMA_VERSION:
            return _other_version(version)
    if isinstance(error, RecursionError):
        return Undecodable(category="not_json", detail="the value is nested too deeply")
    return Undecodable(category="invalid", detail=_without_content(str(error)))


def _other_version(version: int) -> Undecodable:
    if version > SCHEMA_VERSION:
        detail = f"schema version {version}, this node reads {SCHEMA_VERSION}: upgrade it"
        return Undecodable(category="newer_version", detail=detail)
    return Undecodable(category="invalid", detail=f"schema version {version} does not exist")


def _without_content(message: str) -> str:
    # msgspec quotes an unknown tag; it could hold anything, so only the known words are named.
    if message.startswith("Invalid value") and "$.kind" in message:
        return f"Invalid value - at `$.kind`, must be one of {', '.join(KINDS)}"
    return message


def _without_none(selector: Selector) -> dict[str, Any]:
    fields: dict[str, Any] = {"kind": selector.kind}
    for name in selector.__struct_fields__:
        if (value := getattr(selector, name)) is not None:
            fields[name] = value
    return fields


def _headers(*, id: str, type: str, at: int, expires_at: int | None = None) -> Headers:  # noqa: A002  - CloudEvents' words
    texts = {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_source": "/revoker",
        "ce_type": type,
        "ce_time": rfc3339(at),
    }
    if expires_at is not None:
        texts["ce_expirytime"] = rfc3339(expires_at)
    return [(name, text.encode()) for name, text in texts.items()]


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the value, from the types that read it; shipped as ``revoker/record.schema.json``."""
    selectors: Sequence[type[Selector]] = tuple(KINDS.values())
    (envelope, *_), components = msgspec.json.schema_components(
        (_Envelope, *selectors, Heartbeat, _HeartbeatEnvelope), ref_template="#/$defs/{name}"
    )
    needs_cutoff = [kind for kind, cls in KINDS.items() if not cls.exact and kind not in ("key", "withdrawal")]
    never_cutoff = [kind for kind, cls in KINDS.items() if cls.exact or kind == "withdrawal"]
    components["_Envelope"]["properties"]["v"] = {"const": SCHEMA_VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "record of a revocation topic, version 1",
        "oneOf": [
            {
                "title": "revocation",
                "allOf": [
                    envelope,
                    {"oneOf": [{"$ref": f"#/$defs/{cls.__name__}"} for cls in selectors]},
                    {
                        "if": {"properties": {"kind": {"enum": needs_cutoff}}},
                        "then": {"required": ["cutoff"], "properties": {"cutoff": {"type": "integer"}}},
                    },
                    {
                        "if": {"properties": {"kind": {"enum": never_cutoff}}},
                        "then": {"properties": {"cutoff": {"type": "null"}}},
                    },
                    {"not": {"required": ["spare_sid", "spare_jti"]}},
                ],
            },
            {
                "title": "heartbeat",
                "allOf": [{"$ref": "#/$defs/_HeartbeatEnvelope"}, {"$ref": "#/$defs/Heartbeat"}],
            },
        ],
        "$defs": components,
    }

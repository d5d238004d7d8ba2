"""Request bodies: bounded in length and time, of a known type, and every field known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from revoker.nearest import nearest
from revoker.service.problems import Refused

__all__ = ["FORM", "JSON", "expectation", "fields_of_form", "fields_of_json", "read", "typed"]

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

T = TypeVar("T")


async def read(request: web.Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body, at most ``max_bytes`` bytes arriving within ``timeout_s`` seconds; nothing beyond is kept in
    memory.

    Raises Refused: 413 if it is longer, 408 if it is slower, 415 if it is compressed, 400 if it breaks off.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # A few bytes can unpack to gigabytes, and nobody needs to compress a kilobyte. RFC 9110 section 15.5.16.
        raise Refused(
            415,
            code="unsupported_encoding",
            detail="A compressed body is not taken: send it as it is",
            headers=(("Accept-Encoding", "identity"),),
        )
    _check_length(request, max_bytes=max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_long(max_bytes)
    except TimeoutError:
        raise Refused(
            408,
            code="body_too_slow",
            detail=f"The body did not arrive within {timeout_s:g} s",
            headers=(("Connection", "close"),),
        ) from None
    except (web.RequestPayloadError, ConnectionError):
        raise Refused(400, code="body_broken_off", detail="The body broke off, or its chunks are malformed") from None
    return bytes(body)


async def expectation(request: web.Request, *, max_bytes: int) -> None:
    """Answer the header ``Expect``: refuse a body announced as too long before it is sent (RFC 9110 section 10.1.1)."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        raise Refused(417, code="unknown_expectation", detail="Of the header Expect, only 100-continue is understood")
    _check_length(request, max_bytes=max_bytes)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun: aiohttp tells by this


def fields_of_json(body: bytes) -> dict[str, Any]:
    """The members of the JSON object in ``body``.

    Raises Refused: 400 if it is no JSON, 422 if it is no object or a name stands in it twice: whoever looked at the
    body before may have read the other one (RFC 8259 section 4).
    """
    try:
        found = msgspec.json.decode(body)
        repeated = _repeated(body.decode())
    except RecursionError:
        raise Refused(400, code="malformed_body", detail="The body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        cause = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise Refused(400, code="malformed_body", detail=f"The body is not JSON: {cause}") from None
    if not isinstance(found, dict):
        raise Refused(422, code="invalid_body", detail="The body must be a JSON object")
    if repeated is not None:
        raise Refused(422, code="invalid_body", detail=f"The field {_shown(repeated)} stands twice in the body")
    return found


def _repeated(text: str) -> str | None:
    """A name that stands twice in one object of this JSON, which is known to be well-formed; None if none does."""
    found: list[str] = []

    def members(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                found.append(name)
            seen.add(name)

    # Numbers are left unread: Python refuses some that JSON has.
    json.loads(text, object_pairs_hook=members, parse_int=len, parse_float=len)
    return found[0] if found else None


def fields_of_form(body: bytes, *, known: Iterable[str]) -> dict[str, Any]:
    """The fields of a form, each at most once; a ``known`` one left empty counts as absent.

    Raises Refused: 400 if it is no form, 422 if a field repeats.
    """
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=32)
    except ValueError:
        raise Refused(400, code="malformed_body", detail="The body is not a URL-encoded form in UTF-8") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused(422, code="invalid_body", detail="A field stands twice in the form")
    # Unknown ones stay: `curl -d '{"scope":"everywhere"}'` sends a form whose one field is empty and has that name.
    return {name: value for name, value in found.items() if value or name not in known}


def typed(fields: Mapping[str, Any], shape: type[T], *, known: Iterable[str], of: str) -> T:
    """``fields`` as a ``shape``.

    ``known``: the names it has; ``of``: what has them, for the message. Raises Refused with 422.
    """
    names = tuple(known)
    for name in fields:
        if name not in names:
            raise Refused(422, code="unknown_field", detail=f"{_shown(name)} is no field of {of}{nearest(name, names)}")
    try:
        return msgspec.convert(dict(fields), shape)
    except msgspec.ValidationError as error:
        raise Refused(422, code="invalid_body", detail=f"{error} (field of {of})") from None


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}…")


def _check_length(request: web.Request, *, max_bytes: int) -> None:
    if request.content_length is not None and request.content_length > max_bytes:
        raise _too_long(max_bytes)


def _too_long(max_bytes: int) -> Refused:
    # RFC 9110 section 15.5.14: the server may close the connection, so that the rest is not even sent.
    return Refused(
        413,
        code="body_too_long",
        detail=f"The body may have at most {max_bytes} bytes",
        headers=(("Connection", "close"),),
    )

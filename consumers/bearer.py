"""Where a request carries its token, and what a refusal looks like. No framework, no I/O: every adapter asks here.

A token is taken from ``Authorization: Bearer`` (RFC 6750 section 2.1) or from one named cookie, never from the query
string, which ends up in logs, histories and ``Referer`` (section 5.3). What two readers of the same request could
understand differently is refused, because the application behind may read the request once more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from revoker.errors import KeysUnavailable, NotProven
from revoker.tokens import InvalidTokenError, KeyUnknown, TokenMalformed, TokenMissing, TokenRevoked, Verified

if TYPE_CHECKING:
    from consumers.guard import Decision, Policy
    from consumers.node import Node

__all__ = ["Answer", "answer", "ask", "find_token"]

#: Two Authorization headers joined into one, as Envoy does it. Commas alone prove nothing: Digest credentials hold
#: some.
_JOINED = re.compile(r",\s*bearer(?:\s|,|$)", re.IGNORECASE)

#: What a quoted-string may hold as it is; RFC 6750 section 3 allows error_description no more.
_NOT_QUOTABLE = re.compile(r'[^\x20-\x7e]|["\\]')


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A refusal, ready to be written. ``detail`` is the sentence of ``body``, an RFC 9457 problem."""

    status: int
    headers: tuple[tuple[str, str], ...]
    detail: str
    body: bytes


def ask(
    node: Node, *, authorization: Sequence[str], cookies: Sequence[str], when_unknown: Policy | None = None
) -> tuple[Verified, Decision] | Answer:
    """The token and the decision that admits the request, or the refusal to write. Synchronous, without I/O.

    ``authorization`` and ``cookies`` as for `find_token`, which reads the cookie that the node's setting
    ``cookie_name`` names. ``when_unknown``: this route's policy; None = the setting.
    """
    settings = node.settings
    try:
        token = find_token(authorization=authorization, cookies=cookies, cookie_name=settings.cookie_name)
        return node.judge(token, when_unknown=when_unknown)
    except (InvalidTokenError, KeysUnavailable, NotProven) as error:
        return answer(error, realm=settings.realm, retry_after_s=settings.retry_after_s)


def find_token(*, authorization: Sequence[str], cookies: Sequence[str], cookie_name: str) -> str:
    """The one token of a request, unverified.

    ``authorization`` and ``cookies``: the values of all headers ``Authorization`` and ``Cookie``, as they came.
    ``cookie_name``: case-sensitive; empty = no cookie is looked at. A bearer token in the header wins over the
    cookie; other credentials in the header (Basic, say) leave it to the cookie. A cookie's value may stand in double
    quotes; percent signs stay as they are.

    Raises TokenMissing if there is none, TokenMalformed if there are several or the header is cut short. Nothing
    else, whatever the input.
    """
    token = _from_header(authorization)
    if token is None and cookie_name:
        token = _from_cookies(cookies, cookie_name)
    if token is None:
        raise TokenMissing("the request carries no bearer token")
    return token


def answer(error: Exception, *, realm: str, retry_after_s: int) -> Answer:
    """The refusal that ``error`` calls for: 401 with the challenge of RFC 6750 section 3, or 503 with Retry-After.

    Raises ``error`` itself if it is neither about a token nor about what this node knows: it is not ours to hide. A
    503 does not say which proof is missing: that names brokers, and stands in ``/readyz`` for those who may see it.
    """
    if isinstance(error, KeysUnavailable | NotProven) or (isinstance(error, KeyUnknown) and error.refreshing):
        detail = "It cannot be told at the moment whether this token is valid; try again"
        return _made(503, "Service Unavailable", detail, ("Retry-After", str(retry_after_s)))
    if not isinstance(error, InvalidTokenError):
        raise error
    challenge = f"Bearer realm={_quoted(realm)}"
    if isinstance(error, TokenMissing):
        # RFC 6750 section 3.1: who brought no credentials is told no error code.
        return _made(401, "Unauthorized", _sentence(error), ("WWW-Authenticate", challenge))
    detail = _sentence(error)
    if isinstance(error, TokenRevoked) and error.kind not in ("malformed", "long_lived"):
        # Which rule matched is the operator's business, not that of whoever holds a revoked token.
        detail = "The token was revoked"
    challenge += f', error="invalid_token", error_description={_quoted(detail)}'
    return _made(401, "Unauthorized", detail, ("WWW-Authenticate", challenge))


def _from_header(authorization: Sequence[str]) -> str | None:
    present = [value for value in (value.strip() for value in authorization) if value]
    if not present:
        return None
    if len(present) > 1:
        raise TokenMalformed("the request has several Authorization headers, must have one")
    if _JOINED.search(present[0]):
        raise TokenMalformed("several Authorization headers were joined into one, must be one")
    scheme, *rest = present[0].split(maxsplit=1)
    if scheme.lower() != "bearer":
        return None
    if not rest or len(rest[0].split()) != 1:
        raise TokenMalformed("the Authorization header must be Bearer, a space, and one token")
    return rest[0]


def _from_cookies(cookies: Sequence[str], name: str) -> str | None:
    found = set()
    for header in cookies:
        for pair in header.split(";"):
            key, equals, value = pair.partition("=")
            if equals and key.strip() == name:
                value = value.strip()
                quoted = len(value) >= 2 and value[0] == value[-1] == '"'
                found.add(value[1:-1] if quoted else value)
    if len(found) > 1:
        # Browsers send the cookies of several paths or domains side by side, readers take the first or the last: a
        # sibling domain could plant one that we judge and another that the application believes.
        raise TokenMalformed(f"the request has several cookies {name} with different values, must have one")
    # An empty value is what a cleared cookie leaves behind.
    return next(iter(found), None) or None


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


def _quoted(text: str) -> str:
    return f'"{_NOT_QUOTABLE.sub(_replaced, text)}"'


def _replaced(match: re.Match[str]) -> str:
    return "'" if match[0] == '"' else "?"


def _made(status: int, title: str, detail: str, header: tuple[str, str]) -> Answer:
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
    headers = (header, ("Cache-Control", "no-store"), ("Content-Type", "application/problem+json"))
    return Answer(status=status, headers=headers, detail=detail, body=body)

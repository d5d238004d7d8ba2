"""What a refusal looks like (RFC 6750, RFC 9457). No framework, no I/O: adapters ask here, and only translate."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from revoker.bearer import find_token
from revoker.errors import KeysUnavailable, NotProven
from revoker.tokens import InvalidTokenError, KeyUnknown, TokenMissing, TokenRevoked, Verified

if TYPE_CHECKING:
    from consumers.guard import Decision, Policy
    from consumers.node import Node

__all__ = ["Answer", "answer", "ask"]

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

    ``authorization`` and ``cookies`` as for `revoker.bearer.find_token`, which reads the cookie that the node's setting
    ``cookie_name`` names. ``when_unknown``: this route's policy; None = the setting.
    """
    settings = node.settings
    try:
        token = find_token(authorization=authorization, cookies=cookies, cookie_name=settings.cookie_name)
        return node.judge(token, when_unknown=when_unknown)
    except (InvalidTokenError, KeysUnavailable, NotProven) as error:
        return answer(error, realm=settings.realm, retry_after_s=settings.retry_after_s)


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

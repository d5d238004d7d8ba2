"""Every error as a problem (RFC 9457), with the challenge of RFC 6750 where one is due.

What a stranger is told names what was wrong and what would be right, and never a token, a secret or a broker's address:
those last stand in ``/readyz?verbose`` and in the log, and so does the path of the outbox.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil
from typing import Final, Literal

import msgspec
from aiohttp import web

from revoker.errors import (
    BrokerError,
    InvalidRevocation,
    KeysUnavailable,
    NotAccepted,
    NotProven,
    OutboxUnavailable,
    OutcomeUnknown,
    TokenOutlivesTopic,
)
from revoker.events import Revocation
from revoker.tokens import InvalidTokenError, KeyUnknown, TokenMissing

__all__ = [
    "MEDIA_TYPE",
    "Answer",
    "Problem",
    "Refused",
    "answer_to",
    "challenge",
    "of_status",
    "problems",
    "respond",
    "route_of",
]

logger: logging.Logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

#: What error_description may hold (RFC 6750 section 3), which is also what a quoted-string may hold as it is.
_NOT_QUOTABLE: Final = re.compile(r'[^\x20-\x7e]|["\\]')


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an error. ``type`` is absent, which means ``about:blank``: ``code`` is the word for machines.

    ``outcome`` and ``event_id`` come with ``code`` not_published; ``token_life_s`` and ``longest_token_life_s``, in
    seconds, with token_outlives_topic.
    """

    title: str
    status: int
    detail: str
    code: str
    outcome: Literal["not_accepted", "unknown"] | None = None
    event_id: str | None = None
    token_life_s: int | None = None
    longest_token_life_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A problem and the headers it goes with."""

    problem: Problem
    headers: tuple[tuple[str, str], ...] = ()


class Refused(Exception):
    """Raised by a handler to end a request with ``answer``."""

    def __init__(self, status: int, *, code: str, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.answer: Answer = Answer(problem=_problem(status, code=code, detail=detail), headers=headers)


def challenge(*, realm: str, error: str | None = None, description: str | None = None) -> tuple[str, str]:
    """The header ``WWW-Authenticate`` of RFC 6750 section 3; without ``error`` for those who brought no credentials."""
    parts = [f"Bearer realm={_quoted(realm)}"]
    if error is not None:
        parts.append(f'error="{error}"')
    if description is not None:
        parts.append(f"error_description={_quoted(description)}")
    return "WWW-Authenticate", ", ".join(parts)


def answer_to(error: Exception, *, realm: str, retry_after_s: int) -> Answer | None:
    """What to tell the client about ``error``;

    None for what is no fault of the client's and no known trouble: a defect.
    """
    later = (("Retry-After", str(retry_after_s)),)
    if isinstance(error, Refused):
        return error.answer
    if isinstance(error, KeysUnavailable | NotProven) or (isinstance(error, KeyUnknown) and error.refreshing):
        detail = "It cannot be told at the moment whether this token is valid; try again"
        return Answer(problem=_problem(503, code="not_known_yet", detail=detail), headers=later)
    if isinstance(error, TokenMissing):
        problem = _problem(401, code="token_missing", detail=_sentence(error))
        return Answer(problem=problem, headers=(challenge(realm=realm),))
    if isinstance(error, InvalidTokenError):
        detail = _sentence(error)
        header = challenge(realm=realm, error="invalid_token", description=detail)
        return Answer(problem=_problem(401, code="token_invalid", detail=detail), headers=(header,))
    if isinstance(error, InvalidRevocation):
        return Answer(problem=_invalid(error))
    if isinstance(error, NotAccepted | OutcomeUnknown | BrokerError):
        return Answer(problem=_not_published(error), headers=later)
    return None


def of_status(status: int, *, allow: str | None = None) -> Answer:
    """The problem for an error of HTTP itself. ``allow``: the methods of the header ``Allow``, with 405."""
    if status == HTTPStatus.METHOD_NOT_ALLOWED and allow:
        detail = f"This path takes only {allow.replace(',', ', ')}"
        return Answer(problem=_problem(status, code="method_not_allowed", detail=detail), headers=(("Allow", allow),))
    if status == HTTPStatus.NOT_FOUND:
        return Answer(
            problem=_problem(
                status, code="not_found", detail="Nothing is at this path; /openapi.json lists what there is"
            )
        )
    known = HTTPStatus(status)
    code = re.sub(r"[^a-z]+", "_", known.phrase.lower()).strip("_")
    return Answer(problem=_problem(status, code=code, detail=known.description or known.phrase))


def respond(answer: Answer) -> web.Response:
    """``answer`` as a response."""
    response = web.Response(
        status=answer.problem.status, body=msgspec.json.encode(answer.problem), content_type=MEDIA_TYPE
    )
    for name, value in answer.headers:
        response.headers.add(name, value)
    if response.headers.get("Connection") == "close":
        response.force_close()  # the header alone is not what aiohttp goes by
    return response


def problems(*, realm: str, retry_after_s: int) -> Callable[..., Awaitable[web.StreamResponse]]:
    """The middleware that turns whatever a handler raises into a problem.

    A defect becomes a 500, with its traceback in the log alone.
    """

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            return respond(of_status(error.status, allow=error.headers.get("Allow")))
        except Exception as error:  # the last line of defence; what is nobody's known fault is logged whole
            answer = answer_to(error, realm=realm, retry_after_s=retry_after_s)
            if answer is None:
                logger.exception("a request to %s failed", route_of(request))
                answer = of_status(500)
            elif answer.problem.code == "not_published":
                logger.warning("not published (%s): %s", answer.problem.outcome, error)
            return respond(answer)

    return middleware


def route_of(request: web.Request) -> str:
    """The pattern that matched, never the path itself: a bounded number of words, and nothing a client chose."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


def _invalid(error: InvalidRevocation) -> Problem:
    if isinstance(error, TokenOutlivesTopic):
        return _problem(
            422,
            code="token_outlives_topic",
            detail=_sentence(error),
            token_life_s=ceil(error.token_life_s),
            longest_token_life_s=error.longest_token_life_s,
        )
    return _problem(422, code="invalid_revocation", detail=_sentence(error))


def _not_published(error: NotAccepted | OutcomeUnknown | BrokerError) -> Problem:
    if isinstance(error, OutcomeUnknown):
        return _problem(
            503,
            code="not_published",
            detail="Kafka did not acknowledge in time: the revocation may be in force. Sending it again is harmless",
            outcome="unknown",
            event_id=error.revocation.id if isinstance(error.revocation, Revocation) else None,
        )
    if isinstance(error, OutboxUnavailable):
        detail = f"Revocations cannot be stored at the moment ({error.reason}): nothing was revoked. Send it again"
        return _problem(503, code="not_published", detail=detail, outcome="not_accepted")
    detail = "Kafka does not take revocations at the moment: nothing was revoked. Send it again"
    return _problem(503, code="not_published", detail=detail, outcome="not_accepted")


def _problem(
    status: int,
    *,
    code: str,
    detail: str,
    outcome: Literal["not_accepted", "unknown"] | None = None,
    event_id: str | None = None,
    token_life_s: int | None = None,
    longest_token_life_s: int | None = None,
) -> Problem:
    # RFC 9457 section 4.2.1: with about:blank the title should be the phrase of the status.
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        outcome=outcome,
        event_id=event_id,
        token_life_s=token_life_s,
        longest_token_life_s=longest_token_life_s,
    )


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


def _quoted(text: str) -> str:
    return f'"{_NOT_QUOTABLE.sub(lambda match: chr(39) if match[0] == chr(34) else "?", text)}"'

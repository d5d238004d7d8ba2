"""Which answer each error calls for."""

from __future__ import annotations

import pytest

from revoker.errors import (
    BrokerUnreachable,
    InvalidRevocation,
    KeysUnavailable,
    NotAccepted,
    OutcomeUnknown,
    SettingsError,
    TokenOutlivesTopic,
)
from revoker.events import Revocation, Session
from revoker.service.problems import answer_to, challenge, of_status
from revoker.tokens import KeyUnknown, TokenMalformed, TokenMissing, TokenRevoked

EVENT = Revocation(id="event-1", selector=Session(iss="", sid="s"), revoked_at=1, expires_at=2)


@pytest.mark.parametrize(
    ("error", "status", "code", "header"),
    [
        (TokenMissing("none"), 401, "token_missing", ("WWW-Authenticate", 'Bearer realm="api"')),
        (
            TokenMalformed("bad"),
            401,
            "token_invalid",
            ("WWW-Authenticate", 'Bearer realm="api", error="invalid_token", error_description="Bad"'),
        ),
        (
            TokenRevoked(),
            401,
            "token_invalid",
            (
                "WWW-Authenticate",
                'Bearer realm="api", error="invalid_token", error_description="The token was revoked"',
            ),
        ),
        (
            KeyUnknown("no such key", refreshing=False),
            401,
            "token_invalid",
            ("WWW-Authenticate", 'Bearer realm="api", error="invalid_token", error_description="No such key"'),
        ),
        (KeyUnknown("x", refreshing=True), 503, "not_known_yet", ("Retry-After", "7")),
        (KeysUnavailable("x"), 503, "not_known_yet", ("Retry-After", "7")),
        (NotAccepted("x"), 503, "not_published", ("Retry-After", "7")),
        (OutcomeUnknown("x"), 503, "not_published", ("Retry-After", "7")),
        (BrokerUnreachable("x"), 503, "not_published", ("Retry-After", "7")),
        (InvalidRevocation("x"), 422, "invalid_revocation", None),
    ],
)
def test_each_error_has_its_answer(error: Exception, status: int, code: str, header: tuple[str, str] | None) -> None:
    """Status, code and header follow from the class of the error."""
    answer = answer_to(error, realm="api", retry_after_s=7)
    assert answer is not None
    assert (answer.problem.status, answer.problem.code) == (status, code)
    assert answer.headers == (() if header is None else (header,))


@pytest.mark.parametrize("error", [ValueError("x"), SettingsError("topic is wrong"), TimeoutError()])
def test_what_is_no_fault_of_the_clients_is_a_defect(error: Exception) -> None:
    """Errors that no request should cause have no answer: they become a 500 with a traceback in the log."""
    assert answer_to(error, realm="api", retry_after_s=1) is None


def test_an_unknown_outcome_names_the_event() -> None:
    """The caller gets the id under which the event may turn up, and the word for what is certain."""
    answer = answer_to(OutcomeUnknown("x", revocation=EVENT), realm="api", retry_after_s=1)
    assert answer is not None
    assert (answer.problem.outcome, answer.problem.event_id) == ("unknown", "event-1")


def test_a_broker_is_not_named_to_strangers() -> None:
    """The reason of a failed publication, which names brokers, does not reach the client."""
    answer = answer_to(NotAccepted("no broker reached at 10.0.0.7:9092"), realm="api", retry_after_s=1)
    assert answer is not None
    assert "10.0.0.7" not in answer.problem.detail


def test_a_token_that_outlives_the_topic_is_told_both_numbers() -> None:
    """The problem carries what the token still has and what the fleet is set up for, in seconds."""
    error = TokenOutlivesTopic("too long", token_life_s=99.5, longest_token_life_s=60)
    answer = answer_to(error, realm="api", retry_after_s=1)
    assert answer is not None
    assert (answer.problem.code, answer.problem.token_life_s, answer.problem.longest_token_life_s) == (
        "token_outlives_topic",
        100,
        60,
    )


def test_a_challenge_is_a_quoted_string_whatever_it_quotes() -> None:
    """Quotes, backslashes, line ends and non-ASCII text cannot break out of the header."""
    name, value = challenge(realm='a"b', error="invalid_token", description='say "é\\\r\nSet-Cookie: x"')
    expected = 'Bearer realm="a\'b", error="invalid_token", error_description="say \'????Set-Cookie: x\'"'
    assert (name, value) == ("WWW-Authenticate", expected)


def test_a_wrong_method_is_told_the_right_ones() -> None:
    """405 names the methods in the header Allow and in words."""
    answer = of_status(405, allow="GET,HEAD")
    assert answer.headers == (("Allow", "GET,HEAD"),)
    assert answer.problem.detail == "This path takes only GET, HEAD"

"""Where the token is found in a request, and what each refusal looks like on the wire."""

from __future__ import annotations

import json

import pytest

from consumers.refusal import answer
from revoker.bearer import find_token
from revoker.errors import DenyListFull, KeysUnavailable, NotProven
from revoker.tokens import InvalidTokenError, KeyUnknown, TokenMalformed, TokenMissing, TokenRevoked


def find(*authorization: str, cookies: tuple[str, ...] = (), cookie_name: str = "USER_SESSION") -> str:
    return find_token(authorization=authorization, cookies=cookies, cookie_name=cookie_name)


@pytest.mark.parametrize("header", ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "Bearer   a.b.c", " Bearer a.b.c "])
def test_the_scheme_is_read_in_any_case(header: str) -> None:
    """The scheme's case and the number of blanks around the token do not matter."""
    assert find(header) == "a.b.c"


@pytest.mark.parametrize(
    "headers",
    [
        ("Bearer",),
        ("Bearer ",),
        ("Bearer a.b.c d.e.f",),
        ("Bearer a.b.c, Bearer d.e.f",),
        ("Bearer a.b.c,Bearer d.e.f",),
        ("Basic dTpw, Bearer a.b.c",),
        ("Basic dTpw,bearer",),
        ("Bearer a.b.c", "Bearer a.b.c"),
        ("Basic dTpw", "Bearer a.b.c"),
    ],
)
def test_anything_but_one_token_in_the_header_is_malformed(headers: tuple[str, ...]) -> None:
    """A header without a token, with two, or several headers, are malformed even beside a good cookie."""
    with pytest.raises(TokenMalformed):
        find(*headers, cookies=("USER_SESSION=x.y.z",))


@pytest.mark.parametrize("header", ["Basic dTpw", 'Digest username="u", realm="r"', "Negotiate abc", "a.b.c", ""])
def test_other_credentials_leave_it_to_the_cookie(header: str) -> None:
    """A header with another scheme is no bearer token, and the cookie is asked."""
    assert find(header, cookies=("USER_SESSION=x.y.z",)) == "x.y.z"


def test_the_header_wins_over_the_cookie() -> None:
    """With a bearer token in the header the cookie is not looked at."""
    assert find("Bearer a.b.c", cookies=("USER_SESSION=x.y.z",)) == "a.b.c"


@pytest.mark.parametrize(
    ("cookies", "expected"),
    [
        (("USER_SESSION=x.y.z",), "x.y.z"),
        (("theme=dark; USER_SESSION=x.y.z; lang=en",), "x.y.z"),
        (("theme=dark;USER_SESSION=x.y.z",), "x.y.z"),
        (("theme=dark", "USER_SESSION=x.y.z"), "x.y.z"),
        (('USER_SESSION="x.y.z"',), "x.y.z"),
        (("USER_SESSION=x.y.z; USER_SESSION=x.y.z",), "x.y.z"),
        (("USER_SESSION=x%2Ey.z",), "x%2Ey.z"),
        (("USER_SESSION=x.y.z,USER_SESSION=x.y.q",), "x.y.z,USER_SESSION=x.y.q"),
        (("USER_SESSION=x.y.z==",), "x.y.z=="),
        (('USER_SESSION="',), '"'),
    ],
)
def test_a_cookie_value_is_taken_as_it_stands(cookies: tuple[str, ...], expected: str) -> None:
    """The named cookie's value loses its quotes and nothing else; nothing in it is decoded."""
    assert find(cookies=cookies) == expected


@pytest.mark.parametrize(
    "cookies",
    [
        ("USER_SESSION=a.b.c; USER_SESSION=x.y.z",),
        ("USER_SESSION=a.b.c", "USER_SESSION=x.y.z"),
        ("USER_SESSION=; USER_SESSION=x.y.z",),
    ],
)
def test_cookies_that_contradict_each_other_are_malformed(cookies: tuple[str, ...]) -> None:
    """Two cookies of the name with different values are malformed: the application could believe the other one."""
    with pytest.raises(TokenMalformed, match="several cookies USER_SESSION"):
        find(cookies=cookies)


@pytest.mark.parametrize(
    "cookies",
    [(), ("",), (";;=;",), ("user_session=x.y.z",), ("USER_SESSION=",), ('USER_SESSION=""',), ("USER_SESSION",)],
)
def test_no_cookie_of_that_name_is_no_token(cookies: tuple[str, ...]) -> None:
    """A cookie of another name or case, or one that was cleared, carries no token."""
    with pytest.raises(TokenMissing):
        find(cookies=cookies)


def test_an_empty_cookie_name_means_no_cookie() -> None:
    """With the setting empty, no cookie is looked at, not even one without a name."""
    with pytest.raises(TokenMissing):
        find(cookies=("=x.y.z; USER_SESSION=x.y.z",), cookie_name="")


def headers_of(error: Exception, *, realm: str = "api") -> dict[str, str]:
    return dict(answer(error, realm=realm, retry_after_s=7).headers)


def test_a_missing_token_gets_a_bare_challenge() -> None:
    """Who brings no token is told the scheme and the realm, and no error code."""
    assert headers_of(TokenMissing("the request carries no bearer token"))["WWW-Authenticate"] == 'Bearer realm="api"'


def test_an_invalid_token_is_told_why() -> None:
    """The challenge of an invalid token carries the error code and a sentence."""
    expected = 'Bearer realm="api", error="invalid_token", error_description="The token has 2 segments"'
    assert headers_of(TokenMalformed("the token has 2 segments"))["WWW-Authenticate"] == expected


def test_a_revoked_token_is_not_told_by_which_rule() -> None:
    """Every kind of revocation reads the same to whoever holds the token."""
    expected = 'Bearer realm="api", error="invalid_token", error_description="The token was revoked"'
    assert headers_of(TokenRevoked("the client's tokens were revoked", kind="client"))["WWW-Authenticate"] == expected


def test_a_token_refused_for_its_length_is_told_so() -> None:
    """A token that lives too long was not revoked, and the answer does not say so."""
    error = TokenRevoked("the token lives 90000 s", kind="long_lived")
    assert answer(error, realm="api", retry_after_s=1).detail == "The token lives 90000 s"


@pytest.mark.parametrize(
    "error", [NotProven("poll: broker kafka-1"), KeysUnavailable("none"), KeyUnknown("no key yet", refreshing=True)]
)
def test_what_this_node_does_not_know_is_503(error: Exception) -> None:
    """What may pass later is a 503 with Retry-After that names no broker."""
    refusal = answer(error, realm="api", retry_after_s=7)
    assert (refusal.status, dict(refusal.headers)["Retry-After"]) == (503, "7")
    assert b"kafka-1" not in refusal.body


def test_a_key_that_is_certainly_unknown_is_401() -> None:
    """A kid that the key set, freshly read, does not have is an invalid token."""
    assert answer(KeyUnknown("no such key", refreshing=False), realm="api", retry_after_s=7).status == 401


def test_the_body_is_a_problem() -> None:
    """Every refusal is an RFC 9457 problem that nobody may store."""
    refusal = answer(InvalidTokenError("Signature has expired"), realm="api", retry_after_s=7)
    assert json.loads(refusal.body) == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Signature has expired",
    }
    headers = dict(refusal.headers)
    assert (headers["Content-Type"], headers["Cache-Control"]) == ("application/problem+json", "no-store")


@pytest.mark.parametrize("text", ['say "exp"', "a\r\nSet-Cookie: x=y", "naïve", "back\\slash", "\ud800"])
def test_nothing_breaks_out_of_the_quotes(text: str) -> None:
    """Quotes, backslashes, line breaks and non-ASCII never reach the header as such."""
    for header in headers_of(InvalidTokenError(text), realm=text).values():
        assert header.isascii()
        assert header.isprintable()
        assert "\\" not in header
        assert header.count('"') in (0, 6)


@pytest.mark.parametrize("error", [DenyListFull("full"), RuntimeError("a bug")])
def test_an_error_of_another_kind_is_raised_again(error: Exception) -> None:
    """What is neither about a token nor about this node's knowledge is not turned into a refusal."""
    with pytest.raises(type(error)):
        answer(error, realm="api", retry_after_s=7)

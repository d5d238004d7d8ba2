"""Where the service finds the token, and the header that clears its cookie."""

from __future__ import annotations

from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revoker.bearer import find_token
from revoker.errors import SettingsError
from revoker.service.credentials import Credential, clearing_cookie, find_credential
from revoker.tokens import InvalidTokenError, TokenMalformed, TokenMissing
from tests import samples

NAME = "USER_SESSION"

_values = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.lists(
            st.sampled_from(["Bearer", "bearer", " ", ",", "a.b.c", "d.e.f", NAME, "=", ";", '"', "Basic", "\t"]),
            max_size=8,
        ).map("".join),
    ),
    max_size=3,
)


def find(*authorization: str, cookies: tuple[str, ...] = ()) -> Credential:
    return find_credential(authorization=authorization, cookies=cookies, cookie_name=NAME)


@given(_values, _values)
def test_the_service_reads_the_token_that_nodes_read(authorization: list[str], cookies: list[str]) -> None:
    """Whatever the headers, both find the same token or refuse alike: else a logout would end another one."""

    def outcome(finder: object) -> object:
        try:
            found = finder(authorization=authorization, cookies=cookies, cookie_name=NAME)  # type: ignore[operator]
        except InvalidTokenError as error:
            return type(error)
        return found.raw if isinstance(found, Credential) else found

    assert outcome(find_credential) == outcome(find_token)


def test_the_header_wins_and_says_whether_the_cookie_holds_the_same() -> None:
    """A token in Authorization is taken first; the cookie counts as holding it only if it is the very same."""
    other = find("Bearer a.b.c", cookies=(f"{NAME}=d.e.f",))
    same = find("Bearer a.b.c", cookies=(f"{NAME}=a.b.c",))
    assert (other.raw, other.source, other.in_cookie) == ("a.b.c", "header", False)
    assert (same.source, same.in_cookie) == ("header", True)


def test_a_cookie_alone_is_the_source() -> None:
    """Without a bearer token in Authorization the named cookie is the source, among others and quoted."""
    found = find("Basic dTpw", cookies=(f'theme=dark; {NAME}="a.b.c"',))
    assert (found.raw, found.source, found.in_cookie) == ("a.b.c", "cookie", True)


def test_several_cookies_of_the_name_are_malformed_beside_no_header_only() -> None:
    """Two different cookies of one name cannot be told apart: refused, unless the header says which token."""
    cookies = (f"{NAME}=a.b.c; {NAME}=d.e.f",)
    with pytest.raises(TokenMalformed, match="several cookies"):
        find(cookies=cookies)
    assert not find("Bearer a.b.c", cookies=cookies).in_cookie


@pytest.mark.parametrize("cookies", [(), (f"{NAME}=",), ("user_session=a.b.c",)])
def test_no_token_is_missing(cookies: tuple[str, ...]) -> None:
    """No cookie, a cleared one, and one of another name are no token."""
    with pytest.raises(TokenMissing):
        find(cookies=cookies)


def test_the_token_does_not_show_in_the_repr() -> None:
    """A credential that ends up in a log line says where it came from and nothing else."""
    assert repr(find("Bearer a.b.c", cookies=(f"{NAME}=a.b.c",))) == "Credential(source='header')"


@pytest.mark.parametrize(
    ("changes", "header"),
    [
        (
            {},
            "USER_SESSION=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            {"cookie_domain": "example.com", "cookie_path": "/app", "cookie_same_site": "Strict"},
            (
                "USER_SESSION=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/app; Domain=example.com; "
                "Secure; HttpOnly; SameSite=Strict"
            ),
        ),
        (
            {"cookie_name": "sid", "cookie_secure": False, "cookie_http_only": False},
            "sid=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; SameSite=Lax",
        ),
        (
            {"cookie_name": "__Host-sid", "cookie_same_site": "None"},
            "__Host-sid=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; Secure; HttpOnly; SameSite=None",
        ),
        ({"cookie_name": ""}, ""),
    ],
)
def test_the_cookie_is_cleared_with_the_attributes_it_was_set_with(changes: dict[str, object], header: str) -> None:
    """Every attribute of the settings stands in the header, exactly, and an expiry in the past in both forms."""
    assert clearing_cookie(samples.settings(**changes)) == header


def test_a_cookie_parser_reads_the_clearing_header() -> None:
    """http.cookies finds the same name and attributes."""
    parsed = SimpleCookie(clearing_cookie(samples.settings(cookie_domain="example.com")))[NAME]
    assert (parsed.value, parsed["max-age"], parsed["domain"], parsed["path"]) == ("", "0", "example.com", "/")
    assert (parsed["secure"], parsed["httponly"], parsed["samesite"]) == (True, True, "Lax")


@pytest.mark.parametrize(
    "changes",
    [
        {"cookie_name": "user session"},
        {"cookie_name": "a;b"},
        {"cookie_path": "app"},
        {"cookie_path": "/; Domain=evil.example"},
        {"cookie_path": "/\r\nX: y"},
        {"cookie_domain": "example.com; Path=/"},
        {"cookie_name": "__Secure-sid", "cookie_secure": False},
        {"cookie_name": "__Host-sid", "cookie_domain": "example.com"},
        {"cookie_name": "__Host-sid", "cookie_path": "/app"},
    ],
)
def test_a_cookie_no_browser_would_take_is_refused_at_the_start(changes: dict[str, object]) -> None:
    """Names and attributes outside RFC 6265, or against their own prefix, are a SettingsError naming the setting."""
    with pytest.raises(SettingsError, match="cookie_"):
        clearing_cookie(samples.settings(**changes))

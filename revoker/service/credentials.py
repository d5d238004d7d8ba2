"""The token a request carries, where it stood, and the header that clears its cookie. Pure.

Tokens are read as nodes read them: ``Authorization: Bearer`` first, then the one named cookie, never the query string;
whatever two readers could understand differently is refused. If the service revoked another token than the nodes look
at, the user would stay logged in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from revoker.errors import SettingsError
from revoker.settings import Settings
from revoker.tokens import TokenMalformed, TokenMissing

__all__ = ["Credential", "bearer_token", "clearing_cookie", "find_credential"]

_JOINED: Final = re.compile(r",\s*bearer(?:\s|,|$)", re.IGNORECASE)

#: RFC 6265 section 4.1.1: a cookie's name is a token, its attributes hold neither control characters nor semicolons.
_COOKIE_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_COOKIE_PATH: Final = re.compile(r"/[\x20-\x3a\x3c-\x7e]*")
_COOKIE_DOMAIN: Final = re.compile(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A token as it came, unverified. ``cookie``: the value of the named cookie, None if there is none or several."""

    raw: str = field(repr=False)
    source: Literal["header", "cookie"]
    cookie: str | None = field(repr=False)

    @property
    def in_cookie(self) -> bool:
        """Whether the browser's cookie holds this very token, wherever it was read from."""
        return self.cookie == self.raw


def find_credential(*, authorization: Sequence[str], cookies: Sequence[str], cookie_name: str) -> Credential:
    """The one token of a request.

    ``authorization`` and ``cookies``: the values of all headers ``Authorization`` and ``Cookie``. ``cookie_name``:
    empty = no cookie. Raises TokenMissing if there is none, TokenMalformed if there are several. Nothing else, whatever
    the input.
    """
    values = _cookie_values(cookies, cookie_name) if cookie_name else set()
    cookie = next(iter(values), None) or None if len(values) == 1 else None
    token = bearer_token(authorization)
    if token is not None:
        return Credential(raw=token, source="header", cookie=cookie)
    if len(values) > 1:
        raise TokenMalformed(f"the request has several cookies {cookie_name} with different values, must have one")
    if cookie is None:
        raise TokenMissing("the request carries no bearer token")
    return Credential(raw=cookie, source="cookie", cookie=cookie)


def bearer_token(authorization: Sequence[str]) -> str | None:
    """The bearer token in the header ``Authorization``;

    None if it is absent or of another scheme. Raises TokenMalformed.
    """
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


def clearing_cookie(settings: Settings) -> str:
    """The header ``Set-Cookie`` that makes a browser forget the token; empty if no cookie is named.

    A browser replaces a cookie only if Domain and Path are those it was set with (RFC 6265 section 5.3), and refuses to
    touch a Secure one without Secure; so all attributes are repeated. Raises SettingsError for what no browser would
    take.
    """
    name, path, domain = settings.cookie_name, settings.cookie_path, settings.cookie_domain
    if not name:
        return ""
    if not _COOKIE_NAME.fullmatch(name):
        raise SettingsError(f"cookie_name is {name!r}, must be letters, digits and !#$%&'*+-.^_`|~ (RFC 6265)")
    if not _COOKIE_PATH.fullmatch(path):
        raise SettingsError(f"cookie_path is {path!r}, must begin with / and hold no semicolon")
    if domain is not None and not _COOKIE_DOMAIN.fullmatch(domain):
        raise SettingsError(f"cookie_domain is {domain!r}, must be a host name")
    if name.startswith("__Secure-") and not settings.cookie_secure:
        raise SettingsError(f"cookie_name {name} needs cookie_secure: browsers refuse the cookie otherwise")
    if name.startswith("__Host-") and not (settings.cookie_secure and path == "/" and domain is None):
        raise SettingsError(f"cookie_name {name} needs cookie_secure, cookie_path / and no cookie_domain")
    parts = [f"{name}=", "Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:00 GMT", f"Path={path}"]
    if domain is not None:
        parts.append(f"Domain={domain}")
    if settings.cookie_secure:
        parts.append("Secure")
    if settings.cookie_http_only:
        parts.append("HttpOnly")
    parts.append(f"SameSite={settings.cookie_same_site}")
    return "; ".join(parts)


def _cookie_values(cookies: Sequence[str], name: str) -> set[str]:
    found = set()
    for header in cookies:
        for pair in header.split(";"):
            key, equals, value = pair.partition("=")
            if equals and key.strip() == name:
                text = value.strip()
                quoted = len(text) >= 2 and text[0] == text[-1] == '"'
                found.add(text[1:-1] if quoted else text)
    return found

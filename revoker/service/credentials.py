"""The token a request carries, where it stood, and the header that clears its cookie. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from revoker.bearer import bearer_token, cookie_values, find_token
from revoker.errors import SettingsError
from revoker.settings import Settings

__all__ = ["Credential", "clearing_cookie", "find_credential"]

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
    raw = find_token(authorization=authorization, cookies=cookies, cookie_name=cookie_name)
    values = cookie_values(cookies, name=cookie_name) if cookie_name else set()
    return Credential(
        raw=raw,
        source="cookie" if bearer_token(authorization) is None else "header",
        cookie=(next(iter(values)) or None) if len(values) == 1 else None,
    )


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

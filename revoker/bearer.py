"""Where a request carries its token. Pure; the service and every adapter read requests with it.

A token is taken from ``Authorization: Bearer`` (RFC 6750 section 2.1) or from one named cookie, never from the query
string, which ends up in logs, histories and ``Referer`` (section 5.3). What two readers of the same request could
understand differently is refused, because the application behind may read the request once more: and if the service
revoked another token than the nodes look at, the user would stay logged in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from revoker.tokens import TokenMalformed, TokenMissing

__all__ = ["bearer_token", "cookie_values", "find_token"]

#: Two Authorization headers joined into one, as Envoy does it. Commas alone prove nothing: Digest credentials hold
#: some.
_JOINED = re.compile(r",\s*bearer(?:\s|,|$)", re.IGNORECASE)


#: What `str.split` takes for blank in ASCII, and the comma, which headers are joined with.
_PARTING = " ,\t\n\v\f\r\x1c\x1d\x1e\x1f"


def find_token(*, authorization: Sequence[str], cookies: Sequence[str], cookie_name: str) -> str:
    """The one token of a request, unverified.

    ``authorization`` and ``cookies``: the values of all headers ``Authorization`` and ``Cookie``, as they came.
    ``cookie_name``: case-sensitive; empty = no cookie is looked at. A bearer token in the header wins over the
    cookie; other credentials in the header (Basic, say) leave it to the cookie. A cookie's value may stand in double
    quotes; percent signs stay as they are.

    Raises TokenMissing if there is none, TokenMalformed if there are several or the header is cut short. Nothing
    else, whatever the input.
    """
    token = bearer_token(authorization)
    if token is None and cookie_name:
        token = _only(cookie_values(cookies, name=cookie_name), cookie_name)
    if token is None:
        raise TokenMissing("the request carries no bearer token")
    return token


def bearer_token(authorization: Sequence[str]) -> str | None:
    """The bearer token in ``Authorization``; None if absent or of another scheme. Raises TokenMalformed."""
    if len(authorization) == 1:
        # Nearly every request. Nothing here that the long way would refuse or read otherwise: it searches the whole
        # header by regular expression, at the price of the look-up in the deny list.
        scheme, _, token = authorization[0].partition(" ")
        if scheme == "Bearer" and token and token.isascii():
            for parting in _PARTING:
                if parting in token:
                    break
            else:
                return token
    return _read(authorization)


def _read(authorization: Sequence[str]) -> str | None:
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


def cookie_values(cookies: Sequence[str], *, name: str) -> set[str]:
    """The different values of one cookie in the values of ``Cookie``, without their double quotes."""
    found = set()
    for header in cookies:
        for pair in header.split(";"):
            key, equals, value = pair.partition("=")
            if equals and key.strip() == name:
                value = value.strip()
                quoted = len(value) >= 2 and value[0] == value[-1] == '"'
                found.add(value[1:-1] if quoted else value)
    return found


def _only(values: set[str], name: str) -> str | None:
    if len(values) > 1:
        # Browsers send the cookies of several paths or domains side by side, readers take the first or the last: a
        # sibling domain could plant one that we judge and another that the application believes.
        raise TokenMalformed(f"the request has several cookies {name} with different values, must have one")
    # An empty value is what a cleared cookie leaves behind.
    return next(iter(values), None) or None

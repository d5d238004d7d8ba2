"""Whether a request with its token in a cookie was meant by the user: the rule against cross-site requests, pure.

A browser adds the cookie to whatever any page sends. ``SameSite`` is not enough: it lets sibling subdomains through,
and one that was taken over, or given to a customer, could log everybody out. So the request has to say where it comes
from, in headers that pages cannot set:

1. ``Sec-Fetch-Site: same-origin`` or ``none`` (the user's own doing: the address bar, a bookmark) passes;
2. any other value passes only if ``Origin`` is listed in allowed_origins. The service's own address is not asked then:
   the browser has just said that the page is another's;
3. without ``Sec-Fetch-Site`` (plain http, Safari before 16.4), ``Origin`` has to be listed or the service's own, scheme
   included;
4. without both it passes: every browser since 2020 sends ``Origin`` with a POST, so this is no page but a program, such
   as ``curl -b USER_SESSION=…``, that holds the cookie and needs nobody's browser to send it.

The same rule, 4 included, is Go's ``net/http.CrossOriginProtection`` (https://github.com/golang/go/issues/73626), which
also says what it costs: a proxy in front has to pass both headers on. A token in ``Authorization`` needs none of this:
no page can make a browser add it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from revoker.errors import SettingsError

__all__ = ["listed_origins", "normal_origin", "refusal"]

_SHAPE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def normal_origin(text: str) -> str | None:
    """``scheme://host[:port]`` in the one spelling browsers use (RFC 6454 section 6.2);

    None if ``text`` is no origin, as ``null``.
    """
    if not _SHAPE.fullmatch(text):
        return None
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def listed_origins(setting: Iterable[str]) -> frozenset[str]:
    """The setting allowed_origins, normalised.

    Raises SettingsError for an entry that is no origin; there are no wildcards.
    """
    listed = set()
    for entry in setting:
        origin = normal_origin(entry)
        if origin is None:
            raise SettingsError(
                f"allowed_origins names {entry!r}, must be scheme://host[:port] such as https://app.example.com, "
                "without a path or *"
            )
        listed.add(origin)
    return frozenset(listed)


def refusal(*, origins: Sequence[str], fetch_sites: Sequence[str], own: str, listed: frozenset[str]) -> str | None:
    """Why the request may be another page's, or None if it is the user's.

    ``origins`` and ``fetch_sites``: the values of all headers ``Origin`` and ``Sec-Fetch-Site``. ``own``: this
    service's origin as the request names it. ``listed``: from `listed_origins`.
    """
    origin = normal_origin(origins[0]) if len(origins) == 1 else None
    if origin is not None and origin in listed:
        return None
    if fetch_sites:
        if len(fetch_sites) == 1 and fetch_sites[0] in ("same-origin", "none"):
            return None
    elif not origins or (origin is not None and origin == normal_origin(own)):
        return None
    return (
        "The browser says that a page of another origin sent this, and its cookie alone does not prove that the user "
        "meant it; if the page is yours, list its Origin in the setting allowed_origins"
    )

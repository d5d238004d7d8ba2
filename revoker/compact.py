"""A token's text, taken apart so strictly that no other reader could understand it otherwise. No keys, no claims.

Whatever two readers could understand differently (a repeated member name, a respelled segment, other encodings) is
refused, because a revocation has to name the very token that is checked later.
"""

from __future__ import annotations

import base64
import json
import re
from functools import lru_cache
from typing import Any, NoReturn

import jwt

from revoker.errors import InvalidInput

__all__ = ["TOKEN_MAX_BYTES", "TokenMalformed", "bytes_of", "check_shape", "header_of", "json_object"]

#: Longest token looked at. Servers take about 8 KiB of header (nginx, aiohttp), so no token in use comes near, and the
#: work on a text that nobody signed stays bounded.
TOKEN_MAX_BYTES = 16 * 1024

#: RFC 7515 section 7.1; RFC 8725bis: a JWT with any other character MUST be rejected. That goes for padding, which
#: PyJWT lets in since 2.15.1 (https://github.com/jpadilla/pyjwt/issues/1209): respelling got around revocation
#: (GHSA-hxm8-2xgr-2p9m).
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

#: Made by the same issuers and clients, often with the same keys, and sent to third parties, who could use them as
#: bearer tokens. RFC 8725 section 3.11: tell kinds apart by typ. Sources: RFC 9449 section 4.2, RFC 8417 section 2.3,
#: OpenID Connect Back-Channel Logout 1.0 section 2.4.
_OTHER_KINDS = {"dpop+jwt": "a DPoP proof", "secevent+jwt": "a security event token", "logout+jwt": "a logout token"}


class TokenMalformed(InvalidInput, jwt.InvalidTokenError):
    """The text is no token, or one whose shape hides what it is. The message never quotes it."""

    http_status = 401


def check_shape(raw: object) -> None:
    """Refuse what is not three segments of base64url characters of bearable length."""
    if not isinstance(raw, str):
        raise TokenMalformed(f"the token is a {type(raw).__name__}, must be text")
    if len(raw) > TOKEN_MAX_BYTES:
        raise TokenMalformed(f"the token has {len(raw)} characters, at most {TOKEN_MAX_BYTES} are accepted")
    if _COMPACT_JWS.fullmatch(raw):
        return
    dots = raw.count(".")
    if dots == 4:
        raise TokenMalformed(
            "the token is encrypted (JWE, five segments), which is not supported: send a signed one (JWS)"
        )
    if dots != 2:
        raise TokenMalformed(f"the token has {dots + 1} segments, a signed JWT has three")
    if re.fullmatch(r"[A-Za-z0-9_.=-]+", raw) and "=" in raw:
        raise TokenMalformed("the token's base64url is padded with =, which RFC 7515 forbids")
    if "" in raw.split("."):
        raise TokenMalformed("a segment of the token is empty")
    raise TokenMalformed("the token holds characters other than letters, digits, '-', '_' and '.'")


#: The last character of a segment of so many characters beyond a multiple of four: its spare bits must be zero (RFC
#: 4648 section 3.5), or there would be several spellings. Together with `_COMPACT_JWS`, the whole canonical form.
_LAST_CHARACTERS = {2: "AQgw", 3: "AEIMQUYcgkosw048"}


def bytes_of(segment: str, *, part: str) -> bytes:
    """What a base64url segment stands for. Its characters have been checked by `check_shape`."""
    beyond = len(segment) % 4
    if beyond == 1:
        raise TokenMalformed(f"the token's {part} is not base64url")
    if beyond and segment[-1] not in _LAST_CHARACTERS[beyond]:
        raise TokenMalformed(f"the token's {part} is not base64url in its one canonical spelling")
    return base64.urlsafe_b64decode(segment + "=" * (-beyond % 4))


#: Headers are the same for all tokens of a key, so few of them are read again and again. Few are kept, and short ones:
#: anybody can send others, and they are read before a signature holds. Reading is pure, so nothing can be planted.
_HEADERS_KEPT = 64
_HEADER_KEPT_CHARS = 512


def header_of(segment: str) -> tuple[str, str | None]:
    """``alg`` and ``kid`` of a header segment. Raises TokenMalformed for a header that is not that of a plain JWT."""
    return _kept_header(segment) if len(segment) <= _HEADER_KEPT_CHARS else _header(segment)


def _header(segment: str) -> tuple[str, str | None]:
    decoded = bytes_of(segment, part="header")
    header = json_object(decoded, part="header")
    if not isinstance(header.get("alg"), str):
        raise TokenMalformed("the token's header has no alg that is a string")
    if not isinstance(header.get("kid", ""), str):
        raise TokenMalformed("the token's kid is not a string")
    if "crit" in header:
        raise TokenMalformed("the token's header asks for extensions (crit), of which none is supported")
    if header.get("b64", True) is not True:
        raise TokenMalformed("the token's header has b64 other than true (RFC 7797), which is not supported")
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str):
        raise TokenMalformed("the token's typ is not a string")
    if other := _OTHER_KINDS.get(typ.lower().removeprefix("application/")):
        raise TokenMalformed(f"the token is {other}, not an access token")
    return header["alg"], header.get("kid")


_kept_header = lru_cache(_HEADERS_KEPT)(_header)


def json_object(data: bytes, *, part: str) -> dict[str, Any]:
    """One JSON object, read so that no other reader could see another."""
    try:
        # Decoded here, because json.loads would guess UTF-16 and UTF-32 from bytes; RFC 7519 section 3 says UTF-8.
        text = data.decode("utf-8")
        found = _JSON.decode(text)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except TokenMalformed:
        raise
    except UnicodeDecodeError:
        raise TokenMalformed(f"the token's {part} is not UTF-8") from None
    except UnicodeEncodeError:
        raise TokenMalformed(f"the token's {part} holds a lone surrogate, which no revocation could name") from None
    except RecursionError:
        raise TokenMalformed(f"the token's {part} is nested too deeply") from None
    except ValueError:
        raise TokenMalformed(f"the token's {part} is not JSON") from None
    if not isinstance(found, dict):
        raise TokenMalformed(f"the token's {part} is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 7519 section 4: reject, or take the last. Readers that take the first exist, and would see another jti.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise TokenMalformed("a member name stands twice in the same JSON object of the token")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise TokenMalformed("the token holds a number too large to be one")
    return number


def _no_constant(name: str) -> NoReturn:
    raise TokenMalformed(f"the token holds {name}, which is not JSON")


#: Made once: `json.loads` with hooks makes one for each call.
_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)

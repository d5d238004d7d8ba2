"""From bearer text to verified claims, and which identities a token has.

The order is fixed: the shape of the text, then its header, then the signature, and only then the claims. Nothing
beyond the header is parsed before the signature holds. Whatever two readers could understand differently (a repeated
member name, a number written as text, a respelled segment) is refused, because a revocation has to name the very token
that is checked later.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import jwt

from revoker.algorithms import checked_algorithms
from revoker.errors import InvalidInput, InvalidRevocation, RevokerError, SettingsError
from revoker.events import IDENTIFIER_MAX_CHARS, Digest, Session, Subject, Token
from revoker.keys import Key, Keys, KeyUnknown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from revoker.settings import Settings

__all__ = [
    "TOKEN_MAX_BYTES",
    "InvalidTokenError",
    "KeyUnknown",
    "TokenMalformed",
    "TokenMissing",
    "TokenRevoked",
    "Verified",
    "Verifier",
    "sign",
    "signing_input_digest",
]

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

#: The claims an identity is made of.
_IDENTIFIERS = ("iss", "sub", "sid", "jti", "client_id", "azp")
_TIMES = ("exp", "iat", "nbf")

#: The end of the year 9999, the last time a revocation can carry; Unix seconds. Milliseconds given for seconds lie
#: beyond.
_LATEST_TIME = 253_402_300_799


#: PyJWT's own, for those who answer 401 without importing PyJWT: everything `Verifier.verify` raises.
InvalidTokenError = jwt.InvalidTokenError


class TokenRevoked(RevokerError, jwt.InvalidTokenError):
    """The token was revoked. ``kind``: what matched: one of `events.KINDS`, ``malformed``, ``long_lived``."""

    http_status = 401

    def __init__(self, message: str = "the token was revoked", *, kind: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind


class TokenMalformed(InvalidInput, jwt.InvalidTokenError):
    """The text is no token, or one whose shape hides what it is. The message never quotes it."""

    http_status = 401


class TokenMissing(RevokerError, jwt.InvalidTokenError):
    """The request carries no token: a 401 without an error code (RFC 6750 section 3.1)."""

    http_status = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A token whose signature and claims hold. Neither the token nor its claims show in the repr.

    ``kid``: the name of the key that verified it, None if that key has none. Not what the header says: whoever has
    stolen a key can write any kid there, and would slip past the revocation of that key. ``raw``: the token as it
    came.
    """

    claims: Mapping[str, Any] = field(repr=False)
    kid: str | None
    raw: str = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256, lower-case hex, of the bytes the signature covers."""
        return _digest(self.raw)

    @property
    def iss(self) -> str:
        """The issuer, ``""`` if the token names none."""
        return str(self.claims.get("iss", ""))

    @property
    def exp(self) -> float | None:
        """When it expires, Unix seconds; None if never (possible only where ``exp`` is not a required claim)."""
        return self.claims.get("exp")

    @property
    def iat(self) -> float | None:
        """When it was issued, Unix seconds; None if it does not say."""
        return self.claims.get("iat")

    @property
    def selector(self) -> Token | Digest:
        """What revokes this one token: its ``jti``, or the digest if it has none."""
        if "jti" in self.claims:
            return Token(iss=self.iss, jti=self.claims["jti"])
        return Digest(iss=self.iss, digest=self.digest)

    @property
    def session(self) -> Session | None:
        """What revokes its session; None without ``sid``."""
        return Session(iss=self.iss, sid=self.claims["sid"]) if "sid" in self.claims else None

    def subject(self, *, spare: bool = False) -> Subject | None:
        """What revokes its subject's tokens, with ``spare`` all but those of its own session; None without ``sub``.

        A token without ``sid`` is spared alone, by its ``jti``. Raises InvalidRevocation if it has neither.
        """
        if "sub" not in self.claims:
            return None
        sid, jti = self.claims.get("sid"), self.claims.get("jti")
        if not spare:
            return Subject(iss=self.iss, sub=self.claims["sub"])
        if sid is None and jti is None:
            raise InvalidRevocation(
                "the token has neither sid nor jti, so it cannot be spared: revoke the subject without sparing it"
            )
        return Subject(iss=self.iss, sub=self.claims["sub"], spare_sid=sid, spare_jti=jti if sid is None else None)


class Verifier:
    """Judges tokens by shape, signature and claims. Synchronous, without I/O.

    ``algorithms``: the ones accepted, case-sensitive. ``issuer``: the ``iss`` required, None = any. ``audience``:
    ``aud`` must hold one of these; empty = not checked. ``leeway_s``: how far ``exp``, ``nbf`` and ``iat`` may be off.
    ``required_claims``: must be there and not null. Raises SettingsError for an unknown algorithm.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        algorithms: Sequence[str],
        issuer: str | None = None,
        audience: Sequence[str] = (),
        leeway_s: float = 0,
        required_claims: Sequence[str] = ("exp", "iat"),
    ) -> None:
        if isinstance(audience, str) or isinstance(required_claims, str):
            raise SettingsError("audience and required_claims are lists of texts, not a text")
        self._keys = keys
        self._algorithms = checked_algorithms(algorithms)
        self._issuer = issuer
        self._audience = list(audience)
        self._leeway_s = leeway_s
        self._required = list(required_claims)

    @classmethod
    def from_settings(cls, settings: Settings, keys: Keys) -> Verifier:
        """A verifier as the settings say."""
        return cls(
            keys=keys,
            algorithms=settings.algorithms,
            issuer=settings.issuer,
            audience=settings.audience,
            leeway_s=settings.leeway_s,
            required_claims=settings.required_claims,
        )

    def verify(self, raw: str) -> Verified:
        """The token, verified. Raises nothing but jwt.InvalidTokenError, whatever the input.

        Of these, `KeyUnknown` with ``refreshing`` means "not known yet" (503); all others that the token is not valid
        (401).
        """
        _check_shape(raw)
        header = _header(raw)
        alg = header["alg"]
        if alg not in self._algorithms:
            raise jwt.InvalidAlgorithmError(f"the token's algorithm is not one of {', '.join(self._algorithms)}")
        candidates = self._keys.candidates(header.get("kid"), alg)
        if not candidates:
            raise KeyUnknown("no key is known for this token", refreshing=False)
        for key in candidates[:-1]:
            try:
                return self._verify_with(raw, key)
            except jwt.InvalidSignatureError:
                continue
        return self._verify_with(raw, candidates[-1])

    def _verify_with(self, raw: str, key: Key) -> Verified:
        try:
            claims = _STRICT.decode(
                raw,
                key=key.material,
                algorithms=[key.algorithm],
                options={"require": self._required, "verify_aud": bool(self._audience)},
                issuer=self._issuer,
                audience=self._audience or None,
                leeway=self._leeway_s,
            )
        except jwt.InvalidTokenError:
            raise
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            # Keys were proved fit when loaded, so this token found a hole in the libraries below: refused, the cause
            # kept.
            raise TokenMalformed(f"the token could not be verified ({type(error).__name__})") from error
        return Verified(claims=claims, kid=key.kid, raw=raw)


def signing_input_digest(raw: str) -> str:
    """SHA-256, lower-case hex, of ``header.payload``: what the signature covers, so no respelling changes it.

    Only meaningful for a token that was verified. Raises TokenMalformed for what is no compact JWS.
    """
    _check_shape(raw)
    return _digest(raw)


def sign(
    claims: Mapping[str, Any],
    *,
    key: str | bytes | RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey,
    algorithm: str,
    headers: Mapping[str, Any] | None = None,
) -> str:
    """A signed token, for examples, the demo and tests; revoker itself issues none.

    ``key``: a secret, or a private key or its PEM. ``headers``: beside ``alg`` and ``typ``, such as ``kid``. Raises
    SettingsError for an algorithm that `Verifier` would not know.
    """
    checked_algorithms([algorithm])
    return jwt.encode(dict(claims), key, algorithm=algorithm, headers=dict(headers) if headers else None)


class _StrictJWT(jwt.PyJWT):
    """PyJWT with a payload reader that takes nothing ambiguous. It is called after the signature has been verified."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        claims = _json_object(decoded["payload"], part="payload")
        _check_claims(claims)
        return claims


_STRICT = _StrictJWT()


def _digest(raw: str) -> str:
    return hashlib.sha256(raw.rpartition(".")[0].encode("ascii")).hexdigest()


def _check_shape(raw: object) -> None:
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


def _header(raw: str) -> dict[str, Any]:
    segment = raw.partition(".")[0]
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        raise TokenMalformed("the token's header is not base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment.encode("ascii"):
        raise TokenMalformed("the token's header is not base64url in its one canonical spelling")
    header = _json_object(decoded, part="header")
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
    return header


def _json_object(data: bytes, *, part: str) -> dict[str, Any]:
    """One JSON object, read so that no other reader could see another."""
    try:
        # Decoded here, because json.loads would guess UTF-16 and UTF-32 from bytes; RFC 7519 section 3 says UTF-8.
        text = data.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
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


def _check_claims(claims: Mapping[str, Any]) -> None:
    for name in _IDENTIFIERS:
        if name not in claims:
            continue
        value = claims[name]
        if not isinstance(value, str):
            raise TokenMalformed(f"the claim {name} is not a string")
        if len(value) > IDENTIFIER_MAX_CHARS:
            raise TokenMalformed(
                f"the claim {name} has {len(value)} characters, a revocation can name {IDENTIFIER_MAX_CHARS}"
            )
        if not value and name != "iss":
            raise TokenMalformed(f"the claim {name} is empty, which no revocation could name")
    for name in _TIMES:
        value = claims.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TokenMalformed(f"the claim {name} is not a number")
        if not 0 <= value <= _LATEST_TIME:
            raise TokenMalformed(f"the claim {name} is no time in seconds since 1970 up to the year 9999")
    events = claims.get("events")
    # SETs and logout tokens need no typ; events, an object of which each name is a URI (RFC 8417 section 2.2), tells
    # them.
    if isinstance(events, dict) and any(":" in name for name in events):
        raise TokenMalformed("the token is a security event or logout token (it has events), not an access token")

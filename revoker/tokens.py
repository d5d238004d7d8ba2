"""From bearer text to verified claims, and which identities a token has.

The order is fixed: the shape of the text, then its header, then the signature, and only then the claims. Nothing
beyond the header is parsed before the signature holds. Whatever two readers could understand differently (a repeated
member name, a number written as text, a respelled segment) is refused, because a revocation has to name the very token
that is checked later.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt

from revoker.algorithms import ALGORITHMS, checked_algorithms
from revoker.compact import TOKEN_MAX_BYTES, TokenMalformed, bytes_of, check_shape, header_of, json_object
from revoker.errors import InvalidRevocation, RevokerError, SettingsError
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
    ``required_claims``: must be there and not null. ``wall``: Unix seconds. Raises SettingsError for an unknown
    algorithm.

    PyJWT's algorithms check the signature. Its ``decode`` is not used: it takes the token apart once more, and what it
    spends on that (each character tested by itself, the header parsed anew) is as much as a signature of HS256 or RS256
    costs. A property test holds both to the same verdict.
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
        wall: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(audience, str) or isinstance(required_claims, str):
            raise SettingsError("audience and required_claims are lists of texts, not a text")
        self._keys = keys
        self._algorithms = checked_algorithms(algorithms)
        self._issuer = issuer
        self._audience = list(audience)
        self._leeway_s = leeway_s
        self._required = list(required_claims)
        #: The clock that times in tokens are held against; Unix seconds.
        self.wall: Callable[[], float] = wall

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

    @property
    def edition(self) -> object:
        """See `Keys.edition`: what was verified under another may hold no longer."""
        return self._keys.edition

    def verify(self, raw: str) -> Verified:
        """The token, verified. Raises nothing but jwt.InvalidTokenError, whatever the input.

        Of these, `KeyUnknown` with ``refreshing`` means "not known yet" (503); all others that the token is not valid
        (401).
        """
        check_shape(raw)
        signed, _, last = raw.rpartition(".")
        first, _, middle = signed.partition(".")
        alg, kid = header_of(first)
        if alg not in self._algorithms:
            raise jwt.InvalidAlgorithmError(f"the token's algorithm is not one of {', '.join(self._algorithms)}")
        candidates = self._keys.candidates(kid, alg)
        if not candidates:
            raise KeyUnknown("no key is known for this token", refreshing=False)
        payload = bytes_of(middle, part="payload")
        key = _signer(signed.encode("ascii"), bytes_of(last, part="signature"), alg=alg, candidates=candidates)
        claims = json_object(payload, part="payload")
        _check_claims(claims)
        self._check_validity(claims)
        return Verified(claims=claims, kid=key.kid, raw=raw)

    def _check_validity(self, claims: Mapping[str, Any]) -> None:
        """RFC 7519 section 4.1, in the order, and with the errors, of PyJWT; `_check_claims` has been before."""
        for name in self._required:
            if claims.get(name) is None:
                raise jwt.MissingRequiredClaimError(name)
        now_s = self.wall()
        if int(claims.get("iat", 0)) > now_s + self._leeway_s:
            raise jwt.ImmatureSignatureError("The token is not yet valid (iat)")
        if int(claims.get("nbf", 0)) > now_s + self._leeway_s:
            raise jwt.ImmatureSignatureError("The token is not yet valid (nbf)")
        if "exp" in claims and int(claims["exp"]) <= now_s - self._leeway_s:
            raise jwt.ExpiredSignatureError("Signature has expired")
        if self._issuer is not None:
            if "iss" not in claims:
                raise jwt.MissingRequiredClaimError("iss")
            if claims["iss"] != self._issuer:
                raise jwt.InvalidIssuerError("Invalid issuer")
        if self._audience:
            _check_audience(claims.get("aud"), accepted=self._audience)


def signing_input_digest(raw: str) -> str:
    """SHA-256, lower-case hex, of ``header.payload``: what the signature covers, so no respelling changes it.

    Only meaningful for a token that was verified. Raises TokenMalformed for what is no compact JWS.
    """
    check_shape(raw)
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


#: PyJWT's algorithms, by name. Keys were prepared, and proved long enough, when they were loaded.
_ALGORITHMS = {name: jwt.get_algorithm_by_name(name) for name in ALGORITHMS}


def _signer(message: bytes, signature: bytes, *, alg: str, candidates: Sequence[Key]) -> Key:
    """The first of ``candidates`` that verifies. Raises jwt.InvalidTokenError if none does."""
    for key in candidates:
        # The algorithm is the key's own (RFC 8725 section 3.1); a source that offers another key than asked is wrong.
        if key.algorithm != alg:
            raise jwt.InvalidAlgorithmError("the token's key is not used with the algorithm its header names")
        try:
            if _ALGORITHMS[key.algorithm].verify(message, key.material, signature):
                return key
        except jwt.InvalidTokenError:
            raise
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            # Keys were proved fit when loaded, so this token found a hole in the libraries below: refused, the cause
            # kept.
            raise TokenMalformed(f"the token could not be verified ({type(error).__name__})") from error
    raise jwt.InvalidSignatureError("Signature verification failed")


def _digest(raw: str) -> str:
    return hashlib.sha256(raw.rpartition(".")[0].encode("ascii")).hexdigest()


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


def _check_audience(named: Any, *, accepted: Sequence[str]) -> None:
    if not named:
        raise jwt.MissingRequiredClaimError("aud")
    audience = [named] if isinstance(named, str) else named
    if not isinstance(audience, list) or not all(isinstance(one, str) for one in audience):
        raise jwt.InvalidAudienceError("Invalid claim format in token")
    if not any(one in audience for one in accepted):
        raise jwt.InvalidAudienceError("Audience doesn't match")

"""Where verification keys come from: a secret, PEM files, or a JWKS URL.

Looking a key up does no I/O; only `JwksKeys.run` talks to anybody, and never on the event loop. Each key is bound to
one algorithm (`revoker.algorithms`). A token finds its key by ``kid`` where both have one.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from revoker.algorithms import ALGORITHMS, Key, Unusable, algorithm_for, bind, checked_algorithms
from revoker.errors import KeysUnavailable, RevokerError, SettingsError
from revoker.pem import file_key
from revoker.refresh import Refreshed

if TYPE_CHECKING:
    from revoker.settings import Settings

__all__ = [
    "UNKNOWN_KID_COOLDOWN_S",
    "JwksKeys",
    "Key",
    "KeyUnknown",
    "Keys",
    "StaticKeys",
    "keys_from_settings",
]

logger: logging.Logger = logging.getLogger(__name__)

#: Unknown kids may cause one fetch in this many seconds. Anybody can make up kids, so without it every request could
#: cause one. The price: a key used less than this after it was published may be refused for so long; issuers publish
#: ahead.
UNKNOWN_KID_COOLDOWN_S = 30.0

#: RFC 7518 section 3.2: a secret at least as long as the hash. A shorter one can be guessed offline, from one token.
_SECRET_LEAST_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


class KeyUnknown(RevokerError, jwt.InvalidTokenError):
    """No key for this token. ``refreshing``: may a fetch that is due or under way bring it?

    If so, whether the token is valid is not known yet: answer 503 with Retry-After. If not, answer 401.
    """

    def __init__(self, message: str, *, refreshing: bool) -> None:
        super().__init__(message)
        self.refreshing = refreshing
        self.retriable = refreshing
        self.http_status = 503 if refreshing else 401


class Keys(Protocol):
    """A source of keys."""

    @property
    def ready(self) -> bool:
        """Whether there are keys to verify with."""
        ...

    @property
    def problem(self) -> str | None:
        """What an operator should know, in words, with its age; None if all is well."""
        ...

    @property
    def edition(self) -> object:
        """Stands for the keys there are now: another object once they are others. Compare with ``is``.

        What was verified under one edition need not hold under the next: a key may have been withdrawn.
        """
        ...

    def candidates(self, kid: str | None, alg: str) -> Sequence[Key]:
        """The keys that may have signed a token with this ``kid`` (None = it has none) and ``alg`` in its header.

        At least one. Synchronous, without I/O. Raises KeyUnknown if there is no key for the token, and
        jwt.InvalidAlgorithmError if its key is used with another algorithm.
        """
        ...

    async def run(self) -> None:
        """Keep the keys up to date until cancelled; returns at once where there is nothing to keep."""
        ...


def keys_from_settings(settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> Keys:
    """The source the settings name: ``jwks_url``, or ``key_secret`` and/or ``key_files``. ``clock``: monotonic seconds.

    Raises SettingsError if none is set, if both sorts are (tokens of one issuer could then be signed with another's
    keys, RFC 8725 section 3.8), or if the keys and ``algorithms`` do not fit each other.
    """
    static = bool(settings.key_secret or settings.key_files)
    if settings.jwks_url and static:
        raise SettingsError("jwks_url is set, and so is key_secret or key_files: keep one source of keys")
    if settings.jwks_url:
        return JwksKeys(
            url=settings.jwks_url,
            algorithms=settings.algorithms,
            refresh_s=settings.jwks_refresh_s,
            timeout_s=settings.jwks_timeout_s,
            clock=clock,
        )
    return StaticKeys(algorithms=settings.algorithms, secret=settings.key_secret, key_files=settings.key_files)


class StaticKeys:
    """Keys that do not change while the process lives.

    ``secret``: for HS256, HS384 or HS512; its UTF-8 bytes are the key. ``key_files``: PEM files, ``PATH`` or
    ``KID=PATH``, see `revoker.pem.file_key`. A named key is used for tokens with its kid and for tokens without any; a
    nameless one, and the secret, for every token whose kid is not that of a named key.

    Name your keys if you may have to revoke one by its kid: whoever holds a leaked key can write any kid into the
    header, so a nameless key cannot be told from another. Raises SettingsError for whatever could not be used.
    """

    def __init__(self, *, algorithms: Sequence[str], secret: str | None = None, key_files: Sequence[str] = ()) -> None:
        if not secret and not key_files:
            raise SettingsError("no keys to verify tokens with: set jwks_url, key_files or key_secret")
        allowed = checked_algorithms(algorithms)
        for name in allowed:
            if ALGORITHMS[name] == "secret" and not secret:
                raise SettingsError(
                    f"algorithms names {name}, which needs key_secret: a public key is never used with it"
                )
            if ALGORITHMS[name] != "secret" and not key_files:
                raise SettingsError(f"algorithms names {name}, which needs key_files: key_secret is never used with it")
        keys = [_secret_key(secret, allowed=allowed)] if secret else []
        for entry in key_files:
            key = file_key(entry, allowed=allowed)
            if key.kid is not None and any(key.kid == other.kid for other in keys):
                raise SettingsError(f"key_files names two keys {key.kid!r}: a kid must tell them apart")
            keys.append(key)
        self._keys = tuple(keys)
        self._named = {key.kid: (key,) for key in keys if key.kid is not None}
        self._nameless = tuple(key for key in keys if key.kid is None)

    @property
    def ready(self) -> bool:
        """True: the keys were read when this was made."""
        return True

    @property
    def problem(self) -> str | None:
        """None: what could not be read raised then."""
        return None

    @property
    def edition(self) -> object:
        """Always the same: see `Keys.edition`."""
        return self._keys

    def candidates(self, kid: str | None, alg: str) -> Sequence[Key]:
        """See `Keys.candidates`."""
        return _used_with(alg, self._keys if kid is None else self._named.get(kid, self._nameless))

    async def run(self) -> None:
        """Return at once: there is nothing to keep up to date."""


class JwksKeys:
    """The keys a JWKS URL publishes (RFC 7517), fetched by `run`: first, every ``refresh_s``, and for unknown kids.

    ``timeout_s``: longest fetch in all. ``clock``: monotonic seconds. ``jitter``: numbers in [0, 1).

    A fetch that fails leaves the keys as they are, shows in `problem`, and is tried again after 1, 2, 4 … 60 s;
    redirects are not followed. A key with ``alg`` is used with that; one without, with the only configured algorithm
    that fits it. Not used, and listed in `notes`: keys that several algorithms fit, keys for encryption, of
    unsupported kinds, symmetric, or published with their private part. A token with a kid is verified with the keys of
    that kid alone, one without with any.

    Raises SettingsError for a URL that is not plain http or https, and for algorithms that need a secret.
    """

    def __init__(
        self,
        *,
        url: str,
        algorithms: Sequence[str],
        refresh_s: float = 300.0,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._shown_url = _checked_url(url)
        self._algorithms = checked_algorithms(algorithms)
        for name in self._algorithms:
            if ALGORITHMS[name] == "secret":
                raise SettingsError(f"algorithms names {name}, which needs key_secret: jwks_url is never used with it")
        # Without its cache this is the fetch alone: http(s) only, no redirects, a socket timeout. When to fetch and
        # what to keep is decided by Refreshed, because the client's own get_signing_key blocks, and would do so on the
        # loop (https://github.com/jpadilla/pyjwt/pull/1120).
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=timeout_s)
        self._kept = Refreshed(
            fetch=self._fetch,
            what=f"keys from {self._shown_url}",
            refresh_s=refresh_s,
            timeout_s=timeout_s,
            cooldown_s=UNKNOWN_KID_COOLDOWN_S,
            clock=clock,
            jitter=jitter,
        )

    @property
    def ready(self) -> bool:
        """Whether a fetch has ever succeeded."""
        return self._kept.latest is not None

    @property
    def problem(self) -> str | None:
        """Why the keys are not up to date, and since when; None if they are."""
        return self._kept.problem

    @property
    def notes(self) -> tuple[str, ...]:
        """Which keys of the set are not used, and why; nothing to worry about as long as tokens verify."""
        latest = self._kept.latest
        return latest.value.notes if latest else ()

    @property
    def edition(self) -> object:
        """See `Keys.edition`. A fetch that brought the same keys again leaves it. From any thread."""
        latest = self._kept.latest
        return latest.value.edition if latest else None

    def candidates(self, kid: str | None, alg: str) -> Sequence[Key]:
        """See `Keys.candidates`. From any thread. An unknown kid asks for a fetch, within the cooldown."""
        latest = self._kept.latest
        if latest is None:
            raise KeyUnknown("the keys to verify tokens with are not loaded yet", refreshing=True)
        if kid is None:
            return _used_with(alg, latest.value.keys)
        named = latest.value.by_kid.get(kid)
        if named is None:
            raise KeyUnknown(
                "the issuer publishes no key of the kid the token names", refreshing=self._kept.ask(seen=latest)
            )
        return _used_with(alg, named)

    async def run(self) -> None:
        """Fetch now and whenever due, until cancelled; failures do not end it. RuntimeError if it runs already."""
        await self._kept.run()

    def _fetch(self) -> _KeySet:
        fetched = _key_set(self._client.fetch_data(), algorithms=self._algorithms)
        if fetched.notes and fetched.notes != self.notes:
            logger.info("keys from %s not used: %s", self._shown_url, "; ".join(fetched.notes))
        latest = self._kept.latest
        if latest is not None and latest.value.keys == fetched.keys:
            return replace(fetched, edition=latest.value.edition)
        return fetched


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeySet:
    keys: tuple[Key, ...]
    by_kid: Mapping[str, tuple[Key, ...]]
    notes: tuple[str, ...]
    edition: object = field(default_factory=object)


def _used_with(alg: str, pool: Sequence[Key]) -> Sequence[Key]:
    found = tuple(key for key in pool if key.algorithm == alg)
    if not found and pool:
        raise jwt.InvalidAlgorithmError("the token's key is not used with the algorithm its header names")
    if not found:
        raise KeyUnknown("no key is known under the kid the token names", refreshing=False)
    return found


def _secret_key(secret: str, *, allowed: Sequence[str]) -> Key:
    try:
        algorithm = algorithm_for("secret", allowed=allowed)
        material = jwt.get_algorithm_by_name(algorithm).prepare_key(secret)
    except Unusable as error:
        raise SettingsError(f"key_secret {error}") from error
    except (jwt.InvalidKeyError, UnicodeEncodeError):
        # Not chained: the library's message might quote what is, or is taken for, a secret.
        raise SettingsError("key_secret is a key, certificate or JWK rather than a secret: set key_files") from None
    least_bytes = _SECRET_LEAST_BYTES[algorithm]
    if len(material) < least_bytes:
        has = len(material)
        raise SettingsError(
            f"key_secret has {has} bytes, {algorithm} needs at least {least_bytes} (RFC 7518 section 3.2)"
        )
    return Key(kid=None, algorithm=algorithm, material=material)


def _checked_url(url: str) -> str:
    """The URL as it may be shown: without its query, which may hold an API key."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise SettingsError(f"jwks_url is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"jwks_url begins with {url[:12]!r}, must be an http:// or https:// URL with a host")
    if "@" in parts.netloc:
        raise SettingsError("jwks_url holds a user name or password, which is not supported: key sets are public")
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


#: The secret parts of keys (RFC 7518 sections 6.2.2, 6.3.2 and 6.4, RFC 8037 section 2).
_SECRET_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

#: What PyJWT reads a key's numbers as, by kty and crv. Which algorithm it is used with is another matter.
_READ_AS = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("EC", "P-384"): "ES384",
    ("EC", "P-521"): "ES512",
    ("OKP", "Ed25519"): "EdDSA",
}


def _key_set(document: Any, *, algorithms: Sequence[str]) -> _KeySet:
    """The usable keys of a JWK set (RFC 7517 section 5); raises KeysUnavailable if there are none."""
    published = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(published, list):
        raise KeysUnavailable("the answer is no JWK set: it has no array named keys")
    keys: list[Key] = []
    notes: list[str] = []
    for position, member in enumerate(published):
        try:
            keys.append(_from_jwk(member, algorithms=algorithms))
        except Unusable as error:
            kid = member.get("kid") if isinstance(member, dict) else None
            notes.append(f"key {str(position if kid is None else kid)[:64]!r} {error}")
    if not keys:
        raise KeysUnavailable(f"no key of the set can be used: {'; '.join(notes) or 'it is empty'}")
    by_kid: dict[str, tuple[Key, ...]] = {}
    for key in keys:
        if key.kid is not None:
            by_kid[key.kid] = (*by_kid.get(key.kid, ()), key)
    return _KeySet(keys=tuple(keys), by_kid=by_kid, notes=tuple(notes))


def _from_jwk(jwk: Any, *, algorithms: Sequence[str]) -> Key:
    if not isinstance(jwk, dict):
        raise Unusable("is no JSON object")
    kid, declared, operations = jwk.get("kid"), jwk.get("alg"), jwk.get("key_ops")
    if kid is not None and not isinstance(kid, str):
        raise Unusable("has a kid that is no string")
    if jwk.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        raise Unusable("is not for verifying signatures")
    if not _SECRET_MEMBERS.isdisjoint(jwk):
        raise Unusable("is published with its secret part, so that anybody can sign with it")
    if declared is not None and declared not in algorithms:
        raise Unusable("has an alg that the setting algorithms does not name")
    kty = jwk.get("kty")
    kind = (str(kty), None if kty == "RSA" else str(jwk.get("crv")))
    if kind not in _READ_AS:
        raise Unusable("is of a kind (kty, crv) that is not supported")
    try:
        material = jwt.PyJWK(jwk, _READ_AS[kind]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm) as error:
        raise Unusable(f"cannot be read ({type(error).__name__})") from error
    return bind(material, kid=kid, allowed=algorithms, declared=declared)

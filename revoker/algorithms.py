"""Which signature algorithm is used with which kind of key, and the binding of each key to exactly one. No I/O.

RFC 8725 section 3.1: "each key MUST be used with exactly one algorithm". The binding is made when a key is loaded, so
that the header of a token can choose among keys but never how one is used: a public key never becomes an HMAC secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from revoker.errors import SettingsError

__all__ = ["ALGORITHMS", "Key", "Material", "Unusable", "algorithm_for", "bind", "checked_algorithms"]

Material: TypeAlias = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

#: Every algorithm that can be configured, and the one kind of key it is used with (RFC 7518 section 3.1, RFC 8037).
ALGORITHMS: dict[str, str] = {
    "HS256": "secret",
    "HS384": "secret",
    "HS512": "secret",
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "PS256": "RSA",
    "PS384": "RSA",
    "PS512": "RSA",
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519",
}

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}

#: RFC 7518 section 3.3: "A key of size 2048 bits or larger MUST be used".
_RSA_LEAST_BITS = 2048


class Unusable(Exception):
    """Why a key cannot be used, as the end of a sentence that names the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key and the one algorithm it is used with. ``kid``: its name, or None. ``material``: secret or public key."""

    kid: str | None
    algorithm: str
    material: Material = field(repr=False)


def checked_algorithms(names: Sequence[str]) -> tuple[str, ...]:
    """The algorithms, each once. Raises SettingsError naming a wrong one and the nearest right one."""
    if isinstance(names, str):
        raise SettingsError(f"algorithms is the text {names!r}, must be a list such as ['ES256']")
    if not names:
        raise SettingsError(f"algorithms is empty: name what your tokens are signed with, of {', '.join(ALGORITHMS)}")
    for name in names:
        if name in ALGORITHMS:
            continue
        if str(name).lower() == "none":
            raise SettingsError("algorithms names none: a token without a signature proves nothing")
        # RFC 9864 calls EdDSA with this curve Ed25519; PyJWT knows the older name only.
        by_folded = {known.lower(): known for known in ALGORITHMS} | {"ed25519": "EdDSA"}
        near = difflib.get_close_matches(str(name).lower(), by_folded, n=1)
        hint = f"did you mean {by_folded[near[0]]}?" if near else f"known are {', '.join(ALGORITHMS)}"
        raise SettingsError(f"algorithms names {name!r}, which is not supported; {hint}")
    return tuple(dict.fromkeys(names))


def algorithm_for(kind: str, *, allowed: Sequence[str]) -> str:
    """The one ``allowed`` algorithm used with keys of this kind. Raises Unusable if none or several are."""
    fitting = [name for name in allowed if ALGORITHMS[name] == kind]
    if len(fitting) == 1:
        return fitting[0]
    said = "a secret" if kind == "secret" else f"a key of kind {kind}"
    if not fitting:
        raise Unusable(f"is {said}, for which the setting algorithms ({', '.join(allowed)}) names none")
    raise Unusable(
        f"is {said}, for which the setting algorithms names {' and '.join(fitting)}: a key is used with one only "
        "(RFC 8725 section 3.1), so name the one your tokens are signed with"
    )


def bind(material: object, *, kid: str | None, allowed: Sequence[str], declared: str | None = None) -> Key:
    """A public key, bound to the algorithm ``declared`` for it, or else to the only one of ``allowed`` that fits.

    Raises Unusable for a key that is too weak, of an unsupported kind, or of a kind its algorithm is not for.
    """
    match material:
        case RSAPublicKey():
            kind = "RSA"
            if material.key_size < _RSA_LEAST_BITS:
                bits = material.key_size
                raise Unusable(
                    f"is an RSA key of {bits} bits, must have at least {_RSA_LEAST_BITS} (RFC 7518 section 3.3)"
                )
        case EllipticCurvePublicKey():
            kind = _CURVES.get(material.curve.name, "")
            if not kind:
                raise Unusable(f"is an EC key on {material.curve.name}, supported are P-256, P-384 and P-521")
        case Ed25519PublicKey():
            kind = "Ed25519"
        case _:
            raise Unusable(f"is a {type(material).__name__}, supported are RSA, EC and Ed25519")
    algorithm = declared if declared is not None else algorithm_for(kind, allowed=allowed)
    if ALGORITHMS.get(algorithm) != kind:
        raise Unusable(f"is a key of kind {kind}, and its alg is for another kind")
    return Key(kid=kid, algorithm=algorithm, material=material)

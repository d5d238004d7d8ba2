"""Key pairs and tokens for tests: made once a session, since RSA takes its time."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from revoker.algorithms import ALGORITHMS, Key
from revoker.keys import StaticKeys

SECRET = "s3cr3t-of-sixty-four-bytes, which is what HS512 asks for, and no less."
ASYMMETRIC = tuple(name for name, kind in ALGORITHMS.items() if kind != "secret")

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def private_key(algorithm: str, name: str = "") -> PrivateKey:
    """The private key of this name for this algorithm; the same for all algorithms of one kind of key."""
    return _generate(ALGORITHMS[algorithm], name)


@cache
def _generate(kind: str, name: str) -> PrivateKey:
    curves: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(curves[kind]) if kind in curves else ed25519.Ed25519PrivateKey.generate()


def signing_key(algorithm: str, name: str = "") -> PrivateKey | str:
    """What `revoker.tokens.sign` takes for this algorithm."""
    return SECRET if ALGORITHMS[algorithm] == "secret" else private_key(algorithm, name)


def public_pem(key: PrivateKey) -> bytes:
    """The public half as SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(key: PrivateKey, **members: object) -> dict[str, Any]:
    """The public half as a JWK (RFC 7518 section 6), with further members such as kid, alg and use."""
    public = key.public_key()
    match public:
        case rsa.RSAPublicKey():
            numbers = public.public_numbers()
            found = {"kty": "RSA", "n": b64(numbers.n.to_bytes(public.key_size // 8)), "e": b64(b"\1\0\1")}
        case ec.EllipticCurvePublicKey():
            point, size = public.public_numbers(), (public.key_size + 7) // 8
            curve = {256: "P-256", 384: "P-384", 521: "P-521"}[public.key_size]
            found = {"kty": "EC", "crv": curve, "x": b64(point.x.to_bytes(size)), "y": b64(point.y.to_bytes(size))}
        case _:
            raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
            found = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
    return {**found, **members}


def claims(**changes: object) -> dict[str, Any]:
    """Claims of a token that is valid now for five minutes; None takes a claim out."""
    now = int(time.time())
    found = {"iss": "https://issuer.example", "sub": "alice", "jti": "t-1", "sid": "s-1", "iat": now, "exp": now + 300}
    return {name: value for name, value in {**found, **changes}.items() if value is not None}


def token_of_bytes(payload: bytes, *, header: bytes | Mapping[str, object] = b'{"alg":"HS256"}') -> str:
    """A token with these very bytes as header and payload, truly signed with HS256: what no encoder would write."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    signing_input = f"{b64(head)}.{b64(payload)}"
    mac = hmac.HMAC(SECRET.encode(), hashes.SHA256())
    mac.update(signing_input.encode())
    return f"{signing_input}.{b64(mac.finalize())}"


def secret_keys() -> StaticKeys:
    """The secret, for HS256."""
    return StaticKeys(algorithms=["HS256"], secret=SECRET)


class FixedKeys:
    """A source that offers the same keys to every token."""

    ready = True
    problem = None

    def __init__(self, *keys: Key) -> None:
        self.keys = keys

    @property
    def edition(self) -> object:
        """The keys themselves: assign others, and it is another."""
        return self.keys

    def candidates(self, kid: str | None, alg: str) -> tuple[Key, ...]:  # noqa: ARG002  - the protocol's
        return self.keys

    async def run(self) -> None:
        """Return at once."""

"""Signed records: who published a record, whatever the brokers' own access rights say.

The signature is a JWS with detached content (RFC 7515 appendix F), ``header..signature``, in the record header
``revoker-signature``. The payload is the record's value, byte for byte; base64url of it goes into the signing input as
in any JWS, so any JOSE library can sign and verify. Keys are Ed25519 (``EdDSA``) or P-256 (``ES256``).

The protected header has exactly four members:

- ``typ`` is ``revocation+jws`` (explicit typing, RFC 8725 section 3.11): a JWS made for another purpose is none here;
- ``topic``: a record cannot be moved to another topic;
- ``kid`` is ``PUBLISHER/THUMBPRINT``, the latter the key's JWK thumbprint (RFC 7638), so that a key has one name, and
  nobody has to think of it;
- ``alg`` must be the key's own algorithm. It chooses nothing.

Anything else in the header (``crit``, ``b64``, ``jku``, ``jwk``, ``x5u``, ``x5c``, a member twice) makes it malformed:
a key is never taken from a signature, nor fetched on its word. Nothing identifies a record by its signature, which may
be spelled in more ways than one (for ES256 ``(r, n-s)`` verifies as well): a copy of a record is a duplicate, and
duplicates change nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from revoker.algorithms import Unusable
from revoker.errors import SettingsError

__all__ = [
    "HEADER",
    "PUBLISHER_ID_RULE",
    "Claimed",
    "Malformed",
    "PublicKey",
    "Signer",
    "VerifyingKey",
    "is_publisher_id",
    "new_private_key",
    "read_signature",
]

#: The record header that holds the signature.
HEADER: Final = "revoker-signature"

PUBLISHER_ID_RULE: Final = "1 to 64 of the characters A-Z a-z 0-9 _ -"

PublicKey: TypeAlias = Ed25519PublicKey | EllipticCurvePublicKey

_TYPE: Final = "revocation+jws"
_MEMBERS: Final = ("alg", "kid", "topic", "typ")
_PUBLISHER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]+")

#: Both algorithms have signatures of 64 bytes (RFC 8037 section 3.1, RFC 7518 section 3.4).
_SIGNATURE_BYTES: Final = 64
_HALF: Final = 32

#: The longest one that `Signer` can write is about 600 bytes: a topic's name has at most 249 characters.
_LONGEST: Final = 2048


class Malformed(Exception):
    """Why a record's signature header is no signature, without quoting it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What a signature header says, before anything of it is proved."""

    alg: str
    kid: str
    topic: str
    protected: bytes
    signature: bytes

    @property
    def publisher_id(self) -> str:
        return self.kid.partition("/")[0]


def is_publisher_id(text: str) -> bool:
    """Whether ``text`` may name a publisher; see `PUBLISHER_ID_RULE`."""
    return _PUBLISHER_ID.fullmatch(text) is not None


def read_signature(headers: Sequence[tuple[str, bytes | None]]) -> Claimed | None:
    """The signature among a record's headers; None if there is none. Raises Malformed."""
    found = [value for name, value in headers if name == HEADER]
    if not found:
        return None
    if len(found) > 1:
        raise Malformed(f"{len(found)} signature headers, must be one")
    text = found[0]
    if text is None or len(text) > _LONGEST:
        raise Malformed(f"the signature header is empty or longer than {_LONGEST} bytes")
    protected, dot, signature = text.partition(b"..")
    if not dot:
        raise Malformed("no detached JWS of the form header..signature")
    members = _members(_decoded(protected))
    raw = _decoded(signature)
    if len(raw) != _SIGNATURE_BYTES:
        raise Malformed(f"the signature has {len(raw)} bytes, must have {_SIGNATURE_BYTES}")
    return Claimed(alg=members["alg"], kid=members["kid"], topic=members["topic"], protected=protected, signature=raw)


def _decoded(text: bytes) -> bytes:
    # base64url with one spelling for each value: no padding, no whitespace, no spare bits set.
    if _BASE64URL.fullmatch(text):
        try:
            raw = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
        except binascii.Error:
            raw = b""
        if _encoded(raw) == text:
            return raw
    raise Malformed("a part of it is not unpadded base64url")


def _encoded(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _members(raw: bytes) -> dict[str, str]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Malformed("its header has a member twice")
        return found

    try:
        members = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise Malformed("its header is no JSON object") from error
    if not isinstance(members, dict) or sorted(members) != list(_MEMBERS):
        raise Malformed(f"its header must have exactly the members {', '.join(_MEMBERS)}")
    if not all(isinstance(value, str) for value in members.values()):
        raise Malformed("a member of its header is not text")
    if members["typ"] != _TYPE:
        raise Malformed(f"its typ is not {_TYPE}: it was made for another purpose")
    if not is_publisher_id(members["kid"].partition("/")[0]):
        raise Malformed("its kid is not of the form PUBLISHER/THUMBPRINT")
    return members


class VerifyingKey:
    """One public key under its publisher's name, bound to its one algorithm. Raises Unusable for any other kind of key.

    Two are equal if publisher and key are.
    """

    def __init__(self, publisher_id: str, material: object) -> None:
        if isinstance(material, Ed25519PublicKey):
            self.algorithm: str = "EdDSA"
        elif isinstance(material, EllipticCurvePublicKey) and isinstance(material.curve, SECP256R1):
            self.algorithm = "ES256"
        else:
            raise Unusable("is neither an Ed25519 nor a P-256 key, which are the kinds that sign revocations")
        self._material: PublicKey = material
        #: ``PUBLISHER/THUMBPRINT``.
        self.kid: str = f"{publisher_id}/{_thumbprint(material)}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyingKey) and other.kid == self.kid

    def __hash__(self) -> int:
        return hash(self.kid)

    def verifies(self, claimed: Claimed, *, value: bytes) -> bool:
        """Whether this key made the signature, over this value and under this header."""
        if claimed.alg != self.algorithm or claimed.kid != self.kid:
            return False
        signing_input = claimed.protected + b"." + _encoded(value)
        try:
            if isinstance(self._material, Ed25519PublicKey):
                self._material.verify(claimed.signature, signing_input)
            else:
                r, s = (int.from_bytes(half) for half in (claimed.signature[:_HALF], claimed.signature[_HALF:]))
                self._material.verify(encode_dss_signature(r, s), signing_input, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    @property
    def pem(self) -> str:
        """The public key as PEM (SubjectPublicKeyInfo)."""
        return self._material.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _thumbprint(material: PublicKey) -> str:
    if isinstance(material, Ed25519PublicKey):
        members = {
            "crv": "Ed25519",
            "kty": "OKP",
            "x": _encoded(material.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode(),
        }
    else:
        point = material.public_numbers()
        members = {
            "crv": "P-256",
            "kty": "EC",
            "x": _encoded(point.x.to_bytes(_HALF)).decode(),
            "y": _encoded(point.y.to_bytes(_HALF)).decode(),
        }
    # RFC 7638 section 3.2: the required members alone, in the order of their names, without whitespace.
    return _encoded(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest()).decode()


class Signer:
    """Signs records as one publisher, for one topic. Its key appears in no text it gives.

    ``private_pem``: an unencrypted PEM private key, Ed25519 or P-256. Raises SettingsError for a wrong id; Unusable for
    a wrong key.
    """

    def __init__(self, *, publisher_id: str, private_pem: bytes, topic: str) -> None:
        if not is_publisher_id(publisher_id):
            raise SettingsError(f"publisher_id is {publisher_id!r}, must be {PUBLISHER_ID_RULE}")
        self.publisher_id: str = publisher_id
        self._private = _private_key(private_pem)
        #: What verifies its signatures.
        self.key: VerifyingKey = VerifyingKey(publisher_id, self._private.public_key())
        header = {"alg": self.key.algorithm, "kid": self.key.kid, "topic": topic, "typ": _TYPE}
        self._protected = _encoded(json.dumps(header, separators=(",", ":")).encode())

    @classmethod
    def from_files(cls, *, publisher_id: str, key_file: str, topic: str) -> Signer:
        """As the settings ``publisher_id`` and ``signing_key_file`` name it. Raises SettingsError naming the file."""
        try:
            return cls(publisher_id=publisher_id, private_pem=Path(key_file).read_bytes(), topic=topic)
        except Unusable as error:
            raise SettingsError(f"signing_key_file {key_file} {error}") from error
        except OSError as error:
            raise SettingsError(f"signing_key_file {key_file} cannot be read: {error.strerror}") from error

    def sign(self, value: bytes) -> bytes:
        """The header's text for a record of this value."""
        signing_input = self._protected + b"." + _encoded(value)
        if isinstance(self._private, Ed25519PrivateKey):
            signature = self._private.sign(signing_input)
        else:
            r, s = decode_dss_signature(self._private.sign(signing_input, ECDSA(SHA256())))
            signature = r.to_bytes(_HALF) + s.to_bytes(_HALF)
        return self._protected + b".." + _encoded(signature)

    def headers(self, value: bytes) -> list[tuple[str, bytes]]:
        """The further header of a record of this value."""
        return [(HEADER, self.sign(value))]


def _private_key(pem: bytes) -> Ed25519PrivateKey | EllipticCurvePrivateKey:
    if b"-----BEGIN " not in pem:
        raise Unusable("holds no PEM block, which a line with the words BEGIN PRIVATE KEY starts")
    try:
        found = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise Unusable("holds an encrypted key; store it decrypted, readable by this service alone") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        # The library's own words might quote the file.
        raise Unusable("holds no readable private key (PEM, PKCS #8)") from error
    if not isinstance(found, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise Unusable("is neither an Ed25519 nor a P-256 key, which are the kinds that sign revocations")
    return found


def new_private_key() -> bytes:
    """A new Ed25519 private key, as PEM (PKCS #8)."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

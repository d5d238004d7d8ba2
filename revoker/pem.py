"""Public keys from PEM files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from revoker.algorithms import Key, Unusable, bind
from revoker.errors import SettingsError

__all__ = ["file_key", "public_key"]


def file_key(entry: str, *, allowed: Sequence[str]) -> Key:
    """The key in the file ``entry`` names, as ``PATH`` or ``KID=PATH``, bound to one of the ``allowed`` algorithms.

    What stands before the first ``=`` is the kid unless it holds a ``/``, so ``./a=b.pem`` is a path. The file holds
    one public key (SubjectPublicKeyInfo or PKCS #1) or one X.509 certificate, of which only the key is used: its
    dates, issuer and extensions are not checked. Raises SettingsError naming the file.
    """
    before, equals, after = entry.partition("=")
    kid, name = (before, after) if equals and "/" not in before else (None, entry)
    if kid == "" or not name:
        raise SettingsError(f"key_files holds {entry!r}, must be PATH or KID=PATH")
    try:
        return bind(public_key(Path(name).read_bytes()), kid=kid, allowed=allowed)
    except Unusable as error:
        raise SettingsError(f"key file {name} {error}") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise SettingsError(f"key file {name!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def public_key(content: bytes) -> object:
    """The one public key in a PEM text, or that of its one certificate. Raises Unusable."""
    blocks = content.count(b"-----BEGIN ")
    if blocks == 0:
        raise Unusable(
            "holds no PEM block: a line -----BEGIN PUBLIC KEY----- or -----BEGIN CERTIFICATE----- must start one"
        )
    if b"PRIVATE KEY-----" in content:
        raise Unusable(
            "holds a private key, which verifying does not need and this host should not have: "
            "write the public one with `openssl pkey -in FILE -pubout`"
        )
    if blocks > 1:
        raise Unusable(f"holds {blocks} PEM blocks, must hold one: put each key into a file of its own")
    try:
        if b"-----BEGIN CERTIFICATE-----" in content:
            return x509.load_pem_x509_certificate(content).public_key()
        return load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unusable(f"holds no readable public key or certificate: {error}") from error

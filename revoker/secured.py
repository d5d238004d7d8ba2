"""Settings → TLS context and SASL arguments of every Kafka client; host names are always checked."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from revoker.diagnosis import conceal_logins, explain
from revoker.errors import SettingsError
from revoker.moments import rfc3339
from revoker.oauth import token_provider
from revoker.settings import Settings

__all__ = ["TlsContext", "certificate_doubt", "security_arguments"]

logger: logging.Logger = logging.getLogger(__name__)


def security_arguments(settings: Settings) -> dict[str, Any]:
    """The arguments of an aiokafka client that secure its connections.

    Reads the certificate files. Raises SettingsError naming the file or setting that cannot be used.
    """
    protocol, mechanism = settings.kafka_security_protocol, settings.kafka_sasl_mechanism
    arguments: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        arguments["ssl_context"] = TlsContext.of(settings)
    if protocol.startswith("SASL_"):
        conceal_logins()
        arguments["sasl_mechanism"] = mechanism
        if mechanism == "OAUTHBEARER":
            arguments["sasl_oauth_token_provider"] = token_provider(settings)
        else:
            arguments["sasl_plain_username"] = settings.kafka_sasl_username
            arguments["sasl_plain_password"] = settings.kafka_sasl_password
    return arguments


class TlsContext(ssl.SSLContext):
    """A client's TLS context that reads its files again when they have changed, before the next connection.

    So a certificate that is renewed on disk, as short-lived ones are every few hours, needs no restart: the producer of
    a service lives as long as the service. Files that cannot be read at that moment leave what was read before.
    """

    _ca_file: str | None
    _certificate_file: str | None
    _key_file: str | None
    _key_password: str
    _read: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, settings: Settings) -> TlsContext:
        """A context as the settings say. Raises SettingsError naming the file that cannot be used."""
        # PROTOCOL_TLS_CLIENT asks for a valid certificate of the right host name; nothing here can turn that off.
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context._ca_file = settings.kafka_ssl_ca_file
        context._certificate_file = settings.kafka_ssl_certificate_file
        context._key_file = settings.kafka_ssl_key_file
        # Never None, at which OpenSSL would ask for the password of an encrypted key on the terminal and wait.
        context._key_password = settings.kafka_ssl_key_password or ""
        if context._ca_file is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        context._read = context._signature()
        context._load()
        return context

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """A connection is about to be made: look whether the files have changed."""
        self._renew()
        return super().wrap_bio(*arguments, **options)

    def __repr__(self) -> str:
        return f"TlsContext(ca={self._ca_file!r}, certificate={self._certificate_file!r})"

    def _renew(self) -> None:
        try:
            now = self._signature()
            if now == self._read:
                return
            self._load()
        except SettingsError as error:
            logger.warning("changed certificate files are not used: %s", error)
        else:
            self._read = now
            logger.info("certificate files have changed and were read again")

    def _signature(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when a file does, a symbolic link that Kubernetes turns over included."""
        found = []
        for name, path in self._files():
            try:
                seen = os.stat(path)  # noqa: PTH116 - one call, and the path may be anything the operator wrote
            except (OSError, ValueError) as error:
                raise SettingsError(_unreadable(name, path, error)) from error
            found.append((seen.st_ino, seen.st_mtime_ns, seen.st_size))
        return tuple(found)

    def _files(self) -> tuple[tuple[str, str], ...]:
        named = (
            ("kafka_ssl_ca_file", self._ca_file),
            ("kafka_ssl_certificate_file", self._certificate_file),
            ("kafka_ssl_key_file", self._key_file),
        )
        return tuple((name, path) for name, path in named if path is not None)

    def _load(self) -> None:
        for name, path in self._files():
            try:
                Path(path).read_bytes()
            except (OSError, ValueError) as error:
                raise SettingsError(_unreadable(name, path, error)) from error
        if self._ca_file is not None:
            try:
                self.load_verify_locations(cafile=self._ca_file)
            except (ssl.SSLError, OSError) as error:
                raise SettingsError(
                    f"kafka_ssl_ca_file {self._ca_file!r} holds no certificate in PEM form: {_reason(error)}"
                ) from error
        if self._certificate_file is not None:
            try:
                self.load_cert_chain(self._certificate_file, self._key_file, self._key_password)
            except (ssl.SSLError, OSError, ValueError) as error:
                raise SettingsError(self._key_problem(error)) from error

    def _key_problem(self, error: Exception) -> str:
        # OpenSSL tells a wrong password, a key of another certificate and a malformed file apart by odd names only.
        reason = _reason(error)
        files = f"kafka_ssl_certificate_file {self._certificate_file!r}"
        if self._key_file is not None:
            files += f" with kafka_ssl_key_file {self._key_file!r}"
        if "MISMATCH" in reason:
            return f"{files}: the key belongs to another certificate"
        if _encrypted(self._key_file or str(self._certificate_file)):
            wrong = "is wrong" if self._key_password else "is not set"
            return f"{files}: the key is encrypted, and kafka_ssl_key_password {wrong}"
        return f"{files}: must be PEM files of a certificate and its private key: {reason}"


def certificate_doubt(settings: Settings, *, wall: Callable[[], float] = time.time) -> str | None:
    """What is wrong with this client's own certificate by this machine's clock (``wall``: Unix seconds); None if
    nothing is, or if there is none.

    Brokers refuse an expired certificate with an alert that says little; the dates stand in the file.
    """
    name = settings.kafka_ssl_certificate_file
    if name is None or not settings.kafka_security_protocol.endswith("SSL"):
        return None
    try:
        certificate = x509.load_pem_x509_certificate(Path(name).read_bytes())
    except (OSError, ValueError) as error:
        return f"the certificate in kafka_ssl_certificate_file {name!r} cannot be read: {explain(error)}"
    now = datetime.fromtimestamp(wall(), UTC)
    if now > certificate.not_valid_after_utc:
        return (
            f"this client's certificate, kafka_ssl_certificate_file {name!r}, expired at "
            f"{rfc3339(certificate.not_valid_after_utc.timestamp())}: renew it"
        )
    if now < certificate.not_valid_before_utc:
        return (
            f"this client's certificate, kafka_ssl_certificate_file {name!r}, is not valid before "
            f"{rfc3339(certificate.not_valid_before_utc.timestamp())}: look at this machine's clock"
        )
    return None


def _unreadable(name: str, path: str, error: Exception) -> str:
    return f"{name} {path!r} cannot be read: {getattr(error, 'strerror', None) or error}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)


def _encrypted(path: str) -> bool:
    try:
        return b"ENCRYPTED" in Path(path).read_bytes()
    except OSError:
        return False

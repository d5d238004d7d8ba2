"""The publisher's side of signatures: signs what is published, and refuses what no node would apply."""

from __future__ import annotations

import time
from collections.abc import Callable

from revoker.errors import InvalidRevocation, SettingsError
from revoker.events import Revocation
from revoker.settings import Settings
from revoker.signature import Signer
from revoker.trust import TrustedKey
from revoker.trustfile import TrustFile

__all__ = ["Seal", "toml_entry"]


class Seal:
    """Signs records as one publisher.

    ``file``: the trust of the fleet, where this process knows it; None = it does not. Raises SettingsError if the fleet
    does not trust the key: every revocation would be acknowledged, and refused by every node.
    """

    def __init__(self, signer: Signer, *, file: TrustFile | None = None) -> None:
        self._signer = signer
        self._file = file
        if file is not None and self._own_key() is None:
            raise SettingsError(
                f"trusted_publishers_file {file.path} does not have the key that {signer.publisher_id} signs with "
                f"(signing_key_file): no node would apply what it publishes; add\n{toml_entry(signer)}"
            )

    @classmethod
    def from_settings(cls, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> Seal | None:
        """As ``publisher_id`` and ``signing_key_file`` say; None if they are unset.

        Raises SettingsError if a file cannot be used, or if they are unset where ``trusted_publishers_file`` is set.
        """
        file = None
        if settings.trusted_publishers_file is not None:
            file = TrustFile(settings.trusted_publishers_file, monotonic=monotonic)
        if settings.publisher_id is None or settings.signing_key_file is None:
            if file is not None:
                raise SettingsError(
                    "trusted_publishers_file is set, so nodes apply signed events only: to publish, set publisher_id "
                    "and signing_key_file as well"
                )
            return None
        signer = Signer.from_files(
            publisher_id=settings.publisher_id, key_file=settings.signing_key_file, topic=settings.topic
        )
        return cls(signer, file=file)

    @property
    def publisher_id(self) -> str:
        """The name it signs under."""
        return self._signer.publisher_id

    def sign(self, value: bytes) -> list[tuple[str, bytes]]:
        """The further headers of a record of this value. Once made they can be stored with it and sent any time."""
        return self._signer.headers(value)

    def check(self, revocation: Revocation) -> None:
        """Raises InvalidRevocation if the fleet would not apply ``revocation`` from this publisher, as far as known."""
        if self._file is None:
            return
        self._file.refresh()
        own = self._own_key()
        why = "is no longer trusted with its key" if own is None else own.publisher.scope.outside(revocation.selector)
        if why is not None:
            raise InvalidRevocation(f"{self.publisher_id} {why} (trusted_publishers_file), so no node would apply it")

    def _own_key(self) -> TrustedKey | None:
        return None if self._file is None else self._file.trust.keys.get(self._signer.key.kid)


def toml_entry(signer: Signer) -> str:
    """The lines that make a file of trusted publishers trust this signer, with the default scope."""
    return f"[[publishers.{signer.publisher_id}.keys]]\npem = '''\n{signer.key.pem}'''"

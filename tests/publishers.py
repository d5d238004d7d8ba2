"""Publishers that sign, files that trust them, and an intake that reads both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from consumers.denylist.memory import MemoryDenyList
from consumers.intake import Intake
from consumers.provenance import Provenance
from revoker.events import Revocation, Selector, Withdrawal
from revoker.record import encode
from revoker.signature import Signer
from revoker.trust import Scope, Trust, TrustedKey, TrustedPublisher
from revoker.trustfile import TrustFile
from tests.signing import private_key

TOPIC = "revocations"


@cache
def private_pem(name: str, *, algorithm: str = "EdDSA") -> bytes:
    """The private key of this name as PEM; the same for the whole session."""
    return private_key(algorithm, name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def signer(publisher_id: str = "service", *, key: str = "k1", algorithm: str = "EdDSA", topic: str = TOPIC) -> Signer:
    """The publisher of this id, signing with the key of this name."""
    return Signer(publisher_id=publisher_id, private_pem=private_pem(key, algorithm=algorithm), topic=topic)


def trusted(
    one: Signer, *, scope: Scope | None = None, begin_ms: int | None = None, end_ms: int | None = None
) -> Trust:
    """A trust in this one key."""
    publisher = TrustedPublisher(id=one.publisher_id, scope=scope or Scope())
    key = TrustedKey(publisher=publisher, key=one.key, not_before_ms=begin_ms, not_after_ms=end_ms)
    return Trust(keys={one.key.kid: key})


def together(*trusts: Trust) -> Trust:
    """All of them in one."""
    return Trust(keys={kid: key for one in trusts for kid, key in one.keys.items()})


def trust_toml(*signers: Signer, scopes: dict[str, str] | None = None, dates: dict[str, str] | None = None) -> str:
    """A file that trusts these signers. ``scopes``: further lines of a publisher's table; ``dates``: of a key's."""
    parts = [f"[publishers.{name}]\n{lines}" for name, lines in (scopes or {}).items()]
    for one in signers:
        lines = (dates or {}).get(one.key.kid, "")
        parts.append(f"[[publishers.{one.publisher_id}.keys]]\npem = '''\n{one.key.pem}'''\n{lines}")
    return "\n".join(parts)


def write_key(folder: Path, name: str = "k1", **options: Any) -> Path:
    """A private key in a file."""
    file = folder / f"{name}.private.pem"
    file.write_bytes(private_pem(name, **options))
    return file


NOW = 1_800_000_000
SERVICE = signer("service", key="k1")
OPERATOR = signer("operator", key="k2")
TENANT = signer("tenant", key="k3", algorithm="ES256")
SCOPES = {
    "operator": 'kinds = ["*"]',
    "tenant": 'kinds = ["claim", "client", "withdrawal"]\nissuers = ["", "https://t"]\nclaims = { tenant = ["acme"] }',
}


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A record as the client hands it over."""

    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = field(default=())
    partition: int = 0
    offset: int = 0
    timestamp: int = NOW * 1000


def event(selector: Selector, event_id: str = "e", **changes: Any) -> Revocation:
    cutoff = None if selector.exact or isinstance(selector, Withdrawal) else NOW
    values: dict[str, Any] = {"revoked_at": NOW, "expires_at": NOW + 3600, "cutoff": cutoff}
    return Revocation(id=event_id, selector=selector, **values | changes)


def signed(by: Signer | None, revocation: Revocation, **changes: Any) -> Raw:
    _, value, headers = encode(revocation)
    return Raw(value=value, headers=[*headers, *(by.headers(value) if by else [])], **changes)


class Bench:
    """An intake that trusts the three publishers, on clocks moved by hand."""

    def __init__(self, path: Path, *, own_id: str | None = None) -> None:
        self.path = path
        self.now = 1000.0
        self.trusts(SERVICE, OPERATOR, TENANT)
        self.provenance = Provenance(
            TrustFile(path, monotonic=lambda: self.now), topic=TOPIC, own_id=own_id, monotonic=lambda: self.now
        )
        self.denylist = MemoryDenyList(max_entries=1000)
        self.intake = Intake(
            self.denylist,
            retention_ms=7_200_000,
            wall=lambda: float(NOW),
            monotonic=lambda: self.now,
            provenance=self.provenance,
        )

    def trusts(self, *signers: Signer, scopes: dict[str, str] | None = None, **options: Any) -> None:
        names = {one.publisher_id for one in signers}
        known = {name: lines for name, lines in (SCOPES | (scopes or {})).items() if name in names}
        self.path.write_text(trust_toml(*signers, scopes=known, **options))

    def take(self, *records: Raw) -> int:
        return self.intake.take(records)

    def reasons(self) -> list[str]:
        return [one.reason for one in self.provenance.refused]

    def outdated(self) -> bool:
        return self.provenance.outdated is not None

    def knows(self, sid: str) -> bool:
        return self.denylist.listed(("session", "", sid))

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.intake.tidy()

"""What checking signatures costs a node: processor time per record read, signed with either algorithm and unsigned.

Processor time, not the clock's: neighbours on the machine do not count. No broker: reading from Kafka costs the same
either way.

    python -m benchmarks.signatures --records 20000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import result_line
from consumers.denylist.memory import MemoryDenyList
from consumers.intake import Intake
from consumers.provenance import Provenance
from revoker.events import Revocation, Token
from revoker.record import encode
from revoker.signature import Signer
from revoker.trustfile import TrustFile
from tests.publishers import TOPIC, signer, trust_toml


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as the client hands it over."""

    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def records(by: Signer | None, count: int) -> list[Raw]:
    """So many revocations of single tokens."""
    found = []
    for number in range(count):
        event = Revocation(
            id=f"0198f3a2-6d1c-7000-8000-{number:012}",
            selector=Token(iss="https://id.example", jti=f"{number:032x}"),
            revoked_at=1_800_000_000,
            expires_at=1_800_090_000,
            reason="logout",
        )
        _, value, headers = encode(event)
        found.append(Raw(0, number, 1_800_000_000_000, value, headers if by is None else headers + by.headers(value)))
    return found


def cost_us(taken: list[Raw], provenance: Provenance | None) -> tuple[float, float]:
    """Microseconds per record, and the longest slice in milliseconds."""
    intake = Intake(MemoryDenyList(max_entries=10**7), retention_ms=10**9, provenance=provenance)
    longest = total = 0.0
    for start in range(0, len(taken), intake.slice_records):
        began = time.process_time()
        intake.take(taken[start : start + intake.slice_records])
        took = time.process_time() - began
        total += took
        longest = max(longest, took)
    assert sum(intake.applied.values()) == len(taken)
    return total / len(taken) * 1e6, longest * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=20_000)
    count = parser.parse_args().records
    signers: dict[str, Signer | None] = {
        "unsigned": None,
        "eddsa": signer("service", key="k1"),
        "es256": signer("other", key="k2", algorithm="ES256"),
    }
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "publishers.toml"
        file.write_text(trust_toml(*(one for one in signers.values() if one is not None)))
        for name, one in signers.items():
            provenance = None if one is None else Provenance(TrustFile(file), topic=TOPIC)
            figures[f"{name}_us"], figures[f"{name}_longest_slice_ms"] = cost_us(records(one, count), provenance)
            sys.stdout.write(f"{name:<10}{figures[f'{name}_us']:8.1f} µs a record\n")
    ratios = {f"{name}_to_unsigned": figures[f"{name}_us"] / figures["unsigned_us"] for name in ("eddsa", "es256")}
    sys.stdout.write(result_line("signatures", figures=figures, ratios=ratios, versions={}) + "\n")


if __name__ == "__main__":
    main()

"""Kafka's fetch answers, as far as a proxy must understand them to change one field.

Versions 4 to 11 (https://kafka.apache.org/protocol#The_Messages_Fetch): those aiokafka speaks, without compact types.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["FETCH", "PRODUCE", "Part", "parts", "spoil", "with_error"]

PRODUCE: Final = 0
FETCH: Final = 1

_OLDEST, _NEWEST = 4, 11

# Of a record batch: base offset 8 bytes, length 4, leader epoch 4, magic 1, CRC 4, then what the CRC covers.
_LENGTH_AT: Final = 8
_COVERED_FROM: Final = 21


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One partition in a fetch answer: where in the frame its error code stands, and its records."""

    topic: str
    partition: int
    error_at: int
    records_at: int
    records_bytes: int


def parts(frame: bytes | bytearray, *, version: int) -> Iterator[Part]:
    """The partitions in a fetch answer of ``version``; ``frame`` begins with the correlation id."""
    at = 4 + 4  # correlation id, throttle time
    if version >= 7:
        at += 2 + 4  # error code, session id
    (topics,) = struct.unpack_from(">i", frame, at)
    at += 4
    for _ in range(topics):
        (size,) = struct.unpack_from(">h", frame, at)
        topic = bytes(frame[at + 2 : at + 2 + size]).decode()
        at += 2 + size
        (partitions,) = struct.unpack_from(">i", frame, at)
        at += 4
        for _ in range(partitions):
            (partition,) = struct.unpack_from(">i", frame, at)
            error_at = at + 4
            at = error_at + 2 + 8 + 8 + (8 if version >= 5 else 0)  # high watermark, stable offset, log start
            (aborted,) = struct.unpack_from(">i", frame, at)
            at += 4 + 16 * max(0, aborted) + (4 if version >= 11 else 0)  # preferred replica
            (records,) = struct.unpack_from(">i", frame, at)
            yield Part(
                topic=topic,
                partition=partition,
                error_at=error_at,
                records_at=at + 4,
                records_bytes=max(0, records),
            )
            at += 4 + max(0, records)


def with_error(frame: bytes, *, key: int, version: int, code: int, codes: Mapping[str, int]) -> bytes | None:
    """The frame with an error in every partition: its topic's of ``codes``, or ``code``; 0 is none.

    None if nothing changed, as in every frame that is no fetch answer.
    """
    if key != FETCH or not _OLDEST <= version <= _NEWEST:
        return None
    changed = bytearray(frame)
    for part in parts(frame, version=version):
        if wanted := codes.get(part.topic, code):
            struct.pack_into(">h", changed, part.error_at, wanted)
    return bytes(changed) if changed != frame else None


def spoil(frame: bytes, *, key: int, version: int, what: Literal["crc", "length"]) -> bytes | None:
    """The frame with one thing wrong in its records; None if it is no fetch answer with records."""
    if key != FETCH or not _OLDEST <= version <= _NEWEST:
        return None
    changed = bytearray(frame)
    spoiled = False
    for part in parts(frame, version=version):
        if part.records_bytes <= _COVERED_FROM:
            continue
        spoiled = True
        if what == "crc":
            changed[part.records_at + part.records_bytes - 1] ^= 0xFF
        else:
            length_at = part.records_at + _LENGTH_AT
            (length,) = struct.unpack_from(">i", frame, length_at)
            struct.pack_into(">i", changed, length_at, length + (1 << 20))
    return bytes(changed) if spoiled else None

"""A record batch compressed with zstd, made without any codec: for what a node does that cannot read one."""

from __future__ import annotations

import struct
import time

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c

from revoker.cluster import ask
from revoker.kafka import connected
from revoker.settings import Settings

__all__ = ["put_zstd"]

_HEADER_BYTES = 61
_LENGTH_AT, _CRC_AT, _ATTRIBUTES_AT = 8, 17, 21
_ZSTD = 4


def _frame(payload: bytes) -> bytes:
    """One zstd frame of one raw block: RFC 8878, sections 3.1.1.1 and 3.1.1.2."""
    assert len(payload) < 256
    last_raw_block = struct.pack("<I", len(payload) << 3 | 1)[:3]
    return b"\x28\xb5\x2f\xfd" + b"\x20" + bytes([len(payload)]) + last_raw_block + payload


async def put_zstd(settings: Settings, value: bytes) -> None:
    """Append one record to partition 0 of the topic, in a batch that says it is zstd, and is."""
    builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 0)
    builder.append(0, round(time.time() * 1000), b"k", value, [])
    plain = bytes(builder.build())
    batch = bytearray(plain[:_HEADER_BYTES] + _frame(plain[_HEADER_BYTES:]))
    struct.pack_into(">i", batch, _LENGTH_AT, len(batch) - 12)
    struct.pack_into(">h", batch, _ATTRIBUTES_AT, _ZSTD)
    struct.pack_into(">I", batch, _CRC_AT, calc_crc32c(bytes(batch[_ATTRIBUTES_AT:])))
    async with connected(settings) as client:
        request = ProduceRequest(None, -1, 5_000, [(settings.topic, [(0, bytes(batch))])])
        response = await ask(client, 1, request, timeout_s=5.0)
    ((_, ((_, error, *_),)),) = response.topics
    assert error == 0, f"Kafka error {error}"

"""Two requests aiokafka does not have: put a partition's replicas in another order, and elect the preferred leader.

https://kafka.apache.org/protocol#The_Messages_AlterPartitionReassignments (version 0), …_ElectLeaders (version 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, CompactArray, CompactString, Int8, Int16, Int32, Schema, String, TaggedFields

from revoker.cluster import ask

__all__ = ["elect_preferred", "reorder_replicas"]

_TIMEOUT_MS = 10_000
_PREFERRED = 0
_text, _compact = String("utf-8"), CompactString("utf-8")


async def reorder_replicas(client: AIOKafkaClient, topic: str, *, replicas: Sequence[int]) -> None:
    """Give partition 0 its replicas in this order; the first is preferred as leader."""
    response = await _ask_controller(client, _Reassign(topic, list(replicas)))
    assert response.error_code == 0, response
    assert [partition[1] for _, partitions, _ in response.responses for partition in partitions] == [0], response


async def elect_preferred(client: AIOKafkaClient, topic: str) -> None:
    """Make partition 0's first replica its leader. Nobody's connection is closed by it."""
    response = await _ask_controller(client, _Elect(topic))
    assert response.error_code == 0, response
    assert [partition[1] for _, partitions in response.results for partition in partitions] == [0], response


async def _ask_controller(client: AIOKafkaClient, request: Any) -> Any:
    # Any broker passes it on to the controller (KIP-590).
    node = min(broker.nodeId for broker in client.cluster.brokers())
    return await ask(client, node, request, timeout_s=10.0)


class _ReassignResponse(Response):
    API_KEY = 45  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    API_VERSION = 0  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", _compact),
        (
            "responses",
            CompactArray(
                ("name", _compact),
                (
                    "partitions",
                    CompactArray(
                        ("index", Int32), ("error_code", Int16), ("error_message", _compact), ("tags", TaggedFields)
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _ReassignRequest(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 45, 0
    RESPONSE_TYPE = _ReassignResponse
    SCHEMA = Schema(
        ("timeout_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _compact),
                (
                    "partitions",
                    CompactArray(("index", Int32), ("replicas", CompactArray(Int32)), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Reassign(Request[_ReassignRequest]):
    API_KEY = 45

    def __init__(self, topic: str, replicas: list[int]) -> None:
        self._topic, self._replicas = topic, replicas

    def build(self, request_struct_class: type[_ReassignRequest]) -> _ReassignRequest:
        return request_struct_class(_TIMEOUT_MS, [(self._topic, [(0, self._replicas, {})], {})], {})


class _ElectResponse(Response):
    API_KEY = 43  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    API_VERSION = 1  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "results",
            Array(
                ("topic", _text),
                ("partitions", Array(("partition", Int32), ("error_code", Int16), ("error_message", _text))),
            ),
        ),
    )


class _ElectRequest(RequestStruct):
    API_KEY, API_VERSION = 43, 1
    RESPONSE_TYPE = _ElectResponse
    SCHEMA = Schema(
        ("election_type", Int8),
        ("topics", Array(("topic", _text), ("partitions", Array(Int32)))),
        ("timeout_ms", Int32),
    )


class _Elect(Request[_ElectRequest]):
    API_KEY = 43

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_ElectRequest]) -> _ElectRequest:
        return request_struct_class(_PREFERRED, [(self._topic, [0])], _TIMEOUT_MS)

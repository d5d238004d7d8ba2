"""Where each partition ends, asked of its leader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.offset import OffsetRequest

from revoker.cluster import NO_LEADER, TopicView, ask

__all__ = ["ends_of"]

_LATEST: Final = -1


async def ends_of(
    client: AIOKafkaClient, view: TopicView, *, timeout_s: float, only: Iterable[int] | None = None
) -> dict[int, int]:
    """The end offset (high watermark) of each partition in ``view``, or in ``only``, whose leader tells it.

    A leader just elected does not tell before it knows what was acknowledged under the one before (KIP-207). Raises
    KafkaError or OSError if none tells.
    """
    leaders: dict[int, list[int]] = {}
    for number in view.partitions if only is None else only:
        partition = view.partitions[number]
        if partition.leader != NO_LEADER:
            leaders.setdefault(partition.leader, []).append(number)
    ends: dict[int, int] = {}
    failure: Exception | None = None
    for node, numbers in leaders.items():
        request = OffsetRequest(-1, 0, [(view.topic, [(number, _LATEST) for number in numbers])])
        try:
            response = await ask(client, node, request, timeout_s=timeout_s)
        except (KafkaError, OSError) as error:
            failure = error
            continue
        for _, partitions in response.topics:
            for number, code, _, offset in partitions:
                if code:
                    failure = for_code(code)()
                else:
                    ends[number] = offset
    if not ends and failure is not None:
        raise failure
    return ends

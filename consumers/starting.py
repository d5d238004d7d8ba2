"""Where a session starts to read, and up to where it must have read before its node is ready."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition

from revoker.kafka import client_of
from revoker.settings import Settings
from revoker.topic import Report

__all__ = ["bounds"]

log: logging.Logger = logging.getLogger(__name__)


async def bounds(
    consumer: AIOKafkaConsumer,
    partitions: Mapping[int, TopicPartition],
    *,
    settings: Settings,
    report: Report | None,
    held: Mapping[int, int],
    now_s: float,
) -> tuple[dict[int, int], dict[int, int]]:
    """Start and end offsets by partition.

    ``held``: offsets before which the deny list holds everything of this very log; empty = nothing. They count only if
    they lie in the log for every partition: one that ends before them is not the log they were taken from. ``report``:
    what is known of the topic's settings. ``now_s``: Unix time.
    """
    wanted = list(partitions.values())
    # Unless it knows the topic, aiokafka answers the first question for offsets with a pause of 0.1 s.
    await client_of(consumer).add_topic(settings.topic)
    # The end is asked first: what is deleted meanwhile is not waited for.
    ends = await consumer.end_offsets(wanted)
    starts = await consumer.beginning_offsets(wanted)
    if held:
        wrong = [
            f"partition {number}: {held.get(number)}, the log has {starts[partition]} to {ends[partition]}"
            for number, partition in partitions.items()
            if not starts[partition] <= held.get(number, -1) <= ends[partition]
        ]
        if not wrong and set(held) == set(partitions):
            return (
                {number: held[number] for number in partitions},
                {number: max(held[number], ends[partition]) for number, partition in partitions.items()},
            )
        log.warning("replaying the topic: the deny list ends at offsets outside the log (%s)", "; ".join(wrong))
    if settings.replay_from == "longest_life" and _timestamps_are_the_brokers(report):
        since_ms = int(now_s * 1000 - settings.lifetimes.retention_ms)
        found = await consumer.offsets_for_times(dict.fromkeys(wanted, since_ms))
        for partition in wanted:
            at = found[partition]
            starts[partition] = max(starts[partition], ends[partition] if at is None else at.offset)
    return (
        {number: starts[partition] for number, partition in partitions.items()},
        {number: max(starts[partition], ends[partition]) for number, partition in partitions.items()},
    )


def _timestamps_are_the_brokers(report: Report | None) -> bool:
    # With the publishers' timestamps a late clock puts a live revocation before the offset that the search finds.
    if report is not None and report.configs.get("message.timestamp.type") == "LogAppendTime":
        return True
    log.warning("replay_from is longest_life, but the topic keeps publishers' timestamps: replaying from the beginning")
    return False

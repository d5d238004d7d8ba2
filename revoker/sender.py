"""Bytes → topic, and where they landed, or what is certain if that is not known. Knows nothing of revocations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownError,
    UnsupportedForMessageFormatError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import RecordMetadata

from revoker.cluster import look, permitted
from revoker.diagnosis import explain, quiet_logs
from revoker.errors import BrokerError, BrokerUnreachable, NotAccepted, OutcomeUnknown, PublishError, SettingsError
from revoker.kafka import died_inside, prepare, producer_arguments, unreachable
from revoker.settings import Settings

__all__ = ["Headers", "Landed", "Outgoing", "Sender"]

logger: logging.Logger = logging.getLogger(__name__)

Headers = Sequence[tuple[str, bytes]]

#: The broker read the record and refused it, so it is not in the log. Every other error may have struck after it was
#: written.
_REFUSALS: Final = (
    CorruptRecordException,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
)

#: Answers about the record itself: the same record will meet them again until somebody changes the topic. aiokafka
#: shows Kafka's INVALID_RECORD (87), and every other code it does not know, as UnknownError.
_ABOUT_THE_RECORD: Final = (
    CorruptRecordException,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnknownError,
    UnsupportedForMessageFormatError,
)

#: Failed probes in a row after which the producer is made anew: it asks only brokers it knows who is there, and if all
#: of them were replaced it would ask them for ever.
_PROBES: Final = 5

_partition_of: Final = DefaultPartitioner()


class Outgoing(Protocol):
    """A record as it will be sent."""

    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes: ...
    @property
    def headers(self) -> Headers: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """Where a record is: on every in-sync replica. ``timestamp_ms``: its own, Unix milliseconds; -1 = untold."""

    partition: int
    offset: int
    timestamp_ms: int


class Sender:
    """The Kafka producer behind a publisher. It connects when first used and again after `close`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._failed_probes = 0
        self._ending: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Connect, unless connected; may be called again. Raises BrokerUnreachable, TopicMissing or a BrokerError.

        Asks whether the topic exists before the producer can ask for it in its own way, which may create it. Reads the
        certificate files: SettingsError if they cannot be used now.
        """
        await self._connected()

    async def client(self) -> AIOKafkaClient:
        """The producer's own client, connected: for questions to the brokers. Raises as `connect` does."""
        return (await self._connected()).client

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is not None and (why := died_inside(self._producer)) is not None:
                logger.warning("a new producer, since the %s", why)
                self.renew()
            if self._producer is None:
                self._producer = await self._new_producer()
            return self._producer

    async def _new_producer(self) -> AIOKafkaProducer:
        settings = self._settings
        producer = AIOKafkaProducer(**producer_arguments(settings))
        prepare(producer.client)
        before = quiet_logs.last_problem
        quiet_logs.install()
        try:
            async with asyncio.timeout(settings.request_timeout_s):
                await producer.start()
                view = await look(producer.client, settings.topic, timeout_s=settings.request_timeout_s)
                permitted(view, "Write")
        except BaseException as error:
            quiet_logs.uninstall()
            await producer.stop()
            if isinstance(error, KafkaError | OSError):
                raise unreachable(settings, explain(error), before=before) from error
            raise
        return producer

    def renew(self) -> None:
        """Drop the producer; the next use makes another. What it still holds may land yet."""
        producer, self._producer = self._producer, None
        if producer is not None:
            quiet_logs.uninstall()
            # Not waited for here: it ends only when what it holds has timed out.
            task = asyncio.create_task(producer.stop(), name="revoker-producer-ending")
            self._ending.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # stop() raises what killed the producer's own tasks.
            logger.warning("the producer had failed inside: %s", explain(error))

    async def close(self) -> None:
        """Disconnect. What was acknowledged stays so; what was not has already raised, or will."""
        self.renew()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def probe(self) -> None:
        """Connect if need be and ask the brokers for the topic: returns if records can probably be sent now, else
        raises BrokerError.
        """
        producer = await self._connected()
        try:
            view = await look(producer.client, self._settings.topic, timeout_s=self._settings.request_timeout_s)
        except BrokerUnreachable:
            self._failed_probes += 1
            if self._failed_probes % _PROBES == 0 and self._producer is producer:
                self.renew()
            raise
        self._failed_probes = 0
        permitted(view, "Write")

    async def send(
        self, value: bytes, *, key: bytes | None = None, headers: Headers = (), partition: int | None = None
    ) -> Landed:
        """Send one record and wait for its acknowledgement, for ``publish_timeout_s`` at most.

        ``partition``: None = the key decides. Raises NotAccepted if it is certainly not in the topic, OutcomeUnknown
        if it may be; ``lasting`` on either says that the broker would answer the same record so again.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.publish_timeout_s
        producer = await self._producer_until(deadline)
        if partition is None:
            partition = self._only_partition(producer)
        try:
            async with asyncio.timeout_at(deadline):
                metadata = await producer.send_and_wait(
                    self._settings.topic, value, key=key, headers=list(headers), partition=partition
                )
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._judged(error) from error
        return _landed(metadata)

    async def send_all(self, records: Sequence[Outgoing]) -> list[Landed | PublishError]:
        """Send many records at once; the outcome of each, in their order, after ``publish_timeout_s`` at most.

        Those of one partition go in order and, up to the longest batch, as one: they land or fail together, so that
        none overtakes one before it. Raises NotAccepted if nothing could be sent.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.publish_timeout_s
        producer = await self._producer_until(deadline)
        try:
            async with asyncio.timeout_at(deadline):
                partitions = sorted(await producer.partitions_for(self._settings.topic))
        except (KafkaError, OSError, TimeoutError) as error:
            raise NotAccepted(f"not sent, the topic's partitions are not known: {explain(error)}") from error
        lanes: dict[int, list[int]] = {}
        for index, one in enumerate(records):
            only = len(partitions) == 1
            partition = partitions[0] if only else _partition_of(one.key, partitions, partitions)
            lanes.setdefault(partition, []).append(index)
        ends = await asyncio.gather(
            *(
                self._lane(producer, partition, [records[index] for index in lane], deadline)
                for partition, lane in lanes.items()
            )
        )
        outcomes = {
            index: outcome
            for lane, found in zip(lanes.values(), ends, strict=True)
            for index, outcome in zip(lane, found, strict=True)
        }
        return [outcomes[index] for index in range(len(records))]

    async def _lane(
        self, producer: AIOKafkaProducer, partition: int, records: Sequence[Outgoing], deadline: float
    ) -> list[Landed | PublishError]:
        """The records of one partition, batch after batch; after a batch that failed, none is sent."""
        outcomes: list[Landed | PublishError] = []
        while len(outcomes) < len(records):
            batch = producer.create_batch()
            stamps_ms: list[int] = []
            for one in records[len(outcomes) :]:
                added = batch.append(timestamp=None, key=one.key, value=one.value, headers=list(one.headers))
                if added is None:
                    break
                stamps_ms.append(added.timestamp)
            batch.close()  # or aiokafka would add others' records to it
            try:
                async with asyncio.timeout_at(deadline):
                    sent = await producer.send_batch(batch, self._settings.topic, partition=partition)
                first = await _first_of(sent, deadline)
            except (KafkaError, OSError, TimeoutError) as error:
                failure = self._judged(error)
                outcomes += [failure] * len(stamps_ms)
                rest = NotAccepted("not sent: a record before it in this partition was not acknowledged")
                outcomes += [rest] * (len(records) - len(outcomes))
                break
            stamped_ms = _timestamp_ms(first)
            left = stamped_ms < 0  # a topic with publishers' timestamps
            outcomes += [
                Landed(partition=partition, offset=first.offset + place, timestamp_ms=own_ms if left else stamped_ms)
                for place, own_ms in enumerate(stamps_ms)
            ]
        return outcomes

    def _only_partition(self, producer: AIOKafkaProducer) -> int | None:
        """The topic's partition, if it has just one: hashing the key, in Python, takes aiokafka as long as all else."""
        partitions = producer.client.cluster.partitions_for_topic(self._settings.topic)
        return next(iter(partitions)) if partitions is not None and len(partitions) == 1 else None

    async def _producer_until(self, deadline: float) -> AIOKafkaProducer:
        producer = self._producer
        if producer is not None and not self._connecting.locked() and died_inside(producer) is None:
            return producer
        try:
            # Callers wait for one another here: without a bound of its own, each would wait for all before it to fail.
            async with asyncio.timeout_at(deadline):
                return await self._connected()
        except (BrokerError, SettingsError, TimeoutError) as error:
            # SettingsError: certificate files that are being renewed, for one. Not the caller's mistake, and no defect.
            raise NotAccepted(f"not sent: {explain(error)}") from error

    def _judged(self, error: Exception) -> PublishError:
        """What is certain after ``error``."""
        lasting = isinstance(error, _ABOUT_THE_RECORD)
        if isinstance(error, _REFUSALS):
            return NotAccepted(f"the broker refused the record: {explain(error)}", lasting=lasting)
        return OutcomeUnknown(
            f"no acknowledgement within {self._settings.publish_timeout_s:g} s; the record may be in the topic or not, "
            f"publishing it again is harmless: {explain(error)}",
            lasting=lasting,
        )


async def _first_of(sent: asyncio.Future[RecordMetadata], deadline: float) -> RecordMetadata:
    """Where the first record of a batch landed. Raises TimeoutError at the deadline."""
    # Never cancelled: aiokafka's sending task dies of a KeyError when it retries a batch whose future was.
    sent.add_done_callback(_heard)
    done, _ = await asyncio.wait({sent}, timeout=deadline - asyncio.get_running_loop().time())
    if not done:
        raise TimeoutError
    return sent.result()


def _heard(sent: asyncio.Future[RecordMetadata]) -> None:
    # Or a batch that fails after nobody waits any more is reported as "exception was never retrieved".
    if not sent.cancelled():
        sent.exception()


def _landed(metadata: RecordMetadata) -> Landed:
    return Landed(partition=metadata.partition, offset=metadata.offset, timestamp_ms=_timestamp_ms(metadata))


def _timestamp_ms(metadata: RecordMetadata) -> int:
    return -1 if metadata.timestamp is None else metadata.timestamp

"""Asks every broker about one topic: its id, its partitions, who leads them since when, and what this user may do.
Creates nothing.

The request is Metadata version 12, which aiokafka does not have; its protocol classes carry it. The epochs tell a node
that the broker it reads from was deposed and does not know it yet: such a broker goes on serving empty fetches that
look perfectly healthy. The topic id tells it that the topic was deleted and made anew (KIP-516), which no fetch
response of aiokafka's versions shows.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, for_code
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from revoker.diagnosis import explain, quiet_logs
from revoker.errors import BrokerError, BrokerUnreachable, NotPermitted, SettingsError, TopicMissing

__all__ = [
    "NO_LEADER",
    "PartitionView",
    "TopicView",
    "ask",
    "first_answer",
    "granting",
    "lacking",
    "look",
    "newer_leader",
    "permitted",
]

#: Kafka's way to say that a partition has no leader.
NO_LEADER: Final = -1

_UNKNOWN_TOPIC, _INVALID_TOPIC, _TOPIC_DENIED = 3, 17, 29

#: What a broker sends instead of the operations if it does not tell.
_OPERATIONS_UNKNOWN = -(2**31)

#: Kafka's AclOperation, by the bit that stands for it; spelled as kafka-acls.sh takes them.
_OPERATIONS: Final = {
    3: "Read",
    4: "Write",
    5: "Create",
    6: "Delete",
    7: "Alter",
    8: "Describe",
    9: "ClusterAction",
    10: "DescribeConfigs",
    11: "AlterConfigs",
    12: "IdempotentWrite",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionView:
    """One partition as the newest answer has it. ``leader`` is a node id, or `NO_LEADER`; ``replicas`` and ``isr`` are
    node ids."""

    leader: int
    leader_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicView:
    """What the brokers said about one topic.

    ``rights``: the operations this user may do on the topic, such as "Read" or "DescribeConfigs"; ``None`` if no broker
    told. ``asked``, ``answered``: brokers. ``dissenting``: brokers that know the topic under another id, or not at all:
    it is being made, deleted or made anew, and this view is the majority's.
    """

    cluster_id: str | None
    topic: str
    topic_id: uuid.UUID
    partitions: Mapping[int, PartitionView]
    rights: frozenset[str] | None
    asked: int
    answered: int
    dissenting: int = 0


def newer_leader(view: TopicView, known: Mapping[int, int]) -> dict[int, int]:
    """The partitions whose newest leader is not the one the client reads from, each with that newest leader.

    ``known``: partition to the node id the client reads it from. A partition without a leader, or gone from the view,
    is reported with `NO_LEADER`: nobody can vouch for what the client reads. Partitions missing in ``known`` are not
    reported.
    """
    newest = {number: view.partitions[number].leader if number in view.partitions else NO_LEADER for number in known}
    return {number: leader for number, leader in newest.items() if leader != known[number]}


def permitted(view: TopicView, right: Literal["Read", "Write"]) -> None:
    """Return if this user has ``right`` on the topic, as far as the brokers tell. Raises NotPermitted if not.

    A right that was taken away shows here and in nothing else: fetches and the client's own metadata go silent.
    """
    if view.rights is not None and right not in view.rights:
        raise lacking(right, view.topic)


def lacking(right: str, topic: str, *, so: str = "", grant: str | None = None) -> NotPermitted:
    """The error for a right on ``topic`` that this user lacks, with the command that grants it.

    ``so``: what follows, put behind the topic. ``grant``: the right to ask for; None = the one that is missing.
    """
    return NotPermitted(f"this user lacks the right {right} on topic {topic!r}{so}: {granting(grant or right, topic)}")


def granting(right: str, topic: str) -> str:
    """The command of Kafka's own tool that grants a right on ``topic``."""
    return f"kafka-acls.sh --add --allow-principal User:NAME --operation {right} --topic {topic}"


async def look(client: AIOKafkaClient, topic: str, *, timeout_s: float) -> TopicView:
    """Ask all brokers ``client`` knows, at once, and merge what they say within ``timeout_s`` seconds.

    Each partition is taken from the answer with the highest leader epoch. If the answers disagree about the topic id,
    most answers win, then existence over absence, then the lower epochs (those of a topic just made start at 0).

    ``client`` has to be started, and should come from `revoker.kafka.prepare`, or one hanging broker takes the others'
    time. The requests have a connection of their own beside the one on which a fetch may be parked.

    Raises TopicMissing if the topic does not exist, NotPermitted if this user may not see it, BrokerError if no broker
    speaks version 12, and BrokerUnreachable if no broker is known or none answered.
    """
    nodes = sorted(broker.nodeId for broker in client.cluster.brokers())
    if not nodes:
        raise BrokerUnreachable(
            "no broker is known: the first connection told of none, as when the credentials are refused"
        )
    answers: list[_Answer] = []
    failures: dict[int, BaseException] = {}
    for node, outcome in zip(
        nodes, await asyncio.gather(*(_ask(client, node, topic, timeout_s) for node in nodes)), strict=True
    ):
        if isinstance(outcome, _Answer):
            answers.append(outcome)
        else:
            failures[node] = outcome
    if not answers:
        raise _none_answered(failures)
    return _merge(topic, answers, asked=len(nodes))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """One broker's answer. ``error`` is Kafka's error code for the topic, 0 for none."""

    node: int
    cluster_id: str | None
    error: int
    topic_id: uuid.UUID
    partitions: Mapping[int, PartitionView]
    rights: frozenset[str] | None


async def ask(client: AIOKafkaClient, node: int, request: Any, *, timeout_s: float) -> Any:
    """One broker's response to an aiokafka request, on a connection beside the one on which a fetch may be parked.

    Raises TimeoutError after ``timeout_s`` seconds, KafkaError or OSError if the broker could not be asked, and
    NotImplementedError if it speaks no version of the request that aiokafka does.
    """
    group = ConnectionGroup.COORDINATION
    try:
        async with asyncio.timeout(timeout_s):
            return await client.send(node, request, group=group)
    except TimeoutError:
        # aiokafka renews a connection only after its own, longer timeout: half-open, it would swallow later questions.
        connection = client._conns.get((node, group))  # noqa: SLF001
        if connection is not None:
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
        raise


async def first_answer(client: AIOKafkaClient, nodes: list[int], request: Any, *, timeout_s: float) -> Any:
    """The response of the first broker that answers. Raises BrokerUnreachable if none does."""
    failures = []
    for node in nodes:
        try:
            return await ask(client, node, request, timeout_s=timeout_s)
        except (KafkaError, OSError, NotImplementedError) as error:
            failures.append(f"broker {node}: {explain(error)}")
    raise BrokerUnreachable(f"none of {len(nodes)} brokers answered: {'; '.join(failures) or 'none is known'}")


async def _ask(client: AIOKafkaClient, node: int, topic: str, timeout_s: float) -> _Answer | BaseException:
    """The broker's answer, or why there is none."""
    try:
        return _parse(node, await ask(client, node, _TopicIdRequest(topic), timeout_s=timeout_s))
    except (KafkaError, OSError, NotImplementedError) as error:  # TimeoutError is an OSError
        return error


def _parse(node: int, response: Any) -> _Answer:
    error, _, topic_id, _, partitions, operations, _ = response.topics[0]
    return _Answer(
        node=node,
        cluster_id=response.cluster_id,
        error=error,
        topic_id=topic_id,
        partitions={
            number: PartitionView(leader=leader, leader_epoch=epoch, replicas=tuple(replicas), isr=tuple(isr))
            # A partition's own error (5: no leader; 9: a replica is away) says nothing that leader and replicas do not.
            for _, number, leader, epoch, replicas, isr, _, _ in partitions
        },
        rights=_rights(operations),
    )


def _rights(operations: int) -> frozenset[str] | None:
    if operations == _OPERATIONS_UNKNOWN:
        return None
    return frozenset(name for bit, name in _OPERATIONS.items() if operations >> bit & 1)


def _none_answered(failures: Mapping[int, BaseException]) -> BrokerError:
    # prepare() raises NotImplementedError, which is no KafkaError, for an API whose version range aiokafka cannot meet.
    old = [
        node for node, error in failures.items() if isinstance(error, IncompatibleBrokerVersion | NotImplementedError)
    ]
    if old:
        return BrokerError(
            f"broker {old[0]} does not speak Metadata version 12 (Apache Kafka 3.1 and later do): "
            "without topic ids and leader epochs nothing can be proven; upgrade the brokers"
        )
    reasons = "; ".join(f"broker {node}: {explain(error)}" for node, error in failures.items())
    # "Not ready" is all that aiokafka raises; why it cannot connect is in its log.
    logged = quiet_logs.recent(within_s=10.0)
    return BrokerUnreachable(
        f"none of {len(failures)} brokers answered: {reasons}{f' (aiokafka: {logged})' if logged else ''}"
    )


def _merge(topic: str, answers: list[_Answer], *, asked: int) -> TopicView:
    votes = Counter((answer.error, answer.topic_id) for answer in answers)

    def weight(vote: tuple[int, uuid.UUID]) -> tuple[int, bool, int, int]:
        agreeing = [answer for answer in answers if (answer.error, answer.topic_id) == vote]
        epochs = sum(partition.leader_epoch for answer in agreeing for partition in answer.partitions.values())
        return votes[vote], not vote[0], -epochs, -agreeing[0].node

    error, topic_id = max(votes, key=weight)
    if error:
        raise _refusal(topic, error)
    agreeing = [answer for answer in answers if not answer.error and answer.topic_id == topic_id]
    told = [answer.rights for answer in agreeing if answer.rights is not None]
    return TopicView(
        cluster_id=agreeing[0].cluster_id,
        topic=topic,
        topic_id=topic_id,
        partitions=_newest(answer.partitions for answer in agreeing),
        # A right counts once every broker knows of it.
        rights=frozenset.intersection(*told) if told else None,
        asked=asked,
        answered=len(answers),
        dissenting=len(answers) - len(agreeing),
    )


def _newest(views: Iterable[Mapping[int, PartitionView]]) -> dict[int, PartitionView]:
    newest: dict[int, PartitionView] = {}
    for view in views:
        for number, partition in view.items():
            known = newest.get(number)
            # At the same epoch a broker that knows no leader knows less.
            if known is None or (partition.leader_epoch, partition.leader) > (known.leader_epoch, known.leader):
                newest[number] = partition
    return dict(sorted(newest.items()))


def _refusal(topic: str, error: int) -> Exception:
    if error == _UNKNOWN_TOPIC:
        return TopicMissing(f"topic {topic!r} does not exist: make it with `revoker topic create`")
    if error == _TOPIC_DENIED:
        so = " (Read and Write imply it), so whether it exists is unknown"
        return lacking("Describe", topic, so=so, grant="Read")
    if error == _INVALID_TOPIC:
        return SettingsError(
            f"topic is {topic!r}, which Kafka does not allow: "
            "1 to 249 of the characters a-z A-Z 0-9 . _ - and not . or .."
        )
    return BrokerError(f"the brokers answer {explain(for_code(error)())} for topic {topic!r}")


# The wire format, https://kafka.apache.org/protocol#The_Messages_Metadata (version 12).


class _Uuid(AbstractType[uuid.UUID]):
    """Kafka's UUID type: 16 bytes, all zero for none."""

    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))

    @classmethod
    def repr(cls, value: uuid.UUID) -> str:
        return str(value)


_String = CompactString("utf-8")

_PARTITION = CompactArray(
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline_replicas", CompactArray(Int32)),
    ("tags", TaggedFields),
)


class _MetadataResponse(Response):
    # aiokafka declares these as properties and sets them as attributes.
    API_KEY = 3  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    API_VERSION = 12  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32), ("host", _String), ("port", Int32), ("rack", _String), ("tags", TaggedFields)
            ),
        ),
        ("cluster_id", _String),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _String),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                ("partitions", _PARTITION),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequest(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 3, 12
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _String), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicIdRequest(Request[_MetadataRequest]):
    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_MetadataRequest]) -> _MetadataRequest:
        return request_struct_class([(uuid.UUID(int=0), self._topic, {})], False, True, {})

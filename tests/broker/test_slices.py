"""A record header whose name is not UTF-8: brokers take it, aiokafka chokes on it, and no node is stopped by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from consumers.freshness import State
from consumers.node import Node
from revoker.cluster import ask
from revoker.events import Session
from revoker.kafka import connected
from revoker.publisher import Publisher
from revoker.record import encode
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, MakeTopic, eventually, knows, revoke_sessions
from tests.publishers import event, signer, trust_toml, write_key

RunNode = Callable[[Settings], Node]


class NotUtf8(str):
    """Text that becomes bytes which are no text."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


async def put_batch(settings: Settings, *names: str, spoiled: int, partition: int = 0) -> None:
    """One batch of session revocations, the one at ``spoiled`` (-1: none) with a header that cannot be read."""
    builder: Any = _DefaultRecordBatchBuilderPy(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=2**20,
    )
    for index, name in enumerate(names):
        headers = [(NotUtf8("x"), b"y")] if index == spoiled else []
        value = encode(event(Session(iss="", sid=name), expires_at=2**33))[1]
        builder.append(index, timestamp=None, key=b"k", value=value, headers=headers)
    request = ProduceRequest(None, -1, 5000, [(settings.topic, [(partition, bytes(builder.build()))])])
    async with connected(settings) as client:
        leader = next(iter(client.cluster.brokers())).nodeId
        response = await ask(client, leader, request, timeout_s=5.0)
    ((_, ((_, error, *_),)),) = response.topics
    assert error == 0, f"Kafka error {error}"


async def test_it_is_unread_and_the_rest_is_read(make_apache_topic: MakeTopic, run_node: RunNode) -> None:
    """What stands before it in its batch and after its batch is applied; the place is named, the node is not live."""
    settings = await make_apache_topic(topic_partitions=2)
    before = [f"before-{number}" for number in range(1200)]
    await put_batch(settings, *before, spoiled=-1)
    await put_batch(settings, "first", "bad", "lost", spoiled=1)
    await put_batch(settings, "bad-too", spoiled=0)
    await put_batch(settings, "elsewhere", "bad", spoiled=1, partition=1)
    await revoke_sessions(settings, *(f"after-{number}" for number in range(8)))
    node = run_node(settings)
    expected = [*before, "first", "elsewhere", *(f"after-{number}" for number in range(8))]
    await eventually(lambda: all(knows(node, name) for name in expected), "all that can be read is applied")
    await eventually(lambda: node.freshness.state is State.STALE, "it is caught up, and not live")
    assert node.intake.missed == 3
    assert {(one.partition, one.offset) for one in node.intake.unread} == {(0, 1201), (0, 1203), (1, 1)}
    assert (
        "not UTF-8; nothing up to offset 1202 can be read"
        in {one.offset: one.detail for one in node.intake.unread}[1201]
    )
    assert "undecodable" in node.freshness.why()
    assert node.follower.sessions_total == 1
    tolerant = run_node(replace(settings, tolerate_undecodable=True))
    await tolerant.wait_ready(timeout_s=PATIENCE_S)


async def test_where_signatures_are_required_it_is_refused(
    make_apache_topic: MakeTopic, run_node: RunNode, tmp_path: Path
) -> None:
    """Whoever can write cannot stop a node with it: before, meanwhile and after, what is signed is applied."""
    settings = await make_apache_topic()
    file = tmp_path / "publishers.toml"
    file.write_text(trust_toml(signer(topic=settings.topic)))
    publishing = replace(settings, publisher_id="service", signing_key_file=str(write_key(tmp_path)))
    await put_batch(settings, "bad", spoiled=0)
    node = run_node(replace(settings, trusted_publishers_file=str(file)))
    await node.wait_ready(timeout_s=PATIENCE_S)
    async with Publisher(publishing) as publisher:
        await publisher.revoke(selector=Session(iss="", sid="one"))
        await put_batch(settings, "bad", "bad", spoiled=0)
        await publisher.revoke(selector=Session(iss="", sid="two"))
    await eventually(lambda: knows(node, "one") and knows(node, "two"), "what is signed arrives")
    assert node.freshness.state is State.LIVE
    assert node.follower.sessions_total == 1
    assert node.intake.provenance is not None
    assert [(one.reason, one.offset) for one in node.intake.provenance.refused] == [("malformed", 0), ("malformed", 2)]

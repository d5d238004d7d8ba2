"""The publisher on a real broker: what a receipt proves, and which error says what is certain."""

from __future__ import annotations

import asyncio
import json
import operator
import os
import time
from pathlib import Path

import jsonschema
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from revoker import record, topic
from revoker.blocking import BlockingPublisher
from revoker.errors import BrokerUnreachable, InvalidRevocation, NotAccepted, OutcomeUnknown, TopicMissing
from revoker.events import Claim, Revocation, Session, Subject, Token
from revoker.keys import keys_from_settings
from revoker.publisher import Publisher
from revoker.settings import Settings
from revoker.tokens import Verifier, sign
from tests.broker.conftest import SECRET, MakeTopic, everything_in, settings_for
from tests.conftest import StartApache

NOBODY = "127.0.0.1:1"


async def test_a_receipt_names_the_place_of_a_record_anyone_can_read(make_topic: MakeTopic) -> None:
    """The record stands at the receipt's partition and offset, with key, JSON value by the schema and CloudEvents
    headers.
    """
    settings = await make_topic(topic_partitions=3)
    async with Publisher(settings) as publisher:
        receipt = await publisher.revoke(
            selector=Subject(iss="https://id.example", sub="alice"), reason="left", actor="hr"
        )
    (found,) = await everything_in(settings)
    assert (found.partition, found.offset) == (receipt.partition, receipt.offset)
    assert json.loads(found.key or b"") == ["subject", "https://id.example", "alice"]
    assert record.decode(found.value) == receipt.revocation
    jsonschema.validate(json.loads(found.value or b""), record.json_schema())
    headers = dict(found.headers)
    assert headers["ce_id"].decode() == receipt.revocation.id
    assert headers["content-type"] == b"application/json"


async def test_the_brokers_clock_stamps_the_record(make_apache_topic: MakeTopic) -> None:
    """Under LogAppendTime the receipt carries the broker's time, whatever the publisher's clock says."""
    settings = await make_apache_topic()
    long_ago = 1_000_000_000.0
    async with Publisher(settings, wall=lambda: long_ago) as publisher:
        receipt = await publisher.revoke(selector=Session(iss="", sid="s1"))
    assert receipt.revocation.revoked_at == long_ago
    assert receipt.timestamp_ms is not None
    assert abs(receipt.timestamp_ms / 1000 - time.time()) < 60


async def test_a_thousand_callers_are_all_acknowledged(make_topic: MakeTopic) -> None:
    """Each of 1,000 concurrent calls gets a receipt, and each event is in the topic exactly once."""
    settings = await make_topic()
    async with Publisher(settings) as publisher:
        receipts = await asyncio.gather(
            *(publisher.revoke(selector=Token(iss="", jti=f"jti-{number}")) for number in range(1000))
        )
    written = [
        event.id
        for found in await everything_in(settings)
        if isinstance(event := record.decode(found.value), Revocation)
    ]
    assert sorted(written) == sorted(receipt.revocation.id for receipt in receipts)


async def test_the_same_process_hears_of_it_on_acknowledgement(make_topic: MakeTopic) -> None:
    """on_accepted gets the event, so that a deny list beside the publisher need not wait for the topic."""
    heard: list[Revocation] = []
    settings = await make_topic()
    async with Publisher(settings, on_accepted=heard.append) as publisher:
        receipt = await publisher.revoke(selector=Session(iss="", sid="s1"))
    assert heard == [receipt.revocation]


async def test_without_a_broker_nothing_is_accepted_and_the_address_is_named() -> None:
    """connect raises BrokerUnreachable, revoke NotAccepted; both name the bootstrap setting."""
    publisher = Publisher(settings_for(NOBODY, "t"))
    with pytest.raises(BrokerUnreachable, match="kafka_bootstrap_servers"):
        await publisher.connect()
    with pytest.raises(NotAccepted, match=NOBODY):
        await publisher.revoke(selector=Session(iss="", sid="s1"))
    await publisher.close()


async def test_bad_input_is_refused_before_any_connection() -> None:
    """A revocation that could not be written raises InvalidRevocation although there is no broker to ask."""
    publisher = Publisher(settings_for(NOBODY, "t"))
    with pytest.raises(InvalidRevocation, match="jti"):
        await publisher.revoke(selector=Token(iss="", jti="j" * 2000))
    with pytest.raises(InvalidRevocation, match="60 s"):
        await publisher.revoke(selector=Claim(iss="", claim="tenant", value="a"), cutoff=int(time.time()) + 3600)


async def test_a_missing_topic_is_named_and_not_made(start_apache: StartApache) -> None:
    """Even where brokers create topics on demand, a publisher for a missing topic raises TopicMissing and creates
    nothing.
    """
    kafka = start_apache(properties={"auto.create.topics.enable": "true"})
    with pytest.raises(TopicMissing, match="nowhere"):
        await Publisher(settings_for(kafka.bootstrap, "nowhere")).connect()
    assert "nowhere" not in await _topics(kafka.bootstrap)


async def test_a_broker_that_stops_answering_leaves_the_outcome_unknown(start_apache: StartApache) -> None:
    """The call ends within its bound with OutcomeUnknown, and such an event is found in the log once the broker goes
    on.
    """
    kafka = start_apache()
    settings = settings_for(kafka.bootstrap, "t", publish_timeout_s=1.0)
    await topic.create(settings)
    async with Publisher(settings) as publisher:
        await publisher.revoke(selector=Session(iss="", sid="before"))
        kafka.pause(1)
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown) as caught:
            await publisher.revoke(selector=Session(iss="", sid="during"))
        assert time.monotonic() - began < 3 * settings.publish_timeout_s
        kafka.resume(1)
    unknown = caught.value.revocation
    assert unknown in [record.decode(found.value) for found in await everything_in(settings)]


async def test_a_record_the_topic_cannot_take_is_certainly_not_in_it(make_apache_topic: MakeTopic) -> None:
    """A topic with too small a max.message.bytes: NotAccepted, and the topic stays empty."""
    settings = await make_apache_topic()
    await _alter(settings, "max.message.bytes", "200")
    async with Publisher(settings) as publisher:
        with pytest.raises(NotAccepted, match=r"max\.message\.bytes"):
            await publisher.revoke(selector=Session(iss="", sid="s" * 500))
    assert await everything_in(settings) == []


async def test_publishing_goes_on_after_the_broker_was_killed(start_apache: StartApache) -> None:
    """A publisher survives kill -9 of its broker: once the broker is back, revocations are acknowledged again."""
    kafka = start_apache()
    settings = settings_for(kafka.bootstrap, "t", publish_timeout_s=10.0)
    await topic.create(settings)
    async with Publisher(settings) as publisher:
        await publisher.revoke(selector=Session(iss="", sid="before"))
        kafka.kill(1)
        await kafka.start_async(1)
        receipt = await publisher.revoke(selector=Session(iss="", sid="after"))
    assert receipt.offset == 1


async def test_everywhere_covers_the_token_presented_though_its_issuer_runs_ahead(make_topic: MakeTopic) -> None:
    """Logging out everywhere with a token whose iat lies 20 s in our future sets the cut-off to that iat."""
    settings = await make_topic()
    now = int(time.time())
    claims = {"sub": "alice", "jti": "j1", "iat": now + 20, "exp": now + 600}
    token = Verifier.from_settings(settings, keys_from_settings(settings)).verify(
        sign(claims, key=SECRET, algorithm="HS256")
    )
    async with Publisher(settings, wall=lambda: float(now)) as publisher:
        receipt = await publisher.logout(token, scope="everywhere")
    assert receipt.revocation.cutoff == now + 20


async def test_the_blocking_twin_publishes_from_threads_without_a_loop(make_topic: MakeTopic) -> None:
    """BlockingPublisher works from several threads at once and returns the same receipts."""
    settings = await make_topic()

    def publish() -> set[str]:
        with BlockingPublisher(settings) as publisher:
            return {publisher.revoke(selector=Session(iss="", sid=f"s{number}")).revocation.id for number in range(3)}

    written = set().union(*await asyncio.gather(asyncio.to_thread(publish), asyncio.to_thread(publish)))
    assert {json.loads(found.value or b"")["id"] for found in await everything_in(settings)} == written


async def test_the_blocking_twin_refuses_to_wait_for_ever_in_a_forked_child(
    make_topic: MakeTopic, tmp_path: Path
) -> None:
    """In a child forked after start, revoke raises NotAccepted saying so, instead of waiting for a thread that is not
    there.
    """
    settings = await make_topic()
    answer = tmp_path / "answer"

    def parent() -> int:
        with BlockingPublisher(settings) as publisher:
            child = os.fork()
            if child == 0:
                try:
                    publisher.revoke(selector=Session(iss="", sid="s1"))
                except NotAccepted as error:
                    answer.write_text(str(error))
                finally:
                    os._exit(0)
            return os.waitpid(child, 0)[1]

    assert await asyncio.to_thread(parent) == 0
    assert "did not survive the fork" in answer.read_text()


def test_the_blocking_twin_says_what_it_cannot_reach() -> None:
    """start raises BrokerUnreachable and leaves no thread behind; using it unstarted raises NotAccepted."""
    publisher = BlockingPublisher(settings_for(NOBODY, "t"))
    with pytest.raises(BrokerUnreachable):
        publisher.start()
    with pytest.raises(NotAccepted, match="not started"):
        publisher.revoke(selector=Session(iss="", sid="s1"))


async def _topics(bootstrap: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def _alter(settings: Settings, name: str, value: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        # Sets the others back to their defaults as well: AlterConfigs replaces the whole set.
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.topic, configs={name: value})])
    finally:
        await admin.close()


@pytest.mark.parametrize("which", ["_sender.sender_task", "client._sync_task"])
async def test_a_producer_that_died_inside_is_replaced(make_topic: MakeTopic, which: str) -> None:
    """aiokafka's own tasks can die without a word, and every send would wait in vain: the next gets a new producer."""
    settings = await make_topic()
    async with Publisher(settings) as publisher:
        await publisher.revoke(selector=Session(iss="", sid="s1"))
        task = operator.attrgetter(which)(publisher.sender._producer)
        task.cancel()
        await asyncio.wait({task})
        assert (await publisher.revoke(selector=Session(iss="", sid="s2"))).state == "acknowledged"

"""The outbox on real Kafka: accepted while it is away, delivered once it is there, under the same event id."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from revoker import record, topic
from revoker.blocking import BlockingPublisher
from revoker.events import Revocation, Session, Token
from revoker.outbox.file import read
from revoker.publisher import Publisher
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, SECRET, MakeTopic, eventually, everything_in, settings_for
from tests.brokers.apache import ApacheKafka
from tests.conftest import StartApache
from tests.service_door import ADMIN_TOKENS, NOBODY, ROOT_SECRET, open_door


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def waiting(path: Path) -> int:
    return read(path, limit=0)[0].waiting


async def ids_in(settings: Settings) -> list[str]:
    """The event ids in the topic, in its order."""
    found = [record.decode(one.value) for one in await everything_in(settings)]
    return [one.id for one in found if isinstance(one, Revocation)]


async def altered(settings: Settings, **configs: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.topic, configs=configs)])
    finally:
        await admin.close()


async def test_with_kafka_there_a_receipt_is_as_without_an_outbox(make_topic: MakeTopic, path: Path) -> None:
    """Acknowledged, with the place where the very record stands; nothing is left on disk."""
    settings = await make_topic(topic_partitions=3, outbox_file=str(path))
    async with Publisher(settings) as publisher:
        receipt = await publisher.revoke(selector=Session(iss="", sid="s1"), reason="left", actor="hr")
        await eventually(lambda: waiting(path) == 0, "the outbox is empty")
    (found,) = await everything_in(settings)
    assert receipt.state == "acknowledged"
    assert (found.partition, found.offset) == (receipt.partition, receipt.offset)
    assert record.decode(found.value) == receipt.revocation
    key, value, headers = record.encode(receipt.revocation)
    assert (found.key, found.value, list(found.headers)) == (key, value, headers)
    assert abs((receipt.timestamp_ms or 0) / 1000 - time.time()) < 60


async def test_a_thousand_callers_are_all_acknowledged_and_in_order(make_apache_topic: MakeTopic, path: Path) -> None:
    """Each call has its receipt, each event is there once, in the order in which they were accepted."""
    accepted: list[str] = []
    settings = await make_apache_topic(outbox_file=str(path))
    async with Publisher(settings, on_accepted=lambda event: accepted.append(event.id)) as publisher:
        receipts = await asyncio.gather(
            *(publisher.revoke(selector=Token(iss="", jti=f"jti-{number}")) for number in range(1000))
        )
    assert {receipt.state for receipt in receipts} == {"acknowledged"}
    assert await ids_in(settings) == accepted
    assert [receipt.offset for receipt in receipts] == [accepted.index(one.revocation.id) for one in receipts]


async def test_the_blocking_twin_stores_as_well(make_apache_topic: MakeTopic, path: Path) -> None:
    """Without Kafka its start does not raise and its receipt is stored; the next one on the file delivers."""
    settings = await make_apache_topic(outbox_file=str(path), publish_timeout_s=1.0)

    def store() -> tuple[str, str]:
        with BlockingPublisher(dataclasses.replace(settings, kafka_bootstrap_servers=NOBODY)) as publisher:
            receipt = publisher.revoke(selector=Session(iss="", sid="s1"))
            return receipt.state, receipt.revocation.id

    state, event_id = await asyncio.to_thread(store)
    assert state == "stored"
    async with Publisher(settings):
        await eventually(lambda: waiting(path) == 0, "the outbox is empty")
    assert await ids_in(settings) == [event_id]


async def test_a_broker_that_hangs_is_202_and_delivered_under_the_same_id(
    start_apache: StartApache, path: Path
) -> None:
    """SIGSTOP for longer than publish_timeout_s: 202; after SIGCONT each event is in the topic under the id that was
    answered, as often as it was sent, and in the order of acceptance.
    """
    kafka = start_apache()
    settings = settings_for(
        kafka.bootstrap, "t", publish_timeout_s=1.0, admin_tokens=ADMIN_TOKENS, outbox_file=str(path)
    )
    await topic.create(settings)
    async with open_door(settings) as door:
        before = await door.revoke({"kind": "session", "iss": "", "sid": "before"})
        kafka.pause(1)
        answers = [await door.revoke({"kind": "session", "iss": "", "sid": f"s{number}"}) for number in range(5)]
        await door.until("/readyz?verbose", status=200, holding=b"5 of at most 1000000 wait")
        kafka.resume(1)
        await eventually(lambda: waiting(path) == 0, "the outbox is empty")
        after = await door.revoke({"kind": "session", "iss": "", "sid": "after"})
    assert (before.status, [one.status for one in answers], after.status) == (200, [202] * 5, 200)
    wanted = [json.loads(one.body)["event_id"] for one in (before, *answers, after)]
    found = await ids_in(settings)
    assert set(found) == set(wanted)
    last = {event_id: place for place, event_id in enumerate(found)}
    assert sorted(last, key=last.__getitem__) == wanted


async def test_what_the_topic_cannot_take_is_set_aside_until_it_can(make_apache_topic: MakeTopic, path: Path) -> None:
    """Too small a max.message.bytes: the long record is stored, shown with its reason and blocks nobody; the topic
    mended, the next start delivers it.
    """
    settings = await make_apache_topic(outbox_file=str(path), publish_timeout_s=2.0)
    await altered(settings, **{"max.message.bytes": "1200"})
    async with Publisher(settings) as publisher:
        long, *short = await asyncio.gather(
            publisher.revoke(selector=Session(iss="", sid="s" * 1000)),
            *(publisher.revoke(selector=Session(iss="", sid=f"s{number}")) for number in range(5)),
        )
    assert (long.state, {one.state for one in short}) == ("stored", {"acknowledged"})
    counts, (left,) = read(path, limit=9)
    assert (counts.waiting, counts.set_aside, left.event_id) == (1, 1, long.revocation.id)
    assert "max.message.bytes" in (left.problem or "")
    await altered(settings, **{"max.message.bytes": "1048588"})
    async with Publisher(settings):
        await eventually(lambda: waiting(path) == 0, "the outbox is empty")
    assert (await ids_in(settings))[-1] == long.revocation.id


async def test_a_topic_made_later_gets_what_was_accepted_before(make_apache_topic: MakeTopic, path: Path) -> None:
    """Without its topic everything is stored; the relay creates nothing, and delivers once somebody made it."""
    present = await make_apache_topic()
    settings = settings_for(
        present.kafka_bootstrap_servers, f"{present.topic}-late", outbox_file=str(path), publish_timeout_s=1.0
    )
    async with Publisher(settings) as publisher:
        receipt = await publisher.revoke(selector=Session(iss="", sid="s1"))
        assert receipt.state == "stored"
        assert "does not exist" in (read(path, limit=1)[1][0].problem or "")
        await topic.create(settings)
        await eventually(lambda: waiting(path) == 0, "the outbox is empty")
    assert await ids_in(settings) == [receipt.revocation.id]


class Service:
    """``revoker serve`` as a process of its own, to be killed."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings = settings
        self._log = log
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> None:
        """Returns once it listens."""
        settings = self._settings
        values = {
            "kafka_bootstrap_servers": settings.kafka_bootstrap_servers,
            "topic": settings.topic,
            "topic_replication_factor": 1,
            "topic_min_insync_replicas": 1,
            "algorithms": "HS256",
            "key_secret": SECRET,
            "admin_tokens": ADMIN_TOKENS,
            "publish_timeout_s": settings.publish_timeout_s,
            "outbox_file": settings.outbox_file,
        }
        environment = {f"REVOKER_{name.upper()}": str(value) for name, value in values.items()}
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "revoker", "serve", "--listen", "127.0.0.1:0", "--json"),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={"PATH": os.environ["PATH"], **environment},
            )
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)
        self.url = json.loads(line)["url"]

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def service_of(settings: Settings, log: Path) -> AsyncIterator[Service]:
    service = Service(settings, log)
    await service.start()
    try:
        yield service
    finally:
        await service.kill()


async def flood(service: Service, name: str, accepted: dict[str, int]) -> None:
    """Revoke sessions, one after the other, until the service is gone; note each event id and its status."""
    headers = {"Authorization": f"Bearer {ROOT_SECRET}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for number in range(100_000):
            body = {"kind": "session", "iss": "", "sid": f"{name}-{number}"}
            try:
                async with session.post(f"{service.url}/revocations", json=body) as response:
                    answer = await response.json(content_type=None)
            except (aiohttp.ClientError, OSError):
                return
            assert response.status in (200, 202), answer
            accepted[answer["event_id"]] = response.status


#: How Kafka goes away, and comes back.
OUTAGES: list[tuple[Callable[[ApacheKafka], None], Callable[[ApacheKafka], None]]] = [
    (lambda kafka: kafka.pause(1), lambda kafka: kafka.resume(1)),
    (lambda kafka: kafka.kill(1), lambda kafka: kafka.start(1)),
]


@pytest.mark.slow
async def test_a_service_killed_in_an_outage_loses_nothing_it_accepted(
    start_apache: StartApache, path: Path, tmp_path: Path
) -> None:
    """Kafka hangs, and then is killed, under load; each time the service is killed with -9 before and during the
    outage: every event that was answered 200 or 202 is in the topic.
    """
    kafka = start_apache()
    settings = settings_for(kafka.bootstrap, "t", publish_timeout_s=0.5, outbox_file=str(path))
    await topic.create(settings)
    accepted: dict[str, int] = {}
    async with service_of(settings, tmp_path / "log") as service:
        for away, back in OUTAGES:
            await accepted_until_killed(service, accepted, at=50, then=lambda away=away: away(kafka))  # type: ignore[misc]
            await accepted_until_killed(service, accepted, at=0, then=lambda: None)
            await asyncio.to_thread(back, kafka)
            await eventually(lambda: waiting(path) == 0, "the outbox is empty")
    assert Counter(accepted.values())[202] >= 300
    assert set(accepted) <= set(await ids_in(settings))


async def accepted_until_killed(
    service: Service, accepted: dict[str, int], *, at: int, then: Callable[[], None]
) -> None:
    """Load; ``then`` once ``at`` events were accepted; 100 more; kill the service and start it again."""
    load = [asyncio.create_task(flood(service, f"{len(accepted)}-{one}", accepted)) for one in range(8)]
    for more, step in ((at, then), (100, lambda: None)):
        goal = len(accepted) + more
        await eventually(lambda goal=goal: len(accepted) >= goal, "the service accepts")  # type: ignore[misc]
        step()
    await service.kill()
    await asyncio.gather(*load)
    await service.start()

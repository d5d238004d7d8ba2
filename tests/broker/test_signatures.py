"""Signed revocations on a real broker: an attacker with a plain producer, rotation under traffic, changed trust."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from consumers.freshness import State
from consumers.node import Node
from consumers.provenance import Provenance
from revoker.events import Claim, Everything, Session, Withdrawal
from revoker.health import readyz
from revoker.publisher import Publisher
from revoker.record import encode
from revoker.settings import Settings
from revoker.signature import HEADER, Signer
from tests import samples
from tests.broker.conftest import PATIENCE_S, SECRET, MakeTopic, eventually, everything_in, knows
from tests.command_line import revoker, running
from tests.publishers import event, signer, trust_toml, write_key
from tests.service_door import ADMIN_TOKENS, open_door

RunNode = Callable[[Settings], Node]
Send = Callable[..., Any]


class Fleet:
    """A topic, a trust file, and who may do what: ``service`` logs out, ``operator`` may everything."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.file = folder / "publishers.toml"
        self.settings = settings

    def signer(self, name: str, key: str) -> Signer:
        return signer(name, key=key, topic=self.settings.topic)

    def trust(self, *signers: Signer, retired: Signer | None = None) -> None:
        """``retired``: one of them whose key does not count for what is written from now on."""
        dates = (
            {}
            if retired is None
            else {retired.key.kid: f"not_after = {(datetime.now(UTC) + timedelta(milliseconds=1)).isoformat()}"}
        )
        new = self.file.with_suffix(".new")
        named = any(one.publisher_id == "operator" for one in signers)
        scopes = {"operator": 'kinds = ["*"]'} if named else {}
        new.write_text(trust_toml(*signers, scopes=scopes, dates=dates))
        new.replace(self.file)

    def node_settings(self) -> Settings:
        return self._with(trusted_publishers_file=str(self.file))

    def publisher_settings(self, name: str, key: str) -> Settings:
        return self._with(publisher_id=name, signing_key_file=str(write_key(self.folder, key)))

    def _with(self, **changes: Any) -> Settings:
        return replace(self.settings, **changes)


@asynccontextmanager
async def plain_producer(settings: Settings) -> AsyncIterator[Send]:
    """What anybody with the right to write can do."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all")
    await producer.start()

    async def send(value: bytes | None, *, headers: Sequence[tuple[str, bytes]] = (), topic: str | None = None) -> None:
        await producer.send_and_wait(topic or settings.topic, value, key=b"k", headers=list(headers))

    try:
        yield send
    finally:
        await producer.stop()


def provenance_of(node: Node) -> Provenance:
    assert node.intake.provenance is not None
    return node.intake.provenance


async def test_an_attacker_who_can_write_changes_nothing(
    make_topic: MakeTopic, run_node: RunNode, tmp_path: Path
) -> None:
    """Unsigned, forged, moved, sent again, out of scope, garbage: nothing is applied, all is shown; still live."""
    fleet = Fleet(tmp_path, await make_topic(topic_partitions=2))
    service, operator = fleet.signer("service", "k1"), fleet.signer("operator", "k2")
    fleet.trust(service, operator)
    node = run_node(fleet.node_settings())
    await node.wait_ready(timeout_s=PATIENCE_S)
    async with Publisher(fleet.publisher_settings("service", "k1")) as publisher:
        await publisher.revoke(selector=Session(iss="", sid="real"))
    async with Publisher(fleet.publisher_settings("operator", "k2")) as publisher:
        rule = await publisher.revoke(selector=Claim(iss="", claim="tenant", value="acme"))
    await eventually(lambda: knows(node, "real"), "the signed revocation arrives")
    (real, _) = await _sorted_by_kind(fleet.settings)

    _, panic, headers = encode(event(Everything()))
    _, withdrawal, _ = encode(event(Withdrawal(event_id=rule.revocation.id)))
    elsewhere = signer("operator", key="k2", topic="another-topic")
    async with plain_producer(fleet.settings) as send:
        await send(panic, headers=headers)
        await send(panic, headers=real.headers)
        await send(panic, headers=[(HEADER, fleet.signer("operator", "k9").sign(panic))])
        await send(panic, headers=[(HEADER, fleet.signer("stranger", "k9").sign(panic))])
        await send(panic, headers=elsewhere.headers(panic))
        await send(panic, headers=service.headers(panic))
        await send(withdrawal, headers=service.headers(withdrawal))
        await send(b"garbage", headers=[(HEADER, b"garbage")])
        await send(None)
        await send(real.value, headers=real.headers)

    provenance = provenance_of(node)
    await eventually(lambda: sum(provenance.refused_total.values()) == 9, "each is refused")
    assert provenance.refused_total == {
        "unsigned": 2,
        "bad_signature": 1,
        "unknown_key": 1,
        "unknown_publisher": 1,
        "wrong_topic": 1,
        "out_of_scope": 2,
        "malformed": 1,
    }
    await eventually(lambda: node.intake.applied["session"] == 2, "the replayed record arrives")
    assert dict(node.denylist.counts()) | {"session": 1, "claim": 1} == dict(node.denylist.counts())
    assert sum(node.denylist.counts().values()) == 2
    assert node.denylist.cutoff(("claim", "", "tenant", "acme")) is not None
    assert node.freshness.state is State.LIVE
    assert node.follower.sessions_total == 1
    assert "records refused: 2 unsigned" in readyz(node.checks(), verbose=True)[1]

    environment = _environment(fleet.node_settings())
    shown = await asyncio.to_thread(revoker, "replay", "--json", environ=environment)
    assert shown.json["refused"]["by_reason"] == dict(provenance.refused_total)
    (listed,) = shown.json["wide_rules"]
    assert (listed["event_id"], listed["signed_by"]) == (rule.revocation.id, "operator")
    async with running("tail", "--from-beginning", "--limit", "12", "--json", environ=environment) as tail:
        lines = [await tail.line() for _ in range(12)]
    assert sorted(line["signed_by"] for line in lines if line["signed_by"]) == ["operator", "service", "service"]
    assert [line["refused"] for line in lines].count("unsigned") == 2


async def _sorted_by_kind(settings: Settings) -> list[Any]:
    """All records: those that revoke sessions first."""
    return sorted(await everything_in(settings), key=lambda record: b'"session"' not in (record.value or b""))


def _environment(settings: Settings) -> dict[str, str]:
    return {
        "REVOKER_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "REVOKER_TOPIC": settings.topic,
        "REVOKER_TRUSTED_PUBLISHERS_FILE": str(settings.trusted_publishers_file),
        "REVOKER_STALENESS_BOUND_S": "3",
        "REVOKER_TOPIC_PARTITIONS": str(settings.topic_partitions),
        "REVOKER_TOPIC_REPLICATION_FACTOR": "1",
        "REVOKER_TOPIC_MIN_INSYNC_REPLICAS": "1",
    }


async def test_keys_are_rotated_without_a_gap(make_apache_topic: MakeTopic, run_node: RunNode, tmp_path: Path) -> None:
    """New key trusted, new key used, old key retired, all while revocations flow: none is missed, the node is live
    throughout and never replays, a node that starts afterwards knows all of them, and the old key signs no more.
    """
    fleet = Fleet(tmp_path, await make_apache_topic())
    old, new = fleet.signer("service", "k1"), fleet.signer("service", "k2")
    fleet.trust(old)
    node = run_node(fleet.node_settings())
    await node.wait_ready(timeout_s=PATIENCE_S)
    published: list[str] = []
    states: set[State] = set()
    stop = asyncio.Event()

    async def publish(key: str, until: asyncio.Event) -> None:
        async with Publisher(fleet.publisher_settings("service", key)) as publisher:
            while not until.is_set():
                name = f"s{len(published)}"
                published.append(name)
                await publisher.revoke(selector=Session(iss="", sid=name))
                states.add(node.freshness.state)

    async def trust(*signers: Signer, retired: Signer | None = None) -> None:
        before = provenance_of(node).file.trust
        fleet.trust(*signers, retired=retired)
        await eventually(lambda: provenance_of(node).file.trust != before, "the node reads the file again")

    async with asyncio.TaskGroup() as group:
        switch = asyncio.Event()
        first = group.create_task(publish("k1", switch))
        await trust(old, new)
        # Two instances of the service, one of them not yet restarted.
        group.create_task(publish("k2", stop))
        await eventually(lambda: len(published) > 20, "both publish")
        switch.set()
        await first
        await eventually(lambda: all(knows(node, name) for name in published[:-1]), "the old key's last arrive")
        await trust(old, new, retired=old)
        before = len(published)
        await eventually(lambda: len(published) > before + 20, "the new key goes on alone")
        stop.set()
    await eventually(lambda: all(knows(node, name) for name in published), "every revocation arrives")
    assert states == {State.LIVE}
    assert node.follower.sessions_total == 1
    assert provenance_of(node).refused_total == {}
    later = run_node(fleet.node_settings())
    await later.wait_ready(timeout_s=PATIENCE_S)
    assert all(knows(later, name) for name in published)
    _, value, headers = encode(event(Session(iss="", sid="stolen")))
    async with plain_producer(fleet.settings) as send:
        await send(value, headers=[*headers, *old.headers(value)])
    await eventually(lambda: provenance_of(node).refused_total["key_not_valid"] == 1, "the old key counts no more")
    assert not knows(node, "stolen")


async def test_trust_that_comes_too_late_is_made_good(
    make_apache_topic: MakeTopic, run_node: RunNode, tmp_path: Path
) -> None:
    """A publisher that signed before it was trusted: what was refused is read again once the file names it."""
    fleet = Fleet(tmp_path, await make_apache_topic())
    service = fleet.signer("service", "k1")
    fleet.trust(fleet.signer("other", "k2"))
    node = run_node(fleet.node_settings())
    await node.wait_ready(timeout_s=PATIENCE_S)
    async with Publisher(fleet.publisher_settings("service", "k1")) as publisher:
        await publisher.revoke(selector=Session(iss="", sid="early"))
    await eventually(lambda: provenance_of(node).refused_total["unknown_publisher"] == 1, "it is refused")
    assert not knows(node, "early")
    fleet.trust(fleet.signer("other", "k2"), service)
    await eventually(lambda: knows(node, "early"), "the topic is read again")
    await node.wait_ready(timeout_s=PATIENCE_S)
    assert node.follower.sessions_total == 2
    assert provenance_of(node).refused == ()


async def test_the_service_signs_logouts_and_heartbeats(
    make_apache_topic: MakeTopic, run_node: RunNode, tmp_path: Path
) -> None:
    """Through the HTTP door and the outbox: the stored signature is the one sent, heartbeats keep nodes live, and what
    lies outside the service's scope is answered 422 instead of being acknowledged and ignored.
    """
    fleet = Fleet(tmp_path, await make_apache_topic(heartbeat_interval_s=0.5))
    fleet.trust(fleet.signer("service", "k1"))
    settings = replace(
        fleet.publisher_settings("service", "k1"),
        trusted_publishers_file=str(fleet.file),
        outbox_file=str(tmp_path / "outbox.sqlite"),
        admin_tokens=ADMIN_TOKENS,
    )
    token = samples.token(secret=SECRET, jti="j1", iss="https://id.example")
    async with open_door(settings) as door:
        node = run_node(fleet.node_settings())
        await node.wait_ready(timeout_s=PATIENCE_S)
        answer = await door.logout(token)
        assert answer.status == 204
        await eventually(lambda: node.denylist.listed(("token", "https://id.example", "j1")), "the logout arrives")
        refused = await door.confirmed({"kind": "client", "iss": "https://id.example", "client_id": "c"})
        assert (refused.status, "kind client" in refused.problem["detail"]) == (422, True)
        await eventually(lambda: node.intake.heartbeats_total >= 1, "a signed heartbeat arrives")
        assert node.freshness.state is State.LIVE
    assert provenance_of(node).refused_total == {}

"""Wide rules through the admin API on real Kafka: from the preview to the refusal, and back; and who is named where."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from consumers.aiohttp import add_health_routes, setup
from consumers.node import Node
from revoker import record
from revoker.events import Revocation
from revoker.settings import Settings
from tests import samples
from tests.broker.conftest import PATIENCE_S, SECRET, MakeTopic, eventually, everything_in
from tests.command_line import revoker
from tests.service_door import ADMIN_TOKENS, ROOT_SECRET, open_door

MARK = "marked-0451"


def answered(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)
    return found


def audited(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def environ(settings: Settings) -> dict[str, str]:
    return {
        "REVOKER_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "REVOKER_TOPIC": settings.topic,
        "REVOKER_TOPIC_REPLICATION_FACTOR": "1",
        "REVOKER_TOPIC_MIN_INSYNC_REPLICAS": "1",
    }


@pytest.mark.parametrize("through", ["the API", "the command line"])
async def test_a_wide_rule_is_previewed_confirmed_enforced_and_withdrawn(
    make_apache_topic: MakeTopic, run_node: Callable[[Settings], Node], tmp_path: Path, through: str
) -> None:
    """Preview publishes nothing; confirmed, twice even, the node refuses; withdrawn by its event id, no more."""
    path = tmp_path / "audit.jsonl"
    settings = await make_apache_topic(admin_tokens=ADMIN_TOKENS, admin_audit_file=str(path))
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)

    began = int(time.time())

    def refuses(tenant: str) -> bool:
        claims = {"iss": "", "sub": "alice", "jti": "j", "tenant": tenant, "iat": began - 60, "exp": began + 600}
        return node.guard.check(claims).kind == "claim"

    body = {"kind": "claim", "iss": "", "claim": "tenant", "value": "acme"}
    async with open_door(settings) as door:
        preview = await door.revoke(body)
        assert preview.status == 428
        assert await everything_in(settings) == []
        confirmation = preview.problem["confirmation"]
        receipts = [answered((await door.revoke(body, confirmation=confirmation)).body) for _ in range(2)]
        event_id = preview.problem["preview"]["event_id"]
        assert {receipt["event_id"] for receipt in receipts} == {event_id}
        assert {receipt["cutoff"] for receipt in receipts} == {preview.problem["preview"]["issued_until"]}
        await eventually(lambda: refuses("acme"), "the node refuses the tenant")
        assert not refuses("other")
        if through == "the API":
            assert (await door.revoke({"kind": "withdrawal", "event_id": event_id})).status == 200
        else:
            ran = await asyncio.to_thread(revoker, "revoke", "withdrawal", event_id, environ=environ(settings))
            assert ran.code == 0, ran.err
        await eventually(lambda: not refuses("acme"), "the node lets the tenant pass again")
        # Somebody repeats the old request: the rule stays withdrawn.
        assert (await door.revoke(body, confirmation=confirmation)).status == 200
        assert (await door.revoke({"kind": "session", "iss": "", "sid": "last"})).status == 200
        await eventually(lambda: node.denylist.listed(("session", "", "last")), "the node has read what came after")
        assert not refuses("acme")
    events = [record.decode(found.value) for found in await everything_in(settings)]
    assert len({event.id for event in events if isinstance(event, Revocation)}) == 3
    published = [one for one in audited(path) if one["outcome"] == "acknowledged" and one["kind"] == "claim"]
    assert [one["event_id"] for one in published] == [event_id] * 3
    assert all(one["confirmed"] for one in published)


async def test_no_identifier_is_in_any_metric(make_apache_topic: MakeTopic) -> None:
    """Whatever is revoked, asked and refused, neither the service's metrics nor a node's name it, in either format."""
    settings = await make_apache_topic(admin_tokens=ADMIN_TOKENS.replace("root:", f"{MARK}:"))
    node = Node(settings)
    bodies: list[dict[str, Any]] = [
        {"kind": "token", "jti": MARK},
        {"kind": "session", "sid": MARK},
        {"kind": "subject", "sub": MARK, "reason": MARK},
        {"kind": "client", "client_id": MARK},
        {"kind": "claim", "claim": MARK, "value": MARK},
        {"kind": "key", "kid": MARK},
    ]
    app = web.Application()
    setup(app, node)
    add_health_routes(app, node)

    async def whoami(_request: web.Request) -> web.Response:
        return web.Response()

    app.router.add_get("/whoami", whoami)
    exposed = b""
    async with open_door(settings) as door, TestClient(TestServer(app)) as client:
        await node.wait_ready(timeout_s=PATIENCE_S)
        for fields in bodies:
            body = {"iss": MARK, **fields}
            answer = await door.revoke(body)
            if answer.status == 428:
                answer = await door.revoke(body, confirmation=answer.problem["confirmation"])
            assert answer.status == 200
        await eventually(lambda: sum(node.denylist.counts().values()) == len(bodies), "the node has them all")
        for claims in ({"sub": MARK}, {"sub": "other", "sid": MARK}, {"sub": "other"}):
            token = samples.token(secret=SECRET, iss=MARK, **claims)
            await client.get(f"/whoami?{MARK}", headers={"Authorization": f"Bearer {token}", "X-Any": MARK})
            await door.logout(token)
        await door.ask("GET", f"/{MARK}", headers={"Authorization": f"Bearer {ROOT_SECRET}"})
        for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            headers = {"Accept": accept}
            exposed += (await door.ask("GET", "/metrics", headers=headers)).body
            exposed += await (await client.get("/metrics", headers=headers)).read()
    assert b'revoker_publications_total{outcome="acknowledged"}' in exposed
    assert b"revoker_checks_total" in exposed
    assert MARK.encode() not in exposed

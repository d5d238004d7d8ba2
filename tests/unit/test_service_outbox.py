"""The service with an outbox and without Kafka: what it accepts, what it answers, and what it says of itself."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from revoker.events import Revocation, Session, Token
from revoker.outbox.file import read
from revoker.publisher import Publisher
from revoker.record import decode
from tests import samples
from tests.service_door import open_door, without_kafka

CLEARED = "USER_SESSION=; Max-Age=0;"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def stored(path: Path) -> list[Revocation]:
    found = [decode(one.value) for one in read(path, limit=100)[1]]
    return [one for one in found if isinstance(one, Revocation)]


async def test_a_logout_without_kafka_is_202_and_on_disk(path: Path) -> None:
    """The body says stored and under which id, the cookie is cleared, and this process knows of it at once."""
    heard: list[Revocation] = []
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    publisher = Publisher(settings, on_accepted=heard.append)
    async with open_door(settings, publisher=publisher) as door:
        answer = await door.logout(cookie=samples.token(jti="j1"), headers={"Origin": door.origin})
    body = json.loads(answer.body)
    assert (answer.status, body["state"], answer.headers["Content-Type"]) == (202, "stored", "application/json")
    assert answer.headers["Set-Cookie"].startswith(CLEARED)
    (event,) = stored(path)
    assert (event.id, event.selector) == (body["event_id"], Token(iss="", jti="j1"))
    assert heard == [event]


async def test_an_admins_revocation_without_kafka_is_202_with_a_receipt(path: Path) -> None:
    """Its state is stored, and it has no partition and no offset."""
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    async with open_door(settings) as door:
        answer = await door.revoke({"kind": "session", "iss": "", "sid": "s1"})
    receipt = json.loads(answer.body)
    assert (answer.status, receipt["state"]) == (202, "stored")
    assert not {"partition", "offset"} & receipt.keys()
    (event,) = stored(path)
    assert (event.id, event.selector) == (receipt["event_id"], Session(iss="", sid="s1"))


async def test_in_an_outage_that_is_known_nobody_waits(path: Path) -> None:
    """Once Kafka has been away for publish_timeout_s, an answer takes as long as the disk does."""
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=1.0)
    async with open_door(settings) as door:
        first = json.loads((await door.revoke({"kind": "session", "iss": "", "sid": "s1"})).body)
        second = json.loads((await door.revoke({"kind": "session", "iss": "", "sid": "s2"})).body)
    assert first["took_ms"] >= 900
    assert second["took_ms"] < 900


async def test_a_repeated_logout_is_not_said_to_be_in_force_everywhere(path: Path) -> None:
    """The node beside the service refuses the token already, but its revocation only waits: 202 again, not 204."""
    known: list[Revocation] = []
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    publisher = Publisher(settings, on_accepted=known.append)
    token = samples.token()
    async with open_door(settings, publisher=publisher, is_revoked=lambda _: bool(known)) as door:
        statuses = [(await door.logout(token)).status for _ in range(2)]
    assert statuses == [202, 202]
    assert len(stored(path)) == 1


async def test_a_restarted_service_refuses_what_waits(path: Path) -> None:
    """The node beside the next process hears at the start of every event that the last one accepted."""
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    async with open_door(settings) as door:
        await door.logout(samples.token(jti="j1"))
    heard: list[Revocation] = []
    async with open_door(settings, publisher=Publisher(settings, on_accepted=heard.append)) as door:
        await door.until("/readyz", status=200)
    assert [event.selector for event in heard] == [Token(iss="", jti="j1")]


async def test_kafkas_absence_is_told_and_does_not_make_it_unready(path: Path) -> None:
    """Ready, since it accepts; what waits, for how long and why, and that Kafka is away, stand in the verbose form."""
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    async with open_door(settings) as door:
        await door.logout(samples.token())
        answer = await door.until("/readyz?verbose", status=200, holding=b"no broker reached")
        metrics = (await door.ask("GET", "/metrics")).body.decode()
    text = answer.body.decode()
    assert "[+]broker ok: away, revocations are stored: no broker reached" in text
    assert "[+]outbox ok: 1 of at most 1000000 wait, the oldest for 0 s: not sent" in text
    for line in (
        'revoker_outbox_events{state="waiting"} 1.0',
        "revoker_outbox_writable 1.0",
        "revoker_service_broker_reachable 0.0",
        'revoker_publications_total{outcome="stored"} 1.0',
        "revoker_service_ready 1.0",
    ):
        assert line in metrics
    assert "revoker_outbox_oldest_age_seconds" in metrics
    assert 'revoker_outbox_deliveries_total{outcome="failed"}' in metrics


async def test_an_outbox_that_cannot_store_is_503_with_the_reason_and_no_path(tmp_path: Path) -> None:
    """Nothing is accepted, the client hears why in words fit for strangers, and /readyz names the file."""
    settings = without_kafka(outbox_file=str(tmp_path / "missing" / "outbox.db"))
    async with open_door(settings) as door:
        logout = await door.logout(cookie=samples.token(), headers={"Origin": door.origin})
        ready = await door.until("/readyz", status=503, holding=b"missing/outbox.db")
        metrics = (await door.ask("GET", "/metrics")).body.decode()
    assert (logout.status, logout.problem["outcome"], logout.headers["Retry-After"]) == (503, "not_accepted", "1")
    assert "its directory does not exist" in logout.problem["detail"]
    assert str(tmp_path) not in logout.body.decode()
    assert "Set-Cookie" not in logout.headers
    assert b"[-]outbox failed" in ready.body
    assert "revoker_outbox_writable 0.0" in metrics
    assert "revoker_service_ready 0.0" in metrics


async def test_a_file_locked_by_another_program_is_503_until_it_lets_go(path: Path) -> None:
    """Ready again, and accepting, without a restart."""
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    async with open_door(settings) as door:
        await door.until("/readyz", status=200)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refused = await door.logout(samples.token())
        await door.until("/readyz", status=503, holding=b"locked by another program")
        other.execute("ROLLBACK")
        other.close()
        await door.until("/readyz", status=200)
        accepted = await door.logout(samples.token())
    assert (refused.status, accepted.status) == (503, 202)
    assert len(stored(path)) == 1


async def test_a_second_service_on_the_outbox_is_not_ready(path: Path) -> None:
    """It says that the file is in use, refuses, and takes over when the first has ended."""
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    async with open_door(settings) as first:
        await first.until("/readyz", status=200)
        async with open_door(settings) as second:
            await second.until("/readyz", status=503, holding=b"in use by another process")
            assert (await second.logout(samples.token())).status == 503
    async with open_door(settings) as third:
        await third.until("/readyz", status=200)


async def test_the_relays_death_ends_the_process_life(path: Path) -> None:
    """A defect in it: /livez fails, and nothing is accepted that nobody would deliver."""
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    publisher = Publisher(settings)
    async with open_door(settings, publisher=publisher) as door:
        await door.until("/readyz", status=200)
        assert publisher.delivery is not None
        publisher.delivery._relay._round = None  # type: ignore[assignment, method-assign]
        await door.logout(samples.token())
        await door.until("/livez", status=503, holding=b"[-]relay failed: the task died (TypeError)")
        refused = await door.logout(samples.token())
    assert (refused.status, "its delivery stopped" in refused.problem["detail"]) == (503, True)

"""The logout service on real Kafka: what 204 and a receipt prove, and what is said when Kafka is in trouble."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from consumers.guard import Status
from consumers.node import Node
from revoker import record, topic
from revoker.events import KINDS, Claim, Everything, Revocation, Session, Subject, Token
from revoker.publisher import Publisher
from revoker.settings import Settings
from revoker.tokens import Verified, sign
from tests.broker.conftest import PATIENCE_S, SECRET, MakeTopic, everything_in, settings_for
from tests.conftest import StartApache
from tests.service_door import ADMIN_TOKENS, SUPPORT_SECRET, open_door

CLEARED = "USER_SESSION=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; Secure; HttpOnly; SameSite=Lax"


def a_token(**claims: object) -> str:
    now = int(time.time())
    own: dict[str, object] = {"iss": "https://id.example", "sub": "alice", "jti": "j1", "sid": "s1"}
    return sign({**own, "iat": now, "exp": now + 600, **claims}, key=SECRET, algorithm="HS256")


async def events_in(settings: Settings) -> list[Revocation]:
    """Everything in the topic, decoded."""
    found = [record.decode(found.value) for found in await everything_in(settings)]
    return [event for event in found if isinstance(event, Revocation)]


async def test_204_means_that_the_record_is_in_the_topic(make_topic: MakeTopic) -> None:
    """The token's own revocation is there, with actor and reason, and the cookie is cleared with its attributes."""
    settings = await make_topic()
    async with open_door(settings) as door:
        answer = await door.logout(cookie=a_token(), json={"reason": "bye"}, headers={"Origin": door.origin})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers.getall("Set-Cookie") == [CLEARED]
    (event,) = await events_in(settings)
    assert event.selector == Token(iss="https://id.example", jti="j1")
    assert (event.actor, event.reason) == ("self", "bye")


@pytest.mark.parametrize(
    ("scope", "selector", "cleared"),
    [
        ("token", Token(iss="https://id.example", jti="j1"), True),
        ("everywhere", Subject(iss="https://id.example", sub="alice"), True),
        ("elsewhere", Subject(iss="https://id.example", sub="alice", spare_sid="s1"), False),
    ],
)
async def test_each_scope_is_its_selector(
    make_apache_topic: MakeTopic, scope: str, selector: object, cleared: bool
) -> None:
    """A form says the scope as well as JSON does; elsewhere spares this session and so leaves its cookie alone."""
    settings = await make_apache_topic()
    async with open_door(settings) as door:
        answer = await door.logout(cookie=a_token(), data={"scope": scope})
    assert answer.status == 204
    assert ("Set-Cookie" in answer.headers) is cleared
    (event,) = await events_in(settings)
    assert event.selector == selector


async def test_the_cookie_is_cleared_only_if_its_token_was_ended(make_apache_topic: MakeTopic) -> None:
    """With a token in Authorization the cookie goes if it holds the same token, and stays if it holds another."""
    settings = await make_apache_topic()
    one, other = a_token(), a_token(jti="j2")
    async with open_door(settings) as door:
        same = await door.logout(one, cookie=one)
        different = await door.logout(one, cookie=other)
    assert (same.status, same.headers.getall("Set-Cookie")) == (204, [CLEARED])
    assert (different.status, "Set-Cookie" in different.headers) == (204, False)


async def test_admins_may_revoke_every_kind(make_topic: MakeTopic) -> None:
    """Each kind is published with the admin's name, and the receipt names the record that is in the topic."""
    settings = await make_topic(admin_tokens=ADMIN_TOKENS)
    now = int(time.time())
    bodies: dict[str, dict[str, object]] = {
        "token": {"jti": "j", "exp": now + 60, "iss": ""},
        "digest": {"digest": "0" * 64, "iss": ""},
        "session": {"sid": "s", "iss": ""},
        "subject": {"sub": "alice", "cutoff": now - 5, "iss": ""},
        "client": {"client_id": "c", "iss": ""},
        "claim": {"claim": "tenant", "value": 7, "iss": ""},
        "key": {"kid": "k", "iss": ""},
        "issuer": {"iss": "i"},
        "all": {},
        "withdrawal": {"event_id": "e"},
    }
    async with open_door(settings) as door:
        answers = {
            kind: await (door.confirmed if KINDS[kind].wide else door.revoke)(
                {"kind": kind, "reason": "drill", **bodies[kind]}
            )
            for kind in KINDS
        }
    assert {kind: answer.status for kind, answer in answers.items()} == dict.fromkeys(KINDS, 200)
    events = {event.id: event for event in await events_in(settings)}
    for kind, answer in answers.items():
        receipt = _json(answer.body)
        event = events[str(receipt["event_id"])]
        assert (receipt["kind"], receipt["state"], receipt["partition"]) == (kind, "acknowledged", 0)
        assert (receipt["expires_at"], receipt.get("cutoff")) == (event.expires_at, event.cutoff)
        assert (event.selector.kind, event.actor, event.reason) == (kind, "admin:root", "drill")
    by_kind = {event.selector.kind: event for event in events.values()}
    assert by_kind["subject"].cutoff == now - 5
    assert by_kind["claim"].selector == Claim(iss="", claim="tenant", value="7")
    assert by_kind["all"].selector == Everything()


async def test_an_admin_of_few_kinds_may_publish_those(make_apache_topic: MakeTopic) -> None:
    """A scoped secret publishes its kinds under its own name, with the configured issuer as default."""
    settings = await make_apache_topic(admin_tokens=ADMIN_TOKENS, issuer="https://id.example")
    async with open_door(settings) as door:
        allowed = await door.revoke({"kind": "session", "sid": "s"}, secret=SUPPORT_SECRET)
        refused = await door.revoke({"kind": "all"}, secret=SUPPORT_SECRET)
    assert (allowed.status, refused.status) == (200, 403)
    (event,) = await events_in(settings)
    assert (event.selector, event.actor) == (Session(iss="https://id.example", sid="s"), "admin:support")


async def test_with_a_node_beside_it_a_revoked_token_cannot_log_out_others(
    make_apache_topic: MakeTopic, run_node: Callable[[Settings], Node]
) -> None:
    """After its own logout a token repeats that, which is the same event once more, and is 401 for everything wider."""
    settings = await make_apache_topic()
    node = run_node(settings)
    await node.wait_ready(timeout_s=PATIENCE_S)

    def is_revoked(token: Verified) -> bool | None:
        status = node.guard.check(token.claims, kid=token.kid, token=token).status
        return None if status is Status.UNKNOWN else status is Status.REVOKED

    publisher = Publisher(settings, on_accepted=node.apply)
    token = a_token()
    async with open_door(settings, publisher=publisher, is_revoked=is_revoked) as door:
        statuses = [
            (await door.logout(token, json={"scope": scope})).status for scope in ("token", "token", "everywhere")
        ]
        other = (await door.logout(a_token(jti="j2"), json={"scope": "everywhere"})).status
    assert (statuses, other) == ([204, 204, 401], 204)
    events = await events_in(settings)
    assert [event.selector.kind for event in events] == ["token", "token", "subject"]
    assert events[0].id == events[1].id


async def test_a_logout_repeated_after_the_topic_was_made_again_is_in_the_new_one(
    make_apache_topic: MakeTopic,
) -> None:
    """That the token is known to be revoked does not say that its record is in the topic: in a chaos run a node started
    later let the token in, although the logout had been acknowledged.
    """
    settings = await make_apache_topic()
    async with open_door(settings, is_revoked=lambda _: True) as door:
        await door.logout(a_token())
        await topic.delete(settings)
        await topic.create(settings)
        deadline = time.monotonic() + PATIENCE_S
        while (await door.logout(a_token())).status != 204:
            assert time.monotonic() < deadline
    assert {event.selector.kind for event in await events_in(settings)} == {"token"}


async def test_a_hundred_logouts_at_once_are_a_hundred_records(make_topic: MakeTopic) -> None:
    """Concurrent logouts are each acknowledged and each in the topic."""
    settings = await make_topic()
    async with open_door(settings) as door:
        answers = await asyncio.gather(*(door.logout(a_token(jti=f"j{number}")) for number in range(100)))
        metrics = (await door.ask("GET", "/metrics")).body.decode()
    assert {answer.status for answer in answers} == {204}
    assert len({event.selector.key for event in await events_in(settings)}) == 100
    assert 'revoker_publications_total{outcome="acknowledged"} 100.0' in metrics


async def test_ready_once_revocations_can_be_published(make_topic: MakeTopic) -> None:
    """/readyz is 200 on a topic that exists, and its verbose form lists what was checked."""
    settings = await make_topic()
    async with open_door(settings) as door:
        answer = await door.until("/readyz?verbose", status=200)
    assert b"[+]broker ok: revocations can be published" in answer.body
    assert b"[+]keys ok" in answer.body


async def test_a_missing_topic_is_said_and_its_coming_noticed(make_apache_topic: MakeTopic) -> None:
    """Without its topic the service is not ready, says so and answers 503; once it is made, all goes well."""
    present = await make_apache_topic()
    settings = settings_for(present.kafka_bootstrap_servers, f"{present.topic}-late")
    async with open_door(settings) as door:
        await door.until("/readyz", status=503, holding=b"does not exist")
        logout = await door.logout(a_token())
        assert (logout.status, logout.problem["outcome"]) == (503, "not_accepted")
        await topic.create(settings)
        await door.until("/readyz", status=200)
        assert (await door.logout(a_token())).status == 204


async def test_a_broker_that_hangs_leaves_the_outcome_unknown(start_apache: StartApache) -> None:
    """503 within publish_timeout_s with the event's id, under which the record is found once the broker goes on."""
    kafka = start_apache()
    settings = settings_for(kafka.bootstrap, "t", publish_timeout_s=1.0, admin_tokens=ADMIN_TOKENS)
    await topic.create(settings)
    async with open_door(settings) as door:
        await door.until("/readyz", status=200)
        assert (await door.logout(a_token(jti="before"))).status == 204
        kafka.pause(1)
        began = time.monotonic()
        logout, revocation = await asyncio.gather(
            door.logout(cookie=a_token(jti="during")), door.revoke({"kind": "session", "iss": "", "sid": "during"})
        )
        assert time.monotonic() - began < 3 * settings.publish_timeout_s
        kafka.resume(1)
        await door.until("/readyz", status=200)
    for answer in (logout, revocation):
        assert (answer.status, answer.problem["outcome"], answer.headers["Retry-After"]) == (503, "unknown", "1")
    assert "Set-Cookie" not in logout.headers
    ids = {event.id for event in await events_in(settings)}
    assert {logout.problem["event_id"], revocation.problem["event_id"]} <= ids


async def test_a_service_started_before_kafka_serves_once_it_is_there(start_apache: StartApache) -> None:
    """Killed and started brokers are noticed by the watch: not ready in between, ready and publishing after."""
    kafka = start_apache()
    settings = settings_for(kafka.bootstrap, "t")
    await topic.create(settings)
    kafka.kill(1)
    async with open_door(settings) as door:
        await door.until("/readyz", status=503)
        assert (await door.logout(a_token())).status == 503
        await kafka.start_async(1)
        await door.until("/readyz", status=200)
        assert (await door.logout(a_token())).status == 204


def _json(body: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(body)
    return found

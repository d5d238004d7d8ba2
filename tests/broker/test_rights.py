"""A user with few rights, on Apache Kafka with its authorizer: which right is missing is named, never guessed.

All clients are the anonymous user here: with ``allow.everyone.if.no.acl.found`` a topic is open until an ACL names it,
and then only what is granted is allowed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka.protocol.admin import CreateAclsRequest, CreateTopicsRequest

from revoker import topic
from revoker.cluster import TopicView, look
from revoker.errors import NotPermitted, TopicMissing
from revoker.kafka import connected
from revoker.settings import Settings
from tests.broker.conftest import PATIENCE_S, settings_for
from tests.brokers.apache import ApacheKafka
from tests.conftest import StartApache

TOPIC, CLUSTER = 2, 4  # Kafka's ResourceType
DENY, ALLOW = 2, 3  # Kafka's AclPermissionType
ALL, READ, WRITE, CREATE, DESCRIBE = 2, 3, 4, 5, 8  # Kafka's AclOperation
ANYBODY, SOMEBODY_ELSE = "User:ANONYMOUS", "User:somebody-else"

AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """The address of an Apache Kafka with an authorizer."""
    with ApacheKafka(properties=AUTHORIZER) as kafka:
        yield kafka.bootstrap


async def grant(settings: Settings, operation: int, *, to: str) -> None:
    """Allow one operation on the topic; from then on nothing else is allowed to anybody."""
    await add_acl(settings, TOPIC, settings.topic, operation, to, ALLOW)


async def add_acl(settings: Settings, kind: int, name: str, operation: int, principal: str, permission: int) -> None:
    """One ACL for a resource of exactly this name."""
    literal = 3
    request = CreateAclsRequest(kind, name, literal, principal, "*", operation, permission)
    async with connected(settings) as client:
        (node,) = client.cluster.brokers()
        response = await client.send(node.nodeId, request)
    assert [code for code, *_ in response.creation_responses] == [0]


async def seen_with(settings: Settings, rights: frozenset[str]) -> TopicView:
    """The topic, once the broker has taken in the ACLs."""
    deadline_s = time.monotonic() + PATIENCE_S
    async with connected(settings) as client:
        while True:
            view = await look(client, settings.topic, timeout_s=3.0)
            if view.rights == rights:
                return view
            assert time.monotonic() < deadline_s, f"still {view.rights}"
            await asyncio.sleep(0.02)


async def until_it_raises(settings: Settings, error: type[Exception]) -> Exception:
    """What looking raises, once the broker has taken in the ACLs."""
    deadline_s = time.monotonic() + PATIENCE_S
    async with connected(settings) as client:
        while time.monotonic() < deadline_s:
            try:
                await look(client, settings.topic, timeout_s=3.0)
            except error as raised:
                if type(raised) is error:
                    return raised
            await asyncio.sleep(0.02)
    raise AssertionError(f"{error.__name__} was not raised")


async def until_creating_is_refused(settings: Settings) -> None:
    """Wait until the broker has taken in the ACLs of a topic that does not exist, by rehearsing its creation."""
    rehearsal: Any = [(settings.topic, 1, 1, [], [])]
    deadline_s = time.monotonic() + PATIENCE_S
    async with connected(settings) as client:
        (node,) = client.cluster.brokers()
        while True:
            response = await client.send(node.nodeId, CreateTopicsRequest(rehearsal, 5000, validate_only=True))
            if response.topic_errors[0][1]:
                return
            assert time.monotonic() < deadline_s, "creating was never refused"
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("operation", "rights"), [(READ, frozenset({"Read", "Describe"})), (WRITE, frozenset({"Write", "Describe"}))]
)
async def test_a_users_own_rights_are_told(
    guarded: str, topic_name: str, operation: int, rights: frozenset[str]
) -> None:
    """Read and Write come with Describe, and with nothing else."""
    settings = settings_for(guarded, topic_name)
    await topic.create(settings)
    await grant(settings, operation, to=ANYBODY)

    assert (await seen_with(settings, rights)).rights == rights


async def test_a_node_that_may_only_read_gets_everything_unproven(guarded: str, topic_name: str) -> None:
    """Without DescribeConfigs nothing is a loss and nothing is fine; the right is named, and strict does not refuse."""
    settings = settings_for(guarded, topic_name)
    await topic.create(settings)
    await grant(settings, READ, to=ANYBODY)
    await seen_with(settings, frozenset({"Read", "Describe"}))
    report = await topic.check(settings)

    assert report.configs == {}
    assert report.losing == ()
    assert len(report.unproven) == 9
    assert all("DescribeConfigs" in violation.loses for violation in report.unproven)
    topic.enforce(report, mode="strict")


async def test_a_topic_one_may_not_see_names_the_right(guarded: str, topic_name: str) -> None:
    """Error 29 is not a missing topic: the message names Describe and the command that grants it."""
    settings = settings_for(guarded, topic_name)
    await topic.create(settings)
    await grant(settings, READ, to=SOMEBODY_ELSE)
    error: Any = await until_it_raises(settings, NotPermitted)

    assert "lacks the right Describe" in str(error)
    assert f"--operation Read --topic {topic_name}" in str(error)


async def test_a_user_who_may_not_create_learns_the_right(start_apache: StartApache, topic_name: str) -> None:
    """The refusal inside the response becomes an error that names Create, and nothing is made."""
    settings = settings_for(start_apache(properties=AUTHORIZER).bootstrap, topic_name)
    await grant(settings, DESCRIBE, to=ANYBODY)
    # Whoever may create on the cluster may create any topic; the node itself is ANONYMOUS too and needs all the rest.
    await add_acl(settings, CLUSTER, "kafka-cluster", ALL, ANYBODY, ALLOW)
    await add_acl(settings, CLUSTER, "kafka-cluster", CREATE, ANYBODY, DENY)
    await until_creating_is_refused(settings)
    with pytest.raises(NotPermitted) as caught:
        await topic.create(settings)

    assert "lacks the right Create on topic" in str(caught.value)
    with pytest.raises(TopicMissing):
        await topic.check(settings)

"""Everything works with the least rights that `revoker topic acl` gives, and each of them is needed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from consumers.freshness import State
from consumers.node import Node
from revoker import topic
from revoker.errors import NotAccepted
from revoker.events import Session
from revoker.publisher import Publisher
from revoker.rights import LEAST, Right, Role, apply, least, remove
from revoker.service.lifecycle import BrokerWatch
from revoker.settings import Settings, environment_without_settings
from revoker.tokens import sign
from tests.broker.conftest import PATIENCE_S, SECRET, eventually
from tests.brokers.secure import SecureKafka
from tests.command_line import Ran, revoker, running
from tests.leaks import look as look_for_leaks

PASSWORD = "s3cr3t-password-of-"

RunNode = Callable[[Settings], Node]


def environment(kafka: SecureKafka, topic: str, user: str, directory: Path) -> dict[str, str]:
    """The variables of a process that logs in as ``user``; every secret is in a file."""
    for name, secret in {"password": PASSWORD + user, "key": SECRET}.items():
        (directory / f"{name}-{user}").write_text(f"{secret}\n")
    return {
        "REVOKER_KAFKA_BOOTSTRAP_SERVERS": kafka.sasl_ssl,
        "REVOKER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "REVOKER_KAFKA_SSL_CA_FILE": str(kafka.ca.file),
        "REVOKER_KAFKA_SASL_USERNAME": user,
        "REVOKER_KAFKA_SASL_PASSWORD_FILE": str(directory / f"password-{user}"),
        "REVOKER_TOPIC": topic,
        "REVOKER_TOPIC_REPLICATION_FACTOR": "1",
        "REVOKER_TOPIC_MIN_INSYNC_REPLICAS": "1",
        "REVOKER_ALGORITHMS": "HS256",
        "REVOKER_KEY_SECRET_FILE": str(directory / f"key-{user}"),
        "REVOKER_LISTEN": "127.0.0.1:0",
    }


async def command(*arguments: str, environ: dict[str, str]) -> Ran:
    """Run one command to its end, as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "revoker", *arguments],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment_without_settings() | environ,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    look_for_leaks(out + err, where=f"the output of {arguments[0]}")
    return Ran(code=process.returncode or 0, out=out.decode(), err=err.decode())


async def succeeded(*arguments: str, environ: dict[str, str]) -> Any:
    """What a command that exits 0 printed."""
    ran = await command(*arguments, environ=environ)
    assert ran.code == 0, ran
    return ran.json if ran.out.startswith("{") else ran.out


def token(jti: str) -> str:
    """A token that is valid for ten minutes."""
    now = int(time.time())
    return sign({"sub": jti, "jti": jti, "iat": now, "exp": now + 600}, key=SECRET, algorithm="HS256")


async def test_the_whole_vertical_works_with_the_least_rights(
    secure: SecureKafka, topic_name: str, tmp_path: Path
) -> None:
    """Operator, service and node log in by SCRAM over TLS, as processes of their own, from ``REVOKER_*`` alone."""
    users = {role: f"{role}-{topic_name}" for role in LEAST}
    for user in users.values():
        await secure.add_user(user, PASSWORD + user)
    environs = {role: environment(secure, topic_name, user, tmp_path) for role, user in users.items()}
    operator, publisher, node = environs["operator"], environs["publisher"], environs["node"]
    root = {"REVOKER_KAFKA_BOOTSTRAP_SERVERS": secure.bootstrap, "REVOKER_TOPIC": topic_name}
    named = [word for role, user in users.items() for word in (f"--{role}", user)]
    granted = await succeeded("topic", "acl", *named, "--apply", environ=root)
    assert [(one["role"], one["operation"]) for one in granted["rights"]] == [
        ("publisher", "Write"),
        ("node", "Read"),
        ("node", "DescribeConfigs"),
        ("operator", "Create"),
        ("operator", "Describe"),
        ("operator", "DescribeConfigs"),
    ]

    assert (await succeeded("topic", "create", environ=operator))["created"] is True
    alice, bob = token("alice"), token("bob")
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(running("serve", environ=publisher))
        nodes = await stack.enter_async_context(running("node", environ=node))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        service_url, node_url = [(await one.line())["url"] for one in (services, nodes)]
        await until(session, f"{service_url}/readyz?verbose", 200)
        await until(session, f"{node_url}/readyz?verbose", 200)
        assert await status(session, f"{node_url}/whoami", alice) == 200
        async with session.post(f"{service_url}/logout", headers={"Authorization": f"Bearer {alice}"}) as response:
            assert response.status == 204
        await until(session, f"{node_url}/whoami", 401, bearer=alice)
        assert await status(session, f"{node_url}/whoami", bob) == 200

    revoked = await succeeded("revoke", "session", "--iss", "", "--sid", "s1", environ=publisher)
    assert revoked["state"] == "acknowledged"
    questions = (("check", alice), ("check", bob), ("replay",), ("topic", "check"))
    answers = await asyncio.gather(*(command(*one, environ=node) for one in questions))
    assert [one.code for one in answers] == [1, 0, 0, 0], answers
    assert answers[2].json["records"] == 2
    assert answers[3].json["keeps_contract"] is True
    async with running("tail", "--from-beginning", environ=node) as tail:
        assert [(await tail.line())["offset"] for _ in range(2)] == [0, 1]


async def status(session: aiohttp.ClientSession, url: str, bearer: str | None = None) -> int:
    """What a GET is answered."""
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    async with session.get(url, headers=headers) as response:
        return response.status


async def until(session: aiohttp.ClientSession, url: str, wanted: int, *, bearer: str | None = None) -> None:
    """Wait until a GET is answered so."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := await status(session, url, bearer)) != wanted:
        assert time.monotonic() < deadline_s, f"{url} still answers {found}"
        await asyncio.sleep(0.02)


#: The command that stops, and what it says, when a role has all its rights but one.
NEEDED: dict[tuple[Role, str], tuple[tuple[str, ...], str]] = {
    ("publisher", "Write"): (("revoke", "session", "--iss", "", "--sid", "s1"), "lacks the right Describe on topic"),
    ("node", "Read"): (("replay",), "lacks the right Describe on topic"),
    ("node", "DescribeConfigs"): (("topic", "check"), "lacks the right DescribeConfigs on topic"),
    ("operator", "Create"): (("topic", "create"), "lacks the right Create on topic"),
    ("operator", "Describe"): (("topic", "create"), "lacks the right Describe on topic"),
    ("operator", "DescribeConfigs"): (("topic", "create"), "lacks the right DescribeConfigs on topic"),
}


def test_every_least_right_is_tried() -> None:
    """A right that is added to the table needs a command that stops without it."""
    assert set(NEEDED) == {(role, operation) for role, operations in LEAST.items() for operation in operations}


@pytest.mark.parametrize(("role", "missing"), NEEDED)
def test_one_right_less_fails_with_its_name_and_exit_code_4(
    secure: SecureKafka, topic_name: str, tmp_path: Path, role: Role, missing: str
) -> None:
    """Nothing in the table is there for nothing, and what is missing is told with the command that grants it."""
    arguments, said = NEEDED[role, missing]
    root, user = secure.as_root(topic_name), topic_name
    rights = of_role(topic_name, role, user)
    asyncio.run(secure.add_user(user, PASSWORD + user))
    if role != "operator":
        asyncio.run(topic.create(root))
    asyncio.run(apply(root, [right for right in rights if right.operation != missing]))
    environ = environment(secure, topic_name, user, tmp_path)
    deadline_s = time.monotonic() + PATIENCE_S
    while said not in (ran := revoker(*arguments, environ=environ)).err:
        assert time.monotonic() < deadline_s, ran  # the brokers take in the rights one after the other

    assert ran.code == 4, ran
    assert "kafka-acls.sh --add --allow-principal User:NAME --operation" in ran.err
    asyncio.run(apply(root, rights))
    deadline_s = time.monotonic() + PATIENCE_S
    while (ran := revoker(*arguments, environ=environ)).code != 0:
        assert time.monotonic() < deadline_s, ran


def of_role(topic: str, role: Role, user: str) -> tuple[Right, ...]:
    """The rights of one role."""
    return tuple(right for right in least(topic, **{f"{role}s": [user]}) if right.role == role)


def test_only_whoever_may_alter_the_cluster_grants_rights(secure: SecureKafka, topic_name: str, tmp_path: Path) -> None:
    """Others learn which right it takes, and exit 4."""
    asyncio.run(secure.add_user(topic_name, PASSWORD + topic_name))
    environ = environment(secure, topic_name, topic_name, tmp_path)
    ran = revoker("topic", "acl", "--node", "somebody", "--apply", environ=environ)

    assert ran.code == 4
    assert "lacks the right Alter on the cluster" in ran.err


def test_rights_are_taken_back(secure: SecureKafka, topic_name: str) -> None:
    """`--remove` counts those that had been granted, and is harmless when repeated."""
    environ = {"REVOKER_KAFKA_BOOTSTRAP_SERVERS": secure.bootstrap, "REVOKER_TOPIC": topic_name}
    arguments = ("topic", "acl", "--node", "n", "--publisher", "n")
    revoker(*arguments, "--apply", environ=environ)
    first, second = (revoker(*arguments, "--remove", environ=environ).json for _ in range(2))

    assert (first["removed"], second["removed"]) == (3, 0)


async def test_a_node_whose_right_is_taken_away_says_so_and_recovers(
    secure: SecureKafka, topic_name: str, run_node: RunNode
) -> None:
    """Within the bound it is not ready and names the right; granted again, it is live by itself."""
    root = secure.as_root(topic_name)
    await secure.add_user(topic_name, PASSWORD + topic_name)
    await topic.create(root)
    rights = least(topic_name, nodes=[topic_name], operators=[topic_name])
    await apply(root, rights)
    node = run_node(secure.settings(topic_name, user=topic_name, password=PASSWORD + topic_name, staleness_bound_s=6.0))
    await node.wait_ready(timeout_s=20)
    read = [right for right in rights if right.operation == "Read"]
    await remove(root, read)
    taken_at = time.monotonic()
    await eventually(lambda: f"lacks the right Read on topic {topic_name!r}" in said(node), "the right is named")

    assert time.monotonic() - taken_at < node.settings.staleness_bound_s
    assert node.freshness.state is not State.LIVE
    await apply(root, read)
    await node.wait_ready(timeout_s=20)


async def test_a_service_whose_right_is_taken_away_says_so_and_recovers(secure: SecureKafka, topic_name: str) -> None:
    """Before the first logout fails; which is then refused, not lost."""
    root = secure.as_root(topic_name)
    await secure.add_user(topic_name, PASSWORD + topic_name)
    await topic.create(root)
    rights = least(topic_name, publishers=[topic_name], operators=[topic_name])
    await apply(root, rights)
    settings = secure.settings(topic_name, user=topic_name, password=PASSWORD + topic_name)
    async with Publisher(settings) as publisher:
        watch = BrokerWatch(publisher, every_s=0.05, monotonic=time.monotonic)
        watching = asyncio.create_task(watch.run())
        await eventually(lambda: watch.check().ok, "the service is ready")
        write = [right for right in rights if right.operation == "Write"]
        await remove(root, write)
        await eventually(lambda: f"lacks the right Write on topic {topic_name!r}" in watch.check().detail, "named")
        with pytest.raises(NotAccepted, match="lacks a right on the topic"):
            await publisher.revoke(selector=Session(iss="", sid="s1"))
        await apply(root, write)
        await eventually(lambda: watch.check().ok, "the service is ready again")
        assert (await publisher.revoke(selector=Session(iss="", sid="s1"))).state == "acknowledged"
        watching.cancel()


def said(node: Node) -> str:
    """Everything `/readyz` reports against the node."""
    return "\n".join(check.detail for check in node.checks() if not check.ok)

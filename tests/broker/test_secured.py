"""Connections to a secured Apache Kafka: every way in, and every wrong thing named where people look."""

from __future__ import annotations

import base64
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from consumers.node import Node
from revoker import topic
from revoker.cluster import look
from revoker.errors import BrokerError, BrokerUnreachable, NotPermitted, TopicMissing
from revoker.kafka import connected
from revoker.publisher import Publisher
from revoker.rights import apply, least
from revoker.service.lifecycle import BrokerWatch
from revoker.settings import Settings
from tests.broker.conftest import DROPS_CONNECTIONS, eventually, settings_for
from tests.brokers.certificates import Authority
from tests.brokers.secure import PLAIN_USERS, SecureKafka
from tests.command_line import revoker

pytestmark = DROPS_CONNECTIONS

PASSWORD = "s3cr3t-password-of-a-user"

RunNode = Callable[[Settings], Node]


@pytest.fixture
async def alice(secure: SecureKafka, topic_name: str) -> Settings:
    """A user of SCRAM-SHA-512 without any right."""
    await secure.add_user(topic_name, PASSWORD)
    return secure.settings(topic_name, user=topic_name, password=PASSWORD)


def changed(settings: Settings, **changes: Any) -> Settings:
    """The same settings but for these."""
    return Settings(**{**vars(settings), **changes})


def by_certificate(secure: SecureKafka, topic: str, certificate: Path | None, **changes: Any) -> Settings:
    """Settings of a client that shows a certificate."""
    values: dict[str, Any] = {
        "kafka_security_protocol": "SSL",
        "kafka_ssl_ca_file": str(secure.ca.file),
        "kafka_ssl_certificate_file": None if certificate is None else str(certificate),
    }
    return settings_for(secure.ssl, topic, **values | changes)


async def brokers_known(settings: Settings) -> int:
    """How many brokers a client with these settings gets to know, and can speak to."""
    async with connected(settings) as client:
        with contextlib.suppress(NotPermitted, TopicMissing):
            await look(client, settings.topic, timeout_s=settings.request_timeout_s)
        return len(client.cluster.brokers())


async def why_not(settings: Settings) -> BrokerError:
    """The error of a client that cannot connect."""
    with pytest.raises(BrokerError) as caught:
        await brokers_known(settings)
    assert PASSWORD not in str(caught.value)
    return caught.value


def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """The variables of a command with the same connection."""
    secret = tmp_path / "password"
    secret.write_text(f"{settings.kafka_sasl_password}\n")
    return {
        "REVOKER_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "REVOKER_TOPIC": settings.topic,
        "REVOKER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "REVOKER_KAFKA_SSL_CA_FILE": str(settings.kafka_ssl_ca_file),
        "REVOKER_KAFKA_SASL_USERNAME": str(settings.kafka_sasl_username),
        "REVOKER_KAFKA_SASL_PASSWORD_FILE": str(secret),
    }


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"])
async def test_a_user_logs_in(
    secure: SecureKafka, topic_name: str, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By each mechanism over TLS; no log line of any level holds the password, in clear or encoded."""
    caplog.set_level(logging.DEBUG)
    user, password = topic_name, PASSWORD
    if mechanism == "PLAIN":
        ((user, password),) = PLAIN_USERS.items()
    else:
        await secure.add_user(user, password, mechanism=mechanism)
    settings = secure.settings(topic_name, user=user, password=password, kafka_sasl_mechanism=mechanism)
    caplog.clear()

    assert await brokers_known(settings) == 1
    assert "SaslAuthenticateRequest" in caplog.text, "nothing was logged that could have held it"
    assert password not in caplog.text
    assert base64.b64encode(f"\0{user}\0{password}".encode()).decode() not in caplog.text


async def test_a_client_logs_in_by_certificate(secure: SecureKafka, topic_name: str, tmp_path: Path) -> None:
    """With an encrypted key in a file of its own."""
    mine = secure.ca.sign(topic_name, password=PASSWORD, separate_key=True)
    settings = by_certificate(
        secure,
        topic_name,
        mine,
        kafka_ssl_key_file=str(mine.with_suffix(".key")),
        kafka_ssl_key_password=PASSWORD,
    )

    assert await brokers_known(settings) == 1


@pytest.mark.parametrize("user", ["alice", "nobody"])
async def test_a_wrong_password_and_an_unknown_user_are_refused_alike(
    secure: SecureKafka, alice: Settings, user: str
) -> None:
    """Kafka does not tell which it was, and the message says so."""
    name = alice.kafka_sasl_username if user == "alice" else "nobody"
    error = await why_not(changed(alice, kafka_sasl_username=name, kafka_sasl_password="wrong"))

    assert isinstance(error, NotPermitted)
    assert "the broker refused the credentials (it does not tell an unknown user from a wrong password)" in str(error)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kafka_ssl_ca_file": "OTHER"}, "comes from a CA that is not in setting kafka_ssl_ca_file"),
        ({"kafka_ssl_ca_file": None}, "comes from a CA that is not in setting kafka_ssl_ca_file"),
        ({"kafka_bootstrap_servers": "BY NAME"}, "is for other host names than the one connected to"),
        ({"kafka_security_protocol": "PLAINTEXT"}, "kafka_security_protocol is PLAINTEXT: a listener of another one"),
        ({"kafka_security_protocol": "SASL_PLAINTEXT"}, "kafka_security_protocol is SASL_PLAINTEXT: a listener of"),
        ({"kafka_security_protocol": "SSL"}, "kafka_security_protocol is SSL: a listener of another one"),
        ({"kafka_bootstrap_servers": "PLAINTEXT"}, "kafka_security_protocol is SASL_SSL: a listener of another one"),
        (
            {"kafka_bootstrap_servers": "PLAINTEXT", "kafka_security_protocol": "SASL_PLAINTEXT"},
            "this listener expects no login",
        ),
    ],
)
async def test_a_wrong_listener_or_ca_is_named(
    secure: SecureKafka, alice: Settings, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """Each message says what to look at; none takes it for a right that is missing."""
    changes = dict(changes)
    if changes.get("kafka_ssl_ca_file") == "OTHER":
        changes["kafka_ssl_ca_file"] = str(Authority(tmp_path, name="other CA").file)
    if changes.get("kafka_bootstrap_servers") == "BY NAME":
        changes["kafka_bootstrap_servers"] = secure.sasl_ssl.replace("127.0.0.1", "localhost")
    if changes.get("kafka_bootstrap_servers") == "PLAINTEXT":
        changes["kafka_bootstrap_servers"] = secure.bootstrap
    protocol = changes.get("kafka_security_protocol", "SASL_SSL")
    if not protocol.endswith("SSL"):
        changes["kafka_ssl_ca_file"] = None
    if not protocol.startswith("SASL_"):
        changes |= {"kafka_sasl_username": None, "kafka_sasl_password": None}
    error = await why_not(changed(alice, **changes))

    assert type(error) is BrokerUnreachable
    assert said in str(error)


async def test_certificates_a_broker_does_not_take_are_named(
    secure: SecureKafka, topic_name: str, tmp_path: Path
) -> None:
    """None at all, one of another CA, and one that has expired, of which the date is told."""
    stranger = Authority(tmp_path, name="other CA").sign("stranger")
    expired = secure.ca.sign(f"{topic_name}-expired", ends_in=timedelta(hours=-1))
    errors = [await why_not(by_certificate(secure, topic_name, one)) for one in (None, stranger, expired)]

    assert all(isinstance(error, NotPermitted) for error in errors)
    assert all("the broker does not accept this client's certificate, or got none" in str(error) for error in errors)
    assert "expired at" not in str(errors[1])
    assert f"kafka_ssl_certificate_file {str(expired)!r}, expired at 20" in str(errors[2])


async def test_a_node_names_a_wrong_password_and_recovers_with_the_right_one(
    secure: SecureKafka, alice: Settings, run_node: RunNode
) -> None:
    """`/readyz` says that the login is refused; once the user has that password, the node becomes live by itself."""
    await topic.create(secure.as_root(alice.topic))
    await apply(secure.as_root(alice.topic), least(alice.topic, nodes=[alice.topic]))
    node = run_node(changed(alice, kafka_sasl_password="not yet"))
    await eventually(lambda: "the broker refused the credentials" in said(node), "the login is named")
    assert "not yet" not in said(node)
    await secure.add_user(alice.topic, "not yet")

    await node.wait_ready(timeout_s=20)


async def test_a_service_names_a_wrong_password_and_an_expired_certificate(
    secure: SecureKafka, alice: Settings
) -> None:
    """Its `/readyz` says what is refused, as a node's does."""
    expired = secure.ca.sign(f"{alice.topic}-service", ends_in=timedelta(hours=-1))
    details = []
    for settings in (changed(alice, kafka_sasl_password="wrong"), by_certificate(secure, alice.topic, expired)):
        publisher = Publisher(settings)  # unconnected at the start, as a service's is
        watch = BrokerWatch(publisher, every_s=1.0, monotonic=time.monotonic)
        await watch.ask()
        await publisher.close()
        assert not watch.check().ok
        details.append(watch.check().detail)

    assert "the broker refused the credentials" in details[0]
    assert f"{str(expired)!r}, expired at 20" in details[1]


async def test_an_expired_certificate_is_named_by_a_node_and_renewed_without_a_restart(
    secure: SecureKafka, topic_name: str, run_node: RunNode, tmp_path: Path
) -> None:
    """`/readyz` names file and date; when the file is renewed the node becomes live by itself."""
    await topic.create(secure.as_root(topic_name))
    await apply(secure.as_root(topic_name), least(topic_name, nodes=[f"CN={topic_name}"]))
    mine = tmp_path / "mine.pem"
    mine.write_bytes(secure.ca.sign(topic_name, ends_in=timedelta(hours=-1)).read_bytes())
    node = run_node(by_certificate(secure, topic_name, mine))
    await eventually(lambda: f"{str(mine)!r}, expired at 20" in said(node), "the certificate is named")
    mine.write_bytes(secure.ca.sign(topic_name).read_bytes())

    await node.wait_ready(timeout_s=20)


def test_a_command_names_a_wrong_password_and_exits_4(secure: SecureKafka, tmp_path: Path, topic_name: str) -> None:
    """Authentication is exit code 4, and the password from the file is in no output."""
    settings = secure.settings(topic_name, user="nobody", password=PASSWORD)
    ran = revoker("topic", "check", "--log-level", "debug", environ=environment(settings, tmp_path))

    assert ran.code == 4
    assert "the broker refused the credentials" in ran.err
    assert PASSWORD not in ran.out + ran.err


def said(node: Node) -> str:
    """Everything `/readyz` reports against the node."""
    return "\n".join(check.detail for check in node.checks() if not check.ok)

"""OAUTHBEARER on a real broker that checks signatures: both sources of tokens, refusals, expiry, and a bad source."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from consumers.freshness import State
from consumers.node import Node
from revoker import topic
from revoker.cluster import look
from revoker.errors import NotPermitted
from revoker.kafka import connected
from revoker.rights import apply, least
from revoker.settings import Settings
from tests.broker.conftest import DROPS_CONNECTIONS, PATIENCE_S, eventually, settings_for
from tests.brokers.secure import AUDIENCE, ISSUER, SecureKafka
from tests.token_endpoint import CLIENT_ID, CLIENT_SECRET, TokenEndpoint, access_token

pytestmark = DROPS_CONNECTIONS

RunNode = Callable[[Settings], Node]

#: The least whole number of seconds in which a client still does something with a token.
SHORT_LIFE_S = 2


class Source:
    """What a user's own function would be; tests make it misbehave. ``working``: while unset, it hangs."""

    subject: str = ""
    life_s: float = SHORT_LIFE_S
    failure: BaseException | None = None
    calls: int = 0
    working: threading.Event = threading.Event()


def give_token() -> str:
    """A token for `Source.subject`, or `Source.failure`."""
    Source.calls += 1
    Source.working.wait(PATIENCE_S)
    if Source.failure is not None:
        raise Source.failure
    return access_token(subject=Source.subject, issuer=ISSUER, audience=AUDIENCE, life_s=Source.life_s)


@pytest.fixture
def endpoint(topic_name: str) -> Iterator[TokenEndpoint]:
    """A token endpoint; the user it gives tokens to has the topic's name."""
    with TokenEndpoint(subject=topic_name, issuer=ISSUER, audience=AUDIENCE) as running:
        yield running


@pytest.fixture
async def readable(secure: SecureKafka, topic_name: str) -> str:
    """The topic, which the user of its name may read."""
    await topic.create(secure.as_root(topic_name))
    await apply(secure.as_root(topic_name), least(topic_name, nodes=[topic_name]))
    return topic_name


def oauth(secure: SecureKafka, topic: str, **changes: Any) -> Settings:
    """Settings of a client that shows tokens."""
    values: dict[str, Any] = {
        "kafka_security_protocol": "SASL_SSL",
        "kafka_ssl_ca_file": str(secure.ca.file),
        "kafka_sasl_mechanism": "OAUTHBEARER",
    }
    return settings_for(secure.sasl_ssl, topic, **values | changes)


def by_endpoint(secure: SecureKafka, topic: str, endpoint: TokenEndpoint, **changes: Any) -> Settings:
    """Tokens from the endpoint."""
    return oauth(
        secure,
        topic,
        kafka_oauth_token_url=endpoint.url,
        kafka_oauth_client_id=CLIENT_ID,
        **{"kafka_oauth_client_secret": CLIENT_SECRET} | changes,
    )


def by_function(secure: SecureKafka, topic: str) -> Settings:
    """Tokens from `give_token`."""
    Source.subject, Source.life_s, Source.failure, Source.calls = topic, SHORT_LIFE_S, None, 0
    Source.working.set()
    return oauth(secure, topic, kafka_oauth_callable=f"{__name__}:give_token")


async def rights(settings: Settings) -> frozenset[str] | None:
    """What this client may do on its topic."""
    async with connected(settings) as client:
        return (await look(client, settings.topic, timeout_s=settings.request_timeout_s)).rights


def said(node: Node) -> str:
    """Everything `/readyz` reports against the node."""
    return "\n".join(check.detail for check in node.checks() if not check.ok)


async def test_a_client_logs_in_with_a_token_of_an_endpoint(
    secure: SecureKafka, readable: str, endpoint: TokenEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """As the subject of the token, asked for once for all connections; no log line of any level holds it."""
    caplog.set_level(logging.DEBUG)

    assert await rights(by_endpoint(secure, readable, endpoint)) == frozenset({"Read", "Describe", "DescribeConfigs"})
    assert len(endpoint.forms) == 1
    assert "SaslAuthenticateRequest" in caplog.text, "nothing was logged that could have held it"
    assert "Bearer ey" not in caplog.text


async def test_a_client_logs_in_with_a_token_of_a_function(secure: SecureKafka, readable: str) -> None:
    """MODULE:FUNCTION, called for each connection."""
    assert await rights(by_function(secure, readable)) == frozenset({"Read", "Describe", "DescribeConfigs"})
    assert Source.calls == 2


async def test_a_refused_token_is_named(secure: SecureKafka, topic_name: str, endpoint: TokenEndpoint) -> None:
    """Without our part aiokafka takes the refusal for success and knows no broker."""
    endpoint.key = "somebody else's"
    with pytest.raises(NotPermitted, match=r"the broker refused the credentials .*invalid_token"):
        await rights(by_endpoint(secure, topic_name, endpoint))


async def test_a_wrong_client_secret_is_named(secure: SecureKafka, topic_name: str, endpoint: TokenEndpoint) -> None:
    """The broker never hears of it; the message says where the trouble is."""
    settings = by_endpoint(secure, topic_name, endpoint, kafka_oauth_client_secret="s3cr3t-but-wrong")
    with pytest.raises(NotPermitted, match=r"no OAuth token from kafka_oauth_token_url .*invalid_client"):
        await rights(settings)


async def test_a_node_stays_live_while_its_tokens_expire(
    secure: SecureKafka, readable: str, endpoint: TokenEndpoint, run_node: RunNode
) -> None:
    """The broker ends the connection with the token (KIP-368); the next one is there before anybody notices."""
    endpoint.life_s = SHORT_LIFE_S
    node = run_node(by_endpoint(secure, readable, endpoint))
    await node.wait_ready(timeout_s=20)
    enough = len(endpoint.forms) + 3
    seen = set()
    while len(endpoint.forms) < enough:
        seen.add(node.freshness.state)
        await asyncio.sleep(0.01)

    assert seen == {State.LIVE}
    assert node.follower.sessions_total == 1


async def test_a_token_refused_at_a_reconnect_is_named_and_overcome(
    secure: SecureKafka, readable: str, endpoint: TokenEndpoint, run_node: RunNode
) -> None:
    """`/readyz` says what the broker said; with a good token the node is live again."""
    endpoint.life_s = SHORT_LIFE_S
    node = run_node(by_endpoint(secure, readable, endpoint))
    await node.wait_ready(timeout_s=20)
    endpoint.key = "somebody else's"
    await eventually(lambda: "invalid_token" in said(node), "the refusal is named")
    endpoint.key = "issuer"

    await node.wait_ready(timeout_s=20)


@pytest.mark.parametrize("failure", [RuntimeError("the vault is sealed"), SystemExit("the vault is sealed")])
async def test_a_function_that_raises_does_not_kill_the_client(
    secure: SecureKafka, readable: str, run_node: RunNode, failure: BaseException
) -> None:
    """aiokafka's tasks would end for good; here the same client goes on once the function does."""
    node = run_node(by_function(secure, readable))
    await node.wait_ready(timeout_s=20)
    Source.failure = failure
    await eventually(lambda: "the vault is sealed" in said(node), "the failure is named")
    Source.failure, Source.life_s = None, 60.0
    await node.wait_ready(timeout_s=20)

    assert node.follower.sessions_total == 1


async def test_a_function_that_hangs_does_not_hang_the_client(
    secure: SecureKafka, readable: str, run_node: RunNode
) -> None:
    """aiokafka would hold the connection for ever; here the wait is bounded, named, and over once the function is."""
    node = run_node(by_function(secure, readable))
    await node.wait_ready(timeout_s=20)
    Source.working.clear()
    await eventually(lambda: "no OAuth token from" in said(node) and "no answer within" in said(node), "it is named")
    Source.life_s = 60.0
    Source.working.set()
    await node.wait_ready(timeout_s=20)

    assert node.follower.sessions_total == 1

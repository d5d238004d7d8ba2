"""Apache Kafka as a careful operator runs it: TLS, logins by every mechanism, and nothing allowed to anybody.

Beside the two secured listeners there is the plaintext one of every test cluster, for this file's own administration:
its anonymous user is a super user.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any, Final

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, Schema, TaggedFields

from revoker.cli.children import free_ports
from revoker.kafka import connected
from revoker.settings import Settings
from tests.broker.conftest import settings_for
from tests.brokers.apache import ApacheKafka
from tests.brokers.certificates import Authority
from tests.brokers.nodes import Node
from tests.signing import jwk, private_key

__all__ = ["AUDIENCE", "ISSUER", "PLAIN_USERS", "SecureKafka"]

#: Users of PLAIN, fixed when the broker starts; those of SCRAM come and go with `SecureKafka.add_user`.
PLAIN_USERS: Final = {"plain-user": "s3cr3t-of-the-plain-user"}
ISSUER, AUDIENCE = "https://issuer.test", "kafka"

_LOGIN: Final = "org.apache.kafka.common.security"
_SASL: Final = "listener.name.sasl_ssl"
_ITERATIONS = 4096


class SecureKafka(ApacheKafka):
    """One node with the listeners ``sasl_ssl`` (SCRAM, PLAIN, OAUTHBEARER) and ``ssl`` (client certificates)."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.ca: Authority = Authority(directory)
        self._server = self.ca.sign("broker")
        self._jwks = directory / "jwks.json"
        self._jwks.write_text(json.dumps({"keys": [jwk(private_key("RS256", "issuer"), kid="k1", alg="RS256")]}))
        self._sasl_port, self._ssl_port = free_ports(2)

    @property
    def sasl_ssl(self) -> str:
        """The address of the listener that asks for a login."""
        return f"127.0.0.1:{self._sasl_port}"

    @property
    def ssl(self) -> str:
        """The address of the listener that asks for a client certificate."""
        return f"127.0.0.1:{self._ssl_port}"

    def settings(self, topic: str, *, user: str, password: str, **changes: Any) -> Settings:
        """Settings of a user of SCRAM-SHA-512."""
        values: dict[str, Any] = {
            "kafka_security_protocol": "SASL_SSL",
            "kafka_ssl_ca_file": str(self.ca.file),
            "kafka_sasl_username": user,
            "kafka_sasl_password": password,
        }
        return settings_for(self.sasl_ssl, topic, **values | changes)

    def as_root(self, topic: str) -> Settings:
        """Settings of the super user."""
        return settings_for(self.bootstrap, topic)

    async def add_user(self, name: str, password: str, *, mechanism: str = "SCRAM-SHA-512") -> None:
        """Make a user of SCRAM, or give it another password."""
        salt = secrets.token_bytes(16)
        digest = mechanism.removeprefix("SCRAM-").replace("-", "").lower()
        salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, _ITERATIONS)
        await self._alter(_Credentials(upsert=(name, _MECHANISMS[mechanism], _ITERATIONS, salt, salted, {})))

    async def remove_user(self, name: str) -> None:
        """No further login by SCRAM-SHA-512; connections that exist stay."""
        await self._alter(_Credentials(delete=(name, _MECHANISMS["SCRAM-SHA-512"], {})))

    async def _alter(self, request: _Credentials) -> None:
        async with connected(self.as_root("unused")) as client:
            (node,) = client.cluster.brokers()
            response = await client.send(node.nodeId, request)
        assert [(code, text) for _, code, text, _ in response.results] == [(0, None)]

    def _run_java(self, node: Node, arguments: Sequence[str]) -> Popen[bytes]:
        if "format" in arguments:
            self._secure(node.properties)
        allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self._jwks.as_uri()}"
        return super()._run_java(node, [allowed, *arguments])

    def _secure(self, path: Path) -> None:
        lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
        further = f",SASL_SSL://{self.sasl_ssl},SSL://{self.ssl}"
        for name in ("listeners", "advertised.listeners"):
            lines[name] += further
        lines["listener.security.protocol.map"] += ",SASL_SSL:SASL_SSL,SSL:SSL"
        lines |= self._properties()
        path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))

    def _properties(self) -> Mapping[str, str]:
        plain = " ".join(f'user_{name}="{password}"' for name, password in PLAIN_USERS.items())
        scram = f"{_LOGIN}.scram.ScramLoginModule required;"
        oauth = f"{_SASL}.oauthbearer"
        return {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._server),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca.file),
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER",
            f"{_SASL}.scram-sha-256.sasl.jaas.config": scram,
            f"{_SASL}.scram-sha-512.sasl.jaas.config": scram,
            f"{_SASL}.plain.sasl.jaas.config": f"{_LOGIN}.plain.PlainLoginModule required {plain};",
            f"{oauth}.sasl.jaas.config": f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule required;",
            f"{oauth}.sasl.server.callback.handler.class": f"{_LOGIN}.oauthbearer.OAuthBearerValidatorCallbackHandler",
            f"{oauth}.sasl.oauthbearer.jwks.endpoint.url": self._jwks.as_uri(),
            f"{oauth}.sasl.oauthbearer.expected.audience": AUDIENCE,
            f"{oauth}.sasl.oauthbearer.expected.issuer": ISSUER,
            # KIP-368: with it a broker ends a connection when its token does.
            f"{oauth}.connections.max.reauth.ms": "3600000",
        }


# AlterUserScramCredentials version 0, https://kafka.apache.org/protocol, which aiokafka does not have.

_MECHANISMS: Final = {"SCRAM-SHA-256": 1, "SCRAM-SHA-512": 2}
_String = CompactString("utf-8")


class _CredentialsResponse(Response):
    API_KEY = 51  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    API_VERSION = 0  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(("user", _String), ("error_code", Int16), ("error_message", _String), ("tags", TaggedFields)),
        ),
        ("tags", TaggedFields),
    )


class _CredentialsRequest(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 51, 0
    RESPONSE_TYPE = _CredentialsResponse
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", _String), ("mechanism", Int8), ("tags", TaggedFields))),
        (
            "upsertions",
            CompactArray(
                ("name", _String),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Credentials(Request[_CredentialsRequest]):
    API_KEY = 51

    def __init__(self, *, upsert: tuple[Any, ...] | None = None, delete: tuple[Any, ...] | None = None) -> None:
        self._upsert = [upsert] if upsert else []
        self._delete = [delete] if delete else []

    def build(self, request_struct_class: type[_CredentialsRequest]) -> _CredentialsRequest:
        return request_struct_class(self._delete, self._upsert, {})

"""The least rights on the topic that each of revoker's users needs: which they are, granting them, taking them back.

A test on a real broker runs everything with exactly these, and takes away one after the other to see what stops.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from revoker.cluster import first_answer
from revoker.diagnosis import explain
from revoker.errors import BrokerError, NotPermitted, SettingsError
from revoker.kafka import connected
from revoker.settings import Settings

__all__ = ["LEAST", "Right", "Role", "apply", "least", "remove"]

#: Who needs rights. ``publisher``: whatever revokes. ``node``: whatever reads the topic, the service's own deny list
#: included. ``operator``: whoever makes and checks the topic.
Role = Literal["publisher", "node", "operator"]

#: Read and Write imply Describe. Nobody needs a right on a consumer group, a transactional id or the cluster.
LEAST: Final[dict[Role, dict[str, str]]] = {
    "publisher": {"Write": "publish revocations"},
    "node": {"Read": "read revocations", "DescribeConfigs": "check at each start that the topic keeps its contract"},
    "operator": {
        "Create": "make the topic",
        "Describe": "see the topic",
        "DescribeConfigs": "check that the topic keeps its contract",
    },
}

# Kafka's codes: AclOperation, ResourceType, PatternType, AclPermissionType.
_OPERATIONS: Final = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
_TOPIC, _LITERAL, _ALLOW = 2, 3, 3
_ANY_HOST: Final = "*"

_CLUSTER_DENIED, _SECURITY_DISABLED = 31, 54


@dataclass(frozen=True, kw_only=True, slots=True)
class Right:
    """One operation that one principal may do on one topic, from any host. ``why``: what it is for."""

    role: Role
    principal: str
    operation: str
    topic: str
    why: str

    def command(self, bootstrap_servers: str, *, remove: bool = False) -> str:
        """The command of Kafka's own tool that grants it, or takes it back, ready for a shell."""
        words = ["kafka-acls.sh", "--bootstrap-server", bootstrap_servers]
        words += ["--remove", "--force"] if remove else ["--add"]
        words += ["--allow-principal", self.principal, "--operation", self.operation, "--topic", self.topic]
        return shlex.join(words)


def least(
    topic: str, *, publishers: Iterable[str] = (), nodes: Iterable[str] = (), operators: Iterable[str] = ()
) -> tuple[Right, ...]:
    """The rights that these users need on ``topic``, each once.

    A user is a name, ``User:NAME``, or the distinguished name of a certificate. Raises SettingsError for one that is
    empty or of another type of principal.
    """
    if topic == "*":
        raise SettingsError("topic is '*', which in a right means every topic: name one")
    users: tuple[tuple[Role, Iterable[str]], ...] = (
        ("publisher", publishers),
        ("node", nodes),
        ("operator", operators),
    )
    found: dict[tuple[str, str], Right] = {}
    for role, names in users:
        for name in names:
            principal = _principal(name)
            for operation, why in LEAST[role].items():
                right = Right(role=role, principal=principal, operation=operation, topic=topic, why=why)
                found.setdefault((principal, operation), right)
    return tuple(found.values())


async def apply(settings: Settings, rights: Iterable[Right]) -> None:
    """Grant the rights; what is granted already stays. In force on every broker a moment later.

    Raises NotPermitted if this user may not (it takes Alter on the cluster), BrokerError in the cluster's own words,
    and BrokerUnreachable.
    """
    async with connected(settings) as client:
        for right in rights:
            request = CreateAclsRequest(*_acl(right))
            response = await first_answer(client, _nodes(client), request, timeout_s=settings.request_timeout_s)
            for code, text in response.creation_responses:
                _raise_for(code, text)


async def remove(settings: Settings, rights: Iterable[Right]) -> int:
    """Take the rights back; returns how many had been granted. Raises as `apply` does."""
    removed = 0
    async with connected(settings) as client:
        for right in rights:
            request = DeleteAclsRequest(*_acl(right))
            response = await first_answer(client, _nodes(client), request, timeout_s=settings.request_timeout_s)
            for code, text, matching in response.filter_responses:
                _raise_for(code, text)
                for one in _matching(matching):
                    _raise_for(one[0], one[1])
                    removed += 1
    return removed


def _acl(right: Right) -> tuple[Any, ...]:
    return _TOPIC, right.topic, _LITERAL, right.principal, _ANY_HOST, _OPERATIONS[right.operation], _ALLOW


def _matching(acls: Any) -> Iterator[Any]:
    yield from acls or ()


def _nodes(client: AIOKafkaClient) -> list[int]:
    return sorted(broker.nodeId for broker in client.cluster.brokers())


def _raise_for(code: int, text: str | None) -> None:
    if not code:
        return
    if code == _CLUSTER_DENIED:
        raise NotPermitted(
            "this user lacks the right Alter on the cluster, which it takes to change rights: "
            "kafka-acls.sh --add --allow-principal User:NAME --operation Alter --cluster"
        )
    if code == _SECURITY_DISABLED:
        raise BrokerError("the brokers have no authorizer (authorizer.class.name), so everybody may do everything")
    said = f"; the broker says: {text}" if text else ""
    raise BrokerError(f"the rights were not changed: {explain(for_code(code)())}{said}")


def _principal(name: str) -> str:
    kind, colon, rest = name.partition(":")
    if colon and kind == "User":
        name = rest
    elif colon and "=" not in kind:
        raise SettingsError(f"{name!r} is a principal of type {kind!r}: must be a user's name, or User:NAME")
    if not name.strip() or name != name.strip() or not name.isprintable():
        raise SettingsError(f"{name!r} is no user's name: must be printable, without blanks around it")
    if name == "*":
        raise SettingsError("User:* is everybody: name the users that need the right")
    return f"User:{name}"

"""The topic: create it, check it against the contract, refuse or warn. Alters nothing that exists.

aiokafka's admin calls do not raise: errors stand inside the responses, so each is looked into here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest

from revoker.cluster import NO_LEADER, TopicView, ask, first_answer, granting, lacking, look
from revoker.contract import AUTO_CREATE, Violation, violations, wanted
from revoker.diagnosis import explain
from revoker.errors import (
    BrokerError,
    BrokerUnreachable,
    ContractViolated,
    SettingsError,
    TopicMissing,
)
from revoker.kafka import connected
from revoker.settings import Settings

__all__ = [
    "CreateResult",
    "Report",
    "Violation",
    "check",
    "check_with",
    "create",
    "delete",
    "enforce",
    "violations",
    "wanted",
]

_logger = logging.getLogger(__name__)

_TOPIC, _BROKER = 2, 4  # Kafka's ConfigResource types
_UNKNOWN_TOPIC, _TIMED_OUT, _TOPIC_DENIED, _CLUSTER_DENIED = 3, 7, 29, 31
_EXISTS, _BAD_PARTITIONS, _BAD_FACTOR, _NOT_CONTROLLER = 36, 37, 38, 41
_LEGAL_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_POLL_S: Final = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a check found. ``configs``: the topic's effective settings as far as the broker told, by Kafka's names.

    ``denied``: the right this user lacks for a check, so that next to nothing is proven; None if it lacks none.
    """

    view: TopicView
    configs: Mapping[str, str | None]
    violations: tuple[Violation, ...]
    denied: str | None = None

    @property
    def losing(self) -> tuple[Violation, ...]:
        """The violations under which revocations are lost."""
        return tuple(violation for violation in self.violations if violation.severity == "loss")

    @property
    def unproven(self) -> tuple[Violation, ...]:
        """The settings the broker did not tell."""
        return tuple(violation for violation in self.violations if violation.severity == "unproven")


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateResult:
    """``created`` is False if the topic existed; it was then left as it is, and ``report`` says whether it keeps the
    contract."""

    created: bool
    report: Report


async def check(settings: Settings) -> Report:
    """Look at the topic through a connection of its own; for the command line. Raises as `connected` and `look` do."""
    async with connected(settings) as client:
        view = await look(client, settings.topic, timeout_s=settings.request_timeout_s)
        return await check_with(client, settings=settings, view=view)


async def check_with(client: AIOKafkaClient, *, settings: Settings, view: TopicView) -> Report:
    """Check the topic in ``view`` through a running client, such as a consumer's.

    A user without the right DescribeConfigs gets a report in which everything is unproven and the missing right is
    named. Raises BrokerUnreachable if no broker told, TopicMissing if the topic is gone.
    """
    nodes = sorted(broker.nodeId for broker in client.cluster.brokers())
    configs, auto_create = await asyncio.gather(
        _topic_configs(client, nodes=nodes, settings=settings), _auto_create(client, nodes=nodes, settings=settings)
    )
    partitions = view.partitions.values()
    refused: dict[str, Any] = {}
    if configs is None:
        refused = {
            "unanswered": "this user lacks the right DescribeConfigs on the topic, so the broker did not say",
            "ask_for_it": granting("DescribeConfigs", settings.topic),
        }
    return Report(
        view=view,
        configs=configs or {},
        violations=violations(
            settings=settings,
            configs=configs or {},
            replication_factor=min((len(partition.replicas) for partition in partitions), default=0),
            least_in_sync=min((_in_sync(view, number) for number in view.partitions), default=0),
            auto_create=auto_create,
            **refused,
        ),
        denied="DescribeConfigs" if configs is None else None,
    )


async def create(settings: Settings, *, timeout_s: float = 15.0) -> CreateResult:
    """Make the topic with exactly the settings of the contract, wait until every broker shows it, and read it back.

    A topic that exists is left as it is. Raises SettingsError naming the setting the cluster cannot meet, NotPermitted
    naming the right this user lacks, BrokerError in the cluster's own words, and BrokerUnreachable.
    """
    if not _LEGAL_NAME.fullmatch(settings.topic):
        raise SettingsError(
            f"topic is {settings.topic!r}, must be 1 to 249 of the characters a-z A-Z 0-9 . _ - and not . or .."
        )
    async with connected(settings) as client:
        try:
            view = await look(client, settings.topic, timeout_s=settings.request_timeout_s)
            created = False
        except TopicMissing:
            created = await _create(client, settings, timeout_s=timeout_s)
            view = await _visible(client, settings, timeout_s=timeout_s)
        return CreateResult(created=created, report=await check_with(client, settings=settings, view=view))


async def delete(settings: Settings, *, timeout_s: float = 15.0) -> None:
    """Delete the topic and every revocation in it; for whoever made it for a trial.

    Raises BrokerError in the cluster's words if it refuses, and BrokerUnreachable.
    """
    async with connected(settings) as client:
        request = DeleteTopicsRequest([settings.topic], round(timeout_s * 1000))
        response = await first_answer(client, _controller_first(client), request, timeout_s=timeout_s)
        _, code = response.topic_error_codes[0]
        if code in (_TOPIC_DENIED, _CLUSTER_DENIED):
            raise lacking("Delete", settings.topic)
        if code not in (0, _UNKNOWN_TOPIC, _TIMED_OUT):  # a timeout only says that it goes on after the answer
            raise BrokerError(f"topic {settings.topic!r} was not deleted: {explain(for_code(code)())}")


def enforce(report: Report, *, mode: Literal["strict", "lenient"]) -> None:
    """Act on a report as the setting ``topic_check`` says. Raises ContractViolated in strict mode if revocations would
    be lost.

    In lenient mode a loss is only logged. What is unproven is logged in either mode and never refuses.
    """
    for violation in report.violations:
        if violation.severity == "loss":
            _logger.error("topic %s: %s", report.view.topic, violation)
        elif violation.severity == "unproven":
            _logger.warning("topic %s: %s", report.view.topic, violation)
        else:
            _logger.info("topic %s: %s", report.view.topic, violation)
    if report.losing and mode == "strict":
        reasons = "; ".join(str(violation) for violation in report.losing)
        raise ContractViolated(
            f"topic {report.view.topic!r} would lose revocations: {reasons}", violations=report.losing
        )


async def _create(client: AIOKafkaClient, settings: Settings, *, timeout_s: float) -> bool:
    """Whether the topic was made; False if somebody else made it meanwhile."""
    goal = list(wanted(settings).items())
    topic: Any = (settings.topic, settings.topic_partitions, settings.topic_replication_factor, [], goal)
    request = CreateTopicsRequest([topic], round(timeout_s * 1000), False)
    nodes = _controller_first(client)
    response = await first_answer(client, nodes, request, timeout_s=timeout_s)
    _, code, text = response.topic_errors[0]
    if code == _NOT_CONTROLLER:
        raise BrokerError("the cluster is electing a controller: try again")
    if code in (0, _EXISTS, _TIMED_OUT):  # after a timeout the topic may appear yet: the caller waits for it
        return bool(code != _EXISTS)
    raise _refusal(settings, code, text, brokers=len(nodes))


def _refusal(settings: Settings, code: int, text: str | None, *, brokers: int) -> Exception:
    said = f"; the broker says: {text}" if text else ""
    if code == _BAD_FACTOR:
        return SettingsError(
            f"topic_replication_factor is {settings.topic_replication_factor}, but the cluster has {brokers} "
            f"broker{'s' if brokers != 1 else ''}: add brokers, or, for a test, set topic_replication_factor={brokers} "
            f"and topic_min_insync_replicas=1{said}"
        )
    if code == _BAD_PARTITIONS:
        return SettingsError(f"topic_partitions is {settings.topic_partitions}, which the cluster refuses{said}")
    if code in (_TOPIC_DENIED, _CLUSTER_DENIED):
        return lacking("Create", settings.topic, so=said)
    return BrokerError(f"topic {settings.topic!r} was not made: {explain(for_code(code)())}{said}")


async def _visible(client: AIOKafkaClient, settings: Settings, *, timeout_s: float) -> TopicView:
    """The topic as soon as every broker that answers knows it, with a leader for each partition."""
    missing = "no broker shows it"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    view = await look(client, settings.topic, timeout_s=settings.request_timeout_s)
                except (TopicMissing, BrokerUnreachable) as error:
                    missing = str(error)
                else:
                    leaderless = [n for n, partition in view.partitions.items() if partition.leader == NO_LEADER]
                    if view.partitions and not leaderless and not view.dissenting:
                        return view
                    missing = (
                        f"partitions without a leader: {leaderless}; brokers that do not know it: {view.dissenting}"
                    )
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise BrokerError(f"topic {settings.topic!r} was made, but after {timeout_s:g} s {missing}") from None


async def _topic_configs(
    client: AIOKafkaClient, *, nodes: list[int], settings: Settings
) -> dict[str, str | None] | None:
    """The topic's effective settings; None if this user may not read them."""
    request = DescribeConfigsRequest([(_TOPIC, settings.topic, None)], False)
    response = await first_answer(client, nodes, request, timeout_s=settings.request_timeout_s)
    code, text, _, _, entries = response.resources[0]
    if code in (_TOPIC_DENIED, _CLUSTER_DENIED):
        return None
    if code == _UNKNOWN_TOPIC:
        raise TopicMissing(f"topic {settings.topic!r} does not exist: make it with `revoker topic create`")
    if code:
        raise BrokerError(
            f"the settings of topic {settings.topic!r} could not be read: {explain(for_code(code)(text))}"
        )
    return {entry[0]: entry[1] for entry in entries}


async def _auto_create(client: AIOKafkaClient, *, nodes: list[int], settings: Settings) -> bool | None:
    """Whether any broker makes topics by itself; None if none says so and some did not tell."""

    async def told_by(node: int) -> bool | None:
        request = DescribeConfigsRequest([(_BROKER, str(node), [AUTO_CREATE])], False)
        try:
            response = await ask(client, node, request, timeout_s=settings.request_timeout_s)
        except (KafkaError, OSError, NotImplementedError) as error:
            _logger.debug("broker %s did not tell %s: %s", node, AUTO_CREATE, explain(error))
            return None
        entries = {entry[0]: entry[1] for resource in response.resources for entry in resource[4] or ()}
        value = entries.get(AUTO_CREATE)
        return None if value is None else value == "true"

    told = await asyncio.gather(*(told_by(node) for node in nodes))
    if True in told:
        return True
    return None if None in told else False


def _controller_first(client: AIOKafkaClient) -> list[int]:
    """The brokers' node ids; topics are made and deleted by the controller alone."""
    controller = client.cluster.controller
    nodes = sorted(broker.nodeId for broker in client.cluster.brokers())
    if controller is not None:
        nodes.sort(key=lambda node: node != controller.nodeId)
    return nodes


def _in_sync(view: TopicView, number: int) -> int:
    partition = view.partitions[number]
    return 0 if partition.leader == NO_LEADER else len(partition.isr)

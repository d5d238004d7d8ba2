"""The topic's contract: under which settings no acknowledged revocation is lost, what each breach costs, and its cure.

Brokers take almost any setting, a retention of 0 ms included, so these rules are the only guard. They are pure
functions of what the brokers told; what they did not tell is "unproven", never fine. `revoker.topic` asks, creates and
enforces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from revoker.kafka import MAX_BATCH_BYTES, readable_codecs
from revoker.record import VALUE_MAX_BYTES
from revoker.settings import Settings

__all__ = ["AUTO_CREATE", "Severity", "Violation", "violations", "wanted"]

#: The brokers' setting that lets them make a topic somebody merely asked about.
AUTO_CREATE: Final = "auto.create.topics.enable"

#: ``loss``: an acknowledged revocation can vanish, or none can be published or read. ``unproven``: the broker did not
#: say. ``advice``: nothing is lost, but it costs something.
Severity = Literal["loss", "unproven", "advice"]

#: Room for a record's key, headers and framing beside its value, in bytes: a key repeats up to three escaped
#: identifiers.
_RECORD_ROOM_BYTES: Final = 32_768

#: The limit applies to a batch, not to a record: below this, publishing would fail only when many log out at once.
_LEAST_MESSAGE_BYTES: Final = max(MAX_BATCH_BYTES, VALUE_MAX_BYTES + _RECORD_ROOM_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One breach of the contract: the topic setting, what it is, what it has to be, what that loses, and the exact
    cure.

    ``actual`` is ``None`` where the broker did not say.
    """

    setting: str
    actual: str | None
    wanted: str
    loses: str
    cure: str
    severity: Severity

    def __str__(self) -> str:
        state = f"{self.setting} is unknown" if self.actual is None else f"{self.setting} is {self.actual!r}"
        return f"{state}, must be {self.wanted}: {self.loses}. Cure: {self.cure}"


def wanted(settings: Settings) -> dict[str, str]:
    """The topic settings `create` sets, by Kafka's names. All that matter are explicit: a cluster's defaults may change
    later."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(settings.lifetimes.retention_ms),
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
        "unclean.leader.election.enable": "false",
        "min.insync.replicas": str(settings.topic_min_insync_replicas),
        "segment.ms": str(settings.topic_segment_s * 1000),
        "max.message.bytes": "1048588",
        # With "producer" one batch in a codec a node lacks keeps that node from being ready, whoever wrote it.
        "compression.type": "uncompressed",
    }


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """A setting whose breach is a loss. ``holds`` gets the value as the broker wrote it."""

    setting: str
    must_be: str
    loses: str
    set_to: str
    holds: Callable[[str], bool]


def _rules(settings: Settings) -> tuple[_Rule, ...]:
    goal = wanted(settings)
    retention_ms = settings.lifetimes.retention_ms
    in_sync = settings.topic_min_insync_replicas

    def rule(
        setting: str, must_be: str, holds: Callable[[str], bool], loses: str, *, set_to: str | None = None
    ) -> _Rule:
        return _Rule(setting=setting, must_be=must_be, loses=loses, set_to=set_to or goal[setting], holds=holds)

    def exactly(setting: str, loses: str) -> _Rule:
        return rule(setting, goal[setting], goal[setting].__eq__, loses)

    return (
        rule(
            "cleanup.policy",
            "delete",
            # An empty policy is advice, below: it keeps everything.
            lambda value: value in ("delete", ""),
            "compaction keeps only the newest record of a key: a log-out that spares one session would replace one "
            "that spared none",
        ),
        rule(
            "retention.ms",
            f"at least {retention_ms}, or -1",
            lambda value: _number(value) == -1 or _number(value) >= retention_ms,
            "revocations are deleted while tokens they refuse are still valid: a node that starts then lets them in",
        ),
        exactly("retention.bytes", "a burst of log-outs deletes live revocations by volume, whatever their age"),
        exactly(
            "message.timestamp.type",
            "revocations age by their publishers' clocks: one that runs behind makes them expire early, and replays by "
            "time miss them",
        ),
        exactly(
            "unclean.leader.election.enable",
            "a replica that lags behind may become leader and cut off acknowledged revocations",
        ),
        rule(
            "min.insync.replicas",
            f"at least {in_sync}",
            lambda value: _number(value) >= in_sync,
            f"a revocation may be acknowledged on fewer than {in_sync} brokers and vanish with them",
        ),
        rule(
            "max.message.bytes",
            f"at least {_LEAST_MESSAGE_BYTES}",
            lambda value: _number(value) >= _LEAST_MESSAGE_BYTES,
            "longer batches are refused: publishing would fail just when many log out at once",
        ),
        rule(
            "segment.bytes",
            f"at least {_LEAST_MESSAGE_BYTES}",
            lambda value: _number(value) >= _LEAST_MESSAGE_BYTES,
            "a batch longer than a segment is refused: publishing would fail just when many log out at once",
            set_to="1073741824",
        ),
        rule(
            "compression.type",
            "uncompressed, gzip or producer",
            # What needs a package that not every node may have is judged apart, by what this process can read.
            lambda value: value in ("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"),
            "nodes could not read the records",
        ),
    )


def violations(
    *,
    settings: Settings,
    configs: Mapping[str, str | None],
    replication_factor: int,
    least_in_sync: int | None = None,
    auto_create: bool | None = None,
    readable: frozenset[str] | None = None,
    unanswered: str = "the broker did not say",
    ask_for_it: str | None = None,
) -> tuple[Violation, ...]:
    """Every breach of the contract, losses first.

    ``configs``: effective values by Kafka's names; ``None`` or absent = not told. ``replication_factor``: the least of
    any partition. ``least_in_sync``: in-sync replicas of the worst partition now, ``None`` = not looked at.
    ``auto_create``: whether any broker makes topics by itself, ``None`` = not told. ``readable``: codecs that can be
    read, ``None`` = those of this process. ``unanswered``: why the broker did not tell, ``ask_for_it``: the cure. What
    could only earn advice is not reported when untold.
    """
    found: list[Violation] = []
    for rule in _rules(settings):
        actual = configs.get(rule.setting)
        if actual is not None and rule.holds(actual):
            continue
        found.append(
            Violation(
                setting=rule.setting,
                actual=actual,
                wanted=rule.must_be,
                loses=rule.loses if actual is not None else f"{unanswered}; were it otherwise, {rule.loses}",
                cure=_alter(settings, rule.setting, rule.set_to)
                if actual is not None
                else ask_for_it or _describe(settings),
                severity="loss" if actual is not None else "unproven",
            )
        )
    found += _replication(settings, configs, replication_factor)
    found += _compression(settings, configs, readable_codecs() if readable is None else readable)
    found += _advice(settings, configs, least_in_sync)
    found += _auto_creation(auto_create)
    order: tuple[Severity, ...] = ("loss", "unproven", "advice")
    return tuple(sorted(found, key=lambda violation: order.index(violation.severity)))


def _replication(settings: Settings, configs: Mapping[str, str | None], factor: int) -> list[Violation]:
    found = []
    if factor < settings.topic_replication_factor:
        found.append(
            Violation(
                setting="replication factor",
                actual=str(factor),
                wanted=f"at least {settings.topic_replication_factor}",
                loses=f"the loss of {factor} broker{'s' if factor > 1 else ''} loses every revocation",
                cure=f"kafka-reassign-partitions.sh --bootstrap-server {settings.kafka_bootstrap_servers} "
                "--reassignment-json-file FILE --execute, where FILE gives each partition "
                f"{settings.topic_replication_factor} replicas",
                severity="loss",
            )
        )
    in_sync = configs.get("min.insync.replicas")
    if in_sync is not None and _number(in_sync) > factor:
        found.append(
            Violation(
                setting="min.insync.replicas",
                actual=in_sync,
                wanted=f"at most the replication factor, {factor}",
                loses="no revocation can ever be acknowledged",
                cure=_alter(settings, "min.insync.replicas", str(min(settings.topic_min_insync_replicas, factor))),
                severity="loss",
            )
        )
    return found


def _compression(settings: Settings, configs: Mapping[str, str | None], readable: frozenset[str]) -> list[Violation]:
    codec = configs.get("compression.type")
    if codec not in ("snappy", "lz4", "zstd"):
        return []
    here = codec in readable
    return [
        Violation(
            setting="compression.type",
            actual=codec,
            wanted="uncompressed or gzip",
            loses="a node without the package cramjam can read nothing; this process "
            f"{'has it' if here else 'is such a one'}",
            cure=f"{_alter(settings, 'compression.type', 'uncompressed')}; or, on every node, pip install cramjam",
            severity="unproven" if here else "loss",
        )
    ]


def _advice(settings: Settings, configs: Mapping[str, str | None], least_in_sync: int | None) -> list[Violation]:
    found = []

    def advise(setting: str, must_be: str, loses: str, cure: str, *, actual: str | None = None) -> None:
        actual = configs.get(setting) if actual is None else actual
        found.append(
            Violation(setting=setting, actual=actual, wanted=must_be, loses=loses, cure=cure, severity="advice")
        )

    if configs.get("compression.type") == "producer":
        advise(
            "compression.type",
            "uncompressed",
            "one batch compressed with zstd, lz4 or snappy keeps every node without the package cramjam from being "
            "ready",
            _alter(settings, "compression.type", "uncompressed"),
        )
    if configs.get("cleanup.policy") == "":
        advise(
            "cleanup.policy",
            "delete",
            "nothing is ever deleted, until the disk is full; every replay grows with the age of the topic",
            _alter(settings, "cleanup.policy", "delete"),
        )
    segment_ms, most_ms = configs.get("segment.ms"), settings.topic_segment_s * 1000
    least_ms = min(60_000, most_ms)
    if segment_ms is not None and not least_ms <= _number(segment_ms) <= most_ms:
        long = _number(segment_ms) > most_ms
        advise(
            "segment.ms",
            f"{least_ms} to {most_ms}",
            "a replay carries dead records of up to one segment's span"
            if long
            else "brokers handle a great many small files",
            _alter(settings, "segment.ms", str(most_ms)),
        )
    if configs.get("remote.storage.enable") == "true":
        advise(
            "remote.storage.enable",
            "false",
            "a starting node reads what is past local.retention from remote storage: slowly, and only while that is up",
            "a new topic without tiered storage (revoker topic create), or local.retention.ms = retention.ms",
        )
    in_sync = _number(configs.get("min.insync.replicas") or "")
    if least_in_sync is not None and least_in_sync < max(in_sync, 1):
        advise(
            "replicas in sync now",
            f"at least {max(in_sync, 1)}",
            "revocations are not acknowledged at the moment",
            "bring the missing brokers back",
            actual=str(least_in_sync),
        )
    return found


def _auto_creation(auto_create: bool | None) -> list[Violation]:
    if auto_create is False:
        return []
    told = auto_create is not None
    loses = (
        "should the topic be deleted, any other client that looks at it makes it anew, empty and with the brokers' "
        "default retention"
    )
    return [
        Violation(
            setting=AUTO_CREATE,
            actual="true" if told else None,
            wanted="false on every broker",
            loses=loses if told else f"not every broker said; were it true, {loses}",
            cure=f"{AUTO_CREATE}=false in each broker's server.properties, and restart it"
            if told
            else "look it up, or kafka-acls.sh --add --allow-principal User:NAME --operation DescribeConfigs --cluster",
            severity="advice" if told else "unproven",
        )
    ]


def _number(text: str) -> int:
    """The number, or one that satisfies no bound: a value that is none must not pass."""
    try:
        return int(text)
    except ValueError:
        return -(2**63)


def _alter(settings: Settings, name: str, value: str) -> str:
    return f"{_configs_tool(settings)} --alter --add-config {name}={value}"


def _describe(settings: Settings) -> str:
    return f"look it up: {_configs_tool(settings)} --describe --all"


def _configs_tool(settings: Settings) -> str:
    entity = f"--entity-type topics --entity-name {settings.topic}"
    return f"kafka-configs.sh --bootstrap-server {settings.kafka_bootstrap_servers} {entity}"

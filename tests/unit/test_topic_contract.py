"""The contract's rules: what is a loss, what is unproven, what is advice, and that each names its cure."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import pytest

from revoker.cluster import PartitionView, TopicView
from revoker.contract import Severity
from revoker.errors import ContractViolated
from revoker.record import VALUE_MAX_BYTES
from revoker.settings import Settings
from revoker.topic import Report, Violation, enforce, violations, wanted

SETTINGS = Settings(kafka_bootstrap_servers="kafka-1:9092", topic="revocations")
RETENTION_MS = SETTINGS.lifetimes.retention_ms

#: What a broker adds to the settings made by `create`.
DEFAULTS = {"segment.bytes": "1073741824", "remote.storage.enable": "false"}


def found(
    changes: Mapping[str, str | None] | None = None,
    *,
    settings: Settings = SETTINGS,
    factor: int = 3,
    least_in_sync: int | None = 3,
) -> tuple[Violation, ...]:
    """Violations of a perfect topic after ``changes``."""
    configs: dict[str, str | None] = {**wanted(settings), **DEFAULTS, **(changes or {})}
    return violations(
        settings=settings,
        configs=configs,
        replication_factor=factor,
        least_in_sync=least_in_sync,
        auto_create=False,
        readable=frozenset({"uncompressed", "gzip"}),
    )


def only(severity: Severity, setting: str, seen: tuple[Violation, ...]) -> Violation:
    """The one violation there is."""
    assert [(violation.severity, violation.setting) for violation in seen] == [(severity, setting)]
    return seen[0]


def test_a_topic_as_created_keeps_the_contract() -> None:
    """What `create` sets is what the check wants."""
    assert found() == ()


def test_an_unlimited_retention_keeps_the_contract() -> None:
    """Kept for ever is kept long enough."""
    assert found({"retention.ms": "-1"}) == ()


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"cleanup.policy": "compact"}, "cleanup.policy"),
        ({"cleanup.policy": "compact,delete"}, "cleanup.policy"),
        ({"retention.ms": str(RETENTION_MS - 1)}, "retention.ms"),
        ({"retention.ms": "0"}, "retention.ms"),
        ({"retention.ms": "-2"}, "retention.ms"),
        ({"retention.bytes": "1073741824"}, "retention.bytes"),
        ({"retention.bytes": "-2"}, "retention.bytes"),
        ({"message.timestamp.type": "CreateTime"}, "message.timestamp.type"),
        ({"unclean.leader.election.enable": "true"}, "unclean.leader.election.enable"),
        ({"min.insync.replicas": "1"}, "min.insync.replicas"),
        ({"min.insync.replicas": "4"}, "min.insync.replicas"),
        ({"max.message.bytes": "100000"}, "max.message.bytes"),
        ({"segment.bytes": "100000"}, "segment.bytes"),
        ({"compression.type": "zstd"}, "compression.type"),
        ({"compression.type": "brotli"}, "compression.type"),
        ({"retention.ms": "a week"}, "retention.ms"),
    ],
)
def test_what_loses_revocations_is_a_loss(changes: dict[str, str], setting: str) -> None:
    """Each such setting, alone, is reported with its value, what it loses, and the command that mends it."""
    violation = only("loss", setting, found(changes, least_in_sync=None))

    assert violation.actual == next(iter(changes.values()))
    assert violation.loses
    assert "--entity-type topics --entity-name revocations --alter --add-config" in violation.cure
    assert "kafka-1:9092" in violation.cure


def test_the_cure_of_a_short_retention_is_the_exact_command() -> None:
    """It can be pasted as it stands."""
    assert found({"retention.ms": "1000"})[0].cure == (
        "kafka-configs.sh --bootstrap-server kafka-1:9092 --entity-type topics --entity-name revocations "
        f"--alter --add-config retention.ms={RETENTION_MS}"
    )


def test_too_few_replicas_are_a_loss() -> None:
    """One copy of the log is lost with its broker."""
    violation = only("loss", "replication factor", found(factor=2, least_in_sync=2))

    assert (violation.actual, violation.wanted) == ("2", "at least 3")
    assert "kafka-reassign-partitions.sh" in violation.cure


def test_more_in_sync_replicas_than_replicas_are_a_loss() -> None:
    """Nothing could ever be acknowledged; the cure is a number that can be met."""
    seen = found(factor=1, least_in_sync=None)

    assert {violation.setting for violation in seen} == {"replication factor", "min.insync.replicas"}
    assert any("min.insync.replicas=1" in violation.cure for violation in seen)


def test_the_batch_limit_covers_a_full_batch_and_the_longest_record() -> None:
    """The least max.message.bytes is that of a full batch, which is longer than any record."""
    assert found({"max.message.bytes": "262144"}) == ()
    assert found({"max.message.bytes": "262143"}) != ()
    assert VALUE_MAX_BYTES < 262_144


def test_a_codec_read_here_is_unproven_elsewhere() -> None:
    """That this process has the package says nothing about the other nodes."""
    seen = violations(
        settings=SETTINGS,
        configs=wanted(SETTINGS) | DEFAULTS | {"compression.type": "zstd"},
        replication_factor=3,
        auto_create=False,
        readable=frozenset({"zstd"}),
    )

    assert only("unproven", "compression.type", seen).actual == "zstd"


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"cleanup.policy": ""}, "cleanup.policy"),
        ({"segment.ms": "604800000"}, "segment.ms"),
        ({"segment.ms": "1000"}, "segment.ms"),
        ({"remote.storage.enable": "true"}, "remote.storage.enable"),
        ({"compression.type": "producer"}, "compression.type"),
    ],
)
def test_what_only_costs_is_advice(changes: dict[str, str], setting: str) -> None:
    """Nothing is lost, so no node refuses to start over it."""
    only("advice", setting, found(changes))


def test_short_segments_are_fine_where_they_are_asked_for() -> None:
    """The setting decides: a topic made with topic_segment_s=1 earns no advice."""
    assert found(settings=Settings(topic_segment_s=1)) == ()


def test_missing_replicas_now_are_advice() -> None:
    """A broker that is down for the moment is no breach of the contract, but is shown."""
    violation = only("advice", "replicas in sync now", found(least_in_sync=1))

    assert (violation.actual, violation.wanted) == ("1", "at least 2")


@pytest.mark.parametrize("setting", [*wanted(SETTINGS), "segment.bytes"])
def test_what_a_broker_does_not_tell_is_never_silently_fine(setting: str) -> None:
    """A value of None and an absent one are both unproven; the span of segments alone could only earn advice."""
    told: dict[str, str | None] = dict(wanted(SETTINGS) | DEFAULTS)
    absent = {name: value for name, value in told.items() if name != setting}
    for configs in (told | {setting: None}, absent):
        seen = violations(settings=SETTINGS, configs=configs, replication_factor=3, auto_create=False)
        expected = [] if setting == "segment.ms" else [("unproven", setting, None)]
        assert [(violation.severity, violation.setting, violation.actual) for violation in seen] == expected


def test_the_missing_right_is_named_by_everything_unproven() -> None:
    """A user who may not read the settings learns which right is missing, and how to grant it."""
    seen = violations(
        settings=SETTINGS,
        configs={},
        replication_factor=3,
        auto_create=False,
        unanswered="this user lacks the right DescribeConfigs",
        ask_for_it="kafka-acls.sh",
    )

    assert len(seen) == 9
    assert {violation.severity for violation in seen} == {"unproven"}
    assert all("DescribeConfigs" in violation.loses and violation.cure == "kafka-acls.sh" for violation in seen)


@pytest.mark.parametrize(("told", "severity"), [(True, "advice"), (None, "unproven")])
def test_brokers_that_make_topics_are_pointed_out(told: bool | None, severity: Severity) -> None:
    """It is the brokers' setting, and nothing of ours makes a topic, so it never refuses."""
    seen = violations(settings=SETTINGS, configs=wanted(SETTINGS) | DEFAULTS, replication_factor=3, auto_create=told)

    only(severity, "auto.create.topics.enable", seen)


def test_losses_come_first() -> None:
    """Whoever reads one line reads the worst."""
    seen = found({"segment.ms": "1", "retention.bytes": "5", "compression.type": None})

    assert [violation.severity for violation in seen] == ["loss", "unproven", "advice"]


def test_the_retention_follows_from_the_settings() -> None:
    """Longer tokens need a longer retention."""
    longer = Settings(longest_token_life_s=SETTINGS.longest_token_life_s + 1)

    assert int(wanted(longer)["retention.ms"]) == RETENTION_MS + 1000
    violated = violations(settings=longer, configs=wanted(SETTINGS) | DEFAULTS, replication_factor=3, auto_create=False)
    assert only("loss", "retention.ms", violated).wanted == f"at least {RETENTION_MS + 1000}, or -1"


def report(*severities: Severity) -> Report:
    """A report with one violation of each severity given."""
    partition = PartitionView(leader=1, leader_epoch=0, replicas=(1,), isr=(1,))
    view = TopicView(
        cluster_id=None, topic="t", topic_id=UUID(int=1), partitions={0: partition}, rights=None, asked=1, answered=1
    )
    return Report(
        view=view,
        configs={},
        violations=tuple(
            Violation(setting="s", actual="1", wanted="2", loses="all", cure="do", severity=severity)
            for severity in severities
        ),
    )


def test_strict_refuses_a_loss() -> None:
    """The error carries the losses and says what, why and the cure."""
    with pytest.raises(
        ContractViolated, match=r"'t' would lose revocations: s is '1', must be 2: all\. Cure: do"
    ) as caught:
        enforce(report("loss", "advice"), mode="strict")

    assert len(caught.value.violations) == 1


def test_strict_accepts_what_is_unproven(caplog: pytest.LogCaptureFixture) -> None:
    """What a broker does not tell is visible, and no reason to refuse."""
    enforce(report("unproven", "advice"), mode="strict")

    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_lenient_warns_of_a_loss(caplog: pytest.LogCaptureFixture) -> None:
    """The operator chose to go on, and reads about it in the log."""
    enforce(report("loss"), mode="lenient")

    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "Cure: do" in caplog.text

"""Merging what the brokers say about the topic."""

from __future__ import annotations

from uuid import UUID

import pytest

from revoker.cluster import NO_LEADER, PartitionView, TopicView, _Answer, _merge, _rights, newer_leader
from revoker.errors import BrokerError, NotPermitted, SettingsError, TopicMissing

OLD, NEW, NONE = UUID(int=1), UUID(int=2), UUID(int=0)
READ_WRITE = frozenset({"Read", "Write"})


def partition(leader: int, epoch: int) -> PartitionView:
    """A partition led by ``leader`` since ``epoch``."""
    return PartitionView(leader=leader, leader_epoch=epoch, replicas=(1, 2, 3), isr=(1, 2, 3))


def answer(
    node: int,
    *partitions: PartitionView,
    topic_id: UUID = OLD,
    error: int = 0,
    rights: frozenset[str] | None = READ_WRITE,
) -> _Answer:
    """What one broker says; its partitions are numbered from 0."""
    return _Answer(
        node=node,
        cluster_id="c",
        error=error,
        topic_id=topic_id if not error else NONE,
        partitions=dict(enumerate(partitions)),
        rights=rights,
    )


def merged(*answers: _Answer) -> TopicView:
    """What all brokers say together."""
    return _merge("t", list(answers), asked=len(answers))


def test_the_highest_leader_epoch_wins() -> None:
    """A deposed leader still names itself; the newer epoch decides, partition by partition, whoever answers first."""
    view = merged(answer(1, partition(1, 5), partition(3, 9)), answer(2, partition(2, 6), partition(1, 8)))

    assert [view.partitions[number].leader for number in (0, 1)] == [2, 3]


def test_at_the_same_epoch_a_leader_beats_none() -> None:
    """A broker that has lost sight of the leader does not hide it."""
    view = merged(answer(1, partition(NO_LEADER, 5)), answer(2, partition(2, 5)))

    assert view.partitions[0].leader == 2


def test_a_leaderless_partition_is_kept() -> None:
    """Without any leader the partition is there, led by nobody."""
    assert merged(answer(1, partition(NO_LEADER, 5))).partitions[0].leader == NO_LEADER


def test_a_partition_only_one_broker_knows_is_seen() -> None:
    """A new partition counts from the first broker that shows it."""
    assert len(merged(answer(1, partition(1, 0)), answer(2, partition(1, 0), partition(2, 0))).partitions) == 2


def test_most_answers_decide_the_topic_id() -> None:
    """One broker that is cut off and still shows the deleted topic does not hide the new one."""
    view = merged(
        answer(1, partition(1, 7)), answer(2, partition(2, 0), topic_id=NEW), answer(3, partition(2, 0), topic_id=NEW)
    )

    assert view.topic_id == NEW
    assert view.partitions[0].leader_epoch == 0
    assert view.dissenting == 1


def test_a_tie_goes_to_the_younger_topic() -> None:
    """Of two ids with as many answers, the one with lower leader epochs is the one just made."""
    view = merged(answer(1, partition(1, 7)), answer(2, partition(2, 0), topic_id=NEW))

    assert view.topic_id == NEW
    assert view.dissenting == 1


def test_a_tie_goes_to_existence() -> None:
    """A topic half the brokers know is being made rather than missing."""
    view = merged(answer(1, error=3), answer(2, partition(2, 0)))

    assert view.topic_id == OLD
    assert view.dissenting == 1


def test_most_answers_decide_that_the_topic_is_missing() -> None:
    """One broker that is cut off and still shows the deleted topic does not keep it alive."""
    with pytest.raises(TopicMissing, match="'t' does not exist: make it with `revoker topic create`"):
        merged(answer(1, partition(1, 7)), answer(2, error=3), answer(3, error=3))


def test_a_denied_topic_names_the_missing_right() -> None:
    """Error 29 becomes the right and the command that grants it."""
    with pytest.raises(NotPermitted, match=r"lacks the right Describe on topic 't'.*kafka-acls\.sh"):
        merged(answer(1, error=29))


def test_an_illegal_topic_name_is_a_matter_of_settings() -> None:
    """Error 17 is the caller's mistake and is named as one."""
    with pytest.raises(SettingsError, match="which Kafka does not allow"):
        merged(answer(1, error=17))


def test_another_error_is_named() -> None:
    """Any other code of the topic is told by its Kafka name."""
    with pytest.raises(BrokerError, match=r"UnknownError \(Kafka error -1\)"):
        merged(answer(1, error=-1))


def test_a_right_counts_once_every_broker_knows_it() -> None:
    """Rights are granted broker by broker; those that do not tell do not count."""
    view = merged(
        answer(1, partition(1, 0)),
        answer(2, partition(1, 0), rights=frozenset({"Read"})),
        answer(3, partition(1, 0), rights=None),
    )

    assert view.rights == frozenset({"Read"})


def test_rights_nobody_tells_are_unknown() -> None:
    """None is not the same as no right at all."""
    assert merged(answer(1, partition(1, 0), rights=None)).rights is None
    assert merged(answer(1, partition(1, 0), rights=frozenset())).rights == frozenset()


@pytest.mark.parametrize(
    ("operations", "rights"),
    [
        (264, frozenset({"Read", "Describe"})),
        (272, frozenset({"Write", "Describe"})),
        (0, frozenset()),
        (-(2**31), None),
    ],
)
def test_operations_are_bits(operations: int, rights: frozenset[str] | None) -> None:
    """Bit 3 is Read, bit 4 Write, bit 8 Describe; the least integer means "not told"."""
    assert _rights(operations) == rights


def test_a_deposed_leader_is_reported_with_its_successor() -> None:
    """Only partitions read from another broker than the newest leader are reported."""
    view = merged(answer(1, partition(1, 5), partition(2, 3)))

    assert newer_leader(view, {0: 1, 1: 3}) == {1: 2}


def test_a_partition_nobody_leads_or_knows_is_reported() -> None:
    """Without a leader nobody can vouch for what is read."""
    view = merged(answer(1, partition(NO_LEADER, 5)))

    assert newer_leader(view, {0: 1, 1: 1}) == {0: NO_LEADER, 1: NO_LEADER}

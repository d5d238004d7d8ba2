"""Which of many failures is news."""

from __future__ import annotations

from consumers.outage import Outage
from revoker.errors import BrokerUnreachable, TopicMissing


def test_the_same_failure_is_told_once() -> None:
    """Another order of brokers, other ports, ids and offsets are no news."""
    outage = Outage()
    assert outage.failed(BrokerUnreachable(), reason="no broker at a:9092, b:9093: node 1")
    assert not outage.failed(BrokerUnreachable(), reason="no broker at b:9093, a:9092: node 2")


def test_another_failure_is_told() -> None:
    """Another kind of error, or other words, are news in the same outage."""
    outage = Outage()
    assert outage.failed(BrokerUnreachable(), reason="no broker")
    assert outage.failed(TopicMissing(), reason="no broker")
    assert outage.failed(TopicMissing(), reason="no topic")


def test_a_new_outage_is_told_again() -> None:
    """Once it is over, with how often it failed, the same failure is news."""
    outage = Outage()
    outage.failed(BrokerUnreachable(), reason="no broker")
    outage.failed(BrokerUnreachable(), reason="no broker")
    assert outage.over() == 2
    assert outage.attempts == 0
    assert outage.failed(BrokerUnreachable(), reason="no broker")


def test_reasons_without_end_are_no_flood() -> None:
    """A cause that words itself anew at each attempt is told ten times."""
    outage = Outage()
    words = (chr(97 + number) * 3 for number in range(26))
    assert sum(outage.failed(BrokerUnreachable(), reason=word) for word in words) == 10

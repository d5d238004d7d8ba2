"""The topic in memory that we give to users' own tests behaves as a node on Kafka does."""

from __future__ import annotations

import pytest

from consumers.freshness import State
from consumers.testing import MemoryTopic
from revoker.errors import NotProven
from revoker.tokens import TokenRevoked
from tests.samples import live_topic, revocation_of, settings, token


def test_a_node_of_a_topic_in_memory_is_live() -> None:
    """A node made by the topic is live at once and admits a good token."""
    topic, _ = live_topic()
    node = topic.node(settings())
    assert node.freshness.state is State.LIVE
    assert node.authenticate(token()).claims["sub"] == "alice"


def test_a_published_revocation_reaches_every_node() -> None:
    """What is published is refused by the nodes there are and by one that replays later."""
    topic, _ = live_topic()
    early = topic.node(settings())
    raw = token()
    topic.publish(revocation_of(early.authenticate(raw)))
    for node in (early, topic.node(settings())):
        with pytest.raises(TokenRevoked):
            node.authenticate(raw)


def test_without_proof_time_makes_a_node_stale_and_proof_makes_it_live() -> None:
    """After the bound a node refuses to answer; a new proof has it answer again."""
    topic, clock = live_topic()
    node = topic.node(settings(staleness_bound_s=15))
    clock.tick(14)
    assert node.freshness.state is State.LIVE
    clock.tick(1)
    with pytest.raises(NotProven):
        node.authenticate(token())
    topic.prove()
    assert node.freshness.state is State.LIVE


def test_an_unreadable_record_keeps_a_node_from_being_live() -> None:
    """A record that cannot be decoded counts against the node as it does in production."""
    topic, _ = live_topic()
    node = topic.node(settings())
    topic.append(b"{")
    assert [missing.proof for missing in node.freshness.missing()] == ["undecodable"]


def test_a_topic_can_be_attached_to_a_node_made_elsewhere() -> None:
    """A node made on the topic's clock can be attached after records were published."""
    topic, clock = live_topic()
    raw = token()
    topic.publish(revocation_of(topic.node(settings()).authenticate(raw)))
    other = MemoryTopic(clock=clock).node(settings())
    assert other.authenticate(raw).raw == raw
    topic.attach(other)
    with pytest.raises(TokenRevoked):
        other.authenticate(raw)

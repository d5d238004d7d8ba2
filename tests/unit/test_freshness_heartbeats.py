"""The fourth proof, a record that arrives, and the watch that may then ask more rarely."""

from __future__ import annotations

import pytest

from consumers.freshness import State
from revoker.errors import SettingsError
from revoker.settings import Settings
from tests.unit.made_up_follower import BOUND_S, live

BEAT_S = 2.0


class TestTheFourthProof:
    def test_a_silent_log_is_fresh_where_nobody_sends_heartbeats(self) -> None:
        """Without the setting three proofs are enough, for however long nothing is written."""
        node = live()
        node.run(10 * BOUND_S)
        assert node.state() is State.LIVE

    def test_silence_is_missed_where_publishers_send_heartbeats(self) -> None:
        """All brokers agree and answer, but nothing arrives: a stuck high watermark looks like this, and is named."""
        node = live(heartbeat_s=BEAT_S)
        node.run(BOUND_S)
        assert node.state() is State.STALE
        (missing,) = node.freshness.missing()
        assert missing.proof == "heartbeat"
        assert "heartbeat_interval_s" in missing.reason
        assert missing.since_s >= BOUND_S

    def test_a_node_turns_stale_by_the_missing_record_alone(self) -> None:
        """The request path's one comparison knows of the fourth proof: no further observation is needed."""
        node = live(heartbeat_s=BEAT_S)
        node.run(BOUND_S - 2.0)
        assert node.state() is State.LIVE
        node.clock.tick(2.0)
        assert node.clock.now >= node.freshness.fresh_until

    def test_heartbeats_keep_a_silent_log_fresh(self) -> None:
        """With a record every two intervals, the most there can be between two, the node stays live throughout."""
        node = live(heartbeat_s=BEAT_S)
        for _ in range(20):
            node.run(2 * BEAT_S)
            assert node.state() is State.LIVE
            node.beat()

    def test_the_next_record_heals(self) -> None:
        """After a silence one record is enough, once the log is moving again."""
        node = live(heartbeat_s=BEAT_S)
        node.run(2 * BOUND_S)
        assert node.state() is State.STALE
        node.beat()
        node.run(0.2)
        assert node.state() is State.LIVE

    def test_every_partition_has_to_be_heard(self) -> None:
        """Records in one partition prove nothing about another, whose high watermark may be stuck."""
        node = live(starts={0: 0, 1: 0}, ends={0: 0, 1: 0}, heartbeat_s=BEAT_S)
        for _ in range(6):
            node.run(BEAT_S)
            node.beat(0)
        assert node.state() is State.STALE
        assert [one.reason.split(":")[0] for one in node.freshness.missing()] == ["partition 1"]

    def test_a_record_is_as_old_as_the_question_it_answers(self) -> None:
        """After a stalled loop, an answer that lay in the socket since before does not date from now."""
        node = live(heartbeat_s=BEAT_S)
        node.clock.tick(3 * BOUND_S)
        node.beat()
        assert "heartbeat" in node.proofs()

    def test_replayed_records_are_no_heartbeat(self) -> None:
        """What was in the log before this node started proves nothing about now; it counts from its start instead."""
        node = live(starts={0: 0}, ends={0: 50}, heartbeat_s=BEAT_S)
        began = node.clock.now - 1.0
        node.run(BOUND_S)
        (missing,) = node.freshness.missing()
        assert missing.proof == "heartbeat"
        assert missing.since_s == pytest.approx(node.clock.now - began)

    def test_the_first_record_after_a_change_of_leader_proves_nothing(self) -> None:
        """It may be the old leader's answer, received and not yet processed."""
        node = live(heartbeat_s=BEAT_S)
        node.run(BOUND_S + 1)
        node.leader[0] = 2
        node.turn()
        node.beat()
        node.run(0.1)
        assert "heartbeat" in node.proofs()


class TestARareWatch:
    def test_without_records_the_watch_alone_confirms(self) -> None:
        """Polls that nobody confirms are no proof, with or without the right to be confirmed by records."""
        node = live(records_confirm=True, heartbeat_s=3.0)
        node.idle(BOUND_S)
        assert "leader" in node.proofs()

    def test_records_confirm_the_polls_before_them(self) -> None:
        """With a heartbeat now and then a node stays live, though nobody asks the brokers who leads."""
        node = live(records_confirm=True, heartbeat_s=3.0)
        for _ in range(20):
            node.idle(3.0)
            node.beat()
            assert node.state() is State.LIVE

    def test_a_record_does_not_confirm_unless_told_to(self) -> None:
        """Where the watch asks often enough, its answers alone count: they are the stronger proof."""
        node = live(heartbeat_s=3.0)
        for _ in range(4):
            node.idle(3.0)
            node.beat()
        assert "leader" in node.proofs()

    def test_a_record_confirms_no_poll_later_than_the_one_before_it(self) -> None:
        """What was acknowledged after the last empty answer may stand behind the record."""
        node = live(records_confirm=True, heartbeat_s=3.0)
        node.idle(1.0)
        before = node.clock.now
        node.clock.tick(1.0)
        node.beat()
        assert node.freshness.fresh_until <= before + BOUND_S

    def test_a_record_confirms_nothing_while_another_leader_is_known(self) -> None:
        """Once the brokers named another leader, a record from the old one is no proof of anything."""
        node = live(records_confirm=True, heartbeat_s=3.0)
        node.freshness.unconfirmed("partition 0 is led by broker 2, read from broker 1")
        for _ in range(4):
            node.idle(3.0)
            node.beat()
        assert "leader" in node.proofs()

    def test_a_record_after_an_interruption_confirms_nothing_until_somebody_was_asked(self) -> None:
        """The topic may have been made again meanwhile, and the record may stand in another log."""
        node = live(records_confirm=True, heartbeat_s=3.0)
        question = node.freshness.asking()
        node.clock.tick(0.1)
        node.freshness.interrupt()
        node.freshness.confirmed(question)
        for _ in range(4):
            node.idle(3.0)
            node.beat()
        assert "leader" in node.proofs()
        node.watch()
        for _ in range(4):
            node.idle(3.0)
            node.beat()
            assert node.state() is State.LIVE

    def test_after_an_interruption_the_brokers_are_asked_once_there_is_something_to_confirm(self) -> None:
        """At once, not when the watch is due; and not for as long as no fetch is answered."""
        node = live(records_confirm=True, heartbeat_s=3.0)
        node.freshness.interrupt()
        assert not node.freshness.worth_asking()
        node.clock.tick(1.0)
        assert not node.freshness.worth_asking()
        node.idle(0.5)
        assert node.freshness.worth_asking()
        node.watch()
        assert not node.freshness.worth_asking()


class TestSettings:
    def test_a_heartbeat_as_rare_as_the_bound_is_refused(self) -> None:
        """Two intervals may pass between two records, so an ordinary silence would look like an outage."""
        with pytest.raises(SettingsError, match="at most a third of staleness_bound_s"):
            Settings(heartbeat_interval_s=6, staleness_bound_s=15)

    def test_a_rare_watch_needs_heartbeats(self) -> None:
        """Without a record to confirm it, nothing proves the leader between two questions."""
        with pytest.raises(SettingsError, match="heartbeat_interval_s"):
            Settings(watch_interval_s=60)
        assert Settings(watch_interval_s=60, heartbeat_interval_s=5).watch_s == 60

    def test_the_watch_follows_the_bound(self) -> None:
        """Unset, the brokers are asked three times per bound."""
        assert Settings(staleness_bound_s=9).watch_s == 3

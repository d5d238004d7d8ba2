"""When a node is ready, fresh or stale: every proof in turn, on a clock that only the test moves."""

from __future__ import annotations

import math

from consumers.freshness import State
from tests.unit.made_up_follower import BOUND_S, Node, live


class TestReady:
    def test_a_node_that_was_never_started_is_stopped(self) -> None:
        """Before anything is observed the state is STOPPED, it says so, and no request may pass."""
        node = Node(begun=False)
        assert node.state() is State.STOPPED
        assert [(one.proof, one.reason) for one in node.freshness.missing()] == [("stopped", "not started")]
        assert node.freshness.fresh_until == -math.inf

    def test_connecting_says_why(self) -> None:
        """While no broker is known the state is CONNECTING, with the reason and for how long."""
        node = Node(begun=False)
        node.freshness.connecting("no broker reached")
        node.clock.tick(3)
        (missing,) = node.freshness.missing()
        assert (missing.proof, missing.reason, missing.since_s) == ("connecting", "no broker reached", 3)

    def test_replaying_lasts_until_the_end_noted_at_the_start(self) -> None:
        """One record short of the end the node is replaying; at the end it is not."""
        node = Node(ends={0: 5})
        node.answer(at=4, highwater=5)
        assert node.state() is State.REPLAYING
        node.answer(at=5)
        assert node.state() is State.STALE

    def test_an_empty_topic_is_ready_after_one_answer(self) -> None:
        """An empty topic has nothing to read, but a fetch must be answered before that is known."""
        node = Node()
        node.turn()
        assert node.state() is State.REPLAYING
        node.run(0.5)
        assert node.state() is State.LIVE

    def test_a_log_whose_head_was_deleted_starts_where_it_starts(self) -> None:
        """A log that begins at 100 and ends at 100 has been read; its progress is complete, not 100 of 100 records."""
        node = live(starts={0: 100}, ends={0: 100})
        assert node.freshness.progress.fraction == 1.0

    def test_trailing_control_records_are_passed_by_position_alone(self) -> None:
        """The end is reached by position although the last offsets hold no record that is delivered."""
        node = Node(ends={0: 7})
        node.answer(at=5, highwater=7)
        node.freshness.took(5)
        assert node.state() is State.REPLAYING
        node.answer(at=7)
        assert node.state() is State.STALE
        assert node.freshness.progress.records == 5

    def test_a_first_high_watermark_beyond_the_end_raises_the_barrier(self) -> None:
        """If the broker understated the end, the first fetch's high watermark has to be reached as well."""
        node = Node(ends={0: 1})
        node.answer(at=1, highwater=50)
        assert node.state() is State.REPLAYING
        node.answer(at=50)
        assert node.state() is State.STALE

    def test_what_is_appended_during_the_replay_is_not_waited_for(self) -> None:
        """Later high watermarks do not move the barrier, or a busy topic would never be ready."""
        node = Node(ends={0: 5})
        node.answer(at=0, highwater=5)
        node.answer(at=5, highwater=90)
        assert node.state() is State.STALE

    def test_every_partition_has_to_catch_up(self) -> None:
        """With one of three partitions short of its end the node is replaying."""
        node = Node(starts={0: 0, 1: 0, 2: 0}, ends={0: 1, 1: 1, 2: 1})
        for partition in (0, 1):
            node.answer(partition, at=1)
        node.answer(2, at=0, highwater=1)
        assert node.state() is State.REPLAYING
        node.answer(2, at=1)
        assert node.state() is State.STALE

    def test_catching_up_is_not_yet_fresh(self) -> None:
        """Having read to the end proves the past; without a confirmed poll since, the node is not live."""
        node = Node(ends={0: 1})
        node.answer(at=1)
        assert node.freshness.caught_up
        assert not node.freshness.was_ready
        assert node.freshness.as_of is None

    def test_a_new_session_starts_over(self) -> None:
        """After a new beginning nothing of the old session counts: replaying, no proof, but was_ready stays."""
        node = live()
        node.freshness.begin(starts={0: 0}, barriers={0: 5})
        assert node.state() is State.REPLAYING
        assert node.freshness.fresh_until == -math.inf
        assert node.freshness.was_ready

    def test_a_topic_without_partitions_is_never_ready(self) -> None:
        """Nothing to read is not everything read."""
        node = Node(starts={}, ends={})
        node.watch()
        assert node.state() is State.REPLAYING


class TestProofs:
    def test_an_idle_healthy_topic_stays_live(self) -> None:
        """A minute without a record, with fetches answered and leaders confirmed, is a minute of LIVE."""
        node = live()
        for _ in range(60):
            node.run(1.0)
            assert node.state() is State.LIVE
            assert node.proofs() == []

    def test_without_answered_fetches_the_poll_is_missing(self) -> None:
        """The same timestamp again is no answer: after the bound the poll is missing, though the watch agrees."""
        node = live()
        for _ in range(120):
            node.clock.tick(0.1)
            node.turn()
            node.watch()
        assert node.state() is State.STALE
        assert node.proofs() == ["poll"]

    def test_without_the_watch_the_leader_is_missing(self) -> None:
        """Fetches that look perfect prove nothing while nobody confirms who leads; the reason is the watch's."""
        node = live()
        node.freshness.unconfirmed("partition 0 is led by broker 2, read from broker 1")
        for _ in range(120):
            node.clock.tick(0.1)
            node.answer()
        (missing,) = node.freshness.missing()
        assert missing.proof == "leader"
        assert "led by broker 2, read from broker 1" in missing.reason

    def test_behind_the_high_watermark_the_position_is_named(self) -> None:
        """Answered fetches of a node that does not keep up prove nothing; it says how far it is behind."""
        node = live(ends={0: 5})
        for _ in range(120):
            node.clock.tick(0.1)
            node.answer(at=5, highwater=9)
            node.watch()
        (missing,) = node.freshness.missing()
        assert (missing.proof, missing.reason) == ("poll", "partition 0: read up to 5, the high watermark is 9")
        assert dict(node.freshness.lag) == {0: 4}

    def test_an_obstacle_ends_freshness_at_once(self) -> None:
        """An unread record is named as the missing proof at once, and no longer once it is gone."""
        node = live()
        node.freshness.obstructed("undecodable", "1 record could not be read")
        assert node.state() is State.STALE
        assert node.proofs() == ["undecodable"]
        node.freshness.obstructed(None)
        assert node.state() is State.LIVE

    def test_every_missing_proof_is_listed(self) -> None:
        """Two partitions that lack different proofs, and an obstacle: each is named."""
        node = live(starts={0: 0, 1: 0}, ends={0: 0, 1: 0})
        node.freshness.obstructed("undecodable", "why")
        for _ in range(120):
            node.clock.tick(0.1)
            node.answer(0)
            node.turn(1)
        assert node.proofs() == ["leader", "poll", "undecodable"]

    def test_partitions_that_lack_the_same_are_named_together(self) -> None:
        """Fifty silent partitions are one line to read, not fifty."""
        node = live(starts={0: 0, 1: 0, 2: 0}, ends={0: 0, 1: 0, 2: 0})
        node.clock.tick(2 * BOUND_S)
        (missing,) = node.freshness.missing()
        assert missing.reason.startswith("partitions 0, 1, 2: ")

    def test_the_worst_partition_decides(self) -> None:
        """One partition of three without answers makes the node stale, and is the one that is named."""
        node = live(starts={0: 0, 1: 0, 2: 0}, ends={0: 0, 1: 0, 2: 0})
        node.run(BOUND_S + 1, partitions=(0, 2))
        (missing,) = node.freshness.missing()
        assert missing.reason.startswith("partition 1: ")
        assert node.state() is State.STALE

    def test_live_turns_stale_by_time_alone(self) -> None:
        """If the follower, or the whole loop, stops, the state ends at fresh_until without another observation."""
        node = live()
        node.clock.now = math.nextafter(node.freshness.fresh_until, -math.inf)
        assert node.state() is State.LIVE
        node.clock.now = node.freshness.fresh_until
        assert node.state() is State.STALE

    def test_a_poll_counts_only_after_a_later_question(self) -> None:
        """A confirmation asked before the poll does not cover it: fresh_until follows the poll that was named."""
        node = live()
        before = node.freshness.fresh_until
        question = node.freshness.asking()
        node.clock.tick(5)
        for _ in range(3):
            node.clock.tick(0.1)
            node.answer()
        node.freshness.confirmed(question)
        assert node.freshness.fresh_until < before + 1
        node.watch()
        assert node.freshness.fresh_until > before + 4

    def test_a_late_confirmation_does_not_take_proof_back(self) -> None:
        """An old question answered after a newer one changes nothing."""
        node = live()
        old = node.freshness.asking()
        node.run(3)
        until = node.freshness.fresh_until
        node.freshness.confirmed(old)
        assert node.freshness.fresh_until == until

    def test_fresh_until_is_bound_after_the_poll_was_asked(self) -> None:
        """What is proved is what the broker knew when asked, so the bound runs from before the last answer."""
        node = live()
        assert node.clock.now - 1 + BOUND_S < node.freshness.fresh_until < node.clock.now + BOUND_S

    def test_as_of_dates_the_proof_by_the_wall_clock(self) -> None:
        """as_of is the wall time of what is proved, never later than now."""
        node = live()
        assert node.freshness.as_of is not None
        assert node.clock.wall() - 1 < node.freshness.as_of < node.clock.wall()

    def test_missing_and_state_agree_at_every_instant(self) -> None:
        """Around the very end of the bound, to the last bit, nothing is missing exactly while the state is LIVE."""
        node = live()
        end = node.freshness.fresh_until
        instant = end
        for _ in range(40):
            instant = math.nextafter(instant, -math.inf)
        while instant < end + 1e-11:
            node.clock.now = instant
            assert (node.state() is State.LIVE) == (node.freshness.missing() == ())
            instant = math.nextafter(instant, math.inf)


class TestWatching:
    def test_unproven_counts_from_the_last_answer_while_replaying(self) -> None:
        """A long replay that gets answers is a sign of life; one that gets none is not."""
        node = Node(ends={0: 1000})
        for position in range(50):
            node.clock.tick(1)
            node.answer(at=position, highwater=1000)
        assert node.freshness.unproven_s <= 2
        node.clock.tick(30)
        assert node.freshness.unproven_s >= 30

    def test_reading_ahead_is_a_sign_of_life_and_proves_nothing(self) -> None:
        """Past the consumer positions move and every partition counts as alive, but only polls catch up."""
        node = Node(starts={0: 0, 1: 0}, ends={0: 10, 1: 5})
        for position in range(11):
            node.clock.tick(30)
            node.freshness.read_ahead(0, position=position)
            assert node.freshness.unproven_s == 0
        node.freshness.read_ahead(1, position=5)
        assert node.freshness.positions == {0: 10, 1: 5}
        assert node.freshness.progress.fraction == 1.0
        assert not node.freshness.caught_up
        assert node.state() is State.REPLAYING

    def test_a_change_of_leader_is_no_reason_to_give_up_a_replay(self) -> None:
        """A failover in a long replay leaves the last sign of life where it was."""
        node = Node(ends={0: 1000})
        for position in range(50):
            node.clock.tick(1)
            node.answer(at=position, highwater=1000)
        node.leader[0] = 2
        node.turn()
        assert node.freshness.unproven_s <= 2

    def test_unproven_counts_from_the_last_confirmed_poll_after_it(self) -> None:
        """Once caught up only a confirmed poll counts, on the worst partition."""
        node = live(starts={0: 0, 1: 0}, ends={0: 0, 1: 0})
        node.run(5, partitions=(1,))
        assert 5 <= node.freshness.unproven_s < 6

    def test_progress_counts_offsets_and_foresees_the_end(self) -> None:
        """Half the offsets after two seconds: one half, and two seconds left."""
        node = Node(starts={0: 100}, ends={0: 300})
        node.clock.tick(2)
        node.freshness.took(50)
        node.answer(at=200, highwater=300)
        progress = node.freshness.progress
        assert (progress.records, progress.fraction, progress.rate, progress.eta_s) == (50, 0.5, 25, 2)

    def test_progress_before_anything_is_known_is_nothing(self) -> None:
        """Before the ends are known there is no fraction and no estimate."""
        progress = Node(begun=False).freshness.progress
        assert (progress.records, progress.fraction, progress.eta_s) == (0, 0.0, None)

    def test_positions_are_the_next_offsets_to_read(self) -> None:
        """Positions are shown by partition."""
        node = Node(starts={0: 3, 1: 4}, ends={0: 5, 1: 6})
        node.answer(0, at=5)
        assert dict(node.freshness.positions) == {0: 5, 1: 4}

    def test_stop_ends_everything(self) -> None:
        """A stopped follower is not live, whatever was proved, and observations still under way do not revive it."""
        node = live()
        node.freshness.stop("closed")
        node.run(1)
        assert node.state() is State.STOPPED
        assert node.freshness.fresh_until == -math.inf

    def test_was_ready_survives_a_stop(self) -> None:
        """Whether the node was ever live is remembered: the policy for unknown depends on it."""
        node = live()
        node.freshness.stop("closed")
        assert node.freshness.was_ready


class TestWorthAsking:
    def test_a_stale_node_asks_once_there_is_a_poll_to_confirm(self) -> None:
        """While no fetch is answered there is none, and asking in a hurry would only load brokers in trouble."""
        node = live()
        node.clock.tick(BOUND_S + 1)
        assert node.state() is State.STALE
        assert not node.freshness.worth_asking()
        node.idle(1.0)
        assert node.freshness.worth_asking()
        node.watch()
        assert not node.freshness.worth_asking()

    def test_what_no_broker_can_cure_is_not_asked_about(self) -> None:
        """An unread record, or a missing heartbeat, lasts for hours, and a fleet that asked all the while is a load."""
        node = live(heartbeat_s=3.0)
        node.freshness.obstructed("undecodable", "one record")
        node.run(BOUND_S + 1)
        assert set(node.proofs()) == {"undecodable", "heartbeat"}
        assert not node.freshness.worth_asking()

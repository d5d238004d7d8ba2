"""What must not pass for a proof: old answers, jumping clocks, leaders that were deposed."""

from __future__ import annotations

import pytest

from consumers.freshness import State
from tests.unit.made_up_follower import BOUND_S, Node, live


class TestClocks:
    def test_a_stalled_loop_does_not_take_an_old_answer_for_a_new_one(self) -> None:
        """A fetch answered during a stall of 20 s was asked before it, and so may the one after have been."""
        node = live()
        node.clock.tick(20)
        for _ in range(2):
            node.answer()
            node.watch()
            assert node.state() is State.STALE
        node.run(0.5)
        assert node.state() is State.LIVE

    @pytest.mark.parametrize("step", [-86400.0, 86400.0])
    def test_a_step_of_the_wall_clock_changes_no_state(self, step: float) -> None:
        """Freshness is timed by the monotonic clock, so a wall clock a day off moves only the date of as_of."""
        node = live()
        node.clock.offset += step
        assert node.state() is State.LIVE
        node.run(3)
        assert node.state() is State.LIVE
        node.clock.tick(BOUND_S)
        assert node.state() is State.STALE

    def test_a_fetch_stamp_that_jumps_back_is_a_new_answer(self) -> None:
        """The client's stamp is wall-clock time: only its changing counts, not its direction."""
        node = live()
        for stamp in range(-1, -100, -1):
            node.clock.tick(0.2)
            node.stamp[0] = stamp
            node.turn()
            node.watch()
        assert node.state() is State.LIVE

    def test_a_loop_slower_than_the_topic_is_live_once_it_has_read_what_the_answer_knew(self) -> None:
        """One answer with more records than one turn applies proves as much as a small one, when its end is reached."""
        node = live()
        for turn in range(1, 40):
            node.clock.tick(0.5)
            node.answer(at=node.at[0] + 500, highwater=turn * 1000)
            node.clock.tick(0.5)
            node.at[0] += 500
            node.turn()
            node.watch()
        assert node.state() is State.LIVE


class TestLeaders:
    def test_a_change_of_leader_names_the_old_one_once(self) -> None:
        """The broker left is returned, so that its connection is closed, and only on the turn of the change."""
        node = live()
        node.leader[0] = 2
        assert node.turn() == 1
        assert node.turn() is None

    def test_the_first_leader_replaces_nobody(self) -> None:
        """The first turn has no leader to leave."""
        assert Node().turn() is None

    def test_a_failover_leaves_the_last_confirmed_poll_standing(self) -> None:
        """An ordinary failover shorter than the bound is not seen: the old proof still counts."""
        node = live()
        until = node.freshness.fresh_until
        node.leader[0] = 2
        node.turn()
        assert node.state() is State.LIVE
        assert node.freshness.fresh_until == until

    def test_polls_from_the_old_leader_are_dropped(self) -> None:
        """What the old leader answered since the last confirmation does not count under the new one."""
        node = live()
        until = node.freshness.fresh_until
        node.clock.tick(2)
        node.answer()
        node.answer()
        node.leader[0] = 2
        node.turn()
        node.watch()
        assert node.freshness.fresh_until == until

    def test_the_old_leaders_last_answer_does_not_pass_for_the_new_ones(self) -> None:
        """The first answer after a change of leader may be the old one's, already in: it proves nothing."""
        node = live()
        until = node.freshness.fresh_until
        node.clock.tick(8)
        node.leader[0] = 2
        node.turn()
        node.clock.tick(0.1)
        node.answer()
        node.watch()
        assert node.freshness.fresh_until == until
        node.run(0.5)
        assert node.freshness.fresh_until > until

    def test_a_new_leaders_answer_is_dated_before_the_turn_that_saw_it_lead(self) -> None:
        """The new leader may have been asked as soon as the client knew it: a stall before that turn is not covered."""
        node = live()
        seen = node.clock.now
        node.clock.tick(9)
        node.leader[0] = 2
        node.turn()
        for _ in range(2):
            node.answer()
        node.watch()
        assert node.freshness.fresh_until <= seen + BOUND_S

    def test_a_partition_without_a_leader_is_not_confirmed(self) -> None:
        """While no leader is known nobody can vouch for the polls of that partition."""
        node = live()
        node.leader[0] = None
        node.run(BOUND_S + 1)
        assert node.proofs() == ["leader"]

    def test_a_leader_lost_and_found_again_takes_up_where_it_was(self) -> None:
        """After a time without leader the node is live again as soon as a poll from the new one is confirmed."""
        node = live()
        node.leader[0] = None
        node.run(BOUND_S + 1)
        node.leader[0] = 3
        node.run(0.5)
        assert node.state() is State.LIVE


class TestElections:
    def test_polls_before_an_election_that_was_not_watched_do_not_count(self) -> None:
        """A leader deposed and elected again between two questions may have answered in between, alone."""
        node = live()
        before = node.freshness.fresh_until
        node.clock.tick(5)
        for _ in range(3):
            node.clock.tick(0.1)
            node.answer()
        node.freshness.elected(0)
        node.watch()
        assert node.freshness.fresh_until == before

    def test_the_first_answer_after_an_election_was_seen_proves_nothing(self) -> None:
        """It may have been asked before the election; the one after it counts, and the node goes on being live."""
        node = live()
        before = node.freshness.fresh_until
        node.clock.tick(0.1)
        node.freshness.elected(0)
        node.clock.tick(0.1)
        node.answer()
        node.watch()
        assert node.freshness.fresh_until == before
        node.run(1)
        assert node.freshness.fresh_until > before
        assert node.state() is State.LIVE

"""The clock by which entries are forgotten may run late, never early."""

from __future__ import annotations

import math

from consumers.denylist.purge import PurgeClock

GRACE_S = 300.0
NOW = 1_800_000_000.0


class Clocks:
    """A wall clock and a monotonic one, each moved by hand."""

    def __init__(self) -> None:
        self.wall = NOW
        self.monotonic = 50.0
        self.purge = PurgeClock(wall=lambda: self.wall, monotonic=lambda: self.monotonic, grace_s=GRACE_S)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_before_the_first_record_it_stands_still() -> None:
    """Without a broker's word on the time nothing may be forgotten."""
    assert Clocks().purge.now_s() == -math.inf


def test_it_is_the_brokers_time_less_the_grace() -> None:
    """With both clocks right it is the time of the newest record, less the grace."""
    clocks = Clocks()
    clocks.purge.saw(timestamp_ms=int(NOW * 1000))
    assert clocks.purge.now_s() == NOW - GRACE_S


def test_it_goes_on_without_records() -> None:
    """On a silent topic the brokers' time is carried on by the monotonic clock, so entries still expire."""
    clocks = Clocks()
    clocks.purge.saw(timestamp_ms=int(NOW * 1000))
    clocks.pass_by(3600)
    assert clocks.purge.now_s() == NOW + 3600 - GRACE_S


def test_a_wall_clock_a_year_ahead_purges_nothing() -> None:
    """A host whose clock jumps ahead does not empty its deny list: the brokers' time is the earlier."""
    clocks = Clocks()
    clocks.purge.saw(timestamp_ms=int(NOW * 1000))
    clocks.wall += 365 * 86400
    assert clocks.purge.now_s() == NOW - GRACE_S


def test_a_timestamp_a_year_ahead_purges_nothing() -> None:
    """A record with a wrong timestamp does not either: the wall clock is the earlier."""
    clocks = Clocks()
    clocks.purge.saw(timestamp_ms=int((NOW + 365 * 86400) * 1000))
    assert clocks.purge.now_s() == NOW - GRACE_S


def test_a_wall_clock_behind_only_delays() -> None:
    """A clock that is an hour late forgets an hour late."""
    clocks = Clocks()
    clocks.purge.saw(timestamp_ms=int(NOW * 1000))
    clocks.wall -= 3600
    assert clocks.purge.now_s() == NOW - 3600 - GRACE_S


def test_old_records_do_not_set_it_back() -> None:
    """During a replay of old partitions after new ones the newest time seen stays."""
    clocks = Clocks()
    clocks.purge.saw(timestamp_ms=int(NOW * 1000))
    clocks.purge.saw(timestamp_ms=int((NOW - 86400) * 1000))
    assert clocks.purge.now_s() == NOW - GRACE_S


def test_a_record_that_is_older_than_the_carried_time_does_not_set_it_back() -> None:
    """The carried time is compared as of now: a record from a minute ago read after an idle hour changes nothing."""
    clocks = Clocks()
    clocks.purge.saw(timestamp_ms=int(NOW * 1000))
    clocks.pass_by(3600)
    clocks.purge.saw(timestamp_ms=int((NOW + 3540) * 1000))
    assert clocks.purge.now_s() == NOW + 3600 - GRACE_S


def test_an_old_topic_on_a_new_node_purges_by_the_topics_own_time() -> None:
    """A node that replays a topic last written a day ago forgets nothing that was alive then."""
    clocks = Clocks()
    clocks.purge.saw(timestamp_ms=int((NOW - 86400) * 1000))
    assert clocks.purge.now_s() == NOW - 86400 - GRACE_S

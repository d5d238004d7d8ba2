"""From records to the deny list: applied, clamped, or kept visible as unread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from consumers.denylist.memory import MemoryDenyList
from consumers.intake import Intake, RawRecord, Unread
from revoker.errors import DenyListFull
from revoker.events import Everything, Key, Revocation, Selector, Subject, Token
from revoker.record import encode

NOW = 1_800_000_000
RETENTION_S = 7200
JTI = ("token", "", "j")


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A record as the client hands it over."""

    value: bytes | None
    partition: int = 0
    offset: int = 0
    timestamp: int = NOW * 1000
    headers: Sequence[tuple[str, bytes]] = ()


class Bench:
    """An intake over a real deny list, on clocks moved by hand."""

    def __init__(self, *, max_entries: int = 100) -> None:
        self.now = float(NOW)
        self.seen: list[tuple[Revocation, RawRecord]] = []
        self.denylist = MemoryDenyList(max_entries=max_entries)
        self.intake = Intake(
            self.denylist,
            retention_ms=RETENTION_S * 1000,
            wall=lambda: self.now,
            monotonic=lambda: self.now - 1e6,
            on_applied=lambda event, record: self.seen.append((event, record)),
        )


@pytest.fixture
def bench() -> Bench:
    """A fresh intake."""
    return Bench()


def event(selector: Selector, *, cutoff: int | None = None, expires_at: int = NOW + 3600) -> Revocation:
    return Revocation(id="e", selector=selector, revoked_at=NOW, expires_at=expires_at, cutoff=cutoff)


def raw(revocation: Revocation, **changes: Any) -> Raw:
    return Raw(value=encode(revocation)[1], **changes)


TOKEN = event(Token(iss="", jti="j"))


class TestApplying:
    def test_a_record_is_in_force_when_take_returns(self, bench: Bench) -> None:
        """What was read is applied, counted by kind, and its time is noted."""
        bench.intake.take([raw(TOKEN), raw(event(Subject(iss="", sub="u"), cutoff=NOW), timestamp=NOW * 1000 + 5)])
        assert bench.denylist.listed(JTI)
        assert bench.denylist.cutoff(("subject", "", "u")) == NOW
        assert dict(bench.intake.applied) == {"token": 1, "subject": 1}
        assert bench.intake.newest_timestamp_ms == NOW * 1000 + 5

    def test_who_listens_is_told_after_the_fact(self, bench: Bench) -> None:
        """on_applied gets each event and its record, when the event is already in force."""
        in_force: list[bool] = []
        bench.intake.on_applied = lambda _event, _record: in_force.append(bench.denylist.listed(JTI))
        bench.intake.take([raw(TOKEN)])
        assert in_force == [True]

    def test_an_event_of_this_process_is_in_force_at_once(self, bench: Bench) -> None:
        """take_local applies without a record, and the record that comes round later changes nothing."""
        bench.intake.take_local(TOKEN)
        assert bench.denylist.listed(JTI)
        before = list(bench.denylist.in_force())
        bench.intake.take([raw(TOKEN)])
        assert list(bench.denylist.in_force()) == before

    def test_a_full_deny_list_is_not_passed_over(self) -> None:
        """At the bound take raises; what came before is applied, what did not fit is not counted as applied."""
        bench = Bench(max_entries=1)
        with pytest.raises(DenyListFull):
            bench.intake.take([raw(TOKEN), raw(event(Token(iss="", jti="second")))])
        assert dict(bench.intake.applied) == {"token": 1}


class TestClamping:
    @pytest.mark.parametrize(("ahead", "kept"), [(60, 60), (61, 60), (10**6, 60), (-5, -5)])
    def test_a_cutoff_far_ahead_of_its_record_is_clamped(self, bench: Bench, ahead: int, kept: int) -> None:
        """A cut-off more than 60 s after the record's own time is cut to that, or it would refuse every later login."""
        bench.intake.take([raw(event(Everything(), cutoff=NOW + ahead))])
        assert bench.denylist.cutoff(("all",)) == NOW + kept
        assert bench.intake.clamped_total == (ahead > kept)

    def test_the_bound_follows_the_record_and_not_the_nodes_clock(self, bench: Bench) -> None:
        """A node whose clock is a day off clamps as every other does."""
        bench.now += 86400
        bench.intake.take([raw(event(Everything(), cutoff=NOW + 3600))])
        assert bench.denylist.cutoff(("all",)) == NOW + 60

    def test_a_key_without_cutoff_is_not_clamped(self, bench: Bench) -> None:
        """Every token a key ever signs is no cut-off in the future."""
        bench.intake.take([raw(event(Key(iss="", kid="k")))])
        assert bench.intake.clamped_total == 0


class TestUnread:
    def test_unread_records_are_counted_and_kept_visible(self, bench: Bench) -> None:
        """Each unread record is counted by category and shown with its place; those after it are still applied."""
        bench.intake.take([Raw(value=b"garbage", partition=2, offset=7), Raw(value=b'{"v": 9}', offset=8), raw(TOKEN)])
        assert dict(bench.intake.unread_total) == {"not_json": 1, "newer_version": 1}
        assert bench.intake.missed == 2
        assert bench.intake.unread[0] == Unread(
            partition=2, offset=7, timestamp_ms=NOW * 1000, category="not_json", detail="the value is not UTF-8 JSON"
        )
        assert bench.denylist.listed(JTI)

    def test_a_flood_is_counted_in_full_and_kept_in_part(self, bench: Bench) -> None:
        """The last hundred are shown, all are counted: a topic of garbage does not fill the memory."""
        bench.intake.take(Raw(value=b"garbage", offset=offset) for offset in range(500))
        assert bench.intake.missed == 500
        assert [one.offset for one in bench.intake.unread] == list(range(400, 500))

    def test_a_new_replay_meets_them_again(self, bench: Bench) -> None:
        """Before reading from the start again what was missed is forgotten, the totals and the entries stay."""
        bench.intake.take([Raw(value=b"garbage"), raw(TOKEN)])
        bench.intake.restart()
        assert (bench.intake.missed, bench.intake.unread) == (0, ())
        assert bench.intake.unread_total["not_json"] == 1
        assert bench.denylist.listed(JTI)

    def test_what_retention_would_have_deleted_is_no_longer_held_against_the_node(self, bench: Bench) -> None:
        """An unread record older than any revocation that matters is forgiven; a second younger, it is not."""
        bench.intake.take([Raw(value=b"garbage"), raw(TOKEN)])
        bench.now += RETENTION_S + 300
        bench.intake.tidy()
        assert bench.intake.missed == 1
        bench.now += 1
        bench.intake.tidy()
        assert bench.intake.missed == 0

    def test_the_newest_unread_record_decides(self, bench: Bench) -> None:
        """An old unread record is not forgiven as long as a newer one is held against the node."""
        bench.intake.take([Raw(value=b"garbage", timestamp=(NOW - 10**6) * 1000), Raw(value=b"garbage")])
        bench.intake.tidy()
        assert bench.intake.missed == 2

    def test_a_record_without_a_timestamp_is_never_forgiven(self, bench: Bench) -> None:
        """A record that does not say how old it is may hold a revocation that matters, however late it is."""
        bench.intake.take([Raw(value=b"garbage", timestamp=-1), raw(TOKEN)])
        bench.now += 10**6
        bench.intake.tidy()
        assert bench.intake.missed == 1


class TestTidying:
    def test_expired_entries_go_by_the_purge_clock(self, bench: Bench) -> None:
        """An entry is forgotten once both the wall clock and the brokers' time have passed its expiry by the grace."""
        bench.intake.take([raw(TOKEN)])
        bench.now += 3600 + 299
        bench.intake.tidy()
        assert bench.denylist.listed(JTI)
        bench.now += 1
        bench.intake.tidy()
        assert not bench.denylist.listed(JTI)

    def test_nothing_expires_before_the_first_record(self, bench: Bench) -> None:
        """A node that has read nothing has no broker's time to purge by."""
        bench.intake.take_local(event(Token(iss="", jti="j"), expires_at=1))
        bench.intake.tidy()
        assert bench.denylist.listed(JTI)

    def test_a_record_without_a_timestamp_does_not_move_the_clock(self, bench: Bench) -> None:
        """Kafka's -1 for "no timestamp" is no time."""
        bench.intake.take([raw(TOKEN, timestamp=-1)])
        assert bench.intake.newest_timestamp_ms is None
        bench.now += 10**6
        bench.intake.tidy()
        assert bench.denylist.listed(JTI)

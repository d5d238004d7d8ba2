"""A node that requires signatures: what it applies, what it refuses, and what it says about it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from consumers.freshness import State
from consumers.intake import Intake
from consumers.node import Node
from consumers.provenance import SLICE_SIGNED
from consumers.testing import MemoryTopic
from revoker.errors import SettingsError
from revoker.events import Client, Everything, Heartbeat, Session, Token
from revoker.health import readyz
from revoker.record import encode, encode_heartbeat
from revoker.signature import HEADER
from tests import samples
from tests.publishers import NOW, OPERATOR, SERVICE, TENANT, Bench, Raw, event, signed, signer, trust_toml

SESSION = event(Session(iss="", sid="s"))
RULE_EVENT = event(Client(iss="", client_id="c"), "rule")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "publishers.toml")


class TestApplying:
    def test_a_trusted_record_is_applied(self, bench: Bench) -> None:
        """Signed by a trusted publisher within its scope, it is in force, and nothing was refused."""
        assert bench.take(signed(SERVICE, SESSION)) == 1
        assert bench.knows("s")
        assert bench.reasons() == []

    @pytest.mark.parametrize(
        ("record", "reason"),
        [
            (signed(None, SESSION), "unsigned"),
            (Raw(value=encode(SESSION)[1], headers=[(HEADER, b"junk")]), "malformed"),
            (
                Raw(value=encode(SESSION)[1], headers=signed(SERVICE, event(Session(iss="", sid="t"))).headers),
                "bad_signature",
            ),
            (signed(signer("service", key="k9"), SESSION), "unknown_key"),
            (signed(signer("stranger", key="k9"), SESSION), "unknown_publisher"),
            (signed(signer("service", topic="elsewhere"), SESSION), "wrong_topic"),
            (signed(SERVICE, event(Everything())), "out_of_scope"),
            (signed(TENANT, SESSION), "out_of_scope"),
        ],
    )
    def test_what_does_not_count_is_kept_visible_and_not_applied(self, bench: Bench, record: Raw, reason: str) -> None:
        """Nothing enters the deny list; the record's place and reason are shown, and counted by reason alone."""
        bench.take(record, signed(SERVICE, event(Session(iss="", sid="after"))))
        (refused,) = bench.provenance.refused
        assert (refused.reason, refused.partition, refused.offset, refused.timestamp_ms) == (reason, 0, 0, NOW * 1000)
        assert bench.provenance.refused_total == {reason: 1}
        assert sum(bench.denylist.counts().values()) == 1
        assert bench.knows("after")

    def test_unread_records_count_only_if_signed(self, bench: Bench) -> None:
        """Garbage that anybody wrote is refused; garbage that a trusted publisher signed may have been a revocation."""
        bench.take(Raw(value=b"garbage"), Raw(value=None))
        assert (bench.intake.missed, bench.reasons()) == (0, ["unsigned", "unsigned"])
        bench.take(Raw(value=b"garbage", headers=SERVICE.headers(b"garbage")))
        assert bench.intake.missed == 1

    def test_heartbeats_count_only_if_signed(self, bench: Bench) -> None:
        """Any trusted publisher may send them; an unsigned one is refused like any record."""
        _, value, headers = encode_heartbeat(Heartbeat(id="h", sent_at=NOW))
        bench.take(Raw(value=value, headers=headers))
        bench.take(Raw(value=value, headers=[*headers, *TENANT.headers(value)]))
        assert bench.intake.heartbeats_total == 1

    def test_an_intruders_records_show_as_well_that_the_log_moves(self, bench: Bench) -> None:
        """They keep heartbeats away, as the partition is not silent: a node that did not count them would go stale, and
        whoever can write could stop the fleet.
        """
        assert bench.take(Raw(value=b"garbage"), signed(None, SESSION), signed(SERVICE, SESSION)) == 3

    def test_unsigned_records_do_not_move_the_purge_clock(self, bench: Bench) -> None:
        """Where publishers may set timestamps, an attacker's far future must not help to empty the deny list."""
        bench.take(signed(SERVICE, SESSION), signed(None, SESSION, timestamp=(NOW + 10**6) * 1000))
        assert bench.intake.newest_timestamp_ms == NOW * 1000

    def test_slices_are_shorter_where_signatures_are_checked(self, bench: Bench) -> None:
        """A turn of the loop stays short although each record takes longer."""
        assert bench.intake.slice_records == SLICE_SIGNED
        assert Intake(bench.denylist, retention_ms=0).slice_records > SLICE_SIGNED


class TestSayingSo:
    def test_the_log_has_one_line_per_reason_and_outage(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        """The first of a kind is an error, the rest are counted, and their number is told when it is over."""
        bench.take(*[signed(None, SESSION, offset=offset) for offset in range(50)], signed(TENANT, SESSION, offset=50))
        errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
        assert len(errors) == 2
        assert "partition 0 offset 0" in errors[0]
        assert "unsigned" in errors[0]
        bench.later(30)
        bench.take(signed(None, SESSION))
        bench.later(59)
        assert "51" not in caplog.text
        bench.later(1)
        assert "51 records were refused as unsigned" in caplog.text
        bench.take(signed(None, SESSION))
        assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 3

    def test_no_text_of_a_stranger_reaches_the_log(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        """Made-up names with control characters, and identifiers in the value, stay out of log and readiness."""
        secret = event(Session(iss="", sid="secret-sid"))
        value = encode(secret)[1]
        evil = [b"\x1b[2J", b'{"kid":"\x1b[2J/x"}', SERVICE.sign(value).replace(b".", b"\n")]
        bench.take(*(Raw(value=value, headers=[(HEADER, text)]) for text in evil), signed(TENANT, secret))
        shown = caplog.text + "".join(one.detail for one in bench.provenance.refused)
        assert "\x1b" not in shown
        assert "secret-sid" not in shown

    def test_an_event_of_this_process_counts_at_once_within_its_scope(self, tmp_path: Path) -> None:
        """What the service accepts it refuses itself at once, under the names the topic will bring; nothing beyond its
        scope.
        """
        bench = Bench(tmp_path / "publishers.toml", own_id="operator")
        bench.intake.take_local(RULE_EVENT)
        before = list(bench.denylist.in_force())
        bench.take(signed(OPERATOR, RULE_EVENT))
        assert list(bench.denylist.in_force()) == before != []
        narrow = Bench(tmp_path / "narrow.toml", own_id="service")
        narrow.intake.take_local(RULE_EVENT)
        narrow.intake.take_local(SESSION)
        assert narrow.denylist.counts()["client"] == 0
        assert narrow.knows("s")

    def test_a_process_that_is_no_publisher_applies_nothing_locally(self, bench: Bench) -> None:
        """Without a name of its own there is no scope to apply it under."""
        bench.intake.take_local(SESSION)
        assert not bench.knows("s")


class TestNode:
    def node(self, tmp_path: Path) -> tuple[MemoryTopic, Node, Path]:
        path = tmp_path / "publishers.toml"
        path.write_text(trust_toml(SERVICE))
        topic, _ = samples.live_topic()
        return topic, topic.node(samples.settings(trusted_publishers_file=str(path))), path

    def test_refused_records_do_not_cost_readiness(self, tmp_path: Path) -> None:
        """Whoever can write cannot stop a node; it says what it refused where operators look."""
        topic, node, _ = self.node(tmp_path)
        topic.append(b"garbage")
        topic.publish(event(Token(iss="", jti="j")))
        topic.publish(event(Token(iss="", jti="k")), signer=SERVICE)
        assert node.freshness.state is State.LIVE
        assert not node.denylist.listed(("token", "", "j"))
        assert node.denylist.listed(("token", "", "k"))
        _, text = readyz(node.checks(), verbose=True)
        assert "publishers ok: 1 publisher, 1 key" in text
        assert "records refused: 2 unsigned; the last at partition 0 offset 1" in text

    def test_garbage_signed_by_a_trusted_publisher_costs_readiness(self, tmp_path: Path) -> None:
        """It may have been a revocation."""
        topic, node, _ = self.node(tmp_path)
        topic.append(b"garbage", headers=SERVICE.headers(b"garbage"))
        assert samples.state_of(node) is State.STALE

    def test_refusals_are_counted_by_reason(self, tmp_path: Path) -> None:
        """Every reason is there from the start, and there is no other label."""
        topic, node, _ = self.node(tmp_path)
        topic.append(b"garbage")
        (family,) = [one for one in node.families() if one.name == "revoker_records_refused"]
        assert family.labels == ("reason",)
        assert family.values[("unsigned",)] == 1
        assert family.values[("bad_signature",)] == 0

    def test_a_broken_file_is_shown(self, tmp_path: Path) -> None:
        """The node stays ready on the trust it has, and names the trouble."""
        topic, clock = samples.live_topic()
        path = tmp_path / "publishers.toml"
        path.write_text(trust_toml(SERVICE))
        node = topic.node(samples.settings(trusted_publishers_file=str(path)))
        path.write_text("[publishers")
        clock.tick(1)
        node.intake.tidy()
        code, text = readyz(node.checks(), verbose=True)
        assert code == 200
        assert "is not TOML" in text

    def test_an_unusable_file_at_the_start_is_an_error(self, tmp_path: Path) -> None:
        """A node never starts without the check that was asked for."""
        with pytest.raises(SettingsError, match="trusted_publishers_file"):
            Node(samples.settings(trusted_publishers_file=str(tmp_path / "missing.toml")))

    def test_without_the_setting_everything_counts(self) -> None:
        """Signatures are optional: unset, signed and unsigned records are applied alike."""
        topic, _ = samples.live_topic()
        node = topic.node(samples.settings())
        topic.publish(event(Token(iss="", jti="j")))
        topic.publish(event(Token(iss="", jti="k")), signer=SERVICE)
        assert node.denylist.counts()["token"] == 2
        assert not any(check.name == "publishers" for check in node.checks())

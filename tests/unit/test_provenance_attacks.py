"""What an attacker cannot do with old records and others' rules, and what a node does when its trust changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from revoker.events import Client, Everything, Session, Withdrawal
from revoker.signature import HEADER, Signer
from revoker.trust import Refusal
from tests.publishers import NOW, OPERATOR, SERVICE, TENANT, Bench, Raw, event, signed, signer

RULE = ("client", "", "c")
SESSION = event(Session(iss="", sid="s"))
RULE_EVENT = event(Client(iss="", client_id="c"), "rule")
WITHDRAWAL = event(Withdrawal(event_id="rule"), "w", expires_at=NOW + 3700)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "publishers.toml")


def time_of(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def unknown(kid: str) -> Refusal:
    return Refusal(reason="unknown_key", detail="made up", kid=kid)


class TestWithdrawing:
    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["after", "before"])
    @pytest.mark.parametrize(
        ("rule_by", "withdrawn_by", "withdrawn"),
        [
            (OPERATOR, OPERATOR, True),
            (TENANT, TENANT, True),
            (TENANT, OPERATOR, True),
            (OPERATOR, TENANT, False),
            (OPERATOR, SERVICE, False),
        ],
        ids=["own", "own, narrow", "within scope", "beyond scope", "no right at all"],
    )
    def test_only_those_who_may_have_published_it_take_it_back(
        self, bench: Bench, order: Sequence[int], rule_by: Signer, withdrawn_by: Signer, withdrawn: bool
    ) -> None:
        """A rule is withdrawn by its publisher, or by one whose scope holds its publisher's, in whatever order."""
        records = (signed(rule_by, RULE_EVENT), signed(withdrawn_by, WITHDRAWAL))
        bench.take(*(records[index] for index in order))
        assert (bench.denylist.cutoff(RULE) is None) is withdrawn

    def test_two_rules_of_one_id_are_two(self, bench: Bench) -> None:
        """Whoever copies another's event id cannot have its own withdrawal hit the other's rule."""
        bench.take(signed(OPERATOR, RULE_EVENT), signed(TENANT, RULE_EVENT), signed(TENANT, WITHDRAWAL))
        assert bench.denylist.cutoff(RULE) == NOW


class TestReplayedByAnAttacker:
    """Whoever can write, or once could read, sends old records again as they are."""

    def test_after_it_expired(self, bench: Bench) -> None:
        """An entry that was forgotten stays forgotten: its expiry is in the signed value."""
        old = signed(SERVICE, event(Session(iss="", sid="s"), expires_at=NOW - 1000))
        bench.take(signed(SERVICE, event(Session(iss="", sid="new"))))
        bench.later(0)
        bench.take(old)
        assert not bench.knows("s")
        assert bench.reasons() == []

    def test_after_it_was_withdrawn(self, bench: Bench) -> None:
        """A rule sent again stays withdrawn, for the withdrawal is kept for longer than the rule."""
        rule = signed(OPERATOR, RULE_EVENT)
        bench.take(rule, signed(OPERATOR, WITHDRAWAL), rule)
        assert bench.denylist.cutoff(RULE) is None

    def test_into_another_partition(self, bench: Bench) -> None:
        """The partition has no meaning: a copy is a duplicate."""
        bench.take(signed(OPERATOR, RULE_EVENT))
        before = list(bench.denylist.in_force())
        bench.take(signed(OPERATOR, RULE_EVENT, partition=5, offset=99, timestamp=(NOW + 50) * 1000))
        assert list(bench.denylist.in_force()) == before

    def test_into_another_topic(self, bench: Bench) -> None:
        """A record of a test fleet's topic does not count in this one, though the key be the same."""
        bench.take(signed(signer("operator", key="k2", topic="revocations-test"), event(Everything())))
        assert bench.reasons() == ["wrong_topic"]

    def test_after_its_key_was_retired(self, bench: Bench) -> None:
        """The copy is refused by the time the broker gave it; the original, read again in a replay, still counts."""
        bench.trusts(SERVICE, dates={SERVICE.key.kid: f"not_after = {time_of(NOW + 10)}"}, scopes={})
        bench.later(1)
        bench.take(signed(SERVICE, SESSION, timestamp=(NOW + 10) * 1000))
        assert (bench.knows("s"), bench.reasons()) == (False, ["key_not_valid"])
        bench.take(signed(SERVICE, SESSION, timestamp=(NOW + 9) * 1000))
        assert bench.knows("s")


class TestChangingTrust:
    NEW = signer("service", key="k4")

    def test_a_key_added_before_its_use_costs_no_replay(self, bench: Bench) -> None:
        """The usual rotation: nothing was refused for want of the key, so the node goes on, ready."""
        bench.take(signed(None, SESSION), signed(signer("stranger", key="k9"), SESSION))
        bench.trusts(SERVICE, self.NEW, OPERATOR, TENANT)
        bench.later(1)
        assert not bench.outdated()
        bench.take(signed(self.NEW, SESSION), signed(SERVICE, event(Session(iss="", sid="t"))))
        assert (bench.knows("s"), bench.knows("t")) == (True, True)

    @pytest.mark.parametrize(
        ("refused", "trusts"),
        [
            (signed(signer("service", key="k4"), SESSION), {}),
            (signed(signer("stranger", key="k9"), SESSION), {}),
            (signed(TENANT, SESSION), {"scopes": {"tenant": 'kinds = ["session"]'}}),
        ],
        ids=["unknown key", "unknown publisher", "out of scope"],
    )
    def test_what_was_refused_and_may_count_now_is_read_again(
        self, bench: Bench, refused: Raw, trusts: dict[str, Any]
    ) -> None:
        """A key or scope that comes after the records it is for asks for a replay, once."""
        bench.take(refused)
        bench.trusts(SERVICE, self.NEW, TENANT, signer("stranger", key="k9"), **trusts)
        bench.later(1)
        assert bench.outdated()
        bench.intake.restart()
        assert not bench.outdated()
        assert bench.reasons() == []
        bench.take(refused)
        assert bench.knows("s")

    def test_a_key_whose_dates_changed_is_read_again(self, bench: Bench) -> None:
        """not_before set too late, and then mended."""
        bench.trusts(SERVICE, dates={SERVICE.key.kid: f"not_before = {time_of(NOW + 10)}"}, scopes={})
        bench.later(1)
        bench.take(signed(SERVICE, SESSION))
        bench.trusts(SERVICE, scopes={})
        bench.later(1)
        assert bench.outdated()

    def test_a_flood_of_made_up_keys_is_remembered_in_part(self, bench: Bench) -> None:
        """Beyond a bound any change of trust is followed by a replay, rather than by forgetting a key."""
        for number in range(1100):
            claim = SERVICE.headers(b"x")[0][1]
            bench.provenance.refuse(Raw(value=b"x", headers=[(HEADER, claim)]), unknown(f"service/{number}"))
        bench.trusts(SERVICE, OPERATOR)
        bench.later(1)
        assert bench.outdated()
        assert len(bench.provenance.refused) == 100

    def test_what_was_applied_stays_when_trust_ends(self, bench: Bench) -> None:
        """A publisher taken out of the file publishes nothing more; what it revoked stays revoked in this process."""
        bench.take(signed(SERVICE, SESSION))
        bench.trusts(OPERATOR)
        bench.later(1)
        bench.take(signed(SERVICE, event(Session(iss="", sid="t"))))
        assert (bench.knows("s"), bench.knows("t")) == (True, False)

"""Heartbeats: their record, and the rule by which a partition counts as silent."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from revoker.errors import InvalidRevocation
from revoker.events import Heartbeat
from revoker.heartbeat import Silence
from revoker.record import Undecodable, decode, encode_heartbeat, json_schema

SCHEMA = Draft202012Validator(json_schema())


class TestRecord:
    def test_a_heartbeat_is_read_back_as_it_was(self) -> None:
        """Encoding and decoding is the identity, and the value conforms to the shipped schema."""
        heartbeat = Heartbeat(id="h-1", sent_at=1_700_000_000)
        key, value, headers = encode_heartbeat(heartbeat)
        assert decode(value) == heartbeat
        assert json.loads(key) == ["heartbeat"]
        SCHEMA.validate(json.loads(value))
        assert dict(headers)["ce_type"] == b"revoker.heartbeat.v1"
        assert "ce_expirytime" not in dict(headers)

    def test_a_heartbeat_of_a_newer_version_is_an_order_to_upgrade(self) -> None:
        """Its meaning is unknown here, as that of any record of a newer version."""
        value = json.dumps({"v": 2, "kind": "heartbeat", "id": "h", "sent_at": 1}).encode()
        event = decode(value)
        assert isinstance(event, Undecodable)
        assert event.category == "newer_version"

    @pytest.mark.parametrize(
        "fields", [{"id": ""}, {"id": None}, {"sent_at": -1}, {"sent_at": "now"}, {"sent_at": None}], ids=str
    )
    def test_a_malformed_heartbeat_is_undecodable(self, fields: dict[str, object]) -> None:
        """One whose fields are wrong may be a revocation gone wrong, and counts as unread."""
        value = json.dumps({"v": 1, "kind": "heartbeat", "id": "h", "sent_at": 1} | fields).encode()
        assert isinstance(decode(value), Undecodable)

    def test_what_could_not_be_read_back_is_not_written(self) -> None:
        """An id no decoder takes is refused before it is sent."""
        with pytest.raises(InvalidRevocation):
            encode_heartbeat(Heartbeat(id="", sent_at=1))


class TestSilence:
    def test_a_partition_met_for_the_first_time_is_not_silent(self) -> None:
        """Nothing is known about it yet: it may have been written to a moment ago."""
        assert Silence().partitions({0: 5, 1: 0}) == []

    def test_one_that_did_not_move_is_silent(self) -> None:
        """Two looks with the same end, and something is due."""
        silence = Silence()
        silence.partitions({0: 5, 1: 7})
        assert silence.partitions({0: 5, 1: 8}) == [0]

    def test_ones_own_heartbeat_is_no_sign_of_life_of_others(self) -> None:
        """A partition silent but for one's own heartbeats gets one at every look."""
        silence = Silence()
        silence.partitions({0: 5})
        assert silence.partitions({0: 5}) == [0]
        silence.sent(0, offset=5)
        assert silence.partitions({0: 6}) == [0]

    def test_a_partition_whose_end_is_unknown_is_left_alone(self) -> None:
        """Its leader did not answer; when it does, two more looks decide."""
        silence = Silence()
        silence.partitions({0: 5, 1: 5})
        assert silence.partitions({1: 5}) == [1]
        assert silence.partitions({0: 6, 1: 6}) == []

    @given(st.lists(st.booleans(), max_size=40))
    def test_two_looks_without_a_record_never_pass_unanswered(self, published: list[bool]) -> None:
        """Whatever others publish between the looks, no two intervals in a row go without a record."""
        silence, end, quiet = Silence(), 0, 0
        silence.partitions({0: end})
        for one in published:
            end += one
            quiet = 0 if one else quiet + 1
            if silence.partitions({0: end}):
                silence.sent(0, offset=end)
                end, quiet = end + 1, 0
            assert quiet < 2

    def test_processes_share_the_work(self) -> None:
        """One that finds the log moved by another's heartbeat leaves it alone."""
        first, second = Silence(), Silence()
        first.partitions({0: 5})
        second.partitions({0: 5})
        assert first.partitions({0: 5}) == [0]
        first.sent(0, offset=5)
        assert second.partitions({0: 6}) == []

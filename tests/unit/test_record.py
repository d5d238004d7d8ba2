"""Event ⇄ record: what is written is read back, and everything else is told apart and never raises."""

from __future__ import annotations

import json
import uuid
from importlib import resources
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from jsonschema import Draft202012Validator

from revoker.errors import InvalidRevocation
from revoker.events import (
    KINDS,
    Claim,
    Client,
    Digest,
    Everything,
    Issuer,
    Key,
    Revocation,
    Selector,
    Session,
    Subject,
    Token,
    Withdrawal,
)
from revoker.record import SCHEMA_VERSION, VALUE_MAX_BYTES, Undecodable, decode, encode, json_schema

ISS = "https://issuer.example"
NOW = 1_800_000_000

SCHEMA = Draft202012Validator(json_schema())


def event(selector: Selector, **changes: Any) -> Revocation:
    cutoff = NOW if selector.kind in ("subject", "client", "claim", "key", "issuer", "all") else None
    fields: dict[str, Any] = {"id": "e-1", "revoked_at": NOW, "expires_at": NOW + 3600, "cutoff": cutoff} | changes
    return Revocation(selector=selector, **fields)


ONE_OF_EACH = [
    event(Token(iss=ISS, jti="j")),
    event(Token(iss="", jti="j"), reason="stolen", actor="security@example.org"),
    event(Digest(iss=ISS, digest="0a" * 32)),
    event(Session(iss=ISS, sid="s")),
    event(Subject(iss=ISS, sub="u")),
    event(Subject(iss=ISS, sub="u", spare_sid="s")),
    event(Subject(iss=ISS, sub="u", spare_jti="j")),
    event(Client(iss=ISS, client_id="c")),
    event(Claim(iss=ISS, claim="tenant", value="")),
    event(Key(iss=ISS, kid="k")),
    event(Key(iss=ISS, kid="k"), cutoff=None),
    event(Issuer(iss=ISS)),
    event(Everything()),
    event(Withdrawal(event_id="e-0")),
    event(Subject(iss="ü" * 1024, sub='"\\\n\x00🦊')),
    event(Everything(), id="x" * 128, cutoff=0, revoked_at=0, expires_at=253_402_300_799),
]
EACH = pytest.mark.parametrize("revocation", ONE_OF_EACH, ids=lambda one: one.selector.kind)

#: A value that is read, for tests that spoil one thing.
GOOD: dict[str, Any] = {
    "v": 1,
    "id": "e-1",
    "kind": "token",
    "iss": ISS,
    "jti": "j",
    "revoked_at": NOW,
    "expires_at": NOW + 1,
}
GOOD_SUBJECT: dict[str, Any] = GOOD | {"kind": "subject", "sub": "u", "cutoff": NOW}


def spoiled(good: dict[str, Any] = GOOD, **changes: Any) -> bytes:
    """``good`` with some fields changed; ``...`` leaves one out."""
    return json.dumps({name: value for name, value in (good | changes).items() if value is not ...}).encode()


class TestRoundTrip:
    def test_every_kind_is_tried(self) -> None:
        """The examples below hold every kind there is."""
        assert {one.selector.kind for one in ONE_OF_EACH} == set(KINDS)

    @EACH
    def test_what_is_written_is_read_back(self, revocation: Revocation) -> None:
        """Decoding an encoded event gives an equal event."""
        assert decode(encode(revocation)[1]) == revocation

    @EACH
    def test_the_value_is_flat_and_without_nulls(self, revocation: Revocation) -> None:
        """The value is one flat object of texts and numbers; what is not set is left out."""
        value = json.loads(encode(revocation)[1])
        assert all(isinstance(field, str | int) for field in value.values())
        assert (value["v"], value["kind"]) == (SCHEMA_VERSION, revocation.selector.kind)

    @EACH
    def test_the_key_is_the_selector(self, revocation: Revocation) -> None:
        """The key is the selector as a JSON array, the same for every event about the same tokens."""
        key = json.loads(encode(revocation)[0])
        assert tuple(key) == revocation.selector.key
        assert encode(msgspec.structs.replace(revocation, id="another"))[0] == encode(revocation)[0]

    def test_the_longest_record_is_far_below_the_limit(self) -> None:
        """Every field at its cap, each character in its longest escape, still fits: nothing writable is unreadable."""
        longest = "\x00" * 1024
        widest = event(Claim(iss=longest, claim=longest, value=longest), id="\x00" * 128, reason=longest, actor=longest)
        value = encode(widest)[1]
        assert decode(value) == widest
        assert len(value) < VALUE_MAX_BYTES / 2

    def test_unknown_fields_are_ignored(self) -> None:
        """A field this version does not know does not make a record unreadable: a version may grow."""
        assert isinstance(decode(spoiled(note="from a later release", nested={"a": [1]})), Revocation)


class TestCloudEvents:
    @EACH
    def test_the_headers_are_a_cloudevent(self, revocation: Revocation) -> None:
        """The CloudEvents SDK reads headers and value as a valid event, with the id, times and type of ours."""
        key, value, headers = encode(revocation)
        read = from_binary_event(KafkaMessage(headers=dict(headers), key=key, value=value))
        kind = revocation.selector.kind
        assert read.get_id() == revocation.id
        assert read.get_source() == "/revoker"
        assert read.get_type() == (
            "revoker.revocation.withdrawn.v1" if kind == "withdrawal" else f"revoker.{kind}.revoked.v1"
        )
        assert read.get_datacontenttype() == "application/json"
        time = read.get_time()
        assert time is not None
        assert int(time.timestamp()) == revocation.revoked_at
        assert read.get_data() == json.loads(value)

    def test_header_names_are_those_of_the_kafka_binding(self) -> None:
        """Attributes have the prefix ce_, but for content-type (CloudEvents 1.0 Kafka binding, section 3.2.3)."""
        names = [name for name, _ in encode(ONE_OF_EACH[0])[2]]
        assert names == ["content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_expirytime"]

    def test_the_expiry_is_in_a_header(self) -> None:
        """A tool can tell from the headers alone until when the record matters."""
        assert dict(encode(event(Everything(), expires_at=NOW))[2])["ce_expirytime"] == b"2027-01-15T08:00:00Z"


class TestUndecodable:
    @pytest.mark.parametrize(
        ("value", "category"),
        [
            (None, "empty"),
            (b"", "empty"),
            (b"\x00\xff\xfe garbage", "not_json"),
            (b"\xff" * 40, "not_json"),
            (spoiled()[:-5], "not_json"),
            (spoiled() + b"{}", "not_json"),
            (b'{"v": 1, "revoked_at": NaN}', "not_json"),
            (b'{"v": Infinity}', "not_json"),
            (spoiled(jti="\ud800"), "not_json"),
            (b"\xef\xbb\xbf" + spoiled(), "not_json"),
            (b'{"v": 1, "x": ' + b"[" * 20_000, "not_json"),
            (b"[" * 20_000, "invalid"),
            (b"null", "invalid"),
            (b"7", "invalid"),
            (b'"text"', "invalid"),
            (b"[1]", "invalid"),
            (b"{}", "invalid"),
            (spoiled(v=...), "invalid"),
            (spoiled(v="1"), "invalid"),
            (spoiled(v=True), "invalid"),
            (spoiled(v=1.5), "invalid"),
            (spoiled(v=0), "invalid"),
            (spoiled(v=-1), "invalid"),
            (b'{"v": ' + b"9" * 5000 + b"}", "invalid"),
            (b'{"v": 1e400}', "invalid"),
            (spoiled(kind=...), "invalid"),
            (spoiled(kind="galaxy"), "invalid"),
            (spoiled(kind=7), "invalid"),
            (spoiled(id=...), "invalid"),
            (spoiled(id=""), "invalid"),
            (spoiled(id="x" * 129), "invalid"),
            (spoiled(jti=...), "invalid"),
            (spoiled(jti=7), "invalid"),
            (spoiled(jti=None), "invalid"),
            (spoiled(jti=["j"]), "invalid"),
            (spoiled(jti=""), "invalid"),
            (spoiled(jti="x" * 1025), "invalid"),
            (spoiled(jti="x" * 2**20), "oversized"),
            (spoiled(iss=...), "invalid"),
            (spoiled(iss="x" * 1025), "invalid"),
            (spoiled(expires_at=...), "invalid"),
            (spoiled(expires_at="soon"), "invalid"),
            (spoiled(expires_at=1.5), "invalid"),
            (spoiled(expires_at=-1), "invalid"),
            (spoiled(expires_at=10**30), "invalid"),
            (spoiled(expires_at=253_402_300_800), "invalid"),
            (spoiled(revoked_at=NOW * 1000), "invalid"),
            (spoiled(reason="x" * 1025), "invalid"),
            (spoiled(cutoff=NOW), "invalid"),
            (spoiled(kind="digest", digest="0A" * 32), "invalid"),
            (spoiled(kind="digest", digest="0a" * 31), "invalid"),
            (spoiled(kind="digest", digest="0a" * 32 + "\n"), "invalid"),
            (spoiled(GOOD_SUBJECT, cutoff=...), "invalid"),
            (spoiled(GOOD_SUBJECT, cutoff=None), "invalid"),
            (spoiled(GOOD_SUBJECT, spare_sid="s", spare_jti="j"), "invalid"),
            (spoiled(kind="withdrawal", event_id="e", cutoff=NOW), "invalid"),
            (spoiled(kind="issuer"), "invalid"),
            (spoiled(kind="all"), "invalid"),
            (spoiled(v=2), "newer_version"),
            (spoiled(v=2, kind="galaxy", id=7, jti=...), "newer_version"),
            (b'{"v": 2}', "newer_version"),
            (spoiled(v=10**30), "newer_version"),
        ],
    )
    def test_each_kind_of_unreadable_value_is_told_apart(self, value: bytes | None, category: str) -> None:
        """A value that cannot be read says why: garbage, wrong content, too large, or a newer version."""
        found = decode(value)
        assert isinstance(found, Undecodable), found
        assert (found.category, bool(found.detail)) == (category, True)

    def test_a_newer_version_says_to_upgrade(self) -> None:
        """A newer schema version is an order to the operator, with both versions named."""
        assert decode(b'{"v": 3}') == Undecodable(
            category="newer_version", detail="schema version 3, this node reads 1: upgrade it"
        )

    @pytest.mark.parametrize("name", ["id", "iss", "jti", "kind", "reason", "actor"])
    @pytest.mark.parametrize("value", ["secret" * 300, {"secret": "secret"}, "secret"])
    def test_the_detail_never_quotes_the_value(self, name: str, value: Any) -> None:
        """Details end up in logs and on health pages, so no content may stand in them; the place may."""
        found = decode(spoiled(**{name: value}))
        if isinstance(found, Undecodable):
            assert "secret" not in found.detail
            assert name in found.detail


class TestRefusedAtTheDoor:
    @pytest.mark.parametrize(
        ("revocation", "field"),
        [
            (event(Token(iss=ISS, jti="\ud800")), "jti"),
            (event(Token(iss="\udfff", jti="j")), "iss"),
            (event(Everything(), reason="\ud800"), "reason"),
            (event(Everything(), id="\ud800"), "id"),
            (event(Token(iss=ISS, jti="")), "jti"),
            (event(Token(iss=ISS, jti="x" * 1025)), "jti"),
            (event(Token(iss=ISS, jti="x" * 2**20)), ""),
            (event(Token(iss=ISS, jti=7)), "jti"),  # type: ignore[arg-type]
            (event(Token(iss=None, jti="j")), "iss"),  # type: ignore[arg-type]
            (event(Token(iss=ISS, jti=b"\xff")), "jti is of type bytes"),  # type: ignore[arg-type]
            (event(Session(iss=ISS, sid=uuid.UUID(int=1))), "sid is of type UUID"),  # type: ignore[arg-type]
            (event(Token(iss=ISS, jti=object())), "jti"),  # type: ignore[arg-type]
            (event(Everything(), expires_at=10**30), "expires_at"),
            (event(Everything(), expires_at=2**64 - 1), "expires_at"),
            (event(Everything(), expires_at=float("nan")), "expires_at"),
            (event(Everything(), expires_at=1.5), "expires_at"),
            (event(Everything(), expires_at=-1), "expires_at"),
            (event(Everything(), cutoff=True), "cutoff"),
            (event(Everything(), cutoff=None), "cutoff"),
            (event(Token(iss=ISS, jti="j"), cutoff=1), "cutoff"),
            (event(Subject(iss=ISS, sub="u", spare_sid="a", spare_jti="b")), "spares"),
            (event(Digest(iss=ISS, digest="not hex")), "digest"),
            (event(Digest(iss=ISS, digest="0a" * 32 + "\n")), "digest"),
        ],
    )
    def test_what_would_not_be_read_is_not_written(self, revocation: Revocation, field: str) -> None:
        """An event no node could read is refused with an error that names the field."""
        with pytest.raises(InvalidRevocation) as caught:
            encode(revocation)
        assert field in str(caught.value)


class TestSchema:
    def test_the_shipped_schema_is_current(self) -> None:
        """revoker/record.schema.json is what the types say; `python -m tests.generated` writes it anew."""
        assert json.loads((resources.files("revoker") / "record.schema.json").read_text("utf-8")) == json_schema()

    def test_the_schema_is_a_schema(self) -> None:
        """The schema itself is valid JSON Schema 2020-12."""
        Draft202012Validator.check_schema(json_schema())

    @EACH
    def test_every_record_we_write_validates(self, revocation: Revocation) -> None:
        """What is written conforms to the schema."""
        SCHEMA.validate(json.loads(encode(revocation)[1]))

    @pytest.mark.parametrize(
        "value",
        [
            {},
            GOOD | {"v": 2},
            GOOD | {"kind": "galaxy"},
            GOOD | {"jti": ""},
            GOOD | {"jti": 7},
            GOOD | {"jti": "x" * 1025},
            GOOD | {"cutoff": NOW},
            GOOD | {"expires_at": -1},
            GOOD | {"expires_at": 1.5},
            GOOD | {"expires_at": 253_402_300_800},
            GOOD | {"kind": "digest", "digest": "0A" * 32},
            GOOD | {"kind": "digest", "digest": "0a" * 32 + "\n"},
            GOOD_SUBJECT | {"cutoff": None},
            {name: value for name, value in GOOD_SUBJECT.items() if name != "cutoff"},
            GOOD_SUBJECT | {"spare_sid": "s", "spare_jti": "j"},
            {name: value for name, value in GOOD.items() if name != "kind"},
            GOOD | {"kind": "withdrawal"},
        ],
        ids=repr,
    )
    def test_records_we_refuse_do_not_validate(self, value: dict[str, Any]) -> None:
        """What a node cannot read is no valid record by the schema either."""
        assert isinstance(decode(json.dumps(value).encode()), Undecodable)
        assert not SCHEMA.is_valid(value)

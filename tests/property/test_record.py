"""The record on any bytes and any event: decoding never raises, and what can be written is read back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from revoker.errors import InvalidRevocation
from revoker.events import (
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
from revoker.record import Undecodable, decode, encode, json_schema

SCHEMA = Draft202012Validator(json_schema())
NEWEST = 253_402_300_799

text = st.text(min_size=1, max_size=40)
iss = st.text(max_size=40)
moment = st.integers(0, NEWEST)
selectors: st.SearchStrategy[Selector] = st.one_of(
    st.builds(Token, iss=iss, jti=text),
    st.builds(Digest, iss=iss, digest=st.from_regex(r"[0-9a-f]{64}", fullmatch=True)),
    st.builds(Session, iss=iss, sid=text),
    st.builds(Subject, iss=iss, sub=text),
    st.builds(Subject, iss=iss, sub=text, spare_sid=text),
    st.builds(Subject, iss=iss, sub=text, spare_jti=text),
    st.builds(Client, iss=iss, client_id=text),
    st.builds(Claim, iss=iss, claim=text, value=iss),
    st.builds(Key, iss=iss, kid=text),
    st.builds(Issuer, iss=iss),
    st.just(Everything()),
    st.builds(Withdrawal, event_id=text),
)


@st.composite
def revocations(draw: st.DrawFn) -> Revocation:
    """Any event that may be written."""
    selector = draw(selectors)
    never = selector.exact or isinstance(selector, Withdrawal)
    cutoff = st.none() if never else st.none() | moment if isinstance(selector, Key) else moment
    note = st.none() | st.text(max_size=60)
    return Revocation(
        id=draw(text),
        selector=selector,
        revoked_at=draw(moment),
        expires_at=draw(moment),
        cutoff=draw(cutoff),
        reason=draw(note),
        actor=draw(note),
    )


@settings(max_examples=400, deadline=None)
@given(revocation=revocations())
def test_what_is_written_is_read_back_and_conforms(revocation: Revocation) -> None:
    """Encoding and decoding is the identity, and the value conforms to the schema."""
    key, value, headers = encode(revocation)
    assert decode(value) == revocation
    assert SCHEMA.is_valid(json.loads(value))
    assert tuple(json.loads(key)) == revocation.selector.key
    assert all(text.decode() for _, text in headers)


scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("\ud800"), st.just(10**30)
)
fields = st.sampled_from(
    ["v", "id", "kind", "iss", "jti", "sub", "spare_sid", "cutoff", "revoked_at", "expires_at", "reason"]
)


@settings(max_examples=400, deadline=None)
@given(revocation=revocations(), changes=st.dictionaries(fields, scalars | st.lists(scalars, max_size=2), max_size=4))
def test_a_spoiled_record_is_read_or_explained(revocation: Revocation, changes: dict[str, Any]) -> None:
    """A record with any fields replaced by anything is an event the schema allows, or explained; nothing raises."""
    value = json.dumps(json.loads(encode(revocation)[1]) | changes).encode()
    found = decode(value)
    if isinstance(found, Undecodable):
        assert found.category in ("not_json", "invalid", "newer_version")
        assert found.detail
    else:
        assert SCHEMA.is_valid(json.loads(value)) or "spare_sid" in changes


@settings(max_examples=400, deadline=None)
@given(value=st.binary(max_size=200) | st.none())
def test_decode_takes_any_bytes(value: bytes | None) -> None:
    """Any bytes at all are decoded to an event or explained."""
    assert isinstance(decode(value), Revocation | Undecodable)


@settings(max_examples=300, deadline=None)
@given(revocation=revocations(), data=st.data())
def test_a_truncated_or_flipped_record_is_read_or_explained(revocation: Revocation, data: st.DataObject) -> None:
    """A record cut off or damaged in one byte never raises."""
    value = encode(revocation)[1]
    cut = data.draw(st.integers(0, len(value) - 1))
    assert isinstance(decode(value[:cut]), Undecodable)
    damaged = bytearray(value)
    damaged[cut] ^= data.draw(st.integers(1, 255))
    assert isinstance(decode(bytes(damaged)), Revocation | Undecodable)


any_value = scalars | st.binary(max_size=4) | st.text(st.characters(exclude_categories=()), max_size=4) | st.uuids()


@settings(max_examples=400, deadline=None)
@given(revocation=revocations(), data=st.data())
def test_encode_writes_only_what_is_read_back(revocation: Revocation, data: st.DataObject) -> None:
    """With any field replaced by anything, encode refuses or writes what decodes to the very same event."""
    part = data.draw(st.sampled_from([revocation, revocation.selector]))
    names = [name for name in part.__struct_fields__ if name != "selector"]
    if not names:
        return
    changed = msgspec.structs.replace(part, **{data.draw(st.sampled_from(names)): data.draw(any_value)})
    spoiled = changed if isinstance(changed, Revocation) else msgspec.structs.replace(revocation, selector=changed)
    try:
        value = encode(spoiled)[1]
    except InvalidRevocation:
        return
    assert decode(value) == spoiled

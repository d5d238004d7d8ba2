"""Signed records in any order, spoiled anywhere: only what a trusted publisher may say counts, and order does not."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.denylist import DenyList
from consumers.denylist.memory import MemoryDenyList
from consumers.intake import Intake
from consumers.provenance import Provenance
from revoker.events import Revocation, Withdrawal
from revoker.signature import HEADER, Signer
from revoker.trust import Refusal
from revoker.trustfile import TrustFile
from tests.property.denylist_model import Bearer, bearers, events, matches, probes, refuses
from tests.publishers import Raw, signed, signer, trust_toml

WIDE = signer("wide", key="k1")
NARROW = signer("narrow", key="k2", algorithm="ES256")
OTHER = signer("other", key="k3")
STRANGER = signer("stranger", key="k4")
A = "https://a.example"
SCOPES = {
    "wide": 'kinds = ["*"]',
    "narrow": f'kinds = ["session", "client", "claim", "withdrawal"]\nissuers = ["{A}"]\nclaims = {{ x = ["x"] }}',
    "other": f'kinds = ["client", "key", "subject", "withdrawal"]\nissuers = ["{A}", ""]',
}
#: Whose rules each may withdraw: written down here by hand, not computed.
TAKES_BACK = {"wide": {"wide", "narrow", "other"}, "narrow": {"narrow"}, "other": {"other"}}

#: What one may say: an event, who signs it, and whether something is wrong with the signature.
said = st.tuples(
    events,
    st.sampled_from([WIDE, NARROW, OTHER, STRANGER, None]),
    st.sampled_from([None, None, None, "value", "topic"]),
)


@cache
def trust_file() -> TrustFile:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "publishers.toml"
        path.write_text(trust_toml(WIDE, NARROW, OTHER, scopes=SCOPES))
        return TrustFile(path, monotonic=lambda: 0.0)


def provenance() -> Provenance:
    return Provenance(trust_file(), topic="revocations", monotonic=lambda: 0.0)


def filled(records: list[Raw]) -> DenyList:
    """The deny list of a node that has read these records."""
    denylist = MemoryDenyList(max_entries=10**6)
    Intake(denylist, retention_ms=10**9, wall=lambda: 0.0, monotonic=lambda: 0.0, provenance=provenance()).take(records)
    return denylist


def record_of(event: Revocation, by: Signer | None, fault: str | None) -> Raw:
    if by is not None and fault == "topic":
        by = signer(by.publisher_id, key={WIDE: "k1", OTHER: "k3", STRANGER: "k4"}.get(by, "k1"), topic="elsewhere")
    record = signed(by, event)
    if fault == "value":
        assert record.value is not None
        return replace(record, value=record.value + b" ")
    return record


def counts(event: Revocation, by: Signer | None, fault: str | None) -> bool:
    """Whether it should be applied, by the words of the scopes above."""
    if by is None or by is STRANGER or fault is not None:
        return False
    kind, iss = event.selector.kind, getattr(event.selector, "iss", None)
    if by is WIDE:
        return True
    if by is OTHER:
        return kind == "withdrawal" or (kind in ("client", "key", "subject") and iss in (A, ""))
    if kind == "claim":
        return (
            iss == A and getattr(event.selector, "claim", None) == "x" and getattr(event.selector, "value", None) == "x"
        )
    return kind == "withdrawal" or (kind in ("session", "client") and iss == A)


def must_refuse(history: list[tuple[Revocation, Signer]], bearer: Bearer) -> bool:
    """What counts, minus what was withdrawn by those who may; nothing expires at time zero."""
    withdrawn = {
        (owner, event.selector.event_id)
        for event, by in history
        if isinstance(event.selector, Withdrawal) and event.expires_at > 0
        for owner in TAKES_BACK[by.publisher_id]
    }
    return any(
        matches(event, bearer)
        for event, by in history
        if not (event.selector.wide and (by.publisher_id, event.id) in withdrawn)
    )


@given(
    history=st.lists(said, max_size=14),
    strangers=st.lists(bearers, max_size=4),
    random=st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_only_what_counts_is_applied_in_whatever_order(
    history: list[tuple[Revocation, Signer | None, str | None]], strangers: list[Bearer], random: object
) -> None:
    """Signed, unsigned, forged and out of scope, shuffled and repeated: the answers are those of what counts alone."""
    history = [one for one in history if one[0].expires_at > 0]
    records = [record_of(*one) for one in history]
    shuffled = records + random.choices(records, k=len(records)) if records else []  # type: ignore[attr-defined]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    counting = [(event, by) for event, by, fault in history if by is not None and counts(event, by, fault)]
    first, second = filled(records), filled(shuffled)
    for bearer in (*strangers, *probes([event for event, _, _ in history])):
        expected = must_refuse(counting, bearer)
        assert refuses(first, bearer) is expected
        assert refuses(second, bearer) is expected


@given(data=st.data(), by=st.sampled_from([WIDE, NARROW]))
@settings(deadline=None)
def test_no_bit_can_be_changed(data: st.DataObject, by: Signer) -> None:
    """One flipped bit anywhere in value, protected header or signature, and the record does not count."""
    value = data.draw(st.binary(min_size=1, max_size=200))
    text = by.sign(value)
    good = Raw(value=value, headers=[(HEADER, text)])
    assert not isinstance(provenance().vouched(good), Refusal)
    whole = value + text
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    spoiled = bytearray(whole)
    spoiled[at // 8] ^= 1 << at % 8
    bad = Raw(value=bytes(spoiled[: len(value)]), headers=[(HEADER, bytes(spoiled[len(value) :]))])
    assert isinstance(provenance().vouched(bad), Refusal)


@given(text=st.binary(max_size=300), value=st.none() | st.binary(max_size=50))
@settings(deadline=None)
def test_no_header_raises(text: bytes, value: bytes | None) -> None:
    """Whatever bytes stand in the header, the answer is a reason."""
    assert isinstance(provenance().vouched(Raw(value=value, headers=[(HEADER, text)])), Refusal)


@given(cut=st.integers(0, 400), more=st.binary(max_size=20))
@settings(deadline=None)
def test_no_truncated_or_lengthened_signature_counts(cut: int, more: bytes) -> None:
    """A prefix of a signature, with anything appended, is none."""
    text = WIDE.sign(b"value")
    spoiled = text[: min(cut, len(text))] + more
    found = provenance().vouched(Raw(value=b"value", headers=[(HEADER, spoiled)]))
    assert isinstance(found, Refusal) is (spoiled != text)

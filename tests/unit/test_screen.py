"""The first question of a request: it may say too much, and never too little."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import consumers.denylist.screen as screens
from consumers.denylist.control import Control, pack_word
from consumers.denylist.fingerprint import TABLE_KINDS, Fingerprints
from consumers.denylist.shared import SharedDenyList
from consumers.denylist.table import Table
from consumers.guard import Status
from revoker.events import Client, Digest, Everything, Revocation, Selector, Session, Subject, Token
from revoker.tokens import Verified, signing_input_digest
from tests.property.denylist_model import events, opened
from tests.property.test_guard import any_claims, any_text, guard_over

_ISS = "https://issuer.example"
_RAW = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"
_SELECTORS: Mapping[str, Selector] = {
    "token": Token(iss=_ISS, jti="one"),
    "digest": Digest(iss=_ISS, digest=signing_input_digest(_RAW)),
    "session": Session(iss=_ISS, sid="one"),
    "subject": Subject(iss=_ISS, sub="one"),
}
_CLAIMS = {"token": "jti", "session": "sid", "subject": "sub"}

_SETS = [kinds for size in range(5) for kinds in itertools.combinations(TABLE_KINDS, size)]


def _event(selector: Selector) -> Revocation:
    cutoff = 50 if isinstance(selector, Subject | Client | Everything) else None
    return Revocation(id="e", selector=selector, revoked_at=0, expires_at=100, cutoff=cutoff)


def _store(path: Path, *kinds: str) -> SharedDenyList:
    store = SharedDenyList(path / "list", max_entries=100_000, epoch_s=0)
    store.take()
    store.apply_all([_event(_SELECTORS[kind]) for kind in kinds])
    return store


def _asked(store: SharedDenyList, claims: Mapping[str, Any]) -> bool:
    """The answer once the issuer is known: the first question about one may be sent the long way."""
    store.suspects(claims, "k")
    return store.suspects(claims, "k")


@pytest.mark.parametrize("kinds", _SETS, ids="-".join)
def test_each_set_of_kinds_has_its_questions(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    """With any kinds present, the tokens they list are suspected, and strangers and other kinds' are not."""
    store = _store(tmp_path, *kinds)
    stranger = {"iss": _ISS, "jti": "two", "sid": "two", "sub": "two"}
    assert not _asked(store, stranger)
    for kind, claim in _CLAIMS.items():
        assert _asked(store, stranger | {claim: "one"}) == (kind in kinds)
    nameless = {"iss": _ISS, "sid": "two", "sub": "two"}
    assert _asked(store, nameless) == ("digest" in kinds)
    assert not _asked(store, {"iss": _ISS, "jti": "two"})
    store.close()


@pytest.mark.parametrize("kinds", _SETS[1:], ids="-".join)
def test_another_issuers_identifiers_are_strangers(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    """The same identifiers under another issuer, or none, are not listed."""
    store = _store(tmp_path, *kinds)
    for others in ({"iss": "https://other.example"}, {"iss": ""}, {}):
        assert not _asked(store, {**others, "jti": "one", "sid": "one", "sub": "one"})
    store.close()


def test_a_token_without_issuer_has_the_empty_one(tmp_path: Path) -> None:
    """A revocation under the empty issuer meets tokens that name none."""
    store = _store(tmp_path)
    store.apply(_event(Token(iss="", jti="one")))
    assert _asked(store, {"jti": "one"})
    assert _asked(store, {"iss": "", "jti": "one"})
    assert not _asked(store, {"jti": "two"})
    store.close()


@pytest.mark.parametrize("kinds", _SETS[1:], ids="-".join)
def test_thousands_of_neighbours_hide_nobody(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    """In a table with runs of slots every entry is found, and strangers hardly ever are."""
    store = _store(tmp_path)
    made: dict[str, Callable[[int], Selector]] = {
        "token": lambda number: Token(iss=_ISS, jti=f"in-{number}"),
        "digest": lambda number: Digest(iss=_ISS, digest=f"{number:064x}"),
        "session": lambda number: Session(iss=_ISS, sid=f"in-{number}"),
        "subject": lambda number: Subject(iss=_ISS, sub=f"in-{number}"),
    }
    store.apply_all([_event(made[kind](number)) for kind in kinds for number in range(600)])
    stranger = {"iss": _ISS, "jti": "out", "sid": "out", "sub": "out"}
    assert not _asked(store, stranger)
    for kind in set(kinds) & _CLAIMS.keys():
        claim = _CLAIMS[kind]
        assert all(store.suspects({**stranger, claim: f"in-{number}"}, "k") for number in range(600))
        assert not any(store.suspects({**stranger, claim: f"out-{number}"}, "k") for number in range(600))
    store.close()


_ODD: list[Any] = [None, 0, 5, True, 1.5, b"one", ["one"], {"one": 1}, "", "\ud800", "x" * 5000]


@pytest.mark.parametrize("kinds", [("token",), ("subject",), ("token", "session"), ("token", "session", "subject")])
@pytest.mark.parametrize("name", ["iss", "jti", "sid", "sub"])
@pytest.mark.parametrize("odd", _ODD, ids=lambda odd: ascii(odd)[:12])
def test_odd_claims_get_an_answer(tmp_path: Path, kinds: tuple[str, ...], name: str, odd: Any) -> None:
    """Whatever stands in a claim, there is an answer, and what is listed besides is suspected all the same."""
    store = _store(tmp_path, *kinds)
    assert store.suspects({"iss": _ISS, "jti": "two", "sid": "two", "sub": "two", name: odd}, None) in (True, False)
    for claim in {"jti", "sid", "sub"} - {name}:
        kind = next(kind for kind, its in _CLAIMS.items() if its == claim)
        if kind in kinds and name != "iss":
            assert store.suspects({"iss": _ISS, claim: "one", name: odd}, None)
    store.close()


@pytest.mark.parametrize("kinds", _SETS[1:], ids="-".join)
def test_a_fingerprint_of_nothing_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...]
) -> None:
    """The fingerprint 0 stands for an empty slot and is stored as another: only the long way can tell."""
    monkeypatch.setattr(screens, "xxh3_64_intdigest", lambda *_: 0)
    store = _store(tmp_path, *kinds)
    assert _asked(store, {"iss": _ISS, "jti": "two", "sid": "two", "sub": "two"}) == (kinds != ("digest",))
    store.close()


@contextmanager
def _by_hand(path: Path, *kinds: str) -> Iterator[tuple[screens.Screen, Table, Control, list[str]]]:
    """A screen over a table without entries, and the claims with which it asked what has changed."""
    control = Control.make(path / "control", boot="b")
    table = Table.make(path / "table.1", generation=1, capacity=4096, about=b"")
    control.word = pack_word(generation=1, rules=0, kinds=1)
    asked: list[str] = []

    def changed(claims: Mapping[str, Any], _kid: str | None, /) -> bool:
        asked.append(str(claims["jti"]))
        return True

    yield (
        screens.screen(
            words=control.words,
            word=control.word,
            table=table,
            prints=Fingerprints(bytes(32)),
            kinds=frozenset(kinds),
            changed=changed,
        ),
        table,
        control,
        asked,
    )


@pytest.mark.parametrize("kinds", _SETS, ids="-".join)
def test_a_change_is_noticed_before_anything_is_looked_up(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    """Once WORD is another, whatever it is, the answer comes from whoever follows it."""
    with _by_hand(tmp_path, *kinds) as (suspects, _, control, asked):
        suspects({"jti": "first", "iss": _ISS}, None)
        asked.clear()
        assert not suspects({"jti": "a", "iss": _ISS}, None)
        for word in (0, pack_word(generation=1, rules=1, kinds=1), pack_word(generation=2, rules=0, kinds=1)):
            control.word = word
            assert suspects({"jti": "b", "iss": _ISS}, None)
        assert asked == ["b", "b", "b"]


@pytest.mark.parametrize("kinds", [kinds for kinds in _SETS if set(kinds) & {"token"}], ids="-".join)
def test_a_table_without_an_end_is_suspicious(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    """In a damaged table with no empty slot the search ends with the table, and the long way says what is wrong."""
    with _by_hand(tmp_path, *kinds) as (suspects, table, _, _asked_again):
        suspects({"jti": "x", "iss": _ISS}, None)
        for index in range(table.slots):
            table.keys[index] = 2
        assert suspects({"jti": "x", "iss": _ISS, "sid": "x", "sub": "x"}, None)


def test_more_issuers_than_are_remembered_get_right_answers(tmp_path: Path) -> None:
    """Seeds of thousands of issuers come and go; each one's entries are found."""
    store = _store(tmp_path)
    issuers = [f"https://{number}.example" for number in range(1500)]
    store.apply_all([_event(Token(iss=iss, jti="one")) for iss in issuers])
    assert all(store.suspects({"iss": iss, "jti": "one"}, None) for iss in issuers)
    assert not any(_asked(store, {"iss": iss, "jti": "two"}) for iss in issuers)
    store.close()


@pytest.mark.parametrize("name", ["shared", "sharedreader"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(
    history=st.lists(events, max_size=6),
    claims=any_claims,
    kid=st.none() | st.sampled_from(["x", "y"]) | any_text,
)
def test_what_the_long_way_finds_is_suspected(
    name: str, history: list[Revocation], claims: dict[str, Any], kid: str | None
) -> None:
    """Over all kinds and any claims: a token that the long way finds revoked is suspected, or the question fails."""
    with opened(name) as store:
        store.apply_all(history)
        token = Verified(claims=claims, kid=kid, raw=_RAW)
        decision = guard_over(store, long_lived_tokens="accept").check(claims, kid=kid, token=token)
        if decision.status is Status.REVOKED and decision.kind != "malformed":
            assert store.suspects(claims, kid)

"""What a preview says: true of every wide kind, and no number that nobody knows."""

from __future__ import annotations

import re
from typing import Any

import pytest

from revoker.events import KINDS, Claim, Client, Everything, Issuer, Key, Selector, Session
from revoker.publisher import compose
from revoker.service.preview import Preview, preview
from tests import samples

NOW = 1_700_000_000
ISS = "https://id.example"
WIDE: list[Selector] = [
    Client(iss=ISS, client_id="shop"),
    Claim(iss=ISS, claim="tenant", value="acme"),
    Key(iss=ISS, kid="k1"),
    Issuer(iss=ISS),
    Everything(),
]


def shown(selector: Selector, *, own_issuer: str | None = ISS, **changes: Any) -> Preview:
    event = compose(selector=selector, lifetimes=samples.settings().lifetimes, now_s=NOW, event_id="e", **changes)
    return preview(event, own_issuer=own_issuer)


def test_every_wide_kind_has_a_preview() -> None:
    """Those here are all there are, and no other kind has one."""
    assert {one.kind for one in WIDE} == {kind for kind, cls in KINDS.items() if cls.wide}
    with pytest.raises(ValueError, match="kind session is not wide"):
        shown(Session(iss="", sid="s"))


@pytest.mark.parametrize("selector", WIDE, ids=lambda one: one.kind)
def test_the_words_name_the_condition(selector: Selector) -> None:
    """Every identifier of the selector, since when and until when; the fields say the same to machines."""
    found = shown(selector)
    for value in found.selector.values():
        assert repr(value) in found.words
    if selector.kind == "key":
        assert "whenever issued" in found.words
        assert found.issued_until is None
    else:
        assert "issued at 2023-11-14T22:13:20Z or before" in found.words
        assert found.issued_until == NOW
        assert any("after 2023-11-14T22:13:20Z" in one for one in found.spared)
    assert "Until 2023-11-15T22:18:50Z" in found.words  # a day, the leeway and the clock margin on
    assert found.kept_until == NOW + 86400 + 30 + 300


def test_a_key_with_a_cutoff_spares_what_it_signed_later() -> None:
    """The cut-off given is the one shown; tokens that name no key are hit as well, as the guard has it."""
    found = shown(Key(iss=ISS, kid="k1"), cutoff=NOW - 60)
    assert found.issued_until == NOW - 60
    assert "naming no key" in found.words


@pytest.mark.parametrize(
    ("selector", "own_issuer", "every", "own"),
    [
        (Issuer(iss=ISS), ISS, False, True),
        (Issuer(iss=ISS), "https://other.example", False, False),
        (Issuer(iss=ISS), None, False, None),
        (Everything(), ISS, True, True),
        (Everything(), None, True, True),
    ],
)
def test_the_reach_is_said(selector: Selector, own_issuer: str | None, every: bool, own: bool | None) -> None:
    """Whether every issuer is hit, and the one of this service; null where it is set up for none in particular."""
    reach = shown(selector, own_issuer=own_issuer).reach
    assert (reach.every_issuer, reach.own_issuer, reach.admin_tokens) == (every, own, False)
    assert ("tokens of other issuers" in shown(selector).spared) is not every


@pytest.mark.parametrize("selector", WIDE, ids=lambda one: one.kind)
def test_no_number_is_made_up(selector: Selector) -> None:
    """How many tokens there are is not known to a service that stores none: the words hold times alone."""
    found = shown(selector)
    assert "how many tokens or users" in found.not_known
    assert not re.search(r"\b\d+ (tokens|users|sessions)", " ".join([found.words, *found.spared]))


def test_tokens_without_an_issuer_are_said_to_be() -> None:
    """An empty iss is not shown as a name."""
    assert "all tokens without iss" in shown(Issuer(iss="")).words

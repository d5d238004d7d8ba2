"""Events are plain frozen values; how a claim's value is compared."""

from __future__ import annotations

from typing import Any

import pytest

from revoker.events import (
    KINDS,
    Claim,
    Client,
    Digest,
    Everything,
    Issuer,
    Key,
    Selector,
    Session,
    Subject,
    Token,
    Withdrawal,
    claim_text,
)

ISS = "https://issuer.example"


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_kinds_holds_each_class_under_its_word(kind: str) -> None:
    """The word in the table is the one the class writes on the wire."""
    assert KINDS[kind].__struct_config__.tag == kind


def test_a_kind_is_exact_or_wide_or_a_subject_or_a_withdrawal() -> None:
    """Exact kinds need no cut-off, wide ones can be withdrawn, and no kind is both."""
    assert {kind for kind, cls in KINDS.items() if cls.exact} == {"token", "digest", "session"}
    assert {kind for kind, cls in KINDS.items() if cls.wide} == {"client", "claim", "key", "issuer", "all"}


@pytest.mark.parametrize(
    ("selector", "key"),
    [
        (Token(iss=ISS, jti="j"), ("token", ISS, "j")),
        (Digest(iss=ISS, digest="0" * 64), ("digest", ISS, "0" * 64)),
        (Session(iss=ISS, sid="s"), ("session", ISS, "s")),
        (Subject(iss=ISS, sub="u", spare_sid="s"), ("subject", ISS, "u")),
        (Client(iss=ISS, client_id="c"), ("client", ISS, "c")),
        (Claim(iss=ISS, claim="tenant", value="t"), ("claim", ISS, "tenant", "t")),
        (Key(iss=ISS, kid="k"), ("key", ISS, "k")),
        (Issuer(iss=ISS), ("issuer", ISS)),
        (Everything(), ("all",)),
        (Withdrawal(event_id="e"), ("withdrawal", "e")),
    ],
)
def test_a_selectors_key_names_kind_issuer_and_value(selector: Selector, key: tuple[str, ...]) -> None:
    """Equal keys mean the same tokens, so the key starts with the kind and holds the issuer."""
    assert selector.key == key
    assert selector.kind == key[0]


def test_values_are_frozen() -> None:
    """An event that is shared between stores and tasks cannot be changed."""
    with pytest.raises(AttributeError, match="immutable"):
        Token(iss=ISS, jti="j").jti = "other"  # type: ignore[misc]


def test_every_field_is_named_in_calls() -> None:
    """Selectors take keyword arguments only: iss and jti are both texts, easily swapped."""
    with pytest.raises(TypeError):
        Token("j", ISS)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("t", "t"),
        ("", ""),
        ("ü🦊", "ü🦊"),
        (5, "5"),
        (-5, "-5"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        ([1, "a"], '[1,"a"]'),
        ({"b": 1, "a": {"d": 2, "c": 3}}, '{"a":{"c":3,"d":2},"b":1}'),
        (2**64 - 1, str(2**64 - 1)),
    ],
    ids=repr,
)
def test_a_claims_value_has_one_text(value: Any, text: str) -> None:
    """Strings are compared as they are, everything else as compact JSON with sorted keys, nested ones too."""
    assert claim_text(value) == text


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    "value",
    ["\ud800", ["\ud800"], {"\ud800": 1}, object(), 10**5000, _nested(100_000), {1, object()}],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_json_form_is_a_value_error(value: Any) -> None:
    """What no record could name raises ValueError, never anything else."""
    with pytest.raises(ValueError, match=r"surrogate|JSON"):
        claim_text(value)

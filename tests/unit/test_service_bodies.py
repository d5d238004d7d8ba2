"""What a body may say: logouts, revocations of every kind, and what is told about one that is wrong."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from revoker.events import KINDS, Claim, Session, Subject, Token
from revoker.service import admin, bodies, logout
from revoker.service.problems import Problem, Refused

FORMS = admin.forms(issuer=None)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def refused(call: Any, *arguments: Any, **named: Any) -> Problem:
    with pytest.raises(Refused) as caught:
        call(*arguments, **named)
    return caught.value.answer.problem


@pytest.mark.parametrize(
    ("body", "media_type", "scope", "reason"),
    [
        (b"", "application/octet-stream", "token", None),
        (b"", bodies.JSON, "token", None),
        (b"{}", bodies.JSON, "token", None),
        (b'{"scope":"elsewhere","reason":"lost phone"}', bodies.JSON, "elsewhere", "lost phone"),
        (b"scope=everywhere&reason=lost+ph%C3%B6ne", bodies.FORM, "everywhere", "lost phöne"),
        (b"scope=&reason=", bodies.FORM, "token", None),
    ],
)
def test_a_logout_says_its_scope_as_json_as_a_form_or_not_at_all(
    body: bytes, media_type: str, scope: str, reason: str | None
) -> None:
    """JSON, a form and no body are understood; what is absent is the default."""
    asked = logout.parse(body, media_type=media_type)
    assert (asked.scope, asked.reason) == (scope, reason)


@pytest.mark.parametrize(
    ("body", "media_type", "status", "words"),
    [
        (b'{"scope":"everwhere"}', bodies.JSON, 422, "did you mean everywhere?"),
        (b'{"scope":7}', bodies.JSON, 422, "there are token, everywhere, elsewhere"),
        (b'{"scope":["token"]}', bodies.JSON, 422, "there are token"),
        (b'{"scop":"token"}', bodies.JSON, 422, "'scop' is no field of a logout; did you mean scope?"),
        (b'{"reason":5}', bodies.JSON, 422, "$.reason"),
        (b'{"reason":"' + b"x" * 2000 + b'"}', bodies.JSON, 422, "1024"),
        (b"[]", bodies.JSON, 422, "must be a JSON object"),
        (b"{", bodies.JSON, 400, "not JSON"),
        (b"\xff", bodies.JSON, 400, "not JSON"),
        (b'{"reason":NaN}', bodies.JSON, 400, "not JSON"),
        (b'{"reason":"\\ud800"}', bodies.JSON, 400, "not JSON"),
        (b'{"reason":1e400}', bodies.JSON, 400, "not JSON"),
        (b"[" * 60000, bodies.JSON, 400, "nested too deeply"),
        (b'{"a":' * 10000, bodies.JSON, 400, "nested too deeply"),
        (b"scope=token&scope=everywhere", bodies.FORM, 422, "twice"),
        (b"reason=%FF", bodies.FORM, 400, "URL-encoded form"),
        (b"\xff", bodies.FORM, 400, "URL-encoded form"),
        (b"&".join(b"a%d=1" % number for number in range(99)), bodies.FORM, 400, "URL-encoded form"),
        (b'{"scope":"everywhere"}', bodies.FORM, 422, "is no field of a logout"),
        (b"scope=token", "text/plain", 415, "application/json or application/x-www-form-urlencoded"),
    ],
)
def test_a_wrong_logout_is_told_what_would_be_right(body: bytes, media_type: str, status: int, words: str) -> None:
    """400 for what cannot be read, 415 for another type, 422 for what means nothing; the detail names it."""
    problem = refused(logout.parse, body, media_type=media_type)
    assert problem.status == status
    assert words in problem.detail


@given(st.binary(max_size=200) | JSON_VALUES.map(msgspec.json.encode), st.sampled_from([bodies.JSON, bodies.FORM]))
def test_no_body_is_a_defect(body: bytes, media_type: str) -> None:
    """Whatever bytes arrive, they are understood or refused: no other exception leaves the parser."""
    with contextlib.suppress(Refused):
        logout.parse(body, media_type=media_type)


@pytest.mark.parametrize(
    ("fields", "selector", "others"),
    [
        (
            {"kind": "token", "iss": "", "jti": "j", "exp": 5},
            Token(iss="", jti="j"),
            {"exp": 5.0, "reason": None},
        ),
        ({"kind": "session", "iss": "i", "sid": "s"}, Session(iss="i", sid="s"), {"reason": None}),
        (
            {"kind": "subject", "iss": "i", "sub": "u", "spare_sid": "s", "cutoff": 9, "reason": "r"},
            Subject(iss="i", sub="u", spare_sid="s"),
            {"cutoff": 9, "reason": "r"},
        ),
        (
            {"kind": "claim", "iss": "i", "claim": "tenant", "value": 5},
            Claim(iss="i", claim="tenant", value="5"),
            {"cutoff": None, "reason": None},
        ),
        (
            {"kind": "claim", "iss": "i", "claim": "beta", "value": True},
            Claim(iss="i", claim="beta", value="true"),
            {"cutoff": None, "reason": None},
        ),
    ],
)
def test_a_revocation_is_flat(fields: dict[str, object], selector: object, others: dict[str, object]) -> None:
    """The selector's fields stand beside exp, cutoff and reason; a claim's value may be of the token's own type."""
    assert admin.parse(fields, form=FORMS[str(fields["kind"])]) == (selector, others)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_form_that_its_selector_fits(kind: str) -> None:
    """Each form has all fields of its selector, and exp or cutoff exactly where the kind has one."""
    fields = set(FORMS[kind].__struct_fields__)
    cutoff = {"cutoff"} if not KINDS[kind].exact and kind != "withdrawal" else set()
    exp = {"exp"} if kind in ("token", "digest") else set()
    assert fields == set(KINDS[kind].__struct_fields__) | cutoff | exp | {"reason"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "kind is missing; there are token, digest"),
        ({"kind": None}, "kind is missing"),
        ({"kind": "sesion"}, "did you mean session?"),
        ({"kind": ["token"]}, "there are token"),
        (
            {"kind": "session", "iss": "", "sidd": "s"},
            "'sidd' is no field of a revocation of kind session; did you mean sid?",
        ),
        ({"kind": "session", "iss": "", "sid": "s", "exp": 5}, "'exp' is no field of a revocation of kind session"),
        ({"kind": "session", "iss": "", "sid": 5}, "$.sid"),
        ({"kind": "session", "iss": ""}, "`sid`"),
        ({"kind": "session", "sid": "s"}, "`iss`"),
        ({"kind": "session", "iss": "", "sid": ""}, "$.sid"),
        ({"kind": "session", "iss": "", "sid": "s" * 2000}, "$.sid"),
        ({"kind": "digest", "iss": "", "digest": "ABC"}, "$.digest"),
        ({"kind": "token", "iss": "", "jti": "j", "exp": "5"}, "$.exp"),
        ({"kind": "token", "iss": "", "jti": "j", "exp": True}, "$.exp"),
        ({"kind": "token", "iss": "", "jti": "j", "exp": 1e300}, "$.exp"),
        ({"kind": "all", "cutoff": 1.5}, "$.cutoff"),
        ({"kind": "all", "cutoff": -1}, "$.cutoff"),
        ({"kind": "claim", "iss": "", "claim": "c", "value": None}, "$.value"),
        ({"kind": "claim", "iss": "", "claim": "c", "value": ["a"]}, "$.value"),
    ],
)
def test_a_wrong_revocation_names_the_field(fields: dict[str, object], words: str) -> None:
    """422, with the field's path or the nearest right name."""

    def read() -> None:
        admin.parse(fields, form=FORMS[admin.kind_of(fields)])

    problem = refused(read)
    assert problem.status == 422
    assert words in problem.detail


def test_the_one_issuer_configured_is_the_default() -> None:
    """With the setting issuer a revocation need not name iss, and still may."""
    form = admin.forms(issuer="https://id.example")["session"]
    assert admin.parse({"kind": "session", "sid": "s"}, form=form)[0] == Session(iss="https://id.example", sid="s")
    assert admin.parse({"kind": "session", "sid": "s", "iss": "x"}, form=form)[0] == Session(iss="x", sid="s")


@given(st.dictionaries(st.sampled_from(["iss", "claim", "value", "cutoff", "reason", "kind"]) | st.text(), JSON_VALUES))
def test_no_revocation_is_a_defect(fields: dict[str, object]) -> None:
    """Whatever JSON object arrives, it is understood or refused: no other exception leaves the parser."""
    for kind in KINDS:
        with contextlib.suppress(Refused):
            admin.parse({**fields, "kind": kind}, form=FORMS[kind])


def test_a_long_unknown_name_is_not_repeated_whole() -> None:
    """The message about an unknown field stays short however long its name is."""
    problem = refused(logout.parse, msgspec.json.encode({"x" * 5000: 1}), media_type=bodies.JSON)
    assert len(problem.detail) < 200


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"kind":"all","kind":"all"}', "'kind'"),
        (b'{"kind":"all","\\u006bind":"token"}', "'kind'"),
        (b'{"reason":{"a":1,"a":2}}', "'a'"),
        (b'{"reason":[{"a":' + b"9" * 5000 + b',"a":1e999999}]}', None),
    ],
)
def test_a_name_stands_but_once(body: bytes, name: str | None) -> None:
    """Whoever read the body on its way may have taken the other value, whatever its spelling; numbers do not matter."""
    problem = refused(bodies.fields_of_json, body)
    assert problem.status == (400 if name is None else 422)
    if name is not None:
        assert f"The field {name} stands twice" in problem.detail


def test_equal_names_in_different_objects_are_none_that_repeats() -> None:
    """Only within one object does a name have to be unique."""
    assert bodies.fields_of_json(b'{"a":{"b":1},"c":{"b":123456789012345678901234567890}}')["a"] == {"b": 1}

"""docs/record.md is what a stranger writes records by: its examples and tables are held to the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

from revoker import record
from revoker.events import KINDS, Revocation
from revoker.record import decode, encode, json_schema

PAGE = (Path(__file__).parents[2] / "docs/record.md").read_text("utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL) + re.findall(r"printf '%s' '(\{.*?\})'", PAGE)
EACH = pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: str(json.loads(text)["kind"]))


@EACH
def test_an_example_conforms_to_the_schema(example: str) -> None:
    """Each example on the page is a record by the schema."""
    Draft202012Validator(json_schema()).validate(json.loads(example))


@EACH
def test_an_example_is_read_and_would_be_written_alike(example: str) -> None:
    """Each example is decoded, and encoding what was read gives the same object."""
    read = decode(example.encode())
    assert isinstance(read, Revocation)
    assert json.loads(encode(read)[1]) == json.loads(example)


def test_every_kind_has_an_example_and_a_line() -> None:
    """The page shows each kind, and its table names exactly the fields the code has."""
    assert {json.loads(example)["kind"] for example in EXAMPLES} == set(KINDS)
    rows = dict(
        re.findall(
            r"^\| `(\w+)` \| ((?:`\w+`[,;]? ?|optionally one of )*) ?\|.*\| (?:never|required|optional.*) \|$",
            PAGE,
            re.MULTILINE,
        )
    )
    assert {kind: set(re.findall(r"`(\w+)`", fields)) for kind, fields in rows.items()} == {
        kind: set(cls.__struct_fields__) for kind, cls in KINDS.items()
    }


@pytest.mark.parametrize("category", get_args(record.Category))
def test_every_category_is_explained(category: str) -> None:
    """Each reason for which a record is not read has its line."""
    assert f"| `{category}` |" in PAGE


def test_the_keys_on_the_page_are_ours() -> None:
    """The example keys are those of the example values."""
    keys = {
        encode(read)[0].decode()
        for read in map(decode, (text.encode() for text in EXAMPLES))
        if isinstance(read, Revocation)
    }
    shown: list[Any] = re.findall(r"`(\[\".*?\])`", PAGE)
    assert len(shown) == 3
    assert set(shown) <= keys


def test_every_header_is_described() -> None:
    """The headers we write are those of the table."""
    read = decode(EXAMPLES[0].encode())
    assert isinstance(read, Revocation)
    assert all(f"`{name}`" in PAGE for name, _ in encode(read)[2])


def test_the_limits_are_the_codes() -> None:
    """The numbers on the page are the numbers in the code."""
    assert f"{record.VALUE_MAX_BYTES:,} bytes" in PAGE
    assert f"above {record.SCHEMA_VERSION}:" in PAGE

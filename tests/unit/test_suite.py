"""Rules that the suite holds about itself."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.bad_inputs import LEAST

_TESTS = Path(__file__).parents[1]


def test_every_test_says_what_it_holds() -> None:
    """Each test function has a docstring: the one sentence that is true when it passes."""
    silent = [
        f"{path.relative_to(_TESTS)}:{node.lineno} {node.name}"
        for path in sorted(_TESTS.rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_at_least_ten_thousand_bad_inputs_are_generated() -> None:
    """What the generators of bad inputs promise each, and `tried` holds them to, comes to ten thousand."""
    assert sum(LEAST.values()) >= 10_000

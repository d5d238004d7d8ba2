"""Files made from the code are current."""

from __future__ import annotations

import pytest

from tests.generated import FILES, ROOT


@pytest.mark.parametrize("name", FILES)
def test_a_generated_file_is_current(name: str) -> None:
    """The file in the repository is what the code makes now; `python -m tests.generated` writes it anew."""
    assert (ROOT / name).read_text("utf-8") == FILES[name](), f"{name} is out of date: run python -m tests.generated"

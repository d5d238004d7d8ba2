"""A wrong word, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(word: object, words: Iterable[str]) -> str:
    """The end of a message about a wrong word: the nearest right one, or all of them."""
    words = tuple(words)
    near = difflib.get_close_matches(word, words, n=1) if isinstance(word, str) and len(word) <= 100 else []
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(words)}"

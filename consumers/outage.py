"""One outage, told once: what is news among failures that repeat."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Outage"]

_WORD: Final = re.compile(r"[A-Za-z]+")

#: Different reasons told in one outage; a reason that never repeats must not become a flood either.
_TOLD_MAX: Final = 10


class Outage:
    """From the first failed session until the node is live again."""

    def __init__(self) -> None:
        #: Sessions that failed in this outage.
        self.attempts: int = 0
        self._told: set[tuple[type[BaseException], frozenset[str]]] = set()

    def failed(self, error: BaseException, *, reason: str) -> bool:
        """A session failed with this reason; whether that is news.

        Reasons are compared by their words: brokers come in another order at each attempt, and offsets, ports and node
        ids differ, without anything having changed.
        """
        self.attempts += 1
        what = (type(error), frozenset(_WORD.findall(reason)))
        if what in self._told or len(self._told) >= _TOLD_MAX:
            return False
        self._told.add(what)
        return True

    def over(self) -> int:
        """The node is live. Returns how many sessions had failed."""
        attempts, self.attempts = self.attempts, 0
        self._told.clear()
        return attempts

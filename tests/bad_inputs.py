"""How many generated bad inputs the suite tries, room by room: every test that generates some counts them here.

``LEAST`` is the promise: `tried` holds each test to it, tests/unit/test_suite.py adds it up. What a run has tried is
printed at its end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

__all__ = ["LEAST", "TRIED", "Generated", "tried"]

#: The least number of inputs each kind of generator tries.
LEAST: Final = {
    "tokens, spoiled": 3000,
    "tokens, crafted and truly signed": 2000,
    "requests to the adapters": 1200,
    "records": 4000,
    "settings": 2400,
    "outbox files": 500,
    "trusted publishers files": 1000,
    "requests to the service": 1500,
    "rude requests to the service": 900,
    "requests to a node": 900,
}

#: What this run has tried.
TRIED: Final[Counter[str]] = Counter()


@dataclass(slots=True)
class Generated:
    """The inputs of one test: a seeded generator, and how many it has made."""

    rng: random.Random
    least: int
    made: int = 0

    def __iter__(self) -> Iterator[random.Random]:
        """The generator, as often as the kind asks for."""
        for _ in range(self.least):
            self.made += 1
            yield self.rng


@contextmanager
def tried(kind: str, *, share: float = 1.0) -> Iterator[Generated]:
    """The inputs of one kind, or a ``share`` of them where several tests divide them. Fails if too few were made."""
    least = round(LEAST[kind] * share)
    generated = Generated(random.Random(f"{kind} {share}"), least)
    yield generated
    assert generated.made >= least, f"{generated.made} {kind}, at least {least} were promised"
    TRIED[kind] += generated.made

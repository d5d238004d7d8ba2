"""A node's memory over an hour of churn, run as a process of its own: one JSON object on standard output.

``python -m tests.property.churning EVENTS`` takes so many records in through a real node, at the rate of a million
an hour on a clock that is told to tick, lets all of them expire, and says what the process held before and after.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from consumers.node import Node
from revoker.settings import Settings

_SETTINGS = Settings(
    algorithms=("HS256",),
    key_secret="a secret for tests, long enough for HS256",
    longest_token_life_s=300,
    leeway_s=0,
    clock_margin_s=0,
)
_EVENTS_PER_S = 1_000_000 / 3600
_SLICE = 500
_WARM_UP = 400_000
_TAIL = '"revoked_at":%d,"expires_at":%d}'


class _Record(NamedTuple):
    partition: int
    offset: int
    timestamp: int
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class _Churn:
    """A node without its network, and the clock it goes by."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0
        node = Node(_SETTINGS, wall=lambda: self.now_s, monotonic=lambda: self.now_s - 1e9)
        self.denylist = node.denylist
        self.intake = node.intake
        self.taken = 0
        self.most_entries = 0

    def take(self, events: int) -> None:
        """So many records, at the rate of a million an hour; forgetting once a second, as the follower does."""
        tidied_at = self.now_s
        for _ in range(0, events, _SLICE):
            self.intake.take(self._records(_SLICE))
            self.taken += _SLICE
            self.now_s += _SLICE / _EVENTS_PER_S
            if self.now_s - tidied_at >= 1:
                tidied_at = self.now_s
                self.intake.tidy()
                self.most_entries = max(self.most_entries, sum(self.denylist.counts().values()))

    def expire(self) -> None:
        """A last record moves the brokers' time on by two hours; two more, and it has expired like all others."""
        self.now_s += 7200
        self.intake.take(self._records(1))
        self.now_s += 7200
        self.intake.tidy()

    def _records(self, count: int) -> Iterator[_Record]:
        now = int(self.now_s)
        until = now + _SETTINGS.lifetimes.keep_s
        for number in range(self.taken, self.taken + count):
            event = f'{{"v":1,"id":"event-{number}","iss":"https://id.example",{_selector(number, now)},'
            yield _Record(0, number, now * 1000, (event + _TAIL % (now, until)).encode())


def _selector(number: int, now: int) -> str:
    """Mostly tokens and sessions, as logouts are; subjects that spare many sessions; rules on many tenants."""
    match number % 10:
        case 0 | 1 | 2 | 3 | 4 | 5:
            return f'"kind":"token","jti":"0b2e6f0e-6f0e-4000-8000-{number:012}"'
        case 6 | 7:
            return f'"kind":"session","sid":"5e55109e-6f0e-4000-8000-{number:012}"'
        case 8:
            return f'"kind":"subject","sub":"user-{number // 50}","spare_sid":"s-{number}","cutoff":{now}'
        case _:
            return f'"kind":"claim","claim":"tenant","value":"t-{number // 40}","cutoff":{now}'


def _resident_bytes() -> int:
    """What the kernel counts as this process's memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def _held() -> dict[str, int]:
    gc.collect()
    return {"resident_bytes": _resident_bytes(), "blocks": sys.getallocatedblocks()}


def main(events: int) -> None:
    """Warm up with twice what is ever in force together, and let it expire; then churn, and let all expire."""
    churn = _Churn()
    fresh = _held()
    churn.take(_WARM_UP)
    churn.expire()
    before = _held()
    churn.take(events)
    full = _resident_bytes()
    churn.expire()
    applied = sum(churn.intake.applied.values())
    print(  # noqa: T201 - the answer
        json.dumps(
            {
                "fresh": fresh,
                "before": before,
                "after": _held(),
                "full_bytes": full,
                "most_entries": churn.most_entries,
                "applied": applied - _WARM_UP - 2,
                "entries_left": sum(churn.denylist.counts().values()),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))

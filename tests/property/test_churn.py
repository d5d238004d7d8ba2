"""A node's memory comes back: what has expired is gone, from the deny list and from the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from consumers.denylist.memory import MemoryDenyList
from revoker.events import Revocation, Token

EVENTS = 1_000_000


def token(number: int, *, until: int) -> Revocation:
    return Revocation(id="e", selector=Token(iss="", jti=f"jti-{number}"), revoked_at=0, expires_at=until)


def listed(store: MemoryDenyList, number: int) -> bool:
    return store.listed(("token", "", f"jti-{number}"))


def table_bytes(store: MemoryDenyList) -> int:
    """What the table of tokens itself occupies, without its entries."""
    return sys.getsizeof(store._exact["token"]._cache._Cache__data)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_after_an_hour_of_churn_returns_to_within_a_tenth_of_its_start() -> None:
    """A million events in and expired at the pace of an hour: nothing is left, and the process is as small as before.

    Before: once twice as many entries as are ever in force together have come and gone, since the first time leaves
    the allocators' own tables behind. glibc's dynamic threshold is switched off, as docs/operations.md advises: with it
    a process may keep up to 64 MiB of what it has freed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    child = [sys.executable, "-m", "tests.property.churning", str(EVENTS)]
    environment["MALLOC_TRIM_THRESHOLD_"] = "131072"
    found = json.loads(subprocess.run(child, env=environment, check=True, capture_output=True, timeout=900).stdout)
    print("memory after churn:", found)  # noqa: T201 - the figures, for who runs this with -s
    assert found["applied"] == EVENTS
    assert found["most_entries"] > 100_000
    assert found["entries_left"] == 0
    # Whatever the allocators do: Python's own count of what is alive is that of the start.
    assert found["after"]["blocks"] <= found["before"]["blocks"] * 1.01
    assert found["after"]["resident_bytes"] <= found["before"]["resident_bytes"] * 1.1


def test_an_emptied_table_gives_its_memory_back() -> None:
    """A dict keeps the table of its fullest day; the deny list's does not, and works on."""
    store = MemoryDenyList(max_entries=10**6)
    small = table_bytes(store)
    for number in range(5000):
        store.apply(token(number, until=10))
    assert table_bytes(store) > 100 * small
    store.advance(now_s=10)
    assert table_bytes(store) == small
    store.apply(token(1, until=20))
    assert listed(store, 1)


def test_a_table_that_is_nearly_empty_is_written_anew_with_all_it_holds() -> None:
    """What has not expired is in the small table as well, until its own time and not longer."""
    store = MemoryDenyList(max_entries=10**6)
    for number in range(5000):
        store.apply(token(number, until=30 if number < 100 else 10))
    store.apply(token(7, until=40))
    large = table_bytes(store)
    store.advance(now_s=10)
    assert table_bytes(store) < large / 10
    assert [number for number in range(5000) if listed(store, number)] == list(range(100))
    assert store.counts()["token"] == 100
    store.advance(now_s=30)
    assert [number for number in range(5000) if listed(store, number)] == [7]
    store.advance(now_s=40)
    assert not store.kinds

"""The outbox's file under any sequence of operations, crashes of its user included, beside a plain list."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from revoker.errors import OutboxUnavailable
from revoker.outbox.file import Counts, OutboxFile, read
from tests.outbox_entries import entry

IDS = st.sampled_from([f"event-{number}" for number in range(12)])
SOME = st.lists(IDS, max_size=5)
REASONS = st.sampled_from(["no answer", "too large"])


@dataclass
class Row:
    """What the model remembers of one event."""

    stored_at: float
    attempts: int = 0
    problem: str | None = None
    set_aside: bool = False


class OutboxMachine(RuleBasedStateMachine):
    """The model is a dict in insertion order; ids come back after they were forgotten, as when an event is published
    again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "outbox.db"
        self.model: dict[str, Row] = {}
        self.now = 0.0

    @initialize()
    def begin(self) -> None:
        self.file = OutboxFile(self.path)

    def teardown(self) -> None:
        self.file.close()
        shutil.rmtree(self.directory)

    @rule(ids=SOME)
    def put(self, ids: list[str]) -> None:
        self.now += 1
        self.file.put([entry(one) for one in ids], now_s=self.now)
        for one in ids:
            self.model.setdefault(one, Row(self.now))

    @rule(ids=SOME)
    def put_and_take_back(self, ids: list[str]) -> None:
        """A transaction that fails half-way."""
        try:
            with self.file.transaction():
                self.file.put([entry(one) for one in ids], now_s=self.now)
                self.file.settle(landed=list(self.model)[:2])
                raise KeyError
        except KeyError:
            pass

    @rule(landed=SOME, failed=SOME, aside=SOME, why=REASONS, together=st.booleans())
    def settle(self, landed: list[str], failed: list[str], aside: list[str], why: str, together: bool) -> None:
        arguments = {
            "landed": landed,
            "failed": dict.fromkeys(failed, why),
            "set_aside": dict.fromkeys(aside, why),
        }
        if together:
            with self.file.transaction():
                self.file.settle(**arguments)  # type: ignore[arg-type]
        else:
            self.file.settle(**arguments)  # type: ignore[arg-type]
        for one in landed:
            if one in self.model and not self.model[one].set_aside:
                del self.model[one]
        for one in set(failed):
            if (row := self.model.get(one)) is not None:
                row.attempts, row.problem = row.attempts + 1, why
        for one in set(aside):
            if (row := self.model.get(one)) is not None and not row.set_aside:
                row.attempts, row.problem, row.set_aside = row.attempts + 1, why, True

    @rule()
    def bring_back(self) -> None:
        self.file.bring_back()
        for row in self.model.values():
            row.set_aside = False

    @rule()
    def make_room(self) -> None:
        self.file.make_room()

    @rule(mending=st.booleans())
    def reopen(self, mending: bool) -> None:
        self.file.close()
        self.file = OutboxFile(self.path, mending=mending)

    @rule()
    def crash(self) -> None:
        """What a process leaves that dies: the files as they are on disk, the log not rolled into the database."""
        copy = self.directory / "copy"
        copy.mkdir()
        for one in self.directory.glob("outbox.db*"):
            if not one.name.endswith("-shm"):
                shutil.copy(one, copy)
        self.file.close()
        shutil.copytree(copy, self.directory, dirs_exist_ok=True)
        shutil.rmtree(copy)
        self.file = OutboxFile(self.path)

    @rule(everything=st.booleans())
    def delete(self, everything: bool) -> None:
        """Somebody removes the file, with its log or without."""
        for one in self.directory.glob("outbox.db*") if everything else [self.path]:
            one.unlink()
        assert not self.file.in_place
        self.file = self.file.moved_to_its_place()
        assert self.file.in_place

    @invariant()
    def what_waits_is_the_models(self) -> None:
        counts, found = read(self.path, limit=100)
        shown = {one.event_id: Row(one.stored_at, one.attempts, one.problem, one.set_aside) for one in found}
        assert shown == self.model
        assert list(shown) == list(self.model)
        for one in found:
            assert (one.key, one.value, one.headers) == (
                entry(one.event_id).key,
                entry(one.event_id).value,
                entry(one.event_id).headers,
            )
        oldest = next((row.stored_at for row in self.model.values()), None)
        aside = sum(row.set_aside for row in self.model.values())
        assert counts == self.file.counts == Counts(waiting=len(self.model), set_aside=aside, oldest_at=oldest)

    @invariant()
    def the_head_is_the_oldest_not_set_aside(self) -> None:
        found = [one.event_id for one in self.file.head(after=0, limit=3, max_bytes=1 << 20)]
        assert found == [one for one, row in self.model.items() if not row.set_aside][:3]


OutboxMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestOutbox = OutboxMachine.TestCase


def _opened_or_refused(path: Path) -> int | None:
    """How much waits in it; None = refused. Whatever else opening raises is a defect."""
    try:
        file = OutboxFile(path)
    except OutboxUnavailable:
        return None
    file.close()
    return file.counts.waiting


def _of_sixty(path: Path) -> bytes:
    file = OutboxFile(path)
    file.put([entry(f"event-{number}") for number in range(60)], now_s=1.0)
    file.close()
    return path.read_bytes()


def test_a_truncated_file_is_whole_or_refused(tmp_path: Path) -> None:
    """Cut anywhere, an outbox is refused, unless nothing is left of it; it never opens with some of its events."""
    path = tmp_path / "outbox.db"
    whole = _of_sixty(path)
    for length in range(0, len(whole), 512):
        path.write_bytes(whole[:length])
        assert _opened_or_refused(path) == (None if length else 0), length


def test_overwritten_bytes_never_do_worse_than_refuse(tmp_path: Path) -> None:
    """Bytes changed anywhere, 100 times: the file opens, or it is refused; reading along does the same."""
    path = tmp_path / "outbox.db"
    whole = _of_sixty(path)
    chance = random.Random(7)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 16, 500])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(OutboxUnavailable):
            read(path, limit=100)
        _opened_or_refused(path)

"""The relay: what it does with each outcome of a send. The outbox is real, the sender answers as it is told."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from revoker.errors import NotAccepted, OutcomeUnknown, PublishError
from revoker.events import Revocation
from revoker.outbox.file import read
from revoker.outbox.writer import Outbox
from revoker.relay import Relay
from revoker.sender import Landed, Outgoing
from tests.outbox_entries import entry, event

PATIENCE_S = 30.0

Judge = Callable[[str], Landed | PublishError]


class Told:
    """A sender that asks ``judge`` about every event's id, and fails a batch as a whole, as a broker does."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.batches: list[list[str]] = []
        self.landed: list[str] = []
        self.renewals = 0

    async def send_all(self, records: Sequence[Outgoing]) -> list[Landed | PublishError]:
        names = [dict(one.headers)["ce_id"].decode() for one in records]
        self.batches.append(names)
        outcomes = [self.judge(name) for name in names]
        failure = next((one for one in outcomes if isinstance(one, PublishError)), None)
        if failure is not None:
            return [failure] * len(names)
        self.landed += names
        return outcomes

    def renew(self) -> None:
        self.renewals += 1


def lands(_name: str) -> Landed:
    return Landed(partition=0, offset=0, timestamp_ms=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
async def outbox(path: Path) -> AsyncIterator[Outbox]:
    opened = Outbox(path, max_events=100_000)
    await opened.start()
    yield opened
    await opened.close()


@asynccontextmanager
async def running(outbox: Outbox, sender: Told, **arguments: Any) -> AsyncIterator[Relay]:
    relay = Relay(outbox, sender, jitter=lambda: 0.1, **arguments)  # type: ignore[arg-type]
    task = asyncio.create_task(relay.run())
    yield relay
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_what_waits_is_sent_in_order_and_forgotten(outbox: Outbox, path: Path) -> None:
    """Events stored before the relay began and while it runs arrive in the order in which they were stored."""
    names = [f"event-{number}" for number in range(1500)]
    await asyncio.gather(*(outbox.put(entry(name)) for name in names[:1000]))
    sender = Told(lands)
    async with running(outbox, sender) as relay:
        for name in names[1000:]:
            await outbox.put(entry(name))
            relay.wake()
        await until(lambda: not outbox.counts.waiting)
    assert sender.landed == names
    assert read(path, limit=1)[1] == []
    assert relay.delivered == 1500


async def test_whoever_waits_hears_where_it_landed(outbox: Outbox) -> None:
    """Every future for the event gets the place."""
    async with running(outbox, Told(lambda _: Landed(partition=3, offset=7, timestamp_ms=9))) as relay:
        first, second = relay.expect("a"), relay.expect("a")
        await outbox.put(entry("a"))
        relay.wake()
        assert (await first, await second) == (Landed(partition=3, offset=7, timestamp_ms=9),) * 2
        relay.forget("a", first)
        relay.forget("a", second)


@pytest.mark.parametrize("failure", [OutcomeUnknown("no answer"), NotAccepted("not sent"), NotAccepted("no right")])
async def test_what_fails_is_sent_again_under_its_id_until_it_lands(outbox: Outbox, failure: PublishError) -> None:
    """A timeout, a broker that is away, a missing right: nothing behind it overtakes it, and its reason is kept."""
    failures = [failure] * 7

    def judge(name: str) -> Landed | PublishError:
        return failures.pop() if name == "b" and failures else lands(name)

    for name in "abc":
        await outbox.put(entry(name))
    sender = Told(judge)
    async with running(outbox, sender) as relay:
        await until(lambda: relay.failed == 3)
        assert relay.failing_since is not None
        assert relay.problem == str(failure)
        assert (await outbox.head(after=0, limit=1, max_bytes=1))[0].problem == str(failure)
        await until(lambda: not outbox.counts.waiting)
    assert [relay.failing_since, relay.problem] == [None, None]
    assert sender.landed == ["a", "b", "c"]
    assert len(sender.batches) == 8
    assert sender.renewals == 2


async def test_what_is_refused_for_good_is_set_aside_and_blocks_nobody(outbox: Outbox, path: Path) -> None:
    """One record the broker will not take among many: those around it land, in order, and it stays, with its reason."""

    def judge(name: str) -> Landed | PublishError:
        return NotAccepted("too large", lasting=True) if name == "event-3" else lands(name)

    for number in range(8):
        await outbox.put(entry(f"event-{number}"))
    sender = Told(judge)
    async with running(outbox, sender):
        await until(lambda: outbox.counts.waiting == outbox.counts.set_aside == 1)
        await outbox.put(entry("later"))
    assert sender.landed[:7] == [f"event-{number}" for number in range(8) if number != 3]
    _, (left, *_) = read(path, limit=10)
    assert (left.event_id, left.problem, left.set_aside) == ("event-3", "too large", True)


async def test_what_was_set_aside_is_tried_again_and_lands_once_it_may(outbox: Outbox) -> None:
    """A minute later, or at the next start: somebody may have mended the topic."""
    await outbox.put(entry("a"))
    now = 0.0
    allowed = False

    def judge(name: str) -> Landed | PublishError:
        return lands(name) if allowed else NotAccepted("too large", lasting=True)

    sender = Told(judge)
    async with running(outbox, sender, monotonic=lambda: now) as relay:
        await until(lambda: outbox.counts.set_aside == 1)
        allowed = True
        await outbox.put(entry("b"))
        relay.wake()
        await until(lambda: sender.landed == ["b"])
        now = 61.0
        await outbox.put(entry("c"))
        relay.wake()
        await until(lambda: not outbox.counts.waiting)
    assert sender.landed == ["b", "a", "c"]


async def test_a_restart_hears_of_what_waits_and_sends_it_under_the_same_ids(path: Path) -> None:
    """The next process on the file recalls every event and delivers it."""
    first = Outbox(path, max_events=100)
    await first.start()
    for name in "abc":
        await first.put(entry(name))
    await first.close()
    second = Outbox(path, max_events=100)
    await second.start()
    sender = Told(lands)
    heard: list[Revocation] = []
    await Relay(second, sender).recall(heard.append)  # type: ignore[arg-type]
    assert heard == [event(name) for name in "abc"]
    async with running(second, sender):
        await until(lambda: not second.counts.waiting)
    assert sender.landed == ["a", "b", "c"]
    await second.close()


async def test_pauses_grow_to_a_bound_and_vary(outbox: Outbox) -> None:
    """Doubled from 0.1 s to 5 s, each cut by up to half at random."""
    relay = Relay(outbox, Told(lands))  # type: ignore[arg-type]
    for failures, longest in ((1, 0.1), (2, 0.2), (4, 0.8), (7, 5.0), (1000, 5.0)):
        relay._failures = failures
        pauses = {relay._pause_s() for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


async def test_a_damaged_event_is_never_sent(outbox: Outbox, path: Path) -> None:
    """Bytes that changed on disk are set aside as damaged; those around them land."""
    for name in "abc":
        await outbox.put(entry(name))

    def damage(file: Any) -> None:
        file._run("UPDATE event SET value = ? WHERE id = 'b'", (b"{}",))

    await outbox._do(damage)
    sender = Told(lands)
    async with running(outbox, sender):
        await until(lambda: outbox.counts.waiting == outbox.counts.set_aside == 1)
    assert sender.landed == ["a", "c"]
    assert read(path, limit=1)[1][0].problem == "damaged on disk"


async def test_any_series_of_failures_ends_with_everything_there(outbox: Outbox) -> None:
    """Outcomes at random, unknown ones among them that did land: each event arrives, the last time in order."""
    chance = random.Random(7)
    log: list[str] = []

    class Moody(Told):
        async def send_all(self, records: Sequence[Outgoing]) -> list[Landed | PublishError]:
            names = [dict(one.headers)["ce_id"].decode() for one in records]
            mood = chance.random()
            if mood < 0.3:
                raise NotAccepted("not sent")
            if mood < 0.8:
                log.extend(names)
            if mood > 0.6:
                return [OutcomeUnknown("no answer")] * len(names)
            return [lands(name) for name in names]

    names = [f"event-{number}" for number in range(60)]
    async with running(outbox, Moody(lands)) as relay:
        for name in names:
            await outbox.put(entry(name))
            relay.wake()
            await asyncio.sleep(0)
        await until(lambda: not outbox.counts.waiting)
    assert set(log) == set(names)
    last = {name: place for place, name in enumerate(log)}
    assert sorted(names, key=last.__getitem__) == names

"""Accepting and delivering around their edges: a caller that gives up, a start after trouble, an end in the middle."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from revoker.delivery import Delivery
from revoker.errors import DenyListFull, OutboxUnavailable, PublishError
from revoker.events import Revocation, Session
from revoker.outbox.file import OutboxFile, read
from revoker.outbox.writer import Outbox
from revoker.publisher import Publisher
from revoker.sender import Landed, Outgoing, Sender
from tests import samples
from tests.disks import small_disk
from tests.outbox_entries import NOW_S, entry, event
from tests.service_door import without_kafka

PATIENCE_S = 30.0


class Landing(Sender):
    """A sender whose broker takes everything at once."""

    async def send_all(self, records: Sequence[Outgoing]) -> list[Landed | PublishError]:
        return [Landed(partition=0, offset=0, timestamp_ms=0) for _ in records]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def delivery_on(path: Path, **arguments: Any) -> Delivery:
    settings = samples.settings(outbox_file=str(path))
    return Delivery(settings, sender=Landing(settings), **arguments)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_what_a_caller_gave_up_on_is_delivered_all_the_same(path: Path) -> None:
    """It is on disk by then, or soon: nobody else has to store something for it to leave."""
    delivery = delivery_on(path)
    await delivery.open()
    outbox = delivery._outbox
    await until(outbox._jobs.empty)
    hold = threading.Event()
    holding = asyncio.create_task(outbox._do(lambda _: hold.wait(PATIENCE_S)))
    await asyncio.sleep(0)
    caller = asyncio.create_task(delivery.accept(event("a"), entry("a")))
    await asyncio.sleep(0.05)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    hold.set()
    await holding
    await until(lambda: delivery._relay.delivered == 1)
    await delivery.close()


async def test_a_restart_hears_of_what_was_set_aside_as_well(path: Path) -> None:
    """The process refuses all it accepted, the records that the broker would not take included."""
    file = OutboxFile(path)
    file.put([entry("a"), entry("b")], now_s=NOW_S)
    file.settle(set_aside={"a": "too large"})
    file.close()
    heard: list[Revocation] = []
    delivery = delivery_on(path, on_accepted=heard.append)
    await delivery.open()
    assert heard == [event("a"), event("b")]
    await delivery.close()


async def test_a_damaged_event_is_not_heard_of(path: Path) -> None:
    """Bytes that changed on disk revoke nothing that was never asked for."""
    file = OutboxFile(path)
    file.put([entry("a"), entry("b")], now_s=NOW_S)
    file._run("UPDATE event SET value = ? WHERE id = 'a'", (entry("c").value,))
    file.close()
    heard: list[Revocation] = []
    delivery = delivery_on(path, on_accepted=heard.append)
    await delivery.open()
    assert heard == [event("b")]
    await delivery.close()


async def test_a_start_on_a_full_disk_delivers_what_waits(tmp_path: Path) -> None:
    """It accepts nothing and says so, and what was accepted before leaves."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk.root / "outbox.db"
        file = OutboxFile(path)
        file.put([entry("a")], now_s=NOW_S)
        file.close()
        disk.fill(but_bytes=131_072)
        delivery = delivery_on(path)
        try:
            await delivery.probe()
            await until(lambda: delivery._relay.delivered == 1)
            with pytest.raises(OutboxUnavailable, match="disk is full"):
                await delivery.accept(event("b"), entry("b"))
            assert not delivery.check().ok
        finally:
            await delivery.close()


async def test_an_outbox_opened_while_it_closes_waits_for_its_end(path: Path) -> None:
    """One thread at a time: the next takes over the file, and nobody waits for ever."""
    outbox = Outbox(path, max_events=10)
    await outbox.start()
    hold = threading.Event()
    holding = asyncio.create_task(outbox._do(lambda _: hold.wait(PATIENCE_S)))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(outbox.close())
    await asyncio.sleep(0.05)
    starting = asyncio.create_task(outbox.start())
    await asyncio.sleep(0.05)
    hold.set()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(holding, closing, starting)
        await outbox.put(entry("a"))
        await outbox.close()
    assert [one.event_id for one in read(path, limit=10)[1]] == ["a"]


async def test_a_close_during_the_start_leaves_nothing_running(path: Path) -> None:
    """No relay that asks a closed outbox for ever."""
    delivery = delivery_on(path)
    opening = asyncio.create_task(delivery.open())
    await asyncio.sleep(0)
    await delivery.close()
    await asyncio.gather(opening, return_exceptions=True)
    assert [task for task in asyncio.all_tasks() if task.get_name() == "revoker-relay"] == []


async def test_the_pulse_goes_on_while_nobody_stores_anything(path: Path) -> None:
    """Asked every two seconds, it writes again and again: a disk that turned read-only shows before the next logout."""
    now = 0.0
    outbox = Outbox(path, max_events=10, wall=lambda: now, monotonic=lambda: now)
    await outbox.start()
    written = []
    for now in (2.0, 4.0, 6.0, 8.0, 10.0, 12.0):  # noqa: B007 - the outbox's clock reads it
        await outbox.probe()
        written.append(await outbox._do(lambda file: file._connection.execute("SELECT at FROM pulse").fetchone()[0]))
    await outbox.close()
    assert written[-1] >= 10.0


async def test_the_death_of_the_outboxs_thread_is_noticed(path: Path) -> None:
    """A defect in it: not ready, to be restarted, and nobody waits for an answer."""
    delivery = delivery_on(path)
    await delivery.open()
    delivery._outbox._wall = None  # type: ignore[assignment]
    with pytest.raises(OutboxUnavailable):
        await delivery.accept(event("a"), entry("a"))
    with pytest.raises(OutboxUnavailable, match="restart"):
        await delivery.accept(event("a"), entry("a"))
    assert not delivery.check().ok
    assert isinstance(delivery.death, TypeError)
    await delivery.close()


async def test_a_death_while_it_opens_is_noticed(path: Path) -> None:
    """Before there is a relay: opening it again tells of it at once, and does not help."""
    delivery = delivery_on(path, wall=None)
    for _ in range(2):
        with pytest.raises(OutboxUnavailable, match="restart"):
            await delivery.open()
    assert isinstance(delivery.death, TypeError)
    await delivery.close()


async def test_a_relay_that_somebody_cancelled_counts_as_dead(path: Path) -> None:
    """Nobody delivers any more, whoever ended it."""
    delivery = delivery_on(path)
    await delivery.open()
    assert delivery._task is not None
    delivery._task.cancel()
    await asyncio.wait({delivery._task})
    with pytest.raises(OutboxUnavailable, match="restart"):
        await delivery.accept(event("a"), entry("a"))
    assert delivery.death is not None
    await delivery.close()
    assert delivery.death is None


async def test_certificate_files_that_are_away_for_a_moment_end_nothing(path: Path) -> None:
    """The relay takes them for a broker that cannot be reached: it says so, keeps what waits, and tries again."""
    settings = samples.settings(
        outbox_file=str(path),
        kafka_security_protocol="SSL",
        kafka_ssl_ca_file=str(path.with_name("missing.pem")),
        publish_timeout_s=0.2,
    )
    delivery = Delivery(settings, sender=Sender(settings))
    await delivery.open()
    assert await delivery.accept(event("a"), entry("a")) is None
    await until(lambda: delivery._relay.failed >= 1)
    assert delivery.death is None
    assert "kafka_ssl_ca_file" in delivery.check().detail
    await delivery.close()


async def test_a_start_that_is_given_up_leaves_the_file_to_the_next(path: Path) -> None:
    """Nothing of it holds the outbox: another publisher of the same process finds it free."""
    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    starting = asyncio.create_task(Publisher(settings).__aenter__())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait({starting})
    async with Publisher(settings) as publisher:
        assert (await publisher.revoke(selector=Session(iss="", sid="s1"))).state == "stored"


async def test_a_deny_list_that_is_full_makes_no_failure_of_what_is_stored(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The event is on disk and will be in force: its caller gets the receipt, the log says what failed beside it, and
    the next start delivers."""

    def full(_: Revocation) -> None:
        raise DenyListFull("the bound is reached")

    settings = without_kafka(outbox_file=str(path), publish_timeout_s=0.2)
    for sid in ("s1", "s2"):
        async with Publisher(settings, on_accepted=full) as publisher:
            assert (await publisher.revoke(selector=Session(iss="", sid=sid))).state == "stored"
    assert "the bound is reached" in caplog.text

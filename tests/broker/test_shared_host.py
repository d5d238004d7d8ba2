"""One table a host: who follows the topic, what happens when that process dies, and how a host starts again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from revoker import topic
from revoker.settings import Settings
from tests.broker.conftest import MakeTopic, eventually, put, revoke_sessions
from tests.broker.host_worker import HostWorker

Run = Callable[[Settings], HostWorker]

_NAMES = tuple(f"s{number}" for number in range(40))


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Starts workers, which end with the test."""
    workers: list[HostWorker] = []

    def start(settings: Settings) -> HostWorker:
        workers.append(HostWorker(settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture
async def settings(make_apache_topic: MakeTopic, tmp_path: Path) -> Settings:
    """Of a host whose workers share a deny list."""
    return await make_apache_topic(denylist="shared", shared_dir=str(tmp_path / "host"), staleness_bound_s=6.0)


async def until(worker: HostWorker, *sessions: str, says: str = "", **wanted: Any) -> dict[str, Any]:
    """Ask until the answer is as wanted, and the reason contains ``says``."""
    found: dict[str, Any] = {}

    def holds() -> bool:
        found.clear()
        found.update(worker.ask(*sessions))
        return says in found["why"] and all(found[name] == value for name, value in wanted.items())

    await eventually(holds, f"{wanted}")
    return found


async def test_one_follows_and_all_enforce(settings: Settings, run: Run) -> None:
    """Of two workers one has a consumer; both are live, refuse what is published, and say which of them writes."""
    await revoke_sessions(settings, "s0")
    first, second = run(settings), run(settings)
    answers = [await until(one, "s0", state="LIVE", refuses=["s0"]) for one in (first, second)]
    assert sorted(one["role"] for one in answers) == ["reader", "writer"]
    assert sorted(one["sessions"] for one in answers) == [0, 1]
    await revoke_sessions(settings, "s1")
    for one in (first, second):
        await until(one, "s1", refuses=["s1"])
    (writer,) = (one["pid"] for one in answers if one["role"] == "writer")
    assert all(any(f"process {writer} writes" in check for check in one["checks"]) for one in answers)


async def test_a_killed_writer_is_replaced_unnoticed(settings: Settings, run: Run) -> None:
    """Kill -9 of the writer: the other takes over where it stopped, is live throughout, and refuses what comes next."""
    await revoke_sessions(settings, *_NAMES)
    first = run(settings)
    await until(first, state="LIVE", role="writer")
    second = run(settings)
    await until(second, state="LIVE", role="reader")
    first.kill()
    await revoke_sessions(settings, "after")
    found = await until(second, "after", role="writer", refuses=["after"])
    await until(second, state="LIVE", sessions=1)
    assert found["records"] == 1
    assert found["dips"] == 0, found["dip"]


async def test_a_stopped_writer_makes_all_stale(settings: Settings, run: Run) -> None:
    """A writer that hangs keeps the seat: the others know within the bound, by time alone, and name it."""
    first = run(settings)
    await until(first, state="LIVE", role="writer")
    second = run(settings)
    await until(second, state="LIVE")
    first.send(signal.SIGSTOP)
    try:
        stopped_at = asyncio.get_running_loop().time()
        await until(second, state="STALE", says=f"writer: process {first.pid} gives no sign of life")
        assert asyncio.get_running_loop().time() - stopped_at < settings.staleness_bound_s + 2
    finally:
        first.send(signal.SIGCONT)
    await until(second, state="LIVE", role="reader")


async def test_a_host_that_starts_again_reads_on(settings: Settings, run: Run) -> None:
    """After all workers died, each refuses what was published meanwhile before it is ready; only that is read."""
    await revoke_sessions(settings, *_NAMES)
    first = run(settings)
    await until(first, *_NAMES, state="LIVE", refuses=list(_NAMES))
    first.kill()
    await revoke_sessions(settings, "missed")
    workers = [run(settings), run(settings)]
    answers = [await until(one, "missed", "s0", state="LIVE") for one in workers]
    assert [one["refuses"] for one in answers] == [["missed", "s0"]] * 2
    assert sorted(one["records"] for one in answers) == [0, 1]


async def test_nobody_is_ready_by_a_proof_of_the_dead(settings: Settings, run: Run) -> None:
    """While the page of dead workers still says fresh, a worker that starts waits for a proof of its own host."""
    await revoke_sessions(settings, "s0")
    first = run(settings)
    await until(first, state="LIVE")
    first.kill()
    reader = Settings(**{**_values(settings), "shared_role": "reader"})
    second = run(reader)
    assert second.ask()["state"] != "LIVE"
    await revoke_sessions(settings, "missed")
    run(settings)
    found = await until(second, "missed", state="LIVE")
    assert found["refuses"] == ["missed"]


async def test_another_log_under_the_same_name_is_read_in_full(settings: Settings, run: Run) -> None:
    """The topic was deleted and made again while all were down: the table is given up, and the new log replayed."""
    await revoke_sessions(settings, *_NAMES)
    first = run(settings)
    await until(first, state="LIVE")
    first.kill()
    await _delete(settings)
    await topic.create(settings)
    await revoke_sessions(settings, *(f"n{number}" for number in range(50)))
    found = await until(run(settings), "s0", "n0", "n49", state="LIVE")
    assert found["refuses"] == ["n0", "n49"]
    assert found["records"] == 50


@pytest.mark.parametrize("harm", ["truncated", "header", "version", "missing", "boot"])
async def test_a_table_that_cannot_be_trusted_is_replaced(
    settings: Settings, run: Run, harm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Harmed files are refused with the reason, and the worker is ready once it has replayed the topic."""
    await revoke_sessions(settings, *_NAMES)
    first = run(settings)
    await until(first, state="LIVE")
    first.kill()
    _harm(Path(settings.shared_dir or ""), harm)
    found = await until(run(settings), *_NAMES, state="LIVE", refuses=list(_NAMES))
    assert found["records"] == len(_NAMES)
    reason = {
        "truncated": "its header says",
        "header": "damaged header",
        "version": "has format 99",
        "missing": "is missing",
        "boot": "before the last boot",
    }[harm]
    assert reason in capfd.readouterr().err


async def test_an_unread_record_is_met_again(settings: Settings, run: Run) -> None:
    """A host that could not read a record replays when it starts again, so that whoever can read it now does."""
    await put(settings, b"garbage")
    await revoke_sessions(settings, "s0")
    first = run(settings)
    await until(first, "s0", state="STALE", refuses=["s0"])
    first.kill()
    await until(run(settings), state="STALE", records=2, says="undecodable")


async def test_a_host_without_its_table_starts_from_the_snapshot(settings: Settings, run: Run, tmp_path: Path) -> None:
    """The directory in memory is gone, as after a reboot: the copy on the disk is taken, and only the rest is read."""
    kept = Settings(**{**_values(settings), "snapshot_dir": str(tmp_path / "disk"), "snapshot_interval_s": 1.0})
    await revoke_sessions(settings, *_NAMES)
    first = run(kept)
    await until(first, state="LIVE")
    await eventually((tmp_path / "disk" / "snapshot").exists, "a copy is made")
    first.kill()
    for path in (tmp_path / "host").iterdir():
        path.unlink()
    await revoke_sessions(settings, "missed")
    found = await until(run(kept), *_NAMES, "missed", state="LIVE", refuses=[*_NAMES, "missed"])
    assert found["records"] == 1


def _harm(directory: Path, harm: str) -> None:
    (table,) = directory.glob("table.*")
    control = directory / "control"
    data, page = bytearray(table.read_bytes()), bytearray(control.read_bytes())
    if harm == "truncated":
        data = data[: len(data) // 2]
    elif harm == "header":
        data[24] ^= 1
    elif harm == "version":
        data[8] = 99
    elif harm == "boot":
        page[130] ^= 1
    table.write_bytes(data)
    control.write_bytes(page)
    if harm == "missing":
        table.unlink()


def _values(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


async def _delete(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([settings.topic])
    finally:
        await admin.close()

"""``revoker outbox``: what waits, for people and for programs, whether or not a service has the file open."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from revoker.outbox.file import OutboxFile
from tests.command_line import revoker
from tests.outbox_entries import NOW_S, entry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def service(path: Path) -> Iterator[OutboxFile]:
    """The file, open as a service has it, with one event not tried, one that failed twice, one set aside."""
    file = OutboxFile(path)
    file.put([entry(name) for name in ("first", "second", "third")], now_s=NOW_S)
    file.settle(failed={"second": "no answer"}, set_aside={"third": "too large"})
    file.settle(failed={"second": "no answer"})
    yield file
    file.close()


@pytest.mark.usefixtures("service")
def test_programs_get_everything_about_what_waits(path: Path) -> None:
    """One line of JSON: counts, the age of the oldest, and each event with its selector, attempts and reason."""
    ran = revoker("outbox", "--outbox-file", str(path), "--json")
    assert (ran.code, ran.json["waiting"], ran.json["set_aside"]) == (0, 3, 1)
    first, second, third = ran.json["events"]
    assert (first["id"], first["kind"], first["selector"]["sid"]) == ("first", "session", "first")
    assert (first["attempts"], first["problem"], first["stored_at"]) == (0, None, "2027-01-15T08:00:00Z")
    assert (second["attempts"], second["problem"], second["set_aside"]) == (2, "no answer", False)
    assert (third["attempts"], third["problem"], third["set_aside"]) == (1, "too large", True)


def test_people_get_a_table_with_the_oldest_first(service: OutboxFile, path: Path) -> None:
    """With the service running or not; what is not shown is counted."""
    open_text = revoker("outbox", "--outbox-file", str(path), "--table", "--limit", "2").out
    service.close()
    assert revoker("outbox", "--outbox-file", str(path), "--table", "--limit", "2").out == open_text
    assert "3 wait, 1 of them set aside" in open_text
    assert "not tried yet" in open_text
    assert "no answer" in open_text
    assert "third" not in open_text
    assert "and 1 more (--limit)" in open_text
    OutboxFile.__init__(service, path)  # the fixture closes it


def test_an_empty_outbox_says_so(path: Path) -> None:
    """Exit code 0."""
    OutboxFile(path).close()
    ran = revoker("outbox", "--outbox-file", str(path), "--table")
    assert (ran.code, ran.out) == (0, "nothing waits\n")


def test_revoking_by_command_leaves_the_services_outbox_alone(path: Path) -> None:
    """It would not stay to deliver from it: without Kafka it fails, and has made no file."""
    environ = {"REVOKER_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "REVOKER_OUTBOX_FILE": str(path)}
    ran = revoker("revoke", "session", "--iss", "", "--sid", "s1", environ=environ)
    assert ran.code != 0
    assert "not sent" in ran.err
    assert not path.exists()


def test_what_cannot_be_read_is_said_in_one_line(path: Path) -> None:
    """No file, another program's database, no setting: the reason, and no traceback."""
    missing = revoker("outbox", "--outbox-file", str(path))
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    foreign = revoker("outbox", "--outbox-file", str(path))
    unset = revoker("outbox")
    assert (missing.code, foreign.code, unset.code) == (1, 1, 2)
    assert "there is no such file" in missing.err
    assert "directory" not in missing.err
    assert "another program's database" in foreign.err
    assert "outbox_file is unset" in unset.err
    assert all(len(ran.err.splitlines()) == 1 for ran in (missing, foreign, unset))

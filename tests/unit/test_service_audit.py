"""The audit of ``POST /revocations``: every use, on disk before anything is published or answered."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from revoker.errors import OutcomeUnknown
from revoker.events import Revocation
from revoker.publisher import Publisher, Receipt
from revoker.service.audit import Allowance, Entry, line
from revoker.settings import Settings
from tests import samples
from tests.service_door import ROOT_SECRET, SUPPORT_SECRET, Door, open_door
from tests.service_door import without_kafka as settings

SESSION = {"kind": "session", "iss": "https://id.example", "sid": "s-marked", "reason": "lost laptop"}


class Publishing(Publisher):
    """A publisher whose Kafka takes everything; remembers what it was given, and what the audit file held then."""

    def __init__(self, settings: Settings, *, error: Exception | None = None) -> None:
        super().__init__(settings)
        self._file = settings.admin_audit_file
        self._error = error
        self.given: list[Revocation] = []
        self.audited: list[bytes] = []

    async def publish(self, revocation: Revocation) -> Receipt:
        """See `Publisher.publish`."""
        self.given.append(revocation)
        if self._file is not None:
            self.audited.append(content(Path(self._file)))
        if self._error is not None:
            raise self._error
        return Receipt(
            revocation=revocation, state="acknowledged", partition=0, offset=7, timestamp_ms=1_000, took_s=0.01
        )


def content(path: Path) -> bytes:
    return path.read_bytes()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in content(path).splitlines()]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def rotate(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


def remove(path: Path) -> None:
    path.unlink()


def write(path: Path, text: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(text)


@contextmanager
def full_disk(path: Path, *, more: int = 0) -> Iterator[None]:
    """No file of this process may grow beyond the length that this one has, and some bytes ``more``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the audit goes."""
    return tmp_path / "audit.jsonl"


async def test_the_intent_is_on_disk_before_and_the_outcome_after(path: Path) -> None:
    """Two lines a revocation: who, from where, what with its identifiers; the second with where the record landed."""
    with_file = settings(admin_audit_file=str(path))
    publisher = Publishing(with_file)
    async with open_door(with_file, publisher=publisher) as door:
        answer = await door.revoke(SESSION, secret=SUPPORT_SECRET)
        assert answer.status == 200
        intent, outcome = lines(path)  # before the service ends, so before it could tidy up
    assert [json.loads(publisher.audited[0])] == [intent]
    assert (intent["who"], intent["from"], intent["outcome"]) == ("support", "127.0.0.1", "publishing")
    assert intent["selector"] == {"iss": "https://id.example", "sid": "s-marked"}
    assert (intent["kind"], intent["reason"]) == ("session", "lost laptop")
    assert intent["event_id"] == outcome["event_id"] == json.loads(answer.body)["event_id"]
    assert (outcome["outcome"], outcome["partition"], outcome["offset"]) == ("acknowledged", 0, 7)
    assert intent["time"].endswith("Z")
    assert mode(path) == 0o600


async def test_a_wide_rule_leaves_three_lines(path: Path) -> None:
    """Previewed, then confirmed: the same event id from the first line to the last."""
    with_file = settings(admin_audit_file=str(path))
    async with open_door(with_file, publisher=Publishing(with_file)) as door:
        assert (await door.confirmed({"kind": "all"})).status == 200
    found = lines(path)
    assert [one["outcome"] for one in found] == ["previewed", "publishing", "acknowledged"]
    assert [one.get("confirmed", False) for one in found] == [False, True, True]
    assert len({one["event_id"] for one in found}) == 1


@pytest.mark.parametrize(
    ("body", "secret", "who", "code"),
    [
        ({"kind": "all"}, "x" * 20, "unknown", "token_invalid"),
        ({"kind": "all"}, SUPPORT_SECRET, "support", "insufficient_scope"),
        ({"kind": "nothing"}, ROOT_SECRET, "root", "invalid_body"),
        ([], ROOT_SECRET, "root", "invalid_body"),
        ({"kind": "all", "cutoff": 9_999_999_999}, ROOT_SECRET, "root", "invalid_revocation"),
    ],
)
async def test_what_is_refused_is_a_line(path: Path, body: object, secret: str, who: str, code: str) -> None:
    """With the code of the answer; strangers are unknown, and no secret of theirs is kept."""
    async with open_door(settings(admin_audit_file=str(path))) as door:
        await door.revoke(body, secret=secret)
        await door.ask("POST", "/revocations", json=body, headers={"X-Forwarded-For": "203.0.113.9"})
    first, second = lines(path)
    assert (first["who"], first["outcome"], first["code"]) == (who, "refused", code)
    assert (second["who"], second["code"], second["from"]) == ("unknown", "token_missing", "127.0.0.1")
    assert secret.encode() not in content(path)


async def test_what_kafka_did_not_take_is_said(path: Path) -> None:
    """Certainly not in the topic, or not known: the outcome says which."""
    with_file = settings(admin_audit_file=str(path))
    async with open_door(with_file) as door:
        assert (await door.revoke(SESSION)).status == 503
    unknown = Publishing(with_file, error=OutcomeUnknown("no answer"))
    async with open_door(with_file, publisher=unknown) as door:
        assert (await door.revoke(SESSION)).status == 503
    assert [one["outcome"] for one in lines(path)] == ["publishing", "not_accepted", "publishing", "unknown"]
    assert lines(path)[-1]["code"] == "not_published"


def spoil(kind: str, path: Path) -> None:
    """Put something else where the audit file should be."""
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "symlink":
            (path.parent / "elsewhere").touch(mode=0o600)
            path.symlink_to(path.parent / "elsewhere")
        case "device":
            path.symlink_to("/dev/null")
        case "open to all":
            path.touch()
            path.chmod(0o666)
        case "no directory":
            path.parent.rmdir()


@pytest.mark.parametrize("kind", ["directory", "pipe", "symlink", "device", "open to all", "no directory"])
async def test_without_its_audit_nothing_is_published(path: Path, kind: str) -> None:
    """503 with the reason for previews and publications, and not ready; a refusal stays what it is."""
    path = path.parent / "room" / path.name
    path.parent.mkdir()
    spoil(kind, path)
    with_file = settings(admin_audit_file=str(path))
    publisher = Publishing(with_file)
    async with open_door(with_file, publisher=publisher) as door:
        for body in (SESSION, {"kind": "all"}):
            answer = await door.revoke(body)
            assert (answer.status, answer.problem["code"]) == (503, "audit_unavailable")
            assert "admin_audit_file" in answer.problem["detail"]
            assert "Retry-After" in answer.headers
        assert (await door.revoke(SESSION, secret="x" * 20)).status == 401
        readiness = await door.until("/readyz?verbose", status=503)
    assert b"[-]audit failed" in readiness.body
    assert publisher.given == []


async def test_a_full_disk_stops_publishing_until_there_is_room(path: Path) -> None:
    """503 while it is full; afterwards all by itself a line says how many are missing, and none is cut."""
    with_file = settings(admin_audit_file=str(path))
    publisher = Publishing(with_file)
    async with open_door(with_file, publisher=publisher) as door:
        assert (await door.revoke(SESSION)).status == 200
        with full_disk(path, more=20):
            answers = [await door.revoke(SESSION) for _ in range(2)]
            assert b"[-]audit failed: " in (await door.until("/readyz", status=503, holding=b"audit")).body
        assert {(one.status, one.problem["code"]) for one in answers} == {(503, "audit_unavailable")}
        await door.until("/readyz?verbose", status=503, holding=b"[+]audit ok")
        assert (await door.revoke(SESSION)).status == 200
    assert len(publisher.given) == 2
    whole = [text for text in content(path).splitlines() if text.endswith(b"}")]
    (resumed,) = [found for found in map(json.loads, whole) if found["outcome"] == "resumed"]
    assert (resumed["who"], resumed["missed"]) == ("service", 2)
    assert len(whole) == 5


async def test_an_outcome_that_cannot_be_written_does_not_change_the_answer(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The revocation is in force, so 503 would be a lie: 200, an error in the log, not ready, the intent on disk."""
    with_file = settings(admin_audit_file=str(path))

    class Filling(Publishing):
        async def publish(self, revocation: Revocation) -> Receipt:
            stack.enter_context(full_disk(path))
            return await super().publish(revocation)

    async with open_door(with_file, publisher=Filling(with_file)) as door:
        with ExitStack() as stack:
            answer = await door.revoke(SESSION)
            await door.until("/readyz", status=503, holding=b"audit")
    assert answer.status == 200
    assert "the audit file cannot be written" in caplog.text
    assert lines(path)[0]["outcome"] == "publishing"


async def test_rotation_needs_no_signal(path: Path) -> None:
    """Renamed or removed, the file is made anew with the next line."""
    with_file = settings(admin_audit_file=str(path))
    async with open_door(with_file, publisher=Publishing(with_file)) as door:
        await door.revoke(SESSION)
        rotate(path)
        await door.revoke(SESSION)
        assert len(lines(path)) == len(lines(path.with_suffix(".1"))) == 2
        remove(path)
        await door.revoke(SESSION)
    assert len(lines(path)) == 2


async def test_a_line_cut_off_by_a_crash_stays_alone(path: Path) -> None:
    """The next one does not run on from it; what is in the file is never changed."""
    write(path, b'{"time": "2026')
    with_file = settings(admin_audit_file=str(path))
    async with open_door(with_file, publisher=Publishing(with_file)) as door:
        assert (await door.revoke(SESSION)).status == 200
    torn, *whole = content(path).splitlines()
    assert torn == b'{"time": "2026'
    assert [json.loads(one)["outcome"] for one in whole] == ["publishing", "acknowledged"]


async def test_two_services_may_share_one_file(path: Path) -> None:
    """256 posts at once through two doors: every line whole, every intent with its outcome."""
    with_file = settings(admin_audit_file=str(path))

    async def post(door: Door, number: int) -> int:
        return (await door.revoke(SESSION | {"sid": f"s{number}"})).status

    async with (
        open_door(with_file, publisher=Publishing(with_file)) as one,
        open_door(with_file, publisher=Publishing(with_file)) as other,
    ):
        statuses = await asyncio.gather(*(post((one, other)[number % 2], number) for number in range(256)))
    assert set(statuses) == {200}
    outcomes: dict[str, list[str]] = {}
    for found in lines(path):
        outcomes.setdefault(found["event_id"], []).append(found["outcome"])
    assert len(outcomes) == 256
    assert {tuple(both) for both in outcomes.values()} == {("publishing", "acknowledged")}


async def test_strangers_cannot_fill_the_disk(path: Path) -> None:
    """A hundred lines, then what is left out is counted in the next line of an admin's; all are answered alike."""
    with_file = settings(admin_audit_file=str(path))
    async with open_door(with_file, publisher=Publishing(with_file)) as door:
        answers = await asyncio.gather(*(door.revoke(SESSION, secret="x" * 20) for _ in range(300)))
        assert {answer.status for answer in answers} == {401}
        await door.revoke(SESSION)
    found = lines(path)
    strangers = [one for one in found if one["who"] == "unknown"]
    assert 100 <= len(strangers) < 300
    assert len(strangers) + sum(one.get("suppressed", 0) for one in found) == 300


def test_an_allowance_refills() -> None:
    """A burst, then so many a second."""
    now = 0.0
    allowance = Allowance(burst=2, per_s=1.0, monotonic=lambda: now)
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    now = 1.5
    assert [allowance.take() for _ in range(2)] == [True, False]
    now = 100.0
    assert [allowance.take() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("value", ["a\nb", "\x1b[2J", "\x9b2J", '"}\n{', "\u202eabc", "é"])
def test_no_identifier_can_forge_a_line(value: str) -> None:
    """One line of ASCII, which reads back as what it was."""
    written = line(Entry(who="root", outcome="previewed", selector={"sub": value}), at=0.0)
    assert written.isascii()
    assert written.decode().isprintable()
    assert json.loads(written)["selector"] == {"sub": value}


def test_a_token_pasted_into_a_field_is_not_kept() -> None:
    """Whoever reads the audit must not be able to use what an admin revoked by the wrong name."""
    token = samples.token()
    entry = Entry(who="root", outcome="publishing", selector={"jti": token}, reason=f"see {token}!")
    found = json.loads(line(entry, at=0.0))
    assert (found["selector"], found["reason"]) == ({"jti": "(token)"}, "see (token)!")


async def test_without_a_file_the_log_has_it_without_identifiers(caplog: pytest.LogCaptureFixture) -> None:
    """Who, from where, which kind, which event, what became of it; the selector is found in the topic by the id."""
    caplog.set_level(logging.INFO, "revoker.audit")
    plain = settings()
    async with open_door(plain, publisher=Publishing(plain)) as door:
        event_id = json.loads((await door.revoke(SESSION)).body)["event_id"]
        readiness = (await door.ask("GET", "/readyz?verbose")).body
    said = [record.getMessage() for record in caplog.records if record.name == "revoker.audit"]
    assert said == [
        f"admin=root from=127.0.0.1 kind=session event={event_id} outcome={outcome}"
        for outcome in ("publishing", "acknowledged")
    ]
    assert "s-marked" not in caplog.text
    assert b"audit" not in readiness

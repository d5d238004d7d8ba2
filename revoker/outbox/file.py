"""The outbox's file, open: what waits in it, in order. One thread uses it at a time; nothing here knows of Kafka.

What is committed here is on disk: the journal is a write-ahead log and ``synchronous`` is FULL, so every commit ends
with an fsync. Work on many rows is one statement each, for a reason beside speed: Python's sqlite3 gives the
interpreter's lock away for every row it steps to, and beside a busy event loop waits 5 ms to have it back.
"""

# ruff: noqa: S608  - the statements are made of constants and question marks

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from revoker.errors import OutboxUnavailable
from revoker.outbox.opening import BUSY_S, DAMAGED, judged, locked, open_database, refuse_foreign, refuse_no_database

__all__ = ["Counts", "Entry", "OutboxFile", "Waiting", "read"]

#: A statement takes 32,766 parameters (https://www.sqlite.org/limits.html), and a row has seven.
_ROWS_PER_STATEMENT: Final = 2048

#: Free space beyond the log's length that storing leaves alone.
_ROOM_BYTES: Final = 262_144

#: What is given back to a full disk at once: at most 4 MiB, 128 KiB at a time.
_STEPS: Final = 32
_STEP_PAGES: Final = 32

_FIELDS: Final = "id, stored_at, expires_at, key, value, headers, crc, attempts, problem, set_aside"

#: One row of JSON for all that is read; JSON holds no bytes, hence the hexadecimal digits.
_READ: Final = """
SELECT json_group_array(json_array(
    seq, id, stored_at, expires_at, hex(key), hex(value), hex(headers), crc, attempts, problem, set_aside
)) FROM (SELECT * FROM event {where} ORDER BY seq {limit})
"""

_T = TypeVar("_T")
_Row = tuple[int, str, float, int, str, str, str, int, int, str | None, int]
_rows: Final = msgspec.json.Decoder(list[_Row]).decode
_encode_headers: Final = msgspec.msgpack.Encoder().encode
_decode_headers: Final = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event, encoded as it will be sent. ``expires_at``: Unix seconds."""

    event_id: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Entry):
    """One event as it waits. ``stored_at``: Unix seconds. ``attempts``: how often it was sent without success.

    ``problem``: why the last attempt failed; None = it was not tried yet. ``set_aside``: the broker refused the record
    itself, so it no longer holds up those behind it. ``damaged``: this is not what was stored; SQLite has no checksums.
    """

    seq: int
    stored_at: float
    attempts: int
    problem: str | None
    set_aside: bool
    damaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """``waiting`` includes those ``set_aside``. ``oldest_at``: when the oldest was stored, Unix seconds."""

    waiting: int = 0
    set_aside: int = 0
    oldest_at: float | None = None


class OutboxFile:
    """The open file. Raises OutboxUnavailable, saying what is wrong, if it cannot be opened, and so does every method
    if the disk or the file do not do as they should.

    ``mending``: it is opened again after trouble.
    """

    def __init__(self, path: Path, *, mending: bool = False) -> None:
        self._path = path
        with judged(path):
            self._descriptor = locked(path)
            try:
                self._connection = open_database(path, mending=mending)
                self.counts: Counts = _counted(self._connection)
            except BaseException:
                os.close(self._descriptor)
                raise
        paths = [Path(f"{path}-wal"), Path(f"{path}-shm")]
        self._sidecars = {one: identity for one in paths if (identity := _identity_of(one)) is not None}

    def close(self) -> None:
        """Let go of the file. What was committed stays; what was not never was."""
        with contextlib.suppress(sqlite3.Error):  # a file in trouble; SQLite has given up its own locks by then
            self._connection.close()
        os.close(self._descriptor)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on disk once it ends."""
        before = self.counts
        with judged(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self.counts = before
                if self._connection.in_transaction:  # SQLite rolls back by itself after some errors
                    self._connection.execute("ROLLBACK")
                raise

    def put(self, entries: Sequence[Entry], *, now_s: float) -> None:
        """Append, in this order; an event that waits already is left as it is. ``now_s``: Unix seconds.

        Outside of `transaction`, up to 2,048 are one commit.
        """
        for some in _portions(entries):
            values: list[object] = []
            for one in some:
                headers = _encode_headers(one.headers)
                crc = _crc(one.event_id, one.key, one.value, headers)
                values += (one.event_id, now_s, one.expires_at, one.key, one.value, headers, crc)
            added = self._run(
                "INSERT INTO event (id, stored_at, expires_at, key, value, headers, crc) VALUES "
                f"{_marks(len(some), '(?,?,?,?,?,?,?)')} ON CONFLICT DO NOTHING",
                values,
            )
            counts = self.counts
            self.counts = Counts(
                waiting=counts.waiting + added,
                set_aside=counts.set_aside,
                oldest_at=now_s if added and counts.oldest_at is None else counts.oldest_at,
            )

    def head(self, *, after: int, limit: int, max_bytes: int, aside: bool = False) -> list[Waiting]:
        """The oldest events beyond ``after`` that are not set aside, or with ``aside`` all, until their number or their
        bytes reach the bound; always at least one, if one waits.
        """
        with judged(self._path):
            where = "WHERE seq > ?" if aside else "WHERE seq > ? AND set_aside = 0"
            text = _READ.format(where=where, limit="LIMIT ?")
            found = _waiting(self._connection.execute(text, (after, limit)))
        size = 0
        for count, one in enumerate(found):
            size += len(one.key) + len(one.value) + sum(len(name) + len(value) for name, value in one.headers)
            if count and size > max_bytes:
                return found[:count]
        return found

    def settle(
        self,
        *,
        landed: Sequence[str] = (),
        failed: Mapping[str, str] | None = None,
        set_aside: Mapping[str, str] | None = None,
    ) -> int:
        """Forget the events that landed, and say how many of them were there; note why others did not, by event id."""
        gone = aside = 0
        for some in _portions(landed):
            gone += self._run(f"DELETE FROM event WHERE set_aside = 0 AND id IN ({_marks(len(some), '?')})", some)
        for why, ids in _by_reason(failed or {}):
            for some in _portions(ids):
                text = f"UPDATE event SET attempts = attempts + 1, problem = ? WHERE id IN ({_marks(len(some), '?')})"
                self._run(text, (why, *some))
        for why, ids in _by_reason(set_aside or {}):
            for some in _portions(ids):
                text = "UPDATE event SET attempts = attempts + 1, problem = ?, set_aside = 1 WHERE set_aside = 0 "
                aside += self._run(f"{text} AND id IN ({_marks(len(some), '?')})", (why, *some))
        with judged(self._path):
            oldest_at = _oldest_at(self._connection)
        self.counts = Counts(
            waiting=self.counts.waiting - gone, set_aside=self.counts.set_aside + aside, oldest_at=oldest_at
        )
        return gone

    def bring_back(self) -> None:
        """Let all that was set aside be tried again."""
        self._run("UPDATE event SET set_aside = 0 WHERE set_aside = 1", ())
        self.counts = Counts(waiting=self.counts.waiting, oldest_at=self.counts.oldest_at)

    def pulse(self, *, now_s: float) -> None:
        """Write something, to know whether that is possible."""
        self._run("INSERT OR REPLACE INTO pulse VALUES (1, ?)", (now_s,))

    @property
    def has_room(self) -> bool:
        """Whether the disk can take more. What it must keep free is what forgetting needs: an outbox that filled its
        disk to the last byte could not even record that all of it was delivered.
        """
        with judged(self._path):
            disk = os.fstatvfs(self._descriptor)
            log = Path(f"{self._path}-wal")
            log_bytes = log.stat().st_size if log.exists() else 0
        return disk.f_bavail * disk.f_frsize >= log_bytes + _ROOM_BYTES

    def make_room(self) -> None:
        """Give space back to the disk: what the log holds, and some of what events that were forgotten had taken."""
        with judged(self._path):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            for _ in range(_STEPS):
                if not self._connection.execute("PRAGMA freelist_count").fetchone()[0]:
                    break
                # Through the log, so a little at a time.
                self._connection.execute(f"PRAGMA incremental_vacuum({_STEP_PAGES})").fetchall()
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    @property
    def in_place(self) -> bool:
        """Whether the path still leads to this very file: what a deleted one holds is gone at the next start."""
        return _identity_of(self._path) == _identity(os.fstat(self._descriptor))

    def moved_to_its_place(self) -> OutboxFile:
        """Open what the path now leads to, or make it, and carry over all that waits here; this file is then closed."""
        with judged(self._path):
            for sidecar, identity in self._sidecars.items():
                # SQLite would take this file's log for the other's, and roll it into it.
                if _identity_of(sidecar) == identity:
                    sidecar.unlink()
            rows = self._connection.execute(f"SELECT {_FIELDS} FROM event ORDER BY seq").fetchall()
        other = OutboxFile(self._path)
        try:
            other._take_over(rows)
        except BaseException:
            other.close()
            raise
        self.close()
        return other

    def _take_over(self, rows: Sequence[tuple[object, ...]]) -> None:
        with self.transaction():
            self._connection.executemany(
                f"INSERT INTO event ({_FIELDS}) VALUES ({_marks(10, '?')}) ON CONFLICT DO NOTHING", rows
            )
            self.counts = _counted(self._connection)

    def _run(self, text: str, values: Sequence[object]) -> int:
        """How many rows it changed."""
        with judged(self._path):
            return self._connection.execute(text, values).rowcount


def read(path: Path, *, limit: int) -> tuple[Counts, list[Waiting]]:
    """How much waits in the file, and the oldest ``limit`` of it; read without writing, whether or not a publisher has
    it open. Raises OutboxUnavailable.
    """
    with judged(path):
        if not path.exists():
            raise OutboxUnavailable(f"the outbox {path}: there is no such file", reason="its file does not exist")
        refuse_no_database(path, path.stat())
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as connection:
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return Counts(), []  # made, and not yet filled in
            refuse_foreign(connection, path)
            connection.execute("BEGIN")
            rows = _waiting(connection.execute(_READ.format(where="", limit="LIMIT ?"), (limit,)))
            return _counted(connection), rows


def _counted(connection: sqlite3.Connection) -> Counts:
    waiting, set_aside = connection.execute("SELECT count(*), total(set_aside) FROM event").fetchone()
    return Counts(waiting=waiting, set_aside=int(set_aside), oldest_at=_oldest_at(connection))


def _oldest_at(connection: sqlite3.Connection) -> float | None:
    oldest = connection.execute("SELECT stored_at FROM event ORDER BY seq LIMIT 1").fetchone()
    if oldest is None:
        return None
    if not isinstance(oldest[0], float):  # SQLite keeps any type in any column, and a flipped bit changes the type
        raise sqlite3.DatabaseError(f"{DAMAGED}: stored_at is a {type(oldest[0]).__name__}")
    return oldest[0]


def _waiting(cursor: sqlite3.Cursor) -> list[Waiting]:
    """The rows of `_READ`. Raises sqlite3.DatabaseError for what no outbox has stored."""
    try:
        rows = _rows(cursor.fetchone()[0])
    except msgspec.DecodeError as error:
        raise sqlite3.DatabaseError(f"{DAMAGED}: {error}") from error
    return [_one(row) for row in sorted(rows)]


def _one(row: _Row) -> Waiting:
    seq, event_id, stored_at, expires_at, key, value, packed, crc, attempts, problem, set_aside = row
    key_bytes, value_bytes, headers = bytes.fromhex(key), bytes.fromhex(value), bytes.fromhex(packed)
    damaged = crc != _crc(event_id, key_bytes, value_bytes, headers)
    return Waiting(
        seq=seq,
        event_id=event_id,
        stored_at=stored_at,
        expires_at=expires_at,
        key=key_bytes,
        value=value_bytes,
        headers=[] if damaged else _decode_headers(headers),
        attempts=attempts,
        problem=problem,
        set_aside=bool(set_aside),
        damaged=damaged,
    )


def _crc(event_id: str, key: bytes, value: bytes, headers: bytes) -> int:
    return zlib.crc32(headers, zlib.crc32(value, zlib.crc32(key, zlib.crc32(event_id.encode("utf-8", "replace")))))


def _portions(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(values), _ROWS_PER_STATEMENT):
        yield values[start : start + _ROWS_PER_STATEMENT]


def _by_reason(whys: Mapping[str, str]) -> Iterable[tuple[str, list[str]]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for event_id, why in whys.items():
        found[why].append(event_id)
    return found.items()


def _marks(count: int, mark: str) -> str:
    return ",".join([mark] * count)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _identity_of(path: Path) -> tuple[int, int] | None:
    """None: nothing is there, or it cannot be seen."""
    try:
        return _identity(path.stat())
    except OSError:
        return None

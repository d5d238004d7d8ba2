"""Opening the outbox's file: locked, ours, whole, and synced at every commit; or the reason why not, in words.

The file is locked while it is open (flock, which the kernel lets go of when the process dies, however it dies): two
relays would send everything twice and tell each other's callers nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from revoker.errors import OutboxUnavailable

__all__ = [
    "BUSY_S",
    "DAMAGED",
    "DISK_FULL",
    "LOCKED",
    "judged",
    "locked",
    "open_database",
    "refuse_foreign",
    "refuse_no_database",
]

logger: logging.Logger = logging.getLogger(__name__)

#: "rvkr": says whose file this is (https://www.sqlite.org/pragma.html#pragma_application_id).
_APPLICATION_ID: Final = 0x72766B72
_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    stored_at REAL NOT NULL,
    expires_at INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    headers BLOB NOT NULL,
    crc INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    problem TEXT,
    set_aside INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE pulse (one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL);
"""

#: https://www.sqlite.org/fileformat.html#the_database_header
_HEADER_BYTES: Final = 100
_NO_DATABASE: Final = "its file is damaged, or no database"

#: Holds identifiers of users: nobody else's to read.
_MODE: Final = 0o600

#: Reasons after which the open file is as good as before.
DISK_FULL: Final = "its disk is full"
LOCKED: Final = "its file is locked by another program"

DAMAGED: Final = "its file is damaged"

#: How long another program may hold the file before this counts as trouble, in seconds.
BUSY_S: Final = 2.0


def locked(path: Path) -> int:
    """A descriptor of the file, made if need be, that holds the lock. Raises OSError or OutboxUnavailable.

    Close it after SQLite's connection, never before: that would take SQLite's own locks away (fcntl(2)).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, _MODE)
    try:
        found = os.fstat(descriptor)
        refuse_no_database(path, found)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutboxUnavailable(
                f"the outbox {path} is in use by another process, and each needs a file of its own: "
                f"`fuser {path}` names the process",
                reason="its file is in use by another process",
            ) from None
        if stat.S_IMODE(found.st_mode) & ~_MODE:
            os.fchmod(descriptor, _MODE)
            logger.warning("the outbox %s was open to others, and is now readable by its owner alone", path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def refuse_no_database(path: Path, found: os.stat_result) -> None:
    """Raise OutboxUnavailable for what SQLite would wait for, or take for an empty database."""
    if not stat.S_ISREG(found.st_mode):
        raise OutboxUnavailable(f"the outbox {path} is no regular file", reason="its path leads to no regular file")
    if 0 < found.st_size < _HEADER_BYTES:
        # SQLite would take the first few bytes of something else for an empty database, and write over them.
        raise OutboxUnavailable(f"the outbox {path}: {_NO_DATABASE}", reason=_NO_DATABASE)


def open_database(path: Path, *, mending: bool) -> sqlite3.Connection:
    """SQLite's connection to the locked file, its tables made if need be. Raises sqlite3.Error or OutboxUnavailable.

    ``mending``: after trouble. What was written and could not be synced may be in memory alone while reads show it, so
    it is written to the database and synced anew before anything else counts as stored.
    """
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        _check(connection, path)
        if mending and connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise OutboxUnavailable(
                f"the outbox {path} is being read by another program and cannot be mended meanwhile",
                reason=LOCKED,
            )
        _sync_directory(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Make the file ours, or refuse it."""
    if _tables(connection):
        refuse_foreign(connection, path)
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise OutboxUnavailable(
                f"the outbox {path}: {DAMAGED} ({found}). Move it away: `sqlite3 FILE .recover` reads what is left",
                reason=DAMAGED,
            )
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has to precede the tables
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    connection.execute("PRAGMA synchronous = FULL")  # an fsync at the end of every commit
    (level,) = connection.execute("PRAGMA synchronous").fetchone()
    if (mode, level) != ("wal", 2):
        raise OutboxUnavailable(
            f"the outbox {path} cannot have a write-ahead log ({mode}, synchronous {level}): is it on a network disk?",
            reason="its disk cannot hold a write-ahead log",
        )
    if not _tables(connection):
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_SCHEMA_VERSION};"
            f"{_SCHEMA} COMMIT;"
        )


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Raise OutboxUnavailable if the database is not an outbox of this version."""
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if owner != _APPLICATION_ID:
        raise OutboxUnavailable(
            f"{path} is another program's database, no outbox (setting outbox_file): name a file of its own",
            reason="its file belongs to another program",
        )
    if version != _SCHEMA_VERSION:
        raise OutboxUnavailable(
            f"the outbox {path} was written by another version of revoker (schema {version}, this one has "
            f"{_SCHEMA_VERSION}): let that version deliver what waits in it, then remove the file",
            reason="its file was written by another version of revoker",
        )


def _tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _sync_directory(path: Path) -> None:
    """SQLite syncs the directory for the log's name, not for the database's own."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


#: In a few words, by SQLite's primary result code (https://www.sqlite.org/rescode.html).
_REASONS: Final = {
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_READONLY: "its disk is read-only",
    sqlite3.SQLITE_IOERR: "its disk answers with errors",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: _NO_DATABASE,
    sqlite3.SQLITE_FULL: DISK_FULL,
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
    sqlite3.SQLITE_PERM: "its file cannot be opened",
}
_OS_REASONS: Final = {
    errno.EACCES: "this user may not open its file",
    errno.EPERM: "its file belongs to another user and is open to others",
    errno.ENOENT: "its directory does not exist",
    errno.ENOTDIR: "its directory does not exist",
    errno.EISDIR: "its path leads to no regular file",
    errno.ENXIO: "its path leads to no regular file",
    errno.EROFS: "its disk is read-only",
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
}


@contextlib.contextmanager
def judged(path: Path) -> Iterator[None]:
    """Any trouble as OutboxUnavailable, with its reason."""
    try:
        yield
    except sqlite3.Error as error:
        reason = _REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "its database answers with errors")
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise OutboxUnavailable(f"the outbox {path}: {reason} ({name}: {error})", reason=reason) from error
    except UnicodeError as error:  # SQLite quotes what it found, and Python cannot decode the quotation
        raise OutboxUnavailable(f"the outbox {path}: {DAMAGED} ({error})", reason=DAMAGED) from error
    except OSError as error:
        reason = _OS_REASONS.get(error.errno or 0, "its disk answers with errors")
        raise OutboxUnavailable(f"the outbox {path}: {reason} ({error.strerror or error})", reason=reason) from error

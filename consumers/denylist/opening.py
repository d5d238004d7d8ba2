"""What stands in the directory of a shared deny list when a new writer comes: accepted, or refused with the reason."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from consumers.denylist.about import About, Origin
from consumers.denylist.control import Control, ControlRefused, unpack_word
from consumers.denylist.journal import Journal, JournalRefused, rules_in
from consumers.denylist.table import Table, TableRefused
from consumers.denylist.writer import CAPACITY_LEAST, Writer
from revoker.errors import SettingsError

__all__ = ["Taken", "empty", "found", "prepare", "sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a new writer found. ``offsets``: where to read on, by partition, in the log ``origin``; empty and None if
    nothing could be used. ``unread``: records that could not be read and may matter. ``refused``: why what stood there
    was not accepted; None if it was, or if nothing stood there.
    """

    offsets: Mapping[int, int]
    origin: Origin | None
    unread: int
    refused: str | None


def prepare(directory: Path) -> None:
    """Make the directory. Raises SettingsError if it is not this user's alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid():
        raise SettingsError(f"{directory} belongs to user {found.st_uid}, not to this process's")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SettingsError(
            f"{directory} is open to others (mode {stat.S_IMODE(found.st_mode):04o}), must have mode 0700"
        )


def found(directory: Path, *, wanted: About, max_entries: int) -> tuple[Control, Writer | None, str | None]:
    """The control page, a new one if need be; a writer on the table that stands there, None if there is none to be
    used; and why one was refused. ``wanted``: what must be said about it, secret and origin aside.
    """
    refused: str | None = None
    path = directory / "control"
    try:
        control = Control.open(path, writable=True, boot=wanted.boot)
    except FileNotFoundError:
        control = Control.make(path, boot=wanted.boot)
    except (ControlRefused, OSError) as error:
        refused = str(error)
        _void(path)
        control = Control.make(path, boot=wanted.boot)
    try:
        return control, _accepted(directory, control, wanted=wanted, max_entries=max_entries), refused
    except FileNotFoundError as error:
        return control, None, f"{Path(error.filename).name} is missing"
    except (TableRefused, JournalRefused, OSError) as error:
        return control, None, str(error)


def _accepted(directory: Path, control: Control, *, wanted: About, max_entries: int) -> Writer | None:
    """A writer on the table that WORD names; None if it names none.

    Raises TableRefused, JournalRefused or OSError if that cannot be trusted. ``wanted``: what must be said about it,
    secret and origin aside.
    """
    generation = unpack_word(control.word)[0]
    if not generation:
        return None
    table = Table.open(directory / f"table.{generation}", writable=True)
    try:
        return _writer(directory, control, table, wanted=wanted, max_entries=max_entries)
    except BaseException:
        table.close()
        raise


def _writer(directory: Path, control: Control, table: Table, *, wanted: About, max_entries: int) -> Writer:
    generation = table.generation
    try:
        about = msgspec.json.decode(table.about, type=About)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TableRefused(f"table.{generation} does not say what it is: {error}") from None
    for name, found, must in (
        ("before the last boot", about.boot, wanted.boot),
        ("while other publishers were trusted", about.trust, wanted.trust),
        ("under another epoch", about.epoch_s, wanted.epoch_s),
        ("with another hash", about.hash_name, wanted.hash_name),
    ):
        if found != must:
            raise TableRefused(f"table.{generation} was written {name}")
    path = directory / f"rules.{generation}"
    rules = list(rules_in(path, start=0, end=table.rules_bytes))
    return Writer(
        directory,
        control=control,
        table=table,
        journal=Journal(path, length=table.rules_bytes),
        rules=rules,
        about=about,
        max_entries=max_entries,
    )


def empty(directory: Path, control: Control, *, about: About, secret: Callable[[], bytes], max_entries: int) -> Writer:
    """A writer on a new table, which WORD does not name yet. From here on nothing is fresh."""
    control.publish(
        fresh_until=-math.inf, proved_until=-math.inf, proved_at=-math.inf, as_of=None, was_ready=False, state=0
    )
    generation = unpack_word(control.word)[0] % (2**24 - 1) + 1
    about = msgspec.structs.replace(about, secret=secret().hex(), origin=None)
    for name in ("table", "rules"):
        (directory / f"{name}.{generation}").unlink(missing_ok=True)
    return Writer(
        directory,
        control=control,
        table=Table.make(
            directory / f"table.{generation}",
            generation=generation,
            capacity=CAPACITY_LEAST,
            about=msgspec.json.encode(about),
        ),
        journal=Journal(directory / f"rules.{generation}", length=0),
        rules=[],
        about=about,
        max_entries=max_entries,
    )


def sweep(directory: Path, generation: int) -> None:
    """Remove the files of every other generation."""
    for path in directory.iterdir():
        kind, _, number = path.name.partition(".")
        if kind in ("table", "rules") and number != str(generation) and not path.is_dir():
            path.unlink(missing_ok=True)


def _void(path: Path) -> None:
    """Whoever has mapped a page that is given up sees that it is."""
    try:
        if path.is_file() and not path.is_symlink() and path.stat().st_uid == os.geteuid():
            with path.open("r+b") as file:
                file.write(bytes(32))
    except OSError:
        return

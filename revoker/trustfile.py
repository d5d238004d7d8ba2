"""The file of trusted publishers: read strictly, and again when it changes.

::

    [publishers.logout-service]
    kinds = ["token", "digest", "session", "subject"]   # this is the default
    issuers = ["https://id.example"]                    # default: every issuer

    [[publishers.logout-service.keys]]
    file = "logout-service.pem"                         # beside this file; or pem = '''-----BEGIN PUBLIC KEY-----…'''
"""

from __future__ import annotations

import logging
import time
import tomllib
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from revoker.algorithms import Unusable
from revoker.errors import SettingsError
from revoker.events import KINDS
from revoker.nearest import nearest
from revoker.pem import public_key
from revoker.signature import PUBLISHER_ID_RULE, VerifyingKey, is_publisher_id
from revoker.trust import NARROW_KINDS, Scope, Trust, TrustedKey, TrustedPublisher

__all__ = ["TrustFile", "summary"]

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between two looks at the files.
_LOOK_EVERY_S: Final = 1.0

#: What tells one state of a file from another; None: missing.
_Stamp: TypeAlias = tuple[int, ...] | None


class TrustFile:
    """The trust that a file holds, kept up to date by `refresh`. Raises SettingsError if it cannot be used at first;
    later the last good trust is kept, and `problem` says what is wrong with the file.
    """

    def __init__(self, path: str | Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.path: Path = Path(path)
        #: What is wrong with the file as it is now; None if nothing is.
        self.problem: str | None = None
        self._monotonic = monotonic
        self._looked_at = monotonic()
        reader = _Reader(self.path)
        self.trust: Trust = reader.trust()
        self._stamps = reader.stamps

    def refresh(self) -> bool:
        """Look, at most once a second, whether the file or a key file it names was changed or replaced, and read it.

        True if the trust is another one now. Blocks for the time of a few stat calls.
        """
        now = self._monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return False
        self._looked_at = now
        # What failed is tried again: the cause may lie elsewhere, such as in the rights of a directory.
        if self.problem is None and all(_stamp(file) == stamp for file, stamp in self._stamps.items()):
            return False
        reader = _Reader(self.path)
        try:
            trust = reader.trust()
        except SettingsError as error:
            self._keep_despite(str(error))
            return False
        self.problem = None
        self._stamps = reader.stamps
        changed = trust != self.trust
        self.trust = trust
        if changed:
            log.warning("%s was read again: %s", self.path, summary(trust))
        return changed

    def _keep_despite(self, problem: str) -> None:
        if problem != self.problem:
            log.error("%s; the trust read before stays in use", problem)
        self.problem = problem


def summary(trust: Trust) -> str:
    """How many publishers and keys."""
    publishers, keys = len(trust.publishers), len(trust.keys)
    return f"{publishers} publisher{'s' * (publishers != 1)}, {keys} key{'s' * (keys != 1)}"


def _stamp(file: Path) -> _Stamp:
    try:
        state = file.stat()
    except (OSError, ValueError):
        return None
    # The inode as well: an orchestrator replaces files, and may give the new one any time stamp.
    return (state.st_mtime_ns, state.st_dev, state.st_ino, state.st_size)


class _Reader:
    """Reads one file of publishers, and the key files it names. ``stamps``: of each, taken before it was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.stamps: dict[Path, _Stamp] = {}

    def trust(self) -> Trust:
        """What the files say. Raises SettingsError."""
        try:
            found = tomllib.loads(self._content(self._path).decode("utf-8"))
        except OSError as error:
            raise self._wrong(f"cannot be read: {error.strerror}") from error
        except RecursionError:
            raise self._wrong("is not TOML: it is nested too deeply") from None
        except ValueError as error:  # no UTF-8, no TOML, no path, a number of thousands of digits
            raise self._wrong(f"is not TOML: {error}") from error
        self._only(found, ("publishers",), "the file")
        publishers = found.get("publishers")
        if not isinstance(publishers, dict) or not publishers:
            raise self._wrong("names no publisher, so no event would ever be applied: add a table [publishers.NAME]")
        keys: dict[str, TrustedKey] = {}
        owners: dict[str, str] = {}
        for name, table in publishers.items():
            for key in self._publisher(name, table):
                thumbprint = key.key.kid.partition("/")[2]
                if other := owners.get(thumbprint):
                    twice = f"one key twice ({name})" if other == name else f"the same key for {other} and {name}"
                    raise self._wrong(f"has {twice}: a signature must tell who made it")
                owners[thumbprint] = name
                keys[key.key.kid] = key
        return Trust(keys=keys)

    def _content(self, file: Path) -> bytes:
        self.stamps[file] = _stamp(file)
        return file.read_bytes()

    def _publisher(self, name: str, table: object) -> list[TrustedKey]:
        where = f"publishers.{name}"
        if not is_publisher_id(name):
            raise self._wrong(f"names a publisher {name!r}, a name must be {PUBLISHER_ID_RULE}")
        if not isinstance(table, dict):
            raise self._wrong(f"{where} must be a table")
        self._only(table, ("kinds", "issuers", "claims", "keys"), where)
        publisher = TrustedPublisher(id=name, scope=self._scope(table, where))
        entries = table.get("keys")
        if not isinstance(entries, list) or not entries:
            raise self._wrong(f"{where} has no keys: add a table [[{where}.keys]] with file or pem")
        return [
            self._key(entry, publisher, where=f"{where}.keys, number {number}")
            for number, entry in enumerate(entries, start=1)
        ]

    def _scope(self, table: Mapping[str, Any], where: str) -> Scope:
        kinds = NARROW_KINDS
        named: frozenset[str] = frozenset()
        if "kinds" in table:
            named = self._texts(table["kinds"], f"{where}.kinds")
            for kind in sorted(named - {"*"} - set(KINDS)):
                raise self._wrong(f"{where}.kinds names {kind!r}{nearest(kind, [*KINDS, '*'])}")
            kinds = frozenset(KINDS) if "*" in named else named
        issuers = None
        if "issuers" in table:
            issuers = self._texts(table["issuers"], f"{where}.issuers")
            if not issuers:
                raise self._wrong(f"{where}.issuers is empty: leave it out for every issuer, or name some")
            if "all" in named:
                raise self._wrong(f"{where} allows the kind all, which reaches every issuer, but only some issuers")
        claims = None
        if "claims" in table:
            if "claim" not in kinds:
                raise self._wrong(f"{where}.claims limits the kind claim, which {where}.kinds does not allow")
            claims = self._claims(table["claims"], f"{where}.claims")
        return Scope(kinds=kinds, issuers=issuers, claims=claims)

    def _claims(self, found: object, where: str) -> dict[str, frozenset[str] | None]:
        if not isinstance(found, dict) or not found:
            raise self._wrong(f'{where} must be a table of claims and their values, such as {{ tenant = ["acme"] }}')
        claims: dict[str, frozenset[str] | None] = {}
        for claim, values in found.items():
            texts = self._texts(values, f"{where}.{claim}")
            if not texts or ("*" in texts and len(texts) > 1):
                raise self._wrong(f'{where}.{claim} must list the values allowed, or be ["*"] for every value')
            claims[claim] = None if "*" in texts else texts
        return claims

    def _key(self, entry: object, publisher: TrustedPublisher, *, where: str) -> TrustedKey:
        if not isinstance(entry, dict):
            raise self._wrong(f"{where} must be a table with file or pem")
        self._only(entry, ("file", "pem", "not_before", "not_after"), where)
        if ("file" in entry) == ("pem" in entry):
            raise self._wrong(f"{where} must have one of file and pem")
        text = entry["file" if "file" in entry else "pem"]
        if not isinstance(text, str):
            raise self._wrong(f"{where}: file and pem are texts")
        content, named = text.encode(), "pem"
        if "file" in entry:
            file = self._path.parent / text
            named = f"file {file}"
            try:
                content = self._content(file)
            except (OSError, ValueError) as error:  # ValueError: a path with a null byte
                why = getattr(error, "strerror", None) or error
                raise self._wrong(f"{where}: {named} cannot be read: {why}") from error
        try:
            key = VerifyingKey(publisher.id, public_key(content))
        except Unusable as error:
            raise self._wrong(f"{where}: {named} {error}") from error
        begin, end = (self._time(entry, name, where) for name in ("not_before", "not_after"))
        if begin is not None and end is not None and begin >= end:
            raise self._wrong(f"{where}: not_before is not before not_after, so the key would never count")
        return TrustedKey(publisher=publisher, key=key, not_before_ms=begin, not_after_ms=end)

    def _time(self, entry: Mapping[str, Any], name: str, where: str) -> int | None:
        value = entry.get(name)
        if value is None:
            return None
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise self._wrong(f"{where}: {name} must be a time with its offset, such as 2026-11-01T00:00:00Z, unquoted")
        return int(value.timestamp() * 1000)

    def _texts(self, found: object, where: str) -> frozenset[str]:
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self._wrong(f'{where} must be a list of texts, such as ["a", "b"]')
        return frozenset(found)

    def _only(self, found: Mapping[str, Any], names: Collection[str], where: str) -> None:
        for name in found:
            if name not in names:
                raise self._wrong(f"{where} has {name!r}{nearest(name, names)}")

    def _wrong(self, what: str) -> SettingsError:
        return SettingsError(f"trusted_publishers_file {self._path} {what}")

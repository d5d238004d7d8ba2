"""Who used ``POST /revocations``, when, from where, for what, and with which outcome.

Two sinks. The log (logger ``revoker.audit``) gets every use without the selector's values and the reason: logs travel
far, and the event id leads to the rest in the topic. The file of the setting admin_audit_file gets all of it, is on
disk before anything is published and before anybody is answered; while it cannot be written nothing is published.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from revoker.events import FreeText
from revoker.health import Check
from revoker.moments import rfc3339
from revoker.service.audit_file import AppendOnlyFile

__all__ = ["SERVICE", "STRANGER", "Allowance", "Audit", "Entry", "Outcome", "line"]

logger: logging.Logger = logging.getLogger("revoker.audit")

#: ``who`` of uses by nobody known, and of what the service itself has to say.
STRANGER: Final = "unknown"
SERVICE: Final = "service"

#: ``publishing`` is written before, one of the others after; ``resumed``: the file could be written again.
Outcome = Literal[
    "previewed", "publishing", "acknowledged", "stored", "not_accepted", "unknown", "refused", "failed", "resumed"
]

#: A compact JWS, in a field where somebody pasted a whole token: whoever reads the audit must not be able to use it.
_JWS: Final = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"peer": "from"}):
    """One line, without its time.

    ``peer``: the address of the other end of the connection, which may be a proxy's: what that says of others
    (X-Forwarded-For), anybody can write. ``code``: of the problem answered. ``suppressed``: uses by strangers since the
    line before that have none of their own; ``missed``: lines that could not be written.
    """

    who: str
    outcome: Outcome
    peer: str | None = None
    kind: str | None = None
    event_id: str | None = None
    selector: dict[str, str] | None = None
    cutoff: int | None = None
    expires_at: int | None = None
    reason: FreeText | None = None
    confirmed: bool = False
    code: str | None = None
    partition: int | None = None
    offset: int | None = None
    suppressed: int = 0
    missed: int = 0


def line(entry: Entry, *, at: float) -> bytes:
    """The entry as a line of JSON, ASCII alone: no identifier can begin a line of its own or steer a terminal.

    ``at``: Unix seconds.
    """
    time = rfc3339(at, milliseconds=True)
    return _JWS.sub("(token)", json.dumps({"time": time, **msgspec.to_builtins(entry)})).encode()


class Allowance:
    """A token bucket: ``burst`` at once, then ``per_s`` a second. ``monotonic``: seconds."""

    def __init__(self, *, burst: int, per_s: float, monotonic: Callable[[], float]) -> None:
        self._burst = burst
        self._per_s = per_s
        self._monotonic = monotonic
        self._left = float(burst)
        self._at = monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = self._monotonic()
        self._left = min(self._left + (now - self._at) * self._per_s, self._burst)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Audit:
    """Writes entries down. ``path``: the setting admin_audit_file; None = the log alone.

    Strangers get a hundred lines and then one a second, the rest is counted in the next line: otherwise whoever can
    reach the service could fill the disk, and so keep admins from revoking. ``wall`` gives Unix seconds.
    """

    def __init__(self, path: str | None, *, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._file = AppendOnlyFile(path) if path is not None else None
        self._wall = wall
        self._strangers = Allowance(burst=100, per_s=1.0, monotonic=monotonic)
        self._suppressed = 0
        self._missed = 0
        self._problem: str | None = None

    @property
    def to_file(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    async def refusal(self, entry: Entry) -> str | None:
        """Write an entry without which nothing may be published. Returns why it could not be, None if it could."""
        return await self._write(entry)

    async def note(self, entry: Entry) -> None:
        """Write an entry about what is decided already. That it could not be written is logged, counted, and in
        ``/readyz``: the answer is still the truth about the revocation.
        """
        if entry.who == STRANGER and not self._strangers.take():
            self._suppressed += 1
            return
        await self._write(entry)

    async def watch(self, *, every_s: float) -> None:
        """Look after the file until cancelled: a probe alone could not tell that it can be written again."""
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Once: is the file there, or, after a failure, can it be written again?"""
        if self._file is None:
            return
        if self._problem is not None:
            await self._append(self._file, Entry(who=SERVICE, outcome="resumed"))
            return
        try:
            await self._file.look()
        except OSError as error:
            self._failed(error)

    def checks(self) -> tuple[Check, ...]:
        """The line of ``/readyz``; none without a file."""
        if self._file is None:
            return ()
        return (Check(name="audit", ok=self._problem is None, detail=self._problem or "the audit file can be written"),)

    async def close(self) -> None:
        """Write what is left to say, and close."""
        if self._file is not None:
            if self._suppressed:
                await self._write(Entry(who=SERVICE, outcome="refused"))
            await self._file.close()

    async def _write(self, entry: Entry) -> str | None:
        logger.info("%s", _words(entry, suppressed=self._suppressed))
        if self._file is None:
            self._suppressed = 0
            return None
        return await self._append(self._file, entry)

    async def _append(self, file: AppendOnlyFile, entry: Entry) -> str | None:
        suppressed, self._suppressed = self._suppressed, 0
        missed, self._missed = self._missed, 0
        entry = msgspec.structs.replace(entry, suppressed=suppressed, missed=missed)
        try:
            await file.append(line(entry, at=self._wall()))
        except OSError as error:
            self._suppressed += suppressed
            self._missed += missed + (entry.outcome != "resumed")
            return self._failed(error)
        if self._problem is not None:
            logger.warning("the audit file can be written again; missing lines: %d", missed)
            self._problem = None
        return None

    def _failed(self, error: OSError) -> str:
        problem = error.strerror or type(error).__name__
        if self._problem is None:
            logger.error("the audit file cannot be written (%s): nothing is published for admins until it can", problem)
        self._problem = problem
        return problem


def _words(entry: Entry, *, suppressed: int) -> str:
    """An entry for the log: no value that a token could hold."""
    parts: dict[str, Any] = {
        "admin": entry.who,
        "from": entry.peer,
        "kind": entry.kind,
        "event": entry.event_id,
        "outcome": entry.outcome,
        "confirmed": entry.confirmed or None,
        "code": entry.code,
        "suppressed": suppressed or None,
    }
    return " ".join(f"{name}={value}" for name, value in parts.items() if value is not None)

"""The deny list of a host: one mapped table, one process that writes it, any number that look into it.

Exact kinds and cut-offs of subjects are fingerprints in a table (`consumers.denylist.table`): 24 bytes each, for all
processes together. The rest is few and carries texts: wide rules, subjects with a spared session, withdrawals. It goes
into a journal beside the table, and every process keeps it in a `MemoryDenyList` of its own, so that its meaning is
written once.

Every process may hold one of these. It starts as a reader; `take` makes it the writer. WORD, in the control page, tells
every look-up in one load whether anything but slots has changed since it looked last.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from consumers.denylist import Entry
from consumers.denylist.about import About, Origin
from consumers.denylist.control import WORD, Control, ControlRefused, boot_id
from consumers.denylist.fingerprint import TABLE_KINDS
from consumers.denylist.memory import MemoryDenyList
from consumers.denylist.opening import Taken, empty, found, prepare, sweep
from consumers.denylist.screen import Screen, screen
from consumers.denylist.view import View, look
from consumers.denylist.writer import Writer
from revoker.errors import DenyListUnreadable
from revoker.events import KINDS, Revocation, SelectorKey

__all__ = ["EPOCH_S", "Origin", "SharedDenyList", "Taken"]

#: The epoch of tables: 2020-01-01. Their times reach 34 years further.
EPOCH_S: Final = 1_577_836_800

#: A table with more slots is counted at most once in so many seconds: whoever shows counts asks for them often.
_LARGE: Final = 8192
_COUNTS_LAST_S: Final = 1.0

_NUMBER: Final = {kind: number for number, kind in enumerate(TABLE_KINDS)}


class SharedDenyList:
    """Implements `consumers.denylist.DenyList`. The constructor opens nothing, so it may run before a fork.

    ``directory``: made with mode 0700 by the writer; on a tmpfs (``/dev/shm``) or any file system. ``max_entries``:
    entries the host may hold. ``secret``: 32 random bytes for a new table. Look-ups take no lock, except while they
    follow the writer to a new generation or a new rule. They raise DenyListUnreadable, and nothing else, if that cannot
    be done, or if there is no table: to know of no revocation is not to know that there is none.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        max_entries: int,
        epoch_s: int = EPOCH_S,
        secret: Callable[[], bytes] = lambda: secrets.token_bytes(32),
        boot: Callable[[], str] = boot_id,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory: Path = Path(directory)
        self._max_entries = max_entries
        self._epoch_s = epoch_s
        self._secret = secret
        self._boot = boot
        self._monotonic = monotonic
        self._nothing = f"nobody has looked for a table in {self.directory} yet"
        self._counted: tuple[View, float, Mapping[str, int]] | None = None
        self._lock = threading.Lock()
        self._view: View | None = None
        self._writer: Writer | None = None
        #: What this very process has published, until the topic brings it round.
        self._own = MemoryDenyList(max_entries=max_entries)
        self.suspects: Screen = self._unattached
        #: Told that `control` is another one, or none, before anything else is looked into.
        self.on_control: Callable[[], None] = lambda: None

    @property
    def attached(self) -> bool:
        """Whether there is a table to look into."""
        return self._view is not None

    @property
    def control(self) -> Control | None:
        """The page that says how fresh the table is; None before `open` or `take` has found one."""
        return None if self._view is None else self._view.control

    @property
    def writes(self) -> bool:
        """Whether this is the writer."""
        return self._writer is not None

    def open(self) -> str | None:
        """Look for the table. Returns None once attached, or why there is nothing to attach to yet.

        Called again, it finds the page that has taken the place of the one attached to.
        """
        with self._lock:
            path = self.directory / "control"
            view = self._view
            if self._writer is not None or (
                view is not None and not view.control.replaced and view.control.is_at(path)
            ):
                return None
            found = self._looked_for(path)
            if isinstance(found, View):
                self._install(found)
                return None
            self._nothing = found
            return None if view is not None and not view.control.replaced else found

    def _looked_for(self, path: Path) -> View | str:
        try:
            control = Control.open(path, writable=False, boot=self._boot())
        except FileNotFoundError:
            return f"no process has made a table in {self.directory} yet"
        except (ControlRefused, OSError) as error:
            return f"the control page in {self.directory} cannot be used: {error}"
        try:
            return look(self.directory, control, None)
        except DenyListUnreadable as error:
            control.close()
            return error.reason

    def prepare(self) -> None:
        """Make the directory. Raises SettingsError if it is not this user's alone."""
        prepare(self.directory)

    def forked(self) -> None:
        """This is a child of the process that opened it: it looks, and does not write."""
        self._writer = None
        self._lock = threading.Lock()  # the parent's may have been held by a thread that is not here

    def close(self) -> None:
        """Let go of the files. Nothing is known any more, until `open` or `take`."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._detach("the shared deny list is closed")

    def take(self, *, trust: str = "") -> Taken:
        """Become the writer. The caller holds the host's lock.

        The table that stands there is accepted if it is whole, of this version, this user and this boot, and was
        written under the same ``trust`` (whom the node believes, as text to compare). Otherwise an empty one takes its
        place, and nothing is fresh until it has been filled. Raises SettingsError if the directory is not this user's
        alone, OSError if there is no room.
        """
        prepare(self.directory)
        with self._lock:
            about = About(secret="", boot=self._boot(), trust=trust, epoch_s=self._epoch_s)
            control, writer, refused = found(self.directory, wanted=about, max_entries=self._max_entries)
            self.become(writer or self._empty(control, about))
            writer = self.writer
            control.writer_pid = os.getpid()
            return Taken(
                offsets=writer.table.offsets,
                origin=writer.about.origin,
                unread=writer.table.unread,
                refused=refused,
            )

    def replace(self) -> None:
        """Give up all entries: what they were read from is not the log that is there now. Nothing is fresh."""
        writer = self.writer
        writer.finish()  # what is being made has the number that the empty one takes
        with self._lock:
            self.become(self._empty(writer.control, writer.about))
        writer.close()
        writer.control.writer_pid = os.getpid()

    def _empty(self, control: Control, about: About) -> Writer:
        return empty(self.directory, control, about=about, secret=self._secret, max_entries=self._max_entries)

    def become(self, writer: Writer) -> None:
        """From here on ``writer`` writes, and every process looks into its table."""
        self._writer = writer
        writer.control.word = writer.word
        sweep(self.directory, writer.table.generation)
        self._follow_writer()

    def _follow_writer(self) -> None:
        writer = self.writer
        view = self._view
        if view is not None and view.table is writer.table and view.word == writer.word and view.side is writer.side:
            return
        self._install(
            View(
                writer.control,
                writer.word,
                writer.table,
                writer.about,
                writer.prints,
                writer.side,
                writer.table.rules_bytes,
                frozenset(TABLE_KINDS[number] for number in writer.kinds),
            )
        )

    def _now(self) -> View | None:
        view = self._view
        if view is None or view.control.words[WORD] == view.word:
            return view
        return self._changed()

    def _seen(self) -> View:
        view = self._now()
        if view is None:
            raise DenyListUnreadable(self._nothing)
        return view

    def _changed(self) -> View | None:
        with self._lock:
            view = self._view
            if view is None or self._writer is not None:
                return view
            if view.control.replaced or not view.control.word:
                # A new page, or none; `open` finds it. Until then nothing is fresh here.
                self._detach(f"the table in {self.directory} was given up")
                return None
            if view.control.word != view.word:
                before, view = view, look(self.directory, view.control, view)
                self._install(view)
                if view.about.secret != before.about.secret:
                    # Not a copy but begun anew, empty. Whoever asks now may go by a proof of the one before.
                    raise DenyListUnreadable(f"the table in {self.directory} was given up for a new one just now")
            return view

    def _detach(self, why: str) -> None:
        self._nothing = why
        self._view = None
        self.on_control()
        self.suspects = self._unattached

    def _install(self, view: View) -> None:
        before, self._view = self.control, view
        if before is not view.control:
            self.on_control()
        table_screen = screen(
            words=view.control.words,
            word=view.word,
            table=view.table,
            prints=view.prints,
            kinds=view.kinds,
            changed=self._ask_again,
        )
        side, own = view.side, self._own

        def suspects(claims: Mapping[str, Any], kid: str | None, /) -> bool:
            return table_screen(claims, kid) or side.suspects(claims, kid) or own.suspects(claims, kid)

        self.suspects = suspects if side.kinds or own.kinds else table_screen

    def _ask_again(self, claims: Mapping[str, Any], kid: str | None, /) -> bool:
        """WORD has changed, or the issuer was not known. If there is nothing new to ask yet, in another thread
        than the writer's, asking properly is what is left.
        """
        before = self.suspects
        if self._now() is None or (after := self.suspects) is before:
            return True
        return after(claims, kid)

    def _unattached(self, _claims: Mapping[str, Any], _kid: str | None, /) -> bool:
        return True

    @property
    def kinds(self) -> AbstractSet[str]:
        """See `DenyList`. Where there is no table any kind may have an entry."""
        view = self._now()
        return KINDS.keys() if view is None else view.kinds | view.side.kinds | self._own.kinds

    @property
    def claim_names(self) -> Mapping[str, AbstractSet[str]]:
        names = dict(self._seen().side.claim_names)
        for iss, more in self._own.claim_names.items():
            names[iss] = frozenset(names.get(iss, ())) | more
        return names

    def listed(self, key: SelectorKey) -> bool:
        """See `DenyList`. A fingerprint of 64 bits decides: another identifier has the same in one of 2**64 cases."""
        view = self._seen()
        kind, iss, value = key
        if kind in view.kinds and view.table.find(view.prints.of(_NUMBER[kind], iss, value)):
            return True
        return self._own.listed(key)

    def cutoff(self, key: SelectorKey, *, sid: str | None = None, jti: str | None = None) -> int | None:
        view = self._seen()
        found = [self._own.cutoff(key, sid=sid, jti=jti), view.side.cutoff(key, sid=sid, jti=jti)]
        if key[0] == "subject" and "subject" in view.kinds:
            word = view.table.find(view.prints.of(3, key[1], key[2]))
            found.append((word >> 2) - 1 + view.epoch_s if word else None)
        return max((cutoff for cutoff in found if cutoff is not None), default=None)

    def key_cutoff(self, iss: str) -> int | None:
        found = [self._own.key_cutoff(iss), self._seen().side.key_cutoff(iss)]
        return max((cutoff for cutoff in found if cutoff is not None), default=None)

    def apply(self, revocation: Revocation) -> bool:
        """See `DenyList`. In a reader it is this process's alone, until the writer brings it to everybody."""
        if self._writer is None:
            with self._lock:
                changed = self._own.apply(revocation)
                if changed and self._view is not None:
                    self._install(self._view)
            return changed
        return self.apply_all((revocation,))

    def apply_all(self, revocations: Sequence[Revocation]) -> bool:
        """See `DenyList`."""
        writer = self.writer
        try:
            return writer.apply_all(revocations)
        finally:
            self._follow_writer()

    def reached(self, positions: Mapping[int, int], *, unread: int = 0) -> None:
        """See `DenyList`."""
        if self._writer is not None:
            try:
                self._writer.reached(positions, unread=unread)
            finally:
                self._follow_writer()

    def adopt(self, origin: Origin, *, trust: str | None = None) -> None:
        """From here on offsets are those of this log."""
        self.writer.adopt(origin, trust=trust)
        self._follow_writer()

    def advance(self, *, now_s: float) -> None:
        """See `DenyList`. A reader follows the writer's purge clock and looks at none of its own."""
        if self._writer is not None:
            try:
                self._writer.advance(now_s=now_s)
            finally:
                self._follow_writer()
        view = self._now()
        if view is None or not view.table.purged_s:
            return
        with self._lock:
            purged_s = view.table.purged_s + view.epoch_s
            had = self._own.kinds, view.side.kinds
            view.side.advance(now_s=purged_s)
            self._own.advance(now_s=purged_s)
            if had != (self._own.kinds, view.side.kinds) and self._view is view:
                self._install(view)

    def step(self, steps: int = 1) -> None:
        """Go on making a new generation, if one is being made: for turns with nothing else to do."""
        if self._writer is not None and self._writer.rebuilding:
            self._writer.step(steps)
            self._follow_writer()

    @property
    def directory_bytes(self) -> int:
        """What the files of the directory take."""
        found = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.directory):
                with contextlib.suppress(FileNotFoundError):  # the writer removes what it has replaced
                    found += entry.stat(follow_symlinks=False).st_size
        return found

    def counts(self) -> Mapping[str, int]:
        """Entries by kind; those alone that the host shares. Of a large table up to a second old."""
        try:
            view = self._now()
        except DenyListUnreadable:
            view = self._view  # what was there before: a number for people, who are told elsewhere
        if view is None:
            return self._own.counts()
        now = self._monotonic()
        if view.table.slots <= _LARGE:
            return self._counts(view)
        if self._counted is None or self._counted[0] is not view or now >= self._counted[1]:
            self._counted = view, now + _COUNTS_LAST_S, self._counts(view)
        return self._counted[2]

    def _counts(self, view: View) -> Mapping[str, int]:
        return view.counts() if self._writer is None else self._writer.counts()

    def in_force(self) -> Iterator[Entry]:
        """See `DenyList`, and `View.in_force`. Empty without a table."""
        view = self._now()
        return iter(()) if view is None else view.in_force()

    @property
    def writer(self) -> Writer:
        """What only the writer has. Raises RuntimeError in a reader."""
        if self._writer is None:
            raise RuntimeError("only the writer may change the shared deny list")
        return self._writer

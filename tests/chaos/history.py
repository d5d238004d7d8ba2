"""What happened in a chaos run, as data: written by its processes, merged by time, judged by `tests.chaos.checker`.

Each process appends JSON lines to a file of its own (`Recorder`), unbuffered, so a process killed with SIGKILL loses at
most the line it was writing. `load` reads a directory of such files and merges them.

**Time.** Every field that ends in ``at`` is CLOCK_MONOTONIC in seconds, ``time.monotonic()``: one clock for all
processes of a machine, which no fault may fake (libfaketime: ``FAKETIME_DONT_FAKE_MONOTONIC=1``). ``at`` is when the
event was complete, and orders the history. Unix time stands in two places only: ``Run.wall_at``, which relates the two
clocks, and ``Revoked.exp``, taken from the token. Both come from a process whose wall clock is *not* faked.

**What each side of an interval must guarantee.** The checker allows no slack, so the times must err in the product's
favour: ``asked_at`` is read before the question is put, ``at`` (the answer's time) after the answer is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self, TypeAlias

import msgspec

__all__ = [
    "SAMPLE_S",
    "Answer",
    "AnswerLog",
    "Answered",
    "Erased",
    "Event",
    "Fault",
    "Final",
    "NodeException",
    "NodeReady",
    "NodeStale",
    "NodeStarted",
    "NodeStopped",
    "Outcome",
    "Recorder",
    "Recovered",
    "Revoked",
    "Run",
    "ServiceStarted",
    "ServiceStopped",
    "load",
    "read",
    "write",
]

#: What a publisher was told. ``acknowledged``: HTTP 200/204, or a Receipt of that state. ``stored``: 202, on disk, to
#: be delivered. ``refused``: certainly not accepted (503 not_accepted, NotAccepted). ``unknown``: everything else, such
#: as a connection that ended without an answer, or 503 outcome_unknown: it may be in force or not.
Outcome = Literal["acknowledged", "stored", "refused", "unknown"]

#: What a node said of a token. ``allowed``: admitted, and the node claims to be up to date (Status.ACTIVE).
#: ``flagged``: admitted by the policy ``accept`` and marked as unproven. ``denied``: refused because it is revoked
#: (kinds malformed and long_lived excepted). ``unknown``: refused because the node cannot say (503). ``invalid``:
#: refused for any other reason: expired, not yet valid, outlives the topic. No answer at all (connection refused) is
#: no event.
Answer = Literal["allowed", "flagged", "denied", "unknown", "invalid"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    #: When the event was complete.
    at: float


class Run(_Event, frozen=True, kw_only=True, tag="run"):
    """The run itself, written once by the driver.

    ``wall_at``: Unix time, read together with ``at``. ``command``: what repeats this run, seed included.
    """

    wall_at: float
    seed: int
    command: str = ""


class Revoked(_Event, frozen=True, kw_only=True, tag="revoked"):
    """One call of a publisher and what it was told; a repetition by the caller is another one.

    ``asked_at``: before the request was sent. ``at``: after its answer was read; for ``unknown``, when the caller gave
    up. ``event_id``: the event's id, empty if the caller was not told. ``tokens``: names of *all* tokens under test
    that it refuses, one for a token, several for a session or a subject with a cut-off: the checker knows no selectors,
    the load does. ``exp``: Unix time at which the first of them expires, without leeway. ``by``, ``incarnation``: the
    service process that was asked, as in `ServiceStarted`. ``kind``: the kind of selector, for people.
    """

    asked_at: float
    tokens: tuple[str, ...]
    state: Outcome
    exp: float
    event_id: str = ""
    by: str = ""
    incarnation: int = 0
    kind: str = "token"
    detail: str = ""


class Answered(_Event, frozen=True, kw_only=True, tag="answered"):
    """One check of one token, or a stretch of consecutive checks with the same answer: `AnswerLog` writes them.

    ``asked_at``: before the first check of the stretch. ``last_asked_at``: before the last one; None for a single
    check. ``at``: after the last one's answer. The first check with a new answer is always an event of its own.
    ``node``: a node, or a service if it is asked whether it refuses what it accepted. ``proved_at``: the time up to
    which the node claims, at the last check, to know everything acknowledged (``freshness.fresh_until - bound_s``, read
    before the check); None: not recorded.
    """

    node: str
    incarnation: int
    token: str
    answer: Answer
    asked_at: float
    last_asked_at: float | None = None
    checks: int = 1
    proved_at: float | None = None


class NodeStarted(_Event, frozen=True, kw_only=True, tag="node_started"):
    """``at``: before the node is started, by the node's process itself. Everything acknowledged before it must be known
    when the node is ready. ``incarnation``: counts the processes of this name, from 1.
    """

    node: str
    incarnation: int
    pid: int = 0


class NodeReady(_Event, frozen=True, kw_only=True, tag="node_ready"):
    """The node has become live, for the first time or again after `NodeStale`."""

    node: str
    incarnation: int


class NodeStale(_Event, frozen=True, kw_only=True, tag="node_stale"):
    """The node, live before, is no longer; it says why. ``at`` may be late by one turn of whoever watches it."""

    node: str
    incarnation: int
    reason: str = ""


class NodeStopped(_Event, frozen=True, kw_only=True, tag="node_stopped"):
    """The process has ended, seen by its parent. ``how``: ``killed`` and ``stopped`` were meant, ``crashed`` was not
    and is a violation.
    """

    node: str
    incarnation: int
    how: Literal["killed", "stopped", "crashed"]
    detail: str = ""


class NodeException(_Event, frozen=True, kw_only=True, tag="node_exception"):
    """A check raised something that is no answer. Always a violation. ``where``: ``check`` or what else was called."""

    node: str
    incarnation: int
    error: str
    where: str = "check"


class ServiceStarted(_Event, frozen=True, kw_only=True, tag="service_started"):
    """A logout service's process was started; numbered like a node's."""

    service: str
    incarnation: int


class ServiceStopped(_Event, frozen=True, kw_only=True, tag="service_stopped"):
    """A logout service's process has ended, seen by its parent."""

    service: str
    incarnation: int
    how: Literal["killed", "stopped", "crashed"]
    detail: str = ""


class Fault(_Event, frozen=True, kw_only=True, tag="fault"):
    """One fault, written when it is over. ``kind``: a word such as ``kill_broker``; ``target``: who suffered.

    ``began_at``: when it certainly was in effect. ``ended_at``: just before it was lifted. ``verified``: its effect was
    observed (the process is gone, the bytes do not pass, the offset has moved), not only asked for; a fault without
    effect spoils the run. ``blinds``: nodes that from ``began_at`` to ``ended_at`` could not get one honest answer from
    the cluster, be it that nothing passes, that no broker runs, or that all they reach is a deposed leader's side. Such
    a node may call itself up to date for one bound, not longer. Leave out whoever you are not sure of.
    """

    kind: str
    target: str
    began_at: float
    ended_at: float
    verified: bool
    detail: str = ""
    blinds: tuple[str, ...] = ()


class Recovered(_Event, frozen=True, kw_only=True, tag="recovered"):
    """After a fault of this kind everything works again: all nodes live, a revocation acknowledged and refused
    everywhere. ``seconds``: since ``Fault.ended_at``, or since ``began_at`` where the cluster has to heal itself.
    """

    kind: str
    seconds: float


class Erased(_Event, frozen=True, kw_only=True, tag="erased"):
    """An operator took acknowledged records out of the log: made the topic anew, or deleted records.

    ``began_at``: before the first request that erases. ``ended_at``: when the new log certainly takes records, resp.
    the deletion was confirmed. Revocations asked for before ``ended_at`` may be gone. That excuses nodes that could not
    have read them: those that started after, or had not caught up before; it excuses nobody who knew.
    """

    how: Literal["topic_replaced", "records_deleted"]
    began_at: float
    ended_at: float
    detail: str = ""


class Final(_Event, frozen=True, kw_only=True, tag="final"):
    """What a node answers to every token under test, revoked or not, once all faults are lifted and all had time.

    ``asked_at``: before the first question. A token that has expired may be left out, or stand under ``invalid``.
    """

    node: str
    incarnation: int
    asked_at: float
    denied: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()


Event: TypeAlias = (
    Run
    | Revoked
    | Answered
    | NodeStarted
    | NodeReady
    | NodeStale
    | NodeStopped
    | NodeException
    | ServiceStarted
    | ServiceStopped
    | Fault
    | Recovered
    | Erased
    | Final
)

#: How finely it is known when a node was allowing at all, in seconds.
SAMPLE_S = 0.25

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


class Recorder:
    """Appends events to one file, each with one ``write`` and no buffer. Not for two processes or threads at once."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def __call__(self, event: Event) -> None:
        self._file.write(_encoder.encode(event) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was recorded is in it already."""
        self._file.close()


class _Stretch(msgspec.Struct):
    answer: Answer
    asked_at: float
    last_asked_at: float
    at: float
    proved_at: float | None
    checks: int


class AnswerLog:
    """Turns thousands of checks a second into few events, for one incarnation of one node.

    Call `saw` for each check, in order, and `summarize` about once a second: changes are written at once, what stays
    the same in summaries. A process killed in between loses "still the same" of the last second, never a change. Some
    ``allowed`` is written at least every `SAMPLE_S` besides, whatever the token: a summary that spans a whole outage
    would hide that the node went on allowing in it.
    """

    def __init__(self, record: Callable[[Event], None], *, node: str, incarnation: int) -> None:
        self._record = record
        self._node = node
        self._incarnation = incarnation
        self._known: dict[str, Answer] = {}
        self._open: dict[str, _Stretch] = {}
        self._sampled_at = -math.inf

    def saw(
        self, token: str, answer: Answer, *, asked_at: float, answered_at: float, proved_at: float | None = None
    ) -> None:
        """One check of ``token``; the times as in `Answered`."""
        if self._known.get(token) == answer:
            stretch = self._open.get(token)
            if stretch is None:
                self._open[token] = _Stretch(answer, asked_at, asked_at, answered_at, proved_at, 1)
            else:
                stretch.last_asked_at, stretch.at, stretch.proved_at = asked_at, answered_at, proved_at
                stretch.checks += 1
            if answer == "allowed" and asked_at >= self._sampled_at + SAMPLE_S:
                self._close(token)
            return
        self._close(token)
        self._known[token] = answer
        self._write(token, _Stretch(answer, asked_at, asked_at, answered_at, proved_at, 1))

    def summarize(self) -> None:
        """Write what has stayed the same since the last time; call it before the process ends, too."""
        for token in list(self._open):
            self._close(token)

    def _close(self, token: str) -> None:
        stretch = self._open.pop(token, None)
        if stretch is not None:
            self._write(token, stretch)

    def _write(self, token: str, stretch: _Stretch) -> None:
        if stretch.answer == "allowed":
            self._sampled_at = max(self._sampled_at, stretch.last_asked_at)
        self._record(
            Answered(
                at=stretch.at,
                node=self._node,
                incarnation=self._incarnation,
                token=token,
                answer=stretch.answer,
                asked_at=stretch.asked_at,
                last_asked_at=stretch.last_asked_at if stretch.checks > 1 else None,
                checks=stretch.checks,
                proved_at=stretch.proved_at,
            )
        )


def read(path: Path) -> list[Event]:
    """The events of one file. A last line without an end, the mark of a killed process, is left out; any other line
    that cannot be read raises ValueError, naming it.
    """
    lines = path.read_bytes().split(b"\n")
    lines.pop()  # what follows the last newline: nothing, or the torn line
    events = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(_decoder.decode(line))
        except msgspec.DecodeError as error:
            raise ValueError(f"{path.name} line {number} is no event: {error}") from error
    return events


def write(path: Path, events: Iterable[Event]) -> None:
    """Write events to a new file, such as the merged history of a failed run."""
    path.write_bytes(b"".join(_encoder.encode(event) + b"\n" for event in events))


def load(directory: Path) -> list[Event]:
    """All events of all ``*.jsonl`` files in a directory, in the order of ``at``. Raises as `read` does."""
    events = [event for path in sorted(directory.glob("*.jsonl")) for event in read(path)]
    events.sort(key=lambda event: event.at)
    return events

"""A small fleet in simulation, which keeps every promise: it writes the histories that the checker must not object to.

Time runs in steps of 1/8 s, which floats hold exactly, so that events often coincide: at the edges checkers err.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.history import (
    Answer,
    AnswerLog,
    Erased,
    Event,
    Fault,
    Final,
    NodeReady,
    NodeStale,
    NodeStarted,
    NodeStopped,
    Outcome,
    Recovered,
    Revoked,
    Run,
    ServiceStarted,
)

BOUND_S = 2.0
STEP_S = 0.125
WALL_OFFSET_S = 1_700_000_000.0
SERVICE = "service"

_STATES: Sequence[Outcome] = ("acknowledged", "acknowledged", "acknowledged", "stored", "unknown", "refused")


@dataclass
class _Record:
    token: str
    visible_at: float


@dataclass
class _Process:
    """One process of a node. It knows what was in its log up to ``synced_at``."""

    name: str
    incarnation: int
    started_at: float
    log: AnswerLog
    synced_at: float = 0.0
    known: set[str] = field(default_factory=set)
    live: bool = False


class Fleet:
    """``erase``: whether an operator may take records out of the log, which excuses nodes that start later."""

    def __init__(self, seed: int, *, erase: bool = False, nodes: int = 3, tokens: int = 8, steps: int = 120) -> None:
        self.history: list[Event] = []
        self._random = random.Random(seed)
        self._erase = erase
        self._steps = steps
        self._now = 100.0
        self._records: list[_Record] = []
        self._tokens = [f"t{number}" for number in range(tokens)]
        self._controls = ["c0", "c1"]
        self._exp: dict[str, float] = {}
        self._processes = {f"n{number}": self._start(f"n{number}", 1) for number in range(nodes)}
        self._cut: dict[str, float] = {}

    def run(self) -> list[Event]:
        """The whole history, in order."""
        record, chance = self.history.append, self._random
        record(Run(at=self._now, wall_at=self._now + WALL_OFFSET_S, seed=0))
        record(ServiceStarted(at=self._now, service=SERVICE, incarnation=1))
        waiting = list(self._tokens)
        erase_at = chance.randrange(self._steps) if self._erase else -1
        for step in range(self._steps):
            self._now += STEP_S
            if waiting and chance.random() < 0.1:
                self._revoke(waiting.pop())
            if step == erase_at:
                self._erase_log()
            if chance.random() < 0.05:
                self._disturb(chance.choice(list(self._processes)))
            self._turn()
        for name in list(self._cut):
            self._heal(name)
        for _ in range(int(2 * BOUND_S / STEP_S)):
            self._now += STEP_S
            self._turn(sure=True)
        self._finish()
        self.history.sort(key=lambda event: event.at)
        return self.history

    def _start(self, name: str, incarnation: int) -> _Process:
        self.history.append(NodeStarted(at=self._now, node=name, incarnation=incarnation))
        log = AnswerLog(self.history.append, node=name, incarnation=incarnation)
        return _Process(name, incarnation, self._now, log)

    def _revoke(self, token: str) -> None:
        state = self._random.choice(_STATES)
        asked_at = self._now
        answered_at = asked_at + STEP_S * self._random.randrange(3)
        visible_at = asked_at + (answered_at - asked_at) * self._random.choice((0, 1))
        if state == "stored":
            visible_at = answered_at + STEP_S * self._random.randrange(20)
        in_log = state in ("acknowledged", "stored") or (state == "unknown" and self._random.random() < 0.5)
        if in_log:
            self._records.append(_Record(token, visible_at))
        until = asked_at + self._random.choice((4.0, 1000.0))
        self._exp[token] = until
        self.history.append(
            Revoked(
                at=answered_at,
                asked_at=asked_at,
                tokens=(token,),
                state=state,
                exp=until + WALL_OFFSET_S,
                by=SERVICE,
                incarnation=1,
            )
        )

    def _erase_log(self) -> None:
        """From now on the log holds nothing that was asked for before; what is on its way arrives in the new one."""
        began_at, ended_at = self._now, self._now + STEP_S
        self._records = [one for one in self._records if one.visible_at > ended_at]
        self.history.append(Erased(at=ended_at, how="topic_replaced", began_at=began_at, ended_at=ended_at))

    def _disturb(self, name: str) -> None:
        if name in self._cut:
            self._heal(name)
        elif self._random.random() < 0.5:
            self._cut[name] = self._now
        else:
            old = self._processes[name]
            old.log.summarize()
            self.history.append(NodeStopped(at=self._now, node=name, incarnation=old.incarnation, how="killed"))
            self._processes[name] = self._start(name, old.incarnation + 1)

    def _heal(self, name: str) -> None:
        began_at = self._cut.pop(name)
        self.history.append(
            Fault(
                at=self._now,
                kind="cut",
                target=name,
                began_at=began_at,
                ended_at=self._now,
                verified=True,
                blinds=(name,),
            )
        )
        self.history.append(Recovered(at=self._now, kind="cut", seconds=STEP_S))

    def _turn(self, *, sure: bool = False) -> None:
        for process in self._processes.values():
            if process.name not in self._cut and (sure or self._random.random() < 0.7):
                self._synchronize(process, lag_s=0.0 if sure else STEP_S * self._random.randrange(6))
            self._note_state(process)
            for token in (*self._tokens, *self._controls):
                if self._random.random() < 0.3:
                    self._ask(process, token)
            if self._random.random() < 0.1:
                process.log.summarize()

    def _synchronize(self, process: _Process, *, lag_s: float) -> None:
        synced_at = max(process.synced_at, self._now - lag_s)
        process.known |= {one.token for one in self._records if one.visible_at <= synced_at}
        process.synced_at = synced_at

    def _is_live(self, process: _Process) -> bool:
        return process.synced_at >= process.started_at and self._now < process.synced_at + BOUND_S

    def _note_state(self, process: _Process) -> None:
        live = self._is_live(process)
        if live != process.live:
            process.live = live
            event = NodeReady if live else NodeStale
            self.history.append(event(at=self._now, node=process.name, incarnation=process.incarnation))

    def _answer(self, process: _Process, token: str) -> Answer:
        if self._now >= self._exp.get(token, self._now + 1):
            return "invalid"
        if token in process.known:
            return "denied"
        return "allowed" if self._is_live(process) else "unknown"

    def _ask(self, process: _Process, token: str) -> None:
        process.log.saw(
            token,
            self._answer(process, token),
            asked_at=self._now,
            answered_at=self._now,
            proved_at=process.synced_at,
        )

    def _finish(self) -> None:
        for process in self._processes.values():
            process.log.summarize()
            answers: dict[Answer, list[str]] = {"denied": [], "allowed": [], "unknown": [], "invalid": []}
            for token in (*self._tokens, *self._controls):
                answers[self._answer(process, token)].append(token)
            self.history.append(
                Final(
                    at=self._now,
                    node=process.name,
                    incarnation=process.incarnation,
                    asked_at=self._now,
                    denied=tuple(answers["denied"]),
                    allowed=tuple(answers["allowed"]),
                    unknown=tuple(answers["unknown"]),
                    invalid=tuple(answers["invalid"]),
                )
            )


def fleet_history(seed: int, *, erase: bool = False) -> list[Event]:
    """A history in which every promise was kept."""
    return Fleet(seed, erase=erase).run()

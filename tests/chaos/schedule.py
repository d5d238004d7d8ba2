"""Which faults, when, on what, for how long: drawn from a seed before anything runs. Pure.

The same seed and number give the same schedule on every machine and Python. What the machine makes of it differs in
time, never in what is attempted: a fault waits for its targets, so a slow restart delays and changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["BROKERS", "KINDS", "NODES", "Fault", "Round", "schedule"]

BROKERS: Final = (1, 2, 3)
NODES: Final = (1, 2, 3, 4, 5)

#: How often each kind is drawn, relative to the others. Faults of the whole topic stop the load for seconds, and an
#: undecodable record costs a restart of the fleet, so they are rarer.
KINDS: Final[Mapping[str, int]] = {
    "broker-kill": 10,
    "broker-pause": 8,
    "broker-cut-off": 5,
    "net-refuse": 6,
    "net-stall": 8,
    "net-half-open": 6,
    "net-lost-ack": 5,
    "net-corrupt": 5,
    "net-slow": 5,
    "net-error": 5,
    "node-kill": 9,
    "node-pause": 6,
    "node-clock": 7,
    "service-kill": 6,
    "service-pause": 3,
    "service-clock": 4,
    "disk-full": 4,
    "records-deleted": 4,
    "topic-emptied": 2,
    "topic-recreated": 3,
    "partition-added": 2,
    "undecodable": 2,
}

_ALL_BROKERS_SHARE: Final = 0.25
_ALONE_SHARE: Final = 0.25
_BLINDING_S: Final = 5.0
_CLOCK_STEPS_S: Final = (-3600, -600, -60, 60, 600, 3600)
#: OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER, UNKNOWN_SERVER_ERROR.
_FETCH_ERRORS: Final = (1, 3, 6, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. ``after_s``: pause since the fault before it began. ``lasts_s``: until it is healed.

    ``targets``: what it strikes, such as ``broker 2``; no two faults strike one target at once. ``alone``: nothing else
    is wrong meanwhile, so that the recovery is its own. ``step_s``: how far a clock is set, seconds; ``code``: Kafka's
    error code in fetch answers; 0 for other kinds.
    """

    number: int
    kind: str
    targets: tuple[str, ...]
    after_s: float
    lasts_s: float
    alone: bool = False
    step_s: int = 0
    code: int = 0

    @property
    def struck(self) -> str:
        """The targets, or what all the fleet shares."""
        return ", ".join(self.targets) or "topic"

    def __str__(self) -> str:
        step = f" by {self.step_s:+d} s" if self.step_s else f" {self.code}" if self.code else ""
        return f"#{self.number} {self.kind}{step} on {self.struck} for {self.lasts_s:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Faults that may overlap, and after them calm until everything has recovered."""

    number: int
    faults: tuple[Fault, ...]


def schedule(*, seed: int, faults: int, per_round: int = 20, kinds: Sequence[str] = tuple(KINDS)) -> tuple[Round, ...]:
    """``faults`` faults in rounds of ``per_round``. Each kind of ``kinds`` comes once before chance decides.

    Raises ValueError for a kind that does not exist.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"no such kind of fault: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    chance = random.Random(f"revoker chaos {seed}")
    first = list(kinds)
    chance.shuffle(first)
    weights = [KINDS[kind] for kind in kinds]
    drawn = (first + chance.choices(kinds, weights=weights, k=faults))[:faults]
    made = [_fault(chance, number, kind) for number, kind in enumerate(drawn, start=1)]
    return tuple(
        Round(number=number, faults=tuple(made[begin : begin + per_round]))
        for number, begin in enumerate(range(0, faults, per_round), start=1)
    )


def _fault(chance: random.Random, number: int, kind: str) -> Fault:
    after_s = round(chance.uniform(0.2, 2.2), 3)
    lasts_s = round(chance.uniform(1.0, 5.0), 3)
    alone = chance.random() < _ALONE_SHARE
    family, _, what = kind.partition("-")
    step_s = code = 0
    match family:
        case "net":
            # Fetches and records go to leaders alone, and chance may have made this broker none.
            everywhere = what in ("corrupt", "error", "lost-ack") or chance.random() < _ALL_BROKERS_SHARE
            targets = tuple(f"network {n}" for n in (BROKERS if everywhere else (chance.choice(BROKERS),)))
            code = chance.choice(_FETCH_ERRORS) if what == "error" else 0
            # Longer than the nodes' bound: they have to stop calling themselves up to date.
            lasts_s += _BLINDING_S if everywhere and what in ("refuse", "stall", "half-open") else 0
        case "broker":
            one = chance.choice(BROKERS)
            # One cut off for less than its session is not missed, and two at once cannot be told apart.
            targets = (f"broker {one}", *(f"broker {n}" for n in BROKERS if n != one and what == "cut-off"))
            lasts_s += 3.5 if what == "cut-off" else 0
        case "node":
            targets = (f"node {chance.choice(NODES)}",)
            step_s = chance.choice(_CLOCK_STEPS_S) if what == "clock" else 0
        case "service":
            targets = ("service",)
            # Within the fleet's clock margin: a publisher that is further off breaks the contract, and dates its
            # cut-offs and expiries wrongly.
            step_s = chance.choice((-3, -2, 2, 3)) if what == "clock" else 0
        case "disk":
            targets = ("disk",)
        case _:
            # The operator's acts need every broker and, to be judged, every node: nothing else strikes meanwhile.
            targets, alone = (), True
    return Fault(
        number=number,
        kind=kind,
        targets=targets,
        after_s=after_s,
        lasts_s=round(lasts_s, 3),
        alone=alone,
        step_s=step_s,
        code=code,
    )

"""The events of a history that a violation follows from: few enough to read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from tests.chaos.history import (
    Answered,
    Erased,
    Event,
    Fault,
    Final,
    NodeException,
    NodeReady,
    NodeStale,
    NodeStarted,
    NodeStopped,
    Revoked,
    ServiceStarted,
    ServiceStopped,
)

__all__ = ["excerpt"]

_MOST_ANSWERS = 12
_MOST_OTHERS = 12


def excerpt(history: Iterable[Event], *, node: str, token: str, until_at: float) -> tuple[Event, ...]:
    """What was asked for and answered about ``token``, the life of ``node``, and the last faults, up to ``until_at``.

    ``history`` in order. Empty ``node`` or ``token``: of nobody, of none.
    """
    asked: deque[Event] = deque(maxlen=_MOST_OTHERS)
    answers: deque[Event] = deque(maxlen=_MOST_ANSWERS)
    first_denials: dict[tuple[str, int], Event] = {}
    life: deque[Event] = deque(maxlen=_MOST_OTHERS)
    faults: deque[Event] = deque(maxlen=_MOST_OTHERS)
    for event in history:
        if isinstance(event, Fault | Erased):
            if event.began_at <= until_at:
                faults.append(event)
        elif event.at > until_at:
            continue
        elif isinstance(event, Answered):
            if event.token == token and event.node == node:
                answers.append(event)
            elif event.token == token and event.answer == "denied":
                first_denials.setdefault((event.node, event.incarnation), event)
        elif isinstance(event, Revoked) and token in event.tokens:
            asked.append(event)
        elif _is_life(event, node):
            # A final answer lists every token: only the one in question is of interest.
            life.append(_about(event, token) if isinstance(event, Final) else event)
    chosen = {id(one): one for one in (*asked, *answers, *first_denials.values(), *life, *faults)}
    return tuple(sorted(chosen.values(), key=lambda event: event.at))


def _is_life(event: Event, node: str) -> bool:
    if isinstance(event, NodeStarted | NodeReady | NodeStale | NodeStopped | NodeException | Final):
        return event.node == node
    return isinstance(event, ServiceStarted | ServiceStopped)


def _about(final: Final, token: str) -> Final:
    def only(tokens: tuple[str, ...]) -> tuple[str, ...]:
        return (token,) if token in tokens else ()

    return Final(
        at=final.at,
        node=final.node,
        incarnation=final.incarnation,
        asked_at=final.asked_at,
        denied=only(final.denied),
        allowed=only(final.allowed),
        unknown=only(final.unknown),
        invalid=only(final.invalid),
    )

"""What a fault came to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Effect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """``began_at``: when it certainly was in effect, ``ended_at``: just before it was lifted; monotonic seconds.

    ``verified``: its effect was observed. ``healed_by_itself``: the cluster need not wait for the fault to be lifted.
    ``blinds``: nodes that got no honest answer meanwhile.
    """

    began_at: float
    ended_at: float
    verified: bool
    healed_by_itself: bool = False
    detail: str = ""
    blinds: tuple[str, ...] = ()

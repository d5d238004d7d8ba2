"""Readiness is not inherited: a child of a fork has none of its parent's tasks, and nothing would tell it."""

from __future__ import annotations

import os
import weakref

from consumers.freshness import Freshness

__all__ = ["stop_in_children"]

_watched: weakref.WeakSet[Freshness] = weakref.WeakSet()


def stop_in_children(freshness: Freshness) -> None:
    """Have ``freshness`` stop in every child that this process forks from here on."""
    _watched.add(freshness)


def _forked() -> None:
    for freshness in _watched:
        freshness.stop(f"process {os.getpid()} forked away from its follower: start a node in each worker process")


os.register_at_fork(after_in_child=_forked)

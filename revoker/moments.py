"""Unix seconds as people and other programs read them: RFC 3339, UTC, with a Z."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["rfc3339"]


def rfc3339(seconds: float, *, milliseconds: bool = False) -> str:
    """``2026-11-24T14:00:00Z``; fractions are cut off, or kept to the millisecond."""
    timespec = "milliseconds" if milliseconds else "seconds"
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec)[:-6] + "Z"

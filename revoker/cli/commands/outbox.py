"""``revoker outbox``: what is accepted and not in the topic yet."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from revoker import record
from revoker.cli.options import Command, settings_options
from revoker.cli.output import Output, output_options, rfc3339, table
from revoker.cli.presented import selector_fields
from revoker.errors import SettingsError
from revoker.events import Revocation
from revoker.outbox.file import Counts, Waiting, read
from revoker.settings import Settings

__all__ = ["command"]


@click.command("outbox", cls=Command, short_help="What waits in the outbox for Kafka.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="List so many, the oldest first."
)
@output_options
@settings_options(("outbox_file",), quiet=True)
def command(*, limit: int, settings: Settings, output: Output) -> None:
    """List the revocations in the outbox: accepted, and not in the topic yet; how old, how often tried, and why not.

    Reads the file and changes nothing, whether or not a service uses it. Exits 1 if the file cannot be read.
    """
    if settings.outbox_file is None:
        raise SettingsError("outbox_file is unset: name the service's file, --outbox-file PATH")
    counts, waiting = read(Path(settings.outbox_file), limit=limit)
    now = time.time()
    fields = {
        "file": settings.outbox_file,
        "waiting": counts.waiting,
        "set_aside": counts.set_aside,
        "oldest_age_s": None if counts.oldest_at is None else _age_s(counts.oldest_at, now),
        "events": [_fields(one, now) for one in waiting],
    }
    output.write(fields, lambda: _words(counts, waiting, now))


def _age_s(stored_at: float, now: float) -> float:
    return round(max(0.0, now - stored_at), 3)


def _fields(one: Waiting, now: float) -> dict[str, Any]:
    event = record.decode(one.value)
    selector = event.selector if isinstance(event, Revocation) else None
    return {
        "id": one.event_id,
        "kind": selector and selector.kind,
        "selector": selector and selector_fields(selector),
        "stored_at": rfc3339(round(one.stored_at, 3)),
        "age_s": _age_s(one.stored_at, now),
        "expires_at": rfc3339(one.expires_at),
        "attempts": one.attempts,
        "problem": one.problem,
        "set_aside": one.set_aside,
    }


def _words(counts: Counts, waiting: list[Waiting], now: float) -> str:
    if not counts.waiting:
        return "nothing waits"
    aside = f", {counts.set_aside} of them set aside: the broker refuses the record" if counts.set_aside else ""
    parts = [f"{counts.waiting} wait{aside}"]
    if waiting:
        shown = [(one, _fields(one, now)) for one in waiting]
        rows = [
            (one.event_id, fields["kind"], f"{fields['age_s']:.0f} s", one.attempts, one.problem or "not tried yet")
            for one, fields in shown
        ]
        parts.append(table(("event", "kind", "age", "attempts", "why"), rows))
    if len(waiting) < counts.waiting:
        parts.append(f"and {counts.waiting - len(waiting)} more (--limit)")
    return "\n\n".join(parts)

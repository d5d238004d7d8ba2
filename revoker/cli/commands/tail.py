"""``revoker tail``: revocations as they come."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import click

from consumers.intake import RawRecord
from consumers.provenance import Provenance
from revoker.cli.exits import Exit
from revoker.cli.options import FOLLOWING, Command, settings_options
from revoker.cli.output import Output, clean, output_options, progress_bar, rfc3339
from revoker.cli.presented import selector_fields
from revoker.cli.reading import Reading, Tail, look_first
from revoker.cli.running import stop_signals
from revoker.errors import NotProven
from revoker.events import Heartbeat, Revocation
from revoker.record import Undecodable
from revoker.settings import Settings
from revoker.trust import Refusal

__all__ = ["command"]

_SHOW_EVERY_S = 0.1


@click.command("tail", cls=Command, short_help="Follow revocations as they arrive.")
@click.option("--from-beginning", is_flag=True, help="Print what is in the topic already, too.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many.  [default: go on until stopped]")
@output_options
@settings_options(FOLLOWING, quiet=True)
@click.pass_context
def command(
    context: click.Context, *, from_beginning: bool, limit: int | None, settings: Settings, output: Output
) -> None:
    """Print every revocation as it arrives, one a line, and every record that could not be decoded.

    With trusted_publishers_file also who signed it, or why nodes refuse it.

    A lost broker is reported and waited for; nothing is printed twice. SIGTERM exits 0.
    """
    settings = replace(settings, tolerate_undecodable=True, topic_check="lenient")
    context.exit(asyncio.run(_tail(settings, output, from_beginning=from_beginning, limit=limit)))


async def _tail(settings: Settings, output: Output, *, from_beginning: bool, limit: int | None) -> Exit:
    printed = 0
    finished: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    def show_record(
        record: RawRecord, event: Revocation | Heartbeat | Undecodable, origin: str | Refusal | None
    ) -> None:
        nonlocal printed
        if finished.done():
            return
        try:
            output.write(
                event_fields(record, event) | origin_fields(origin),
                lambda: _words(record, event) + _origin_words(origin),
            )
        except OSError as error:  # the reader has gone: not the follower's trouble, which would start over
            finished.set_exception(error)
            return
        printed += 1
        if printed == limit:
            finished.set_result(Exit.OK)

    await look_first(settings)
    provenance = Provenance.from_settings(settings)
    tail = Tail(printed=show_record, from_beginning=from_beginning, provenance=provenance)
    with stop_signals() as stopped:
        async with Reading(settings, tail=tail) as reading:
            caught_up = asyncio.create_task(_until_caught_up(reading, quiet=from_beginning))
            try:
                await asyncio.wait((stopped, finished), return_when=asyncio.FIRST_COMPLETED)
            finally:
                caught_up.cancel()
    return finished.result() if finished.done() else stopped.result()


async def _until_caught_up(reading: Reading, *, quiet: bool) -> None:
    """The bar while the past is read over; not where the past itself is printed."""
    if quiet:
        return
    with progress_bar("reading the topic") as show:
        while True:
            try:
                await reading.until_live(timeout_s=_SHOW_EVERY_S, show=show)
            except NotProven:
                continue
            return


def event_fields(record: RawRecord, event: Revocation | Heartbeat | Undecodable) -> dict[str, Any]:
    """One record as a JSON object."""
    fields: dict[str, Any] = {
        "time": rfc3339(record.timestamp / 1000) if record.timestamp >= 0 else None,
        "partition": record.partition,
        "offset": record.offset,
    }
    if isinstance(event, Undecodable):
        return fields | {"event": "undecodable", "category": event.category, "detail": event.detail}
    if isinstance(event, Heartbeat):
        return fields | {"event": "heartbeat", "id": event.id, "sent_at": rfc3339(event.sent_at)}
    return fields | {
        "event": "withdrawal" if event.selector.kind == "withdrawal" else "revocation",
        "kind": event.selector.kind,
        "selector": selector_fields(event.selector),
        "id": event.id,
        "cutoff": rfc3339(event.cutoff),
        "revoked_at": rfc3339(event.revoked_at),
        "expires_at": rfc3339(event.expires_at),
        "reason": event.reason,
        "actor": event.actor,
    }


def origin_fields(origin: str | Refusal | None) -> dict[str, Any]:
    """Who signed a record, or why it does not count, as further fields of its JSON object."""
    if origin is None:
        return {}
    if isinstance(origin, Refusal):
        return {"signed_by": None, "refused": origin.reason, "refused_detail": origin.detail}
    return {"signed_by": origin, "refused": None}


def _origin_words(origin: str | Refusal | None) -> str:
    if isinstance(origin, Refusal):
        return f"  {click.style('refused', fg='red')}  {origin.reason}: {clean(origin.detail)}"
    return "" if origin is None else f"  signed by {origin}"


def _words(record: RawRecord, event: Revocation | Heartbeat | Undecodable) -> str:
    fields = event_fields(record, event)
    where = f"{fields['time'] or '-':<24}  {record.partition}/{record.offset:<8}"
    if isinstance(event, Undecodable):
        return f"{where}  {click.style('undecodable', fg='red')}  {event.category}: {clean(event.detail)}"
    if isinstance(event, Heartbeat):
        return f"{where}  {click.style('heartbeat', dim=True)}   {clean(event.id)}"
    words = [f"{name}={value}" for name, value in fields["selector"].items()]
    words += [f"{name}={fields[name]}" for name in ("cutoff", "reason", "actor", "id") if fields[name] is not None]
    return f"{where}  {click.style(f'{event.selector.kind:<10}', bold=True)}  {clean('  '.join(words))}"

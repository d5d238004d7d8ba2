"""``revoker replay``: what is in the topic, and what of it is in force."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import click

from consumers.denylist import FOREVER, Entry
from consumers.guard import Decision
from consumers.provenance import Provenance
from revoker.cli.exits import Exit
from revoker.cli.options import FOLLOWING, TOKENS, Command, settings_options
from revoker.cli.output import Output, clean, output_options, progress_bar, rfc3339, table
from revoker.cli.presented import presented, token_text
from revoker.cli.reading import Reading, decision_fields, decision_words, exit_of, look_first
from revoker.errors import NotProven
from revoker.events import KINDS
from revoker.settings import Settings
from revoker.tokens import Verified
from revoker.trust import filed_under

__all__ = ["command"]


@click.command("replay", cls=Command, short_help="What is in the topic, and in force.")
@click.option("--token", callback=token_text, help="Ask about this token; - reads it from standard input.")
@click.option("--iss", help="Ask about tokens of this issuer.  [default: the setting issuer]")
@click.option("--jti", help="Ask about the token with this jti.")
@click.option("--sub", help="Ask about tokens of this subject.")
@click.option("--sid", help="Ask about tokens of this session.")
@click.option("--client-id", help="Ask about tokens of this client.")
@click.option("--kid", help="Ask about tokens signed with this key.")
@click.option(
    "--iat", type=int, help="When the token asked about was issued, Unix seconds.  [default: before any cut-off]"
)
@click.option("--timeout", "timeout_s", type=float, default=300.0, show_default=True, help="Seconds it may take.")
@output_options
@settings_options(FOLLOWING, TOKENS, quiet=True)
@click.pass_context
def command(
    context: click.Context, /, *, token: str | None, timeout_s: float, settings: Settings, output: Output, **asked: Any
) -> None:
    """Read the whole topic once and print what is in force, by kind.

    Also: the offsets of each partition, every wide rule with the event id that withdraws it, what could not be decoded,
    records refused for their signature (setting trusted_publishers_file), and cut-offs that were clamped. Undecodable
    records and a topic that breaks its contract are reported, not refused.

    Asked about a token, or about a jti, sub, sid, client or kid, exits 1 if it is revoked. Exits 3 if the end was not
    reached in time.
    """
    about = {name: value for name, value in asked.items() if value is not None}
    if token is not None and about:
        raise click.UsageError("--token already says which token is meant: leave out the others")
    if not {"jti", "sub", "sid", "client_id", "kid"} & about.keys() and about:
        raise click.UsageError("--iss and --iat narrow a question: add --jti, --sub, --sid, --client-id or --kid")
    found = asyncio.run(_replay(settings, token=token, about=about, timeout_s=timeout_s))
    output.write(_fields(found), lambda: _words(found))
    if found.problem is not None:
        click.echo(f"revoker: {found.problem}", err=True)
        context.exit(Exit.UNKNOWN)
    context.exit(Exit.OK if found.decision is None else exit_of(found.decision))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """``problem``: why the end was not reached, None if it was. ``decision``: about what was asked, if anything was."""

    reading: Reading
    took_s: float
    in_force: dict[str, int]
    wide: tuple[Entry, ...]
    problem: str | None
    decision: Decision | None
    verified: bool


async def _replay(settings: Settings, *, token: str | None, about: dict[str, Any], timeout_s: float) -> _Found:
    asked, verified = None, False
    if token is not None:
        asked, verified = await presented(settings, token, unverified=True)
    elif about:
        asked = _described(settings, about)
    # Someone who looks for what is wrong with a topic must not be turned away by it.
    settings = replace(settings, tolerate_undecodable=True, topic_check="lenient")
    await look_first(settings)
    began = time.monotonic()
    problem = None
    with progress_bar("replaying") as show:
        async with Reading(settings) as reading:
            try:
                await reading.until_live(timeout_s=timeout_s, show=show)
            except NotProven as error:
                problem = str(error)
            took_s = time.monotonic() - began
            decision = None if asked is None else reading.judge(asked)
            as_found = list(reading.in_force())
    counts = Counter(entry.key[0] for entry in as_found)
    return _Found(
        reading=reading,
        took_s=took_s,
        in_force={kind: counts[kind] for kind in KINDS if kind != "withdrawal"},
        wide=tuple(entry for entry in as_found if entry.event_id is not None),
        problem=problem,
        decision=decision,
        verified=verified,
    )


def _described(settings: Settings, about: dict[str, Any]) -> Verified:
    """The token an operator described. What was not said matches nothing: its text no digest, its key no rule."""
    claims = {name: value for name, value in about.items() if name != "kid"}
    claims.setdefault("iss", settings.issuer or "")
    return Verified(claims=claims, kid=about.get("kid", ""), raw="")


def _fields(found: _Found) -> dict[str, Any]:
    reading = found.reading
    view, intake, bounds = reading.follower.view, reading.intake, reading.freshness
    report = reading.follower.report
    return {
        "topic": reading.settings.topic,
        "topic_id": None if view is None else str(view.topic_id),
        "complete": found.problem is None,
        "as_of": rfc3339(bounds.as_of),
        "records": bounds.progress.records,
        "took_s": round(found.took_s, 3),
        "in_force": found.in_force,
        "wide_rules": [_rule_fields(entry, signed=intake.provenance is not None) for entry in found.wide],
        "partitions": [
            {"partition": number, "first": bounds.starts[number], "next": next_offset}
            for number, next_offset in sorted(bounds.positions.items())
        ],
        "undecodable": {
            "total": intake.missed,
            "last": [
                {
                    "partition": one.partition,
                    "offset": one.offset,
                    "time": rfc3339(one.timestamp_ms / 1000) if one.timestamp_ms >= 0 else None,
                    "category": one.category,
                    "detail": one.detail,
                }
                for one in intake.unread
            ],
        },
        "refused": _refused_fields(intake.provenance),
        "clamped_cutoffs": intake.clamped_total,
        "contract_broken": [] if report is None else [str(violation) for violation in report.losing],
        "asked": None if found.decision is None else decision_fields(found.decision) | {"verified": found.verified},
    }


def _refused_fields(provenance: Provenance | None) -> dict[str, Any] | None:
    """None where signatures are not required."""
    if provenance is None:
        return None
    return {
        "by_reason": provenance.refused_by_reason,
        "last": [
            {
                "partition": one.partition,
                "offset": one.offset,
                "time": rfc3339(one.timestamp_ms / 1000) if one.timestamp_ms >= 0 else None,
                "reason": one.reason,
                "detail": one.detail,
            }
            for one in provenance.refused
        ],
    }


def _rule_fields(entry: Entry, *, signed: bool) -> dict[str, Any]:
    publisher, event_id = filed_under(entry.event_id or "") if signed else (None, entry.event_id)
    return {
        "kind": entry.key[0],
        "selector": list(entry.key[1:]),
        "cutoff": None if entry.cutoff == FOREVER else rfc3339(entry.cutoff),
        "expires_at": rfc3339(entry.expires_at),
        "event_id": event_id,
    } | ({"signed_by": publisher} if signed else {})


def _words(found: _Found) -> str:
    fields = _fields(found)
    known = fields["as_of"] or "(unproven)"
    parts = [f"{fields['records']:,} records in {fields['took_s']:.1f} s; all acknowledged before {known} is in them"]
    in_force = [(kind, f"{count:,}") for kind, count in found.in_force.items() if count]
    parts.append(table(("in force", "entries"), in_force) if in_force else "nothing is in force")
    if found.wide:
        rules = [
            (one["kind"], " ".join(one["selector"]), one["cutoff"] or "any time", one["expires_at"], one["event_id"])
            for one in fields["wide_rules"]
        ]
        parts.append(table(("wide rule", "selector", "issued until", "kept until", "withdraw by event id"), rules))
    offsets = [(one["partition"], one["first"], one["next"]) for one in fields["partitions"]]
    parts.append(table(("partition", "first offset", "next offset"), offsets))
    if unread := fields["undecodable"]["last"]:
        parts.append(
            click.style(f"{fields['undecodable']['total']:,} records could not be decoded; the last:", fg="red")
        )
        rows = [(one["partition"], one["offset"], one["time"], one["category"], one["detail"]) for one in unread]
        parts.append(table(("partition", "offset", "time", "category", "detail"), rows))
    if fields["refused"] and (refused := fields["refused"]["last"]):
        counts = ", ".join(f"{count:,} {reason}" for reason, count in fields["refused"]["by_reason"].items())
        parts.append(click.style(f"records refused: {counts}; the last:", fg="red"))
        rows = [(one["partition"], one["offset"], one["time"], one["reason"], one["detail"]) for one in refused]
        parts.append(table(("partition", "offset", "time", "reason", "detail"), rows))
    if fields["clamped_cutoffs"]:
        parts.append(f"{fields['clamped_cutoffs']} cut-offs lay too far in the future and were clamped")
    parts += [click.style(f"contract broken: {clean(text)}", fg="red") for text in fields["contract_broken"]]
    if found.decision is not None:
        parts.append(decision_words(found.decision))
    return "\n\n".join(parts)

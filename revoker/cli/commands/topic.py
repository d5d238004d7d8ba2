"""``revoker topic create|check``: the topic and its contract."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from revoker.cli.exits import Exit
from revoker.cli.options import CONTRACT, KAFKA, KEEPING, Command, settings_options
from revoker.cli.output import Output, clean, output_options, table
from revoker.settings import Settings
from revoker.topic import Report, check, create

__all__ = ["command"]

_COLOURS = {"loss": "red", "unproven": "yellow", "advice": "cyan"}


@click.group("topic", short_help="Make the topic, or check that it keeps revocations.")
def command() -> None:
    """Make the topic, or check that it keeps revocations."""


@command.command("create", cls=Command)
@output_options
@settings_options(KAFKA, CONTRACT, KEEPING, quiet=True)
@click.pass_context
def create_command(context: click.Context, *, settings: Settings, output: Output) -> None:
    """Make the topic with the settings of its contract.

    A topic that exists is left as it is and checked. Exits 1 if it would lose revocations.
    """
    result = asyncio.run(create(settings))
    said = "made" if result.created else "exists already, and was left as it is"
    _write(output, settings, result.report, {"created": result.created}, f"topic {settings.topic}: {said}")
    context.exit(Exit.NO if result.report.losing else Exit.OK)


@command.command("check", cls=Command)
@output_options
@settings_options(KAFKA, CONTRACT, KEEPING, quiet=True)
@click.pass_context
def check_command(context: click.Context, *, settings: Settings, output: Output) -> None:
    """Say which settings of the topic would lose revocations, what each would lose, and the cure.

    Exits 0 if none would; what the brokers do not tell is listed as unproven and does not fail the check.
    """
    report = asyncio.run(check(settings))
    _write(output, settings, report, {}, f"topic {settings.topic}")
    context.exit(Exit.NO if report.losing else Exit.OK)


def _write(output: Output, settings: Settings, report: Report, further: dict[str, Any], heading: str) -> None:
    view = report.view
    partitions = [
        {
            "partition": number,
            "leader": one.leader,
            "leader_epoch": one.leader_epoch,
            "replicas": list(one.replicas),
            "in_sync": list(one.isr),
        }
        for number, one in sorted(view.partitions.items())
    ]
    fields = {
        "topic": settings.topic,
        "topic_id": str(view.topic_id),
        "cluster_id": view.cluster_id,
        **further,
        "keeps_contract": not report.losing,
        "partitions": partitions,
        "rights": None if view.rights is None else sorted(view.rights),
        "violations": [
            {
                "severity": one.severity,
                "setting": one.setting,
                "actual": one.actual,
                "wanted": one.wanted,
                "loses": one.loses,
                "cure": one.cure,
            }
            for one in report.violations
        ],
    }
    output.write(fields, lambda: _words(report, partitions, heading))


def _words(report: Report, partitions: list[dict[str, Any]], heading: str) -> str:
    rows = [
        (one["partition"], one["leader"], ",".join(map(str, one["replicas"])), ",".join(map(str, one["in_sync"])))
        for one in partitions
    ]
    parts = [heading, table(("partition", "leader", "replicas", "in sync"), rows)]
    for one in report.violations:
        was = "unknown" if one.actual is None else one.actual
        parts.append(
            f"{click.style(one.severity, fg=_COLOURS[one.severity], bold=True)}: {clean(f'{one.setting} is {was}')}, "
            f"must be {one.wanted}\n  {clean(one.loses)}\n  cure: {clean(one.cure)}"
        )
    parts.append("keeps its contract" if not report.losing else "would lose revocations")
    return "\n\n".join(parts)

"""``revoker topic create|check|acl``: the topic, its contract, and who may do what with it."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from revoker.cli.exits import Exit
from revoker.cli.options import CONTRACT, KAFKA, KEEPING, Command, settings_options
from revoker.cli.output import Output, clean, output_options, table
from revoker.cluster import lacking
from revoker.rights import Right, apply, least, remove
from revoker.settings import Settings
from revoker.topic import Report, check, create

__all__ = ["command"]

_COLOURS = {"loss": "red", "unproven": "yellow", "advice": "cyan"}


@click.group("topic", short_help="Make the topic, check that it keeps revocations, and say who needs which right.")
def command() -> None:
    """Make the topic, check that it keeps revocations, and say who needs which right on it."""


@command.command("create", cls=Command)
@output_options
@settings_options(KAFKA, CONTRACT, KEEPING, quiet=True)
@click.pass_context
def create_command(context: click.Context, *, settings: Settings, output: Output) -> None:
    """Make the topic with the settings of its contract.

    A topic that exists is left as it is and checked. Exits 1 if it would lose revocations, 4 if this user may not make
    or check it.
    """
    result = asyncio.run(create(settings))
    said = "made" if result.created else "exists already, and was left as it is"
    _write(output, settings, result.report, {"created": result.created}, f"topic {settings.topic}: {said}")
    context.exit(_exit_of(result.report))


@command.command("check", cls=Command)
@output_options
@settings_options(KAFKA, CONTRACT, KEEPING, quiet=True)
@click.pass_context
def check_command(context: click.Context, *, settings: Settings, output: Output) -> None:
    """Say which settings of the topic would lose revocations, what each would lose, and the cure.

    Exits 0 if none would; what the brokers do not tell is listed as unproven and does not fail the check. Exits 4 if
    this user may not ask.
    """
    report = asyncio.run(check(settings))
    _write(output, settings, report, {}, f"topic {settings.topic}")
    context.exit(_exit_of(report))


@command.command("acl", cls=Command)
@click.option("--publisher", "publishers", multiple=True, metavar="USER", help="Who publishes; may be given again.")
@click.option("--node", "nodes", multiple=True, metavar="USER", help="Who reads the topic: nodes, and the service too.")
@click.option("--operator", "operators", multiple=True, metavar="USER", help="Who makes and checks the topic.")
@click.option("--apply", "how", flag_value="apply", help="Grant these rights now.")
@click.option("--remove", "how", flag_value="remove", help="Take these rights back now.")
@output_options
@settings_options(KAFKA, quiet=True)
@click.pass_context
def acl_command(
    context: click.Context,
    *,
    publishers: tuple[str, ...],
    nodes: tuple[str, ...],
    operators: tuple[str, ...],
    how: str | None,
    settings: Settings,
    output: Output,
) -> None:
    """Print the least rights that these users need, as commands of Kafka's own tool.

    USER is the name a user logs in with, or the distinguished name of its certificate. --apply and --remove need Alter
    on the cluster; without either, nothing is sent. Each right is for any host and this one topic.
    """
    rights = least(settings.topic, publishers=publishers, nodes=nodes, operators=operators)
    if not rights:
        raise click.UsageError("name a user: --publisher, --node or --operator")
    removed = None
    if how == "apply":
        asyncio.run(apply(settings, rights))
    elif how == "remove":
        removed = asyncio.run(remove(settings, rights))
    fields = {
        "topic": settings.topic,
        "done": {"apply": "granted", "remove": "removed"}.get(how or "", "nothing"),
        **({} if removed is None else {"removed": removed}),
        "rights": [_right(settings, one, take=how == "remove") for one in rights],
    }
    output.write(fields, lambda: _rights_in_words(settings, rights, how))
    context.exit(Exit.OK)


def _right(settings: Settings, right: Right, *, take: bool) -> dict[str, Any]:
    return {
        "role": right.role,
        "principal": right.principal,
        "operation": right.operation,
        "resource": "topic",
        "name": right.topic,
        "pattern": "literal",
        "host": "*",
        "why": right.why,
        "command": right.command(settings.kafka_bootstrap_servers, remove=take),
    }


def _rights_in_words(settings: Settings, rights: tuple[Right, ...], how: str | None) -> str:
    if how is not None:
        rows = [(one.role, one.principal, one.operation, one.topic) for one in rights]
        return f"{table(('role', 'principal', 'operation', 'topic'), rows)}\n\n{how}: done"
    lines = []
    for one in rights:
        lines += [f"# {one.role}: to {one.why}", clean(one.command(settings.kafka_bootstrap_servers))]
    return "\n".join(lines)


def _exit_of(report: Report) -> Exit:
    if report.denied is not None and not report.losing:
        raise lacking(report.denied, report.view.topic, so=", so whether it keeps its contract is unknown")
    return Exit.NO if report.losing else Exit.OK


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

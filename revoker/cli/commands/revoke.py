"""``revoker revoke KIND``: one revocation, from the command line."""

from __future__ import annotations

import asyncio
import dataclasses
import getpass
import json
import math
import socket
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from revoker import record
from revoker.cli.exits import Exit
from revoker.cli.options import PUBLISHING, TOKENS, Command, settings_options
from revoker.cli.output import Output, clean, output_options, rfc3339
from revoker.cli.presented import presented, selector_fields, token_text
from revoker.events import KINDS, Digest, Revocation, Selector, Token, Withdrawal
from revoker.publisher import Publisher, Receipt, compose
from revoker.service.confirmation import VALID_S
from revoker.service.preview import preview
from revoker.settings import Settings

__all__ = ["command"]

_FIELD_HELP = {
    "jti": "Its jti.",
    "digest": "SHA-256, lower-case hex, of its header.payload.",
    "sid": "The session's sid.",
    "sub": "The subject's sub.",
    "spare_sid": "Leave out this session.",
    "spare_jti": "Leave out this token.",
    "client_id": "The client's client_id or azp.",
    "claim": "The claim's name.",
    "value": "The claim's value; a list matches if it holds it.",
    "kid": "The key's kid.",
}

_WITHOUT_CUTOFF = frozenset(kind for kind, cls in KINDS.items() if cls.exact) | {"withdrawal"}


@click.group("revoke", short_help="Revoke, or take a wide rule back.")
def command() -> None:
    """Revoke tokens for the whole fleet, or take a wide rule back.

    Returns once every in-sync replica has it. Exits 1 if it is certainly not in the topic, 3 if it may be: then run it
    again, which is harmless.
    """


def _time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Unix seconds, given so or in RFC 3339."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return int(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.BadParameter(f"{value!r} is no time, must be Unix seconds or RFC 3339 such as 2026-01-31T12:00:00Z")
    return math.floor(moment.timestamp())


def _publishing(*, cutoff: bool, tokens: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What every kind takes beside its selector."""
    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option("--reason", metavar="TEXT", help="Why; kept in the topic."),
        click.option(
            "--actor",
            metavar="TEXT",
            default=_this_person,
            show_default="USER@HOST",
            help="By whom; kept in the topic.",
        ),
        click.option("--dry-run", is_flag=True, help="Print the record without sending it."),
        output_options,
        settings_options(PUBLISHING, TOKENS if tokens else ("issuer",), quiet=True),
    ]
    if cutoff:
        options.insert(0, _cutoff_option)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_cutoff_option = click.option(
    "--cutoff",
    callback=_time,
    metavar="TIME",
    help="Tokens issued until then, Unix seconds or RFC 3339.  [default: now]",
)
_iss_option = click.option(
    "--iss", help="Under which issuer; '' for tokens without iss.  [default: the setting issuer]"
)


def _this_person() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user often has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


@command.command("token", cls=Command)
@click.argument("token", callback=token_text, required=False)
@click.option("--jti", help=_FIELD_HELP["jti"])
@_iss_option
@click.option("--exp", callback=_time, metavar="TIME", help="When it expires.  [default: the longest life from now]")
@click.option("--unverified", is_flag=True, help="Take TOKEN at its word where no keys are configured to verify it.")
@_publishing(cutoff=False, tokens=True)
@click.pass_context
def token_command(
    context: click.Context,
    /,
    *,
    token: str | None,
    jti: str | None,
    iss: str | None,
    exp: int | None,
    unverified: bool,
    settings: Settings,
    **further: Any,
) -> None:
    """Revoke one token: TOKEN itself (- reads it from standard input), or its --jti."""
    if (token is None) == (jti is None):
        raise click.UsageError("name the token by TOKEN or by --jti, one of them")
    selector: Token | Digest
    if token is None:
        selector = Token(iss=_issuer(settings, iss), jti=jti or "")
    else:
        if iss is not None or exp is not None:
            raise click.UsageError("TOKEN says itself who issued it and when it expires: leave out --iss and --exp")
        found, _ = asyncio.run(presented(settings, token, unverified=unverified))
        selector, exp = found.selector, None if found.exp is None else math.ceil(found.exp)
    context.exit(_publish(settings, selector, exp=exp, **further))


@command.command("withdrawal", cls=Command)
@click.argument("event_id")
@_publishing(cutoff=False)
@click.pass_context
def withdrawal_command(context: click.Context, /, *, event_id: str, settings: Settings, **further: Any) -> None:
    """Take back the wide rule (client, claim, key, issuer, all) that was published under EVENT_ID.

    `revoker replay` lists them. Revoked tokens, sessions and subjects are final: their users log in again.
    """
    context.exit(_publish(settings, Withdrawal(event_id=event_id), **further))


def _kind_command(kind: str, cls: type[Selector]) -> click.Command:
    """The command of a kind whose options are its selector's fields."""
    names = cls.__struct_fields__

    def run(settings: Settings, iss: str | None = None, yes: bool = False, **given: Any) -> None:
        fields = {name: given.pop(name) for name in names if name != "iss"}
        if "iss" in names:
            fields["iss"] = _issuer(settings, iss)
        click.get_current_context().exit(_publish(settings, cls(**fields), ask=cls.wide and not yes, **given))

    required = cls.__struct_fields__[: len(cls.__struct_fields__) - len(cls.__struct_defaults__)]
    function = _publishing(cutoff=kind not in _WITHOUT_CUTOFF)(run)
    if cls.wide:
        function = click.option("--yes", is_flag=True, help="Publish without showing what it refuses and asking.")(
            function
        )
    for name in reversed(names):
        option = f"--{name.replace('_', '-')}"
        add = _iss_option if name == "iss" else click.option(option, required=name in required, help=_FIELD_HELP[name])
        function = add(function)
    words = (cls.__doc__ or "").replace("``", "").split(" See ")[0]
    return Command(
        kind,
        callback=function,
        params=list(reversed(function.__click_params__)),  # type: ignore[attr-defined]
        help=f"Revoke {words[0].lower()}{words[1:]}",
    )


for _kind, _cls in KINDS.items():
    if _cls not in (Token, Withdrawal):
        command.add_command(_kind_command(_kind, _cls))


def _issuer(settings: Settings, iss: str | None) -> str:
    if iss is not None:
        return iss
    if settings.issuer is None:
        raise click.UsageError("name the issuer: --iss URL, or --iss '' for tokens without iss; or set issuer")
    return settings.issuer


def _confirm(settings: Settings, event: Revocation) -> None:
    """Ask before many users are logged out. What is confirmed is this event, its cut-off included."""
    found = preview(event, own_issuer=settings.issuer)
    lines = [found.words, *(f"  spared: {one}" for one in found.spared), f"  not known: {found.not_known}"]
    question = "\n".join(clean(one) for one in lines)
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question}\nNobody is there to answer: add --yes")
    click.echo(question, err=True)
    if not click.confirm("Go on?", err=True):
        click.echo("revoker: nothing was revoked", err=True)
        click.get_current_context().exit(Exit.NO)
    age_s = math.floor(time.time()) - event.revoked_at
    if age_s > VALID_S:
        # The cut-off is that of the question: by now, others have logged in whom it would spare.
        click.echo(f"revoker: asked {age_s} s ago, so nothing was revoked: run it again", err=True)
        click.get_current_context().exit(Exit.NO)


def _publish(
    settings: Settings,
    selector: Selector,
    *,
    output: Output,
    dry_run: bool,
    ask: bool = False,
    exp: int | None = None,
    cutoff: int | None = None,
    reason: str | None = None,
    actor: str | None = None,
) -> Exit:
    # Composed before connecting: what would not hold is refused without a broker.
    event = compose(
        selector=selector,
        lifetimes=settings.lifetimes,
        now_s=math.floor(time.time()),
        event_id=str(uuid.uuid4()),
        exp=exp,
        cutoff=cutoff,
        reason=reason,
        actor=actor,
    )
    if dry_run:
        key, value, headers = record.encode(event)
        fields = {
            "dry_run": True,
            "topic": settings.topic,
            "key": key.decode(),
            "value": json.loads(value),
            "headers": {name: text.decode() for name, text in headers},
        }
        output.write(fields, lambda: f"key    {clean(key.decode())}\nvalue  {clean(value.decode())}\n(not sent)")
        return Exit.OK
    if ask:
        _confirm(settings, event)
    receipt = asyncio.run(_send(settings, event))
    output.write(_fields(settings, receipt), lambda: _words(receipt))
    return Exit.OK


async def _send(settings: Settings, event: Revocation) -> Receipt:
    # Without the outbox: it is the service's, and this process does not stay to deliver from one.
    publisher = Publisher(dataclasses.replace(settings, outbox_file=None))
    try:
        return await publisher.publish(event)
    finally:
        await publisher.close()


def _fields(settings: Settings, receipt: Receipt) -> dict[str, Any]:
    event = receipt.revocation
    stamped_ms = receipt.timestamp_ms
    return {
        "id": event.id,
        "kind": event.selector.kind,
        "selector": selector_fields(event.selector),
        "state": receipt.state,
        "topic": settings.topic,
        "partition": receipt.partition,
        "offset": receipt.offset,
        "time": rfc3339(stamped_ms / 1000) if stamped_ms is not None and stamped_ms >= 0 else None,
        "cutoff": rfc3339(event.cutoff),
        "expires_at": rfc3339(event.expires_at),
        "took_ms": round(receipt.took_s * 1000, 2),
    }


def _words(receipt: Receipt) -> str:
    event = receipt.revocation
    said = "withdrawn" if event.selector.kind == "withdrawal" else "revoked"
    where = f"partition {receipt.partition} offset {receipt.offset}"
    return (
        f"{said}: acknowledged in {receipt.took_s * 1000:.1f} ms, {where}; "
        f"kept until {rfc3339(event.expires_at)}, event id {event.id}"
    )

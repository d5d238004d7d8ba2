"""``revoker publisher keygen|check``: keys that sign revocations, and the file of publishers whom nodes trust."""

from __future__ import annotations

import os
from typing import Any

import click

from revoker.cli.options import Command
from revoker.cli.output import Output, output_options, rfc3339, table
from revoker.errors import SettingsError
from revoker.events import KINDS
from revoker.seal import toml_entry
from revoker.signature import Signer, new_private_key
from revoker.trust import Scope, TrustedKey
from revoker.trustfile import TrustFile

__all__ = ["command"]


@click.group("publisher", short_help="Make a key that signs revocations, and check whom nodes trust.")
def command() -> None:
    """Make a key that signs revocations, and check the file of publishers whom nodes trust."""


@command.command("keygen", cls=Command)
@click.argument("publisher_id")
@click.argument("file", type=click.Path(dir_okay=False))
@output_options
def keygen_command(*, publisher_id: str, file: str, output: Output) -> None:
    """Make an Ed25519 key for the publisher PUBLISHER_ID and write it to FILE, which must not exist.

    Prints the lines to add to the file of trusted publishers. Publish with the settings publisher_id and
    signing_key_file; to rotate, add the new key's lines on every node first.
    """
    pem = new_private_key()
    # The topic is bound when something is signed, not when the key is made.
    signer = Signer(publisher_id=publisher_id, private_pem=pem, topic="")
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SettingsError(f"{file} cannot be made: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(pem)
    lines = toml_entry(signer)
    output.write(
        {"publisher_id": publisher_id, "kid": signer.key.kid, "signing_key_file": file, "trust": lines},
        f"the private key is in {file}; for the file of trusted publishers:\n\n{lines}",
    )


@command.command("check", cls=Command)
@click.argument("file", type=click.Path(dir_okay=False))
@output_options
def check_command(*, file: str, output: Output) -> None:
    """Read the file of trusted publishers FILE as a node does, and print who may publish what.

    Exits 2, naming the place, if a node could not use it.
    """
    trust = TrustFile(file).trust
    by_publisher = {
        one.id: (one.scope, [key for key in trust.keys.values() if key.publisher == one]) for one in trust.publishers
    }
    output.write(
        {
            "publishers": [
                {"id": name} | _scope_fields(scope) | {"keys": [_key_fields(key) for key in keys]}
                for name, (scope, keys) in by_publisher.items()
            ]
        },
        lambda: table(
            ("publisher", "kinds", "issuers", "claims", "keys"),
            [(name, *_scope_words(scope), len(keys)) for name, (scope, keys) in by_publisher.items()],
        ),
    )


def _scope_fields(scope: Scope) -> dict[str, Any]:
    """None: no limit."""
    return {
        "kinds": [kind for kind in KINDS if kind in scope.kinds],
        "issuers": None if scope.issuers is None else sorted(scope.issuers),
        "claims": None
        if scope.claims is None
        else {name: None if values is None else sorted(values) for name, values in scope.claims.items()},
    }


def _scope_words(scope: Scope) -> tuple[str, str, str]:
    fields = _scope_fields(scope)
    kinds = "every" if scope.kinds == set(KINDS) else " ".join(fields["kinds"]) or "heartbeats only"
    issuers = "every" if fields["issuers"] is None else " ".join(fields["issuers"])
    if "claim" not in scope.kinds:
        return kinds, issuers, "-"
    if fields["claims"] is None:
        return kinds, issuers, "every"
    claims = [f"{name}={'*' if values is None else '|'.join(values)}" for name, values in fields["claims"].items()]
    return kinds, issuers, " ".join(claims)


def _key_fields(key: TrustedKey) -> dict[str, Any]:
    return {
        "kid": key.key.kid,
        "algorithm": key.key.algorithm,
        "not_before": None if key.not_before_ms is None else rfc3339(key.not_before_ms / 1000),
        "not_after": None if key.not_after_ms is None else rfc3339(key.not_after_ms / 1000),
    }

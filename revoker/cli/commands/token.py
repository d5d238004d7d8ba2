"""``revoker token``: a signed token to try things out with."""

from __future__ import annotations

import time
import uuid
from typing import Any

import click

from revoker.algorithms import ALGORITHMS
from revoker.cli.options import TOKENS, Command, settings_options
from revoker.cli.output import Output, rfc3339
from revoker.errors import SettingsError
from revoker.settings import Settings
from revoker.tokens import sign

__all__ = ["command"]


@click.command("token", cls=Command, short_help="Sign a token, for trying out.")
@click.option("--sub", required=True, help="Whose token.")
@click.option("--sid", help="Of which session.  [default: a new one]")
@click.option("--life-s", type=click.IntRange(min=1), default=900, show_default=True, help="Seconds it is valid.")
@click.option("--json", "as_json", is_flag=True, help="Print the claims as well, as JSON.")
@settings_options(TOKENS)
def command(*, sub: str, sid: str | None, life_s: int, as_json: bool, settings: Settings) -> None:
    """Sign a token with the configured secret, to try revoker without an identity provider.

    Only where verification uses a shared secret (HS256, HS384, HS512): whoever can run this could sign tokens anyway.
    """
    algorithm = next((name for name in settings.algorithms if ALGORITHMS.get(name) == "secret"), None)
    if settings.key_secret is None or algorithm is None:
        raise SettingsError(
            "signing needs key_secret and one of HS256, HS384, HS512 in algorithms; with public keys only your "
            "identity provider can sign"
        )
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": sub,
        "sid": sid or str(uuid.uuid4()),
        "jti": str(uuid.uuid4()),
        "iat": now,
        "exp": now + life_s,
    }
    if settings.issuer is not None:
        claims["iss"] = settings.issuer
    if settings.audience:
        claims["aud"] = list(settings.audience)
    text = sign(claims, key=settings.key_secret, algorithm=algorithm)
    # The token alone wherever it goes, since a shell variable is where it mostly does.
    Output(as_json=as_json).write({"token": text, "claims": claims, "expires_at": rfc3339(claims["exp"])}, text)

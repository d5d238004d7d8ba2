"""A token an operator hands over: read, and verified where there are keys to verify with."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
from typing import Any

import click

from revoker.errors import InvalidInput, KeysUnavailable
from revoker.keys import keys_from_settings
from revoker.service.preview import selector_fields
from revoker.settings import Settings
from revoker.tokens import TokenMalformed, Verified, Verifier, signing_input_digest

__all__ = ["has_keys", "presented", "selector_fields", "token_text"]

_POLL_S = 0.02


def token_text(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Callback of what takes a token; ``-`` reads it from standard input, where no process list shows it."""
    if value is None:
        return None
    text = (sys.stdin.read() if value == "-" else value).strip()
    if not text:
        raise click.BadParameter("the token is empty")
    return text


def has_keys(settings: Settings) -> bool:
    """Whether the settings name keys to verify tokens with."""
    return bool(settings.key_secret or settings.key_files or settings.jwks_url)


async def presented(settings: Settings, text: str, *, unverified: bool) -> tuple[Verified, bool]:
    """The token, and whether its signature was checked, which it is wherever the settings name keys.

    ``unverified``: take its word for it where they do not. Raises InvalidInput if that is not allowed, KeysUnavailable
    if the keys cannot be fetched, and ``jwt.InvalidTokenError`` for a token that does not hold.
    """
    if not has_keys(settings):
        if not unverified:
            raise InvalidInput(
                "no keys to verify the token with: set key_secret, key_files or jwks_url; or --unverified, and it is "
                "taken at its word"
            )
        return _at_its_word(text), False
    keys = keys_from_settings(settings)
    verifier = Verifier.from_settings(settings, keys)
    fetching = asyncio.create_task(keys.run(), name="revoker-keys")
    try:
        deadline = time.monotonic() + settings.jwks_timeout_s
        while not keys.ready:
            if fetching.done():
                fetching.result()
            if time.monotonic() > deadline:
                raise KeysUnavailable(keys.problem or f"no keys within {settings.jwks_timeout_s:g} s")
            await asyncio.sleep(_POLL_S)
        return verifier.verify(text), True
    finally:
        fetching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await fetching


def _at_its_word(text: str) -> Verified:
    """The token with its signature unchecked, and the header's ``kid``: for a question, never to admit anybody."""
    signing_input_digest(text)  # for its check of the shape
    header, claims = (_json_object(segment) for segment in text.split(".")[:2])
    kid = header.get("kid")
    return Verified(claims=claims, kid=kid if isinstance(kid, str) else None, raw=text)


def _json_object(segment: str) -> dict[str, Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError) as error:
        raise TokenMalformed(f"the token holds no JSON ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise TokenMalformed("the token holds JSON that is no object")
    return found

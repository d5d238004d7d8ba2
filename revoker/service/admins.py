"""Who may publish which kinds of revocation: the setting admin_tokens, pure.

``NAME:SECRET:KIND+KIND,…``: a name that goes into the audit trail, the bearer token, and the kinds it may publish
(``*`` = all). The secrets are kept as digests alone, and no message quotes any part of an entry: in one that is out of
order any part may be the secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from revoker.errors import SettingsError
from revoker.events import KINDS

__all__ = ["SECRET_MIN_CHARS", "Admin", "admins_from_setting", "identify"]

#: Shortest secret taken. Nothing but its length protects it from guessing over the network.
SECRET_MIN_CHARS: Final = 16

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
#: RFC 6750 section 2.1, ``b64token``, without the slash's rarer neighbours: what fits into a header as it is.
_SECRET: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """One entry. ``kinds``: the words of `revoker.events.KINDS` it may publish."""

    name: str
    kinds: frozenset[str]
    secret_digest: bytes = field(repr=False)


def admins_from_setting(text: str | None) -> tuple[Admin, ...]:
    """The entries of the setting.

    Raises SettingsError saying which entry, counted from 1, is wrong and what would be right.
    """
    admins: list[Admin] = []
    for number, entry in enumerate((text or "").split(","), start=1):
        if not entry.strip():
            continue
        admin = _admin(entry.strip(), where=f"admin_tokens, entry {number}")
        if any(admin.name == other.name for other in admins):
            raise SettingsError(f"admin_tokens, entry {number}: its name is taken by an earlier one")
        if any(admin.secret_digest == other.secret_digest for other in admins):
            raise SettingsError(
                f"admin_tokens, entry {number}: its secret is that of an earlier one, so who acted could not be told"
            )
        admins.append(admin)
    return tuple(admins)


def identify(admins: Sequence[Admin], *, secret: str) -> Admin | None:
    """The admin with this secret, or None. Takes the same time whichever it is, and whether it is one."""
    digest = _digest(secret)
    found = None
    for admin in admins:
        if hmac.compare_digest(admin.secret_digest, digest):
            found = admin
    return found


def _admin(entry: str, *, where: str) -> Admin:
    parts = entry.split(":")
    if len(parts) != 3:
        raise SettingsError(f"{where}: has {len(parts)} parts, must have three: NAME:SECRET:KIND+KIND")
    name, secret, words = (part.strip() for part in parts)
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{where}: its name must be at most 64 letters, digits and . _ @ -")
    if len(secret) < SECRET_MIN_CHARS:
        raise SettingsError(f"{where}: its secret has {len(secret)} characters, must have at least {SECRET_MIN_CHARS}")
    if not _SECRET.fullmatch(secret):
        raise SettingsError(f"{where}: its secret must be letters, digits and - . _ ~ + / (RFC 6750 section 2.1)")
    kinds = frozenset(KINDS) if words == "*" else frozenset(word.strip() for word in words.split("+"))
    if not kinds <= KINDS.keys():
        raise SettingsError(f"{where}: names a kind that does not exist; there are {', '.join(KINDS)}, and * for all")
    return Admin(name=name, kinds=kinds, secret_digest=_digest(secret))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

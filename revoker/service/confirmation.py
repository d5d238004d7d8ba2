"""The confirmation of a wide rule: proof that this admin was shown this very event a moment ago. Without any state.

Any instance of the service takes what another gave out, since all have the same admins: the confirmation carries when
it was given and the id of the event, and a MAC over the whole event and the admin's name. Whoever brings it back with
the same request gets exactly what the preview showed, its cut-off and its id included; so bringing it twice publishes
the same event twice, which changes nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from revoker.events import Revocation
from revoker.expiry import FUTURE_CUTOFF_S
from revoker.service.admins import Admin

__all__ = ["HEADER", "MAX_CHARS", "VALID_S", "Claimed", "Confirmations", "claimed", "untimely"]

#: The request header that brings it back: the body stays the one that was previewed.
HEADER: Final = "Revoker-Confirmation"

#: How long a confirmation can be used, in seconds.
VALID_S: Final = 300

MAX_CHARS: Final = 160

_LABEL: Final = b"revoker wide rule confirmation 1"
#: An admin sees MACs under a key made of everybody's secrets, and might guess at those offline: make each guess dear.
_ROUNDS: Final = 200_000

_SHAPE: Final = re.compile(r"(?P<at>[0-9]{1,12})\.(?P<id>[A-Za-z0-9-]{1,64})\.(?P<mac>[A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What a confirmation says of itself, unproved. ``issued_at``: Unix seconds."""

    issued_at: int
    event_id: str
    mac: str = field(repr=False)


def claimed(text: str) -> Claimed | None:
    """The parts of a confirmation; None if it is none."""
    found = _SHAPE.fullmatch(text)
    return found and Claimed(issued_at=int(found["at"]), event_id=found["id"], mac=found["mac"])


def untimely(said: Claimed, *, now_s: int) -> str | None:
    """Why a confirmation cannot be used at ``now_s``, Unix seconds; None if it can.

    The clock of the instance that gave it out may be ahead of this one's, but not further than a cut-off may lie ahead.
    """
    age_s = now_s - said.issued_at
    if age_s > VALID_S:
        return f"The confirmation was given {age_s} s ago and holds for {VALID_S} s"
    if age_s < -FUTURE_CUTOFF_S:
        return f"The confirmation is dated {-age_s} s ahead of this service's clock"
    return None


class Confirmations:
    """Gives out and recognises confirmations for these admins.

    A change of any admin's secret, name or kinds ends those given out before.
    """

    def __init__(self, admins: Sequence[Admin]) -> None:
        self._admins = tuple(admins)
        self._key: bytes | None = None

    async def issue(self, event: Revocation, *, admin: Admin) -> str:
        """The confirmation that lets ``admin`` publish ``event``; dated by its ``revoked_at``."""
        return f"{event.revoked_at}.{event.id}.{await self._mac(event, admin=admin)}"

    async def holds(self, said: Claimed, *, event: Revocation, admin: Admin) -> bool:
        """Whether ``said`` was given to ``admin`` for ``event``. Takes the same time whichever way it differs."""
        return hmac.compare_digest(said.mac, await self._mac(event, admin=admin))

    async def _mac(self, event: Revocation, *, admin: Admin) -> str:
        if self._key is None:  # two at once derive the same
            self._key = await asyncio.to_thread(_derived, self._admins)
        message = msgspec.json.encode([admin.name, event])
        return base64.urlsafe_b64encode(hmac.digest(self._key, message, "sha256")).decode().rstrip("=")


def _derived(admins: Sequence[Admin]) -> bytes:
    parts = sorted((admin.name, admin.secret_digest.hex(), *sorted(admin.kinds)) for admin in admins)
    return hashlib.pbkdf2_hmac("sha256", msgspec.json.encode(parts), _LABEL, _ROUNDS)

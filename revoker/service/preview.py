"""What a wide rule would refuse, said before it is published: in words and for machines. Pure.

Nothing here is counted or guessed. Tokens are checked by whoever receives them and stored nowhere, so how many a rule
hits is not known to anybody, and the preview says that instead of a number.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from revoker.events import Claim, Client, Everything, Issuer, Key, Revocation, UnixSeconds
from revoker.moments import rfc3339

__all__ = ["Preview", "Reach", "preview", "selector_fields"]

NOT_KNOWN: Final = "how many tokens or users that is: tokens are checked where they arrive and stored nowhere"


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens can be among those refused.

    ``every_issuer``: any issuer's. ``own_issuer``: those of the issuer that this service is set up for (setting
    issuer), your own sessions and your services' among them; null = it is set up for no particular one.
    ``admin_tokens``: those of this API, which are no JWTs: whoever publishes a rule can still withdraw it.
    """

    every_issuer: bool
    own_issuer: bool | None
    admin_tokens: bool = False


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What confirming would publish.

    ``issued_until``: tokens with that ``iat``, an earlier one or none are refused; null = whenever issued.
    ``kept_until``: when the rule is forgotten. ``not_known``: what nobody can say.
    """

    event_id: str
    kind: str
    selector: dict[str, str]
    issued_until: UnixSeconds | None
    kept_until: UnixSeconds
    words: str
    spared: tuple[str, ...]
    reach: Reach
    not_known: str = NOT_KNOWN


def preview(event: Revocation, *, own_issuer: str | None) -> Preview:
    """What ``event``, a wide rule, would refuse. ``own_issuer``: the setting issuer; None = any."""
    selector = event.selector
    everyone = isinstance(selector, Everything)
    iss = getattr(selector, "iss", None)
    spared = []
    if event.cutoff is None:
        issued = "whenever issued"
    else:
        issued = f"issued at {rfc3339(event.cutoff)} or before (their iat), or without iat"
        spared.append(f"tokens issued after {rfc3339(event.cutoff)}: who logs in again goes on")
    if not everyone:
        spared.append("tokens of other issuers")
    spared.append("the admin tokens of the logout service: they are no JWTs, so the rule can be withdrawn")
    return Preview(
        event_id=event.id,
        kind=selector.kind,
        selector=selector_fields(selector),
        issued_until=event.cutoff,
        kept_until=event.expires_at,
        words=f"Until {rfc3339(event.expires_at)} every node refuses {_which(event)}, {issued}",
        spared=tuple(spared),
        reach=Reach(
            every_issuer=everyone,
            own_issuer=True if everyone else None if own_issuer is None else iss == own_issuer,
        ),
    )


def selector_fields(selector: Any) -> dict[str, str]:
    """A selector's fields that are set, its kind aside."""
    return {name: value for name in selector.__struct_fields__ if (value := getattr(selector, name)) is not None}


def _which(event: Revocation) -> str:
    match event.selector:
        case Client(iss=iss, client_id=client_id):
            return f"all tokens {_of(iss)} whose client_id or azp is {client_id!r}"
        case Claim(iss=iss, claim=claim, value=value):
            return f"all tokens {_of(iss)} whose claim {claim!r} is, or contains, {value!r}"
        case Key(iss=iss, kid=kid):
            return f"all tokens {_of(iss)} signed with the key {kid!r} or naming no key"
        case Issuer(iss=iss):
            return f"all tokens {_of(iss)}"
        case Everything():
            return "all tokens of every issuer"
        case other:
            raise ValueError(f"a revocation of kind {other.kind} is not wide")


def _of(iss: str) -> str:
    return f"of the issuer {iss!r}" if iss else "without iss"

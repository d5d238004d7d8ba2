"""A log whose every record can be computed from its offset, so that any process knows what must be in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from consumers.denylist import DenyList, covers
from revoker.events import Client, Digest, Revocation, Session, Subject, Token

__all__ = ["LIFE", "claims_of", "event_at", "refused_at", "refuses", "stranger"]

#: How many further records an entry lives: one second passes with each.
LIFE: Final = 4000
_ISS: Final = "https://issuer.example"


def event_at(offset: int, *, life: int = LIFE) -> Revocation:
    """The record at an offset: mostly tokens, some of every kind; one subject comes back often, with later cut-offs."""
    until = offset + life
    name = f"id-{offset}"
    match offset % 40:
        case 3 | 17:
            selector: Any = Session(iss=_ISS, sid=name)
        case 7:
            selector = Digest(iss=_ISS, digest=f"{offset:064x}")
        case 11 | 27:
            return Revocation(
                id=name, selector=Subject(iss=_ISS, sub=name), revoked_at=offset, expires_at=until, cutoff=offset
            )
        case 13:
            return Revocation(
                id=name, selector=Subject(iss=_ISS, sub="often"), revoked_at=offset, expires_at=until, cutoff=offset
            )
        case 19:
            return Revocation(
                id=name, selector=Client(iss=_ISS, client_id=name), revoked_at=offset, expires_at=until, cutoff=offset
            )
        case 23:
            return Revocation(
                id=name,
                selector=Subject(iss=_ISS, sub=name, spare_sid="mine"),
                revoked_at=offset,
                expires_at=until,
                cutoff=offset,
            )
        case _:
            selector = Token(iss=_ISS, jti=name)
    return Revocation(id=name, selector=selector, revoked_at=offset, expires_at=until)


def claims_of(offset: int) -> dict[str, Any]:
    """What a token carries that the record at ``offset`` refuses."""
    selector = event_at(offset).selector
    claims: dict[str, Any] = {"iss": _ISS, "jti": f"other-{offset}", "iat": offset}
    match selector:
        case Token(jti=jti):
            claims["jti"] = jti
        case Session(sid=sid):
            claims["sid"] = sid
        case Subject(sub=sub):
            claims["sub"] = sub
        case Client(client_id=client_id):
            claims["client_id"] = client_id
        case Digest():
            del claims["jti"]
    return claims


def stranger(number: int) -> dict[str, Any]:
    """A token that nothing refuses: its ids stand in no record, and it was issued after everything."""
    name = f"stranger-{number}"
    return {"iss": _ISS, "jti": name, "sid": name, "sub": name, "client_id": name, "iat": 2**29}


def refuses(store: DenyList, claims: Mapping[str, Any], *, digest: str | None = None) -> bool:
    """The store's answer, asked as a guard asks: the quick question first, the proper ones only if it says so."""
    if not store.suspects(claims, None):
        return False
    iss, iat = claims["iss"], claims["iat"]
    if "jti" in claims and store.listed(("token", iss, claims["jti"])):
        return True
    if digest is not None and store.listed(("digest", iss, digest)):
        return True
    if "sid" in claims and store.listed(("session", iss, claims["sid"])):
        return True
    cutoffs = []
    if "sub" in claims:
        cutoffs.append(store.cutoff(("subject", iss, claims["sub"]), sid=claims.get("sid"), jti=claims.get("jti")))
    if "client_id" in claims:
        cutoffs.append(store.cutoff(("client", iss, claims["client_id"])))
    return any(covers(cutoff, iat=iat) for cutoff in cutoffs)


def refused_at(store: DenyList, offset: int) -> bool:
    """Whether the record at ``offset`` is in force."""
    selector = event_at(offset).selector
    digest = selector.digest if isinstance(selector, Digest) else None
    return refuses(store, claims_of(offset), digest=digest)

"""The tokens under test: who has them, which revocation refuses which. Drawn from a seed; no I/O, the clock handed in.

Users come with all their tokens at once and get no more, so a cut-off taken later covers exactly those. A user's name
tells nothing: whether and how he is logged out is drawn here, too.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from revoker.tokens import sign

__all__ = ["ISSUER", "LEEWAY_S", "Logout", "TokenUnderTest", "User", "draw_user"]

ISSUER: Final = "https://issuer.example"

#: The verifiers' leeway: no node takes a token later than that after its exp.
LEEWAY_S: Final = 4

_NEVER: Final = "never"
#: What becomes of a user, with weights.
_FATES: Final = {
    _NEVER: 25,
    "logout token": 34,
    "logout everywhere": 10,
    "logout elsewhere": 8,
    "admin token": 8,
    "admin digest": 5,
    "admin session": 6,
    "admin subject": 4,
    "admin client": 5,
}


class TokenUnderTest(msgspec.Struct, frozen=True, kw_only=True):
    """One token as every node's checker gets it. ``until_at``: monotonic time after which no verifier may accept it."""

    name: str
    jwt: str
    claims: dict[str, Any]
    until_at: float

    @property
    def exp(self) -> int:
        return int(self.claims["exp"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Logout:
    """One revocation to be asked for, ``after_s`` seconds from the issue of the tokens.

    ``bearer``: the token that logs out by ``scope``; or ``body``, for an admin's ``POST /revocations``. ``tokens``: the
    names it refuses.
    """

    after_s: float
    kind: str
    tokens: tuple[str, ...]
    exp: float
    bearer: str | None = None
    scope: str = ""
    body: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """His tokens, and how he is logged out; None for one who never is."""

    tokens: tuple[TokenUnderTest, ...]
    logout: Logout | None


def draw_user(
    chance: random.Random, *, number: int, key: str, wall_s: float, now_s: float, longest_life_s: int
) -> User:
    """A new user. ``wall_s``, ``now_s``: Unix and monotonic seconds at this moment."""
    fate = chance.choices(list(_FATES), weights=list(_FATES.values()))[0]
    several = fate in ("logout everywhere", "logout elsewhere", "admin subject", "admin session", "admin client")
    # Some expire while they are watched most closely: shortly after they were revoked.
    life_s = chance.randint(8, 15) if chance.random() < 0.15 else chance.randint(20, longest_life_s - 2)
    tokens = tuple(
        _token(f"u{number}", index, fate=fate, key=key, wall_s=wall_s, now_s=now_s, life_s=life_s)
        for index in range(1, 1 + (chance.choice((2, 3)) if several else 1))
    )
    if fate == _NEVER:
        return User(tokens=tokens, logout=None)
    after_s = chance.uniform(0.5, max(1.0, 0.5 * life_s))
    return User(tokens=tokens, logout=_logout(fate, tokens, after_s))


def _token(sub: str, index: int, *, fate: str, key: str, wall_s: float, now_s: float, life_s: int) -> TokenUnderTest:
    name, iat = f"{sub}.{index}", int(wall_s)
    claims: dict[str, Any] = {"iss": ISSUER, "sub": sub, "iat": iat, "exp": iat + life_s}
    # A session revocation is to hit two tokens and spare the third; "elsewhere" spares the first.
    claims["sid"] = f"{sub}-s{(index + 1) // 2 if fate == 'admin session' else index}"
    claims["client_id"] = f"app of {sub}"
    if fate != "admin digest":
        claims["jti"] = name
    until_at = now_s + (claims["exp"] - wall_s) + LEEWAY_S
    return TokenUnderTest(name=name, jwt=sign(claims, key=key, algorithm="HS256"), claims=claims, until_at=until_at)


def _logout(fate: str, tokens: tuple[TokenUnderTest, ...], after_s: float) -> Logout:
    door, kind = fate.split()
    first = tokens[0]
    hit = {
        "everywhere": tokens,
        "elsewhere": tokens[1:],
        "subject": tokens,
        "client": tokens,
        "session": tuple(token for token in tokens if token.claims["sid"] == first.claims["sid"]),
    }.get(kind, tokens[:1])
    names, exp = tuple(token.name for token in hit), float(max(token.exp for token in hit))
    if door == "logout":
        word = "subject" if kind in ("everywhere", "elsewhere") else kind
        return Logout(after_s=after_s, kind=word, tokens=names, exp=exp, bearer=first.jwt, scope=kind)
    body: dict[str, Any] = {"kind": kind, "iss": ISSUER}
    match kind:
        case "token":
            body |= {"jti": first.claims["jti"], "exp": first.exp}
        case "digest":
            signed = first.jwt.rpartition(".")[0].encode()
            body |= {"digest": hashlib.sha256(signed).hexdigest(), "exp": first.exp}
        case "session":
            body |= {"sid": first.claims["sid"]}
        case "client":
            body |= {"client_id": first.claims["client_id"]}
        case _:
            body |= {"sub": first.claims["sub"]}
    return Logout(after_s=after_s, kind=kind, tokens=names, exp=exp, body=body)

"""The one place where "we do not know" becomes an answer."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, Protocol, TypeAlias

from consumers.denylist import DenyList, covers
from consumers.denylist.control import AS_OF, FRESH_UNTIL
from consumers.freshness import State
from revoker.errors import DenyListUnreadable, NotProven
from revoker.events import IDENTIFIER_MAX_CHARS, SelectorKey, claim_text
from revoker.expiry import Lifetimes
from revoker.tokens import TokenRevoked, Verified, signing_input_digest

__all__ = ["Decision", "Guard", "Policy", "Proof", "Status", "refusal_of"]

#: What to answer while unknown: ``refuse`` (503) or ``accept``.
Policy = Literal["refuse", "accept"]


class Status(StrEnum):
    """What is known about a token."""

    ACTIVE = "active"
    """Not revoked, as far as anything acknowledged before ``as_of`` goes."""
    REVOKED = "revoked"
    """Revoked, or of a shape whose revocation could not be recognised: answer 401."""
    UNKNOWN = "unknown"
    """Not known to be revoked, but it cannot be proved that this is up to date: 503, unless admitted by policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer about one token.

    ``admitted``: may the request go on; true for ACTIVE, and for UNKNOWN under the policy ``accept``. ``kind``: the
    kind of revocation that matched, or ``malformed`` or ``long_lived``; None unless REVOKED. ``reason``: in words,
    never quoting the token; None for ACTIVE. ``as_of``: Unix time up to which everything acknowledged is known to this
    node; None if nothing was ever proved.
    """

    status: Status
    admitted: bool
    kind: str | None = None
    reason: str | None = None
    as_of: float | None = None


class Proof(Protocol):
    """What the guard asks of freshness: `consumers.freshness.Freshness`, or the view of one that another process keeps.

    Every attribute may be a property and its value change between two readings.
    """

    @property
    def monotonic(self) -> Callable[[], float]:
        """The clock of the next two."""
        ...

    @property
    def fresh_until(self) -> float:
        """Until when this node is LIVE; minus infinity if it is not."""
        ...

    @property
    def times(self) -> memoryview[float] | None:
        """Where ``fresh_until`` and ``as_of`` (NaN for None) stand now, to be read without a call; None: ask for them.

        See `consumers.denylist.control` for the indexes.
        """
        ...

    @property
    def proved_until(self) -> float:
        """When it was last LIVE, or until when it is."""
        ...

    @property
    def as_of(self) -> float | None:
        """Unix time up to which everything acknowledged is known; None: nothing was ever proved."""
        ...

    @property
    def was_ready(self) -> bool:
        """Whether it was ever LIVE."""
        ...

    @property
    def state(self) -> State:
        """Where it stands."""
        ...

    def why(self) -> str:
        """What is missing; empty when LIVE."""
        ...


_TRIES: Final = 3  # look-ups under which the proof changes


class _Malformed(Exception):
    """A claim whose shape hides what the token is."""


def refusal_of(decision: Decision) -> TokenRevoked | NotProven:
    """The error for a decision that does not admit: TokenRevoked (a ``jwt.InvalidTokenError``) or NotProven."""
    if decision.status is Status.REVOKED:
        return TokenRevoked(decision.reason or "revoked", kind=decision.kind)
    return NotProven(decision.reason or "unknown")


class Guard:
    """Judges verified claims against the deny list. Synchronous, without I/O, without a lock; `check` never raises on
    bad claims.

    ``when_unknown`` is the policy of routes that name none. ``outage_budget_s``: seconds after the end of the last
    proof for which ``accept`` holds; afterwards it is ``refuse``, since all revoked meanwhile would be let through.
    ``long_lived_tokens``: whether tokens that live longer than ``lifetimes`` allows are refused; such a token's
    revocation would be forgotten before the token expires.
    """

    def __init__(
        self,
        *,
        denylist: DenyList,
        freshness: Proof,
        lifetimes: Lifetimes,
        when_unknown: Policy = "refuse",
        outage_budget_s: float = 300.0,
        long_lived_tokens: Policy = "refuse",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._denylist = denylist
        self._freshness = freshness
        self._lifetimes = lifetimes
        self._when_unknown = when_unknown
        self._outage_budget_s = outage_budget_s
        self._refuse_long_lived = long_lived_tokens == "refuse"
        self._longest_s = lifetimes.longest_token_life_s
        self._wall = wall
        self._monotonic = freshness.monotonic
        self._counts: Counter[str] = Counter()
        self._quick = 0
        self._active: _Active = (None, -math.inf, _active(None))

    @property
    def counts(self) -> Counter[str]:
        """Answers given since the start: by status, and ``accepted_unknown`` for those let through by policy."""
        counts = self._counts.copy()
        if self._quick:
            counts["active"] += self._quick
        return counts

    def check_verified(self, token: Verified, *, when_unknown: Policy | None = None) -> Decision:
        """`check` of a token that `revoker.tokens.Verifier` has passed, and the same answer; quick if it is ACTIVE.

        For claims that something else has verified use `check`, which takes no shape for granted.
        """
        freshness = self._freshness
        claims = token.claims
        try:
            # First what is proved, then the look-up, then the clock: whatever was proved is then in what is looked at,
            # though another thread or process applies meanwhile; and a process suspended in between finds its proof
            # old.
            times = freshness.times
            if times is None:
                fresh_until, times, as_of = freshness.fresh_until, freshness.times, freshness.as_of
            else:  # two properties take as long as all the rest
                fresh_until = times[FRESH_UNTIL]
                as_of = times[AS_OF]
            active_as_of, issued_until, decision = self._active
            if as_of != active_as_of:
                issued_until, decision = self._renewed(as_of)
            # Long-lived without a clock: a token that was issued until `issued_until` and whose whole life is not too
            # long has not too much left of it either. `issued_until` is the last proof's reading of the wall clock,
            # which `check` asks now, plus the margin by which any reading may be wrong; and it was read at most the
            # staleness bound ago. A token that was issued later than that goes the long way, and may pass there.
            if (
                not self._denylist.suspects(claims, token.kid)
                and (
                    not self._refuse_long_lived
                    or ((iat := claims["iat"]) <= issued_until and claims["exp"] - iat <= self._longest_s)
                )
                # Unchanged: no other table has taken the place of the one that was proved fresh. One that does is not
                # fresh before anybody looks into it.
                and (times is None or times[FRESH_UNTIL] == fresh_until)
                and self._monotonic() < fresh_until
            ):
                self._quick += 1
                return decision
        except Exception:  # noqa: BLE001, S110  - no answer yet: check asks everything again, and says what it was
            pass
        return self.check(claims, kid=token.kid, token=token, when_unknown=when_unknown)

    def check(
        self,
        claims: Mapping[str, Any],
        *,
        kid: str | None = None,
        token: str | Verified | None = None,
        when_unknown: Policy | None = None,
    ) -> Decision:
        """Whether a token with these claims, whose signature the caller has verified, is revoked.

        ``kid``: from the token's header. ``token``: the token itself, needed to recognise one without ``jti``.
        ``when_unknown``: this route's policy; None = the guard's. Claims of a shape that hides what the token is (a
        ``jti`` that is no string, an ``iat`` that is no number) are refused with a reason. A token that lacks ``iat``
        is refused by any cut-off that matches it. A deny list that cannot be read: UNKNOWN, under no policy admitted.
        """
        freshness = self._freshness
        hit, fresh_until, as_of = None, -math.inf, freshness.as_of
        for _ in range(_TRIES):
            # Read before the look-up, and unchanged after it, as in `check_verified`.
            fresh_until, times, as_of = freshness.fresh_until, freshness.times, freshness.as_of
            try:
                hit = self._find(claims, kid, token)
            except _Malformed as problem:
                hit = ("malformed", str(problem))
            except DenyListUnreadable as problem:
                self._counts["unknown"] += 1
                return Decision(status=Status.UNKNOWN, admitted=False, reason=str(problem), as_of=as_of)
            if hit is not None or times is None or times[FRESH_UNTIL] == fresh_until:
                break
        else:
            fresh_until = -math.inf
        if hit is not None:
            self._counts["revoked"] += 1
            return Decision(status=Status.REVOKED, admitted=False, kind=hit[0], reason=hit[1], as_of=as_of)
        if self._monotonic() < fresh_until:
            self._counts["active"] += 1
            return _active(as_of)
        self._counts["unknown"] += 1
        reason = freshness.why() or "a proof has just returned"
        admitted = (when_unknown or self._when_unknown) == "accept" and freshness.was_ready
        # A follower that is gone, as after a fork, is no outage that could end.
        admitted = admitted and freshness.state is not State.STOPPED
        if admitted and self._monotonic() >= freshness.proved_until + self._outage_budget_s:
            admitted = False
            reason += f"; the last proof is more than {self._outage_budget_s:g} s old (setting outage_budget_s)"
        if admitted:
            self._counts["accepted_unknown"] += 1
        return Decision(status=Status.UNKNOWN, admitted=admitted, reason=reason, as_of=as_of)

    def enforce(
        self,
        claims: Mapping[str, Any],
        *,
        kid: str | None = None,
        token: str | Verified | None = None,
        when_unknown: Policy | None = None,
    ) -> Decision:
        """`check`, raising TokenRevoked (a ``jwt.InvalidTokenError``) or NotProven unless the decision admits."""
        decision = self.check(claims, kid=kid, token=token, when_unknown=when_unknown)
        if decision.admitted:
            return decision
        raise refusal_of(decision)

    def _renewed(self, as_of: float | None) -> tuple[float, Decision]:
        if as_of is None or math.isnan(as_of):
            as_of = None
        issued_until = -math.inf if as_of is None else as_of + self._lifetimes.clock_margin_s
        decision = _active(as_of)
        self._active = as_of, issued_until, decision
        return issued_until, decision

    def _find(self, claims: Mapping[str, Any], kid: str | None, token: str | Verified | None) -> tuple[str, str] | None:
        if not isinstance(claims, Mapping):
            raise _Malformed(f"the claims are a {type(claims).__name__}, not an object")
        denylist = self._denylist
        iss = _text(claims, "iss") or ""
        jti = _text(claims, "jti")
        sid = _text(claims, "sid")
        sub = _text(claims, "sub")
        _text(claims, "client_id")
        _text(claims, "azp")
        iat = _number(claims, "iat")
        exp = _number(claims, "exp")
        if self._refuse_long_lived and (why := self._lifetimes.outlived_by(iat=iat, exp=exp, now_s=self._wall())):
            return "long_lived", why
        kinds = denylist.kinds
        if jti is not None:
            if "token" in kinds and denylist.listed(("token", iss, jti)):
                return "token", "the token was revoked"
        elif token is None:
            raise _Malformed("the token has no jti, and was not handed over to be recognised without (argument token)")
        elif "digest" in kinds and denylist.listed(("digest", iss, _digest(token))):
            return "digest", "the token was revoked"
        if sid is not None and "session" in kinds and denylist.listed(("session", iss, sid)):
            return "session", "the session was revoked"
        if kinds.isdisjoint(_WITH_CUTOFF):
            return None
        if "key" in kinds and kid is None and covers(denylist.key_cutoff(iss), iat=iat):
            # Which key signed it cannot be told, and a revoked key may be the one.
            return "key", "the token names no key, and a key of its issuer was revoked"
        for key in self._rules_to_ask(claims, kinds, iss=iss, sub=sub, kid=kid):
            if covers(denylist.cutoff(key, sid=sid, jti=jti), iat=iat):
                return key[0], _REASONS[key[0]]
        return None

    def _rules_to_ask(
        self, claims: Mapping[str, Any], kinds: AbstractSet[str], *, iss: str, sub: str | None, kid: str | None
    ) -> Iterator[SelectorKey]:
        """Every rule with a cut-off that this token could match, of the kinds that have any."""
        if "subject" in kinds and sub is not None:
            yield "subject", iss, sub
        if "client" in kinds:
            for name in ("client_id", "azp"):
                if (client := _text(claims, name)) is not None:
                    yield "client", iss, client
        if "claim" in kinds:
            for name in self._denylist.claim_names.get(iss, ()):
                for value in _values(claims, name):
                    yield "claim", iss, name, value
        if "key" in kinds and kid is not None:
            if not isinstance(kid, str):
                raise _Malformed("the kid is not a string")
            yield "key", iss, kid
        if "issuer" in kinds:
            yield "issuer", iss
        if "all" in kinds:
            yield ("all",)


#: ``as_of``, until when a token must be issued, and the answer to every token that may pass while nothing further is
#: proved. Swapped in as one. A plain tuple: a named one takes three times as long to unpack.
_Active: TypeAlias = tuple[float | None, float, "Decision"]


def _active(as_of: float | None) -> Decision:
    return Decision(status=Status.ACTIVE, admitted=True, as_of=as_of)


_REASONS: Final = {
    "subject": "the subject's tokens were revoked",
    "client": "the client's tokens were revoked",
    "claim": "tokens with this claim were revoked",
    "key": "the key was revoked",
    "issuer": "the issuer's tokens were revoked",
    "all": "all tokens were revoked",
}
_WITH_CUTOFF: Final = frozenset(_REASONS)


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None:
        if name in claims:
            raise _Malformed(f"the claim {name} is null, must be a string")
        return None
    if not isinstance(value, str):
        raise _Malformed(f"the claim {name} is a {type(value).__name__}, must be a string")
    if not value and name != "iss":
        raise _Malformed(f"the claim {name} is empty, which no revocation can name")
    if len(value) > IDENTIFIER_MAX_CHARS:
        raise _Malformed(f"the claim {name} exceeds {IDENTIFIER_MAX_CHARS} characters, which no revocation can name")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Malformed(f"the claim {name} holds a lone surrogate, which no record can name") from None
    return value


def _number(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        if name in claims:
            raise _Malformed(f"the claim {name} is null, must be a number")
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Malformed(f"the claim {name} is a {type(value).__name__}, must be a number")
    if not abs(value) < 1e15:  # NaN and infinity as well; beyond, floats skip seconds and integers overflow them
        raise _Malformed(f"the claim {name} is no time")
    return value


def _values(claims: Mapping[str, Any], name: str) -> list[str]:
    value = claims.get(name)
    if value is None and name not in claims:
        return []
    try:
        return [claim_text(item) for item in value] if isinstance(value, list | tuple | set) else [claim_text(value)]
    except ValueError as error:
        raise _Malformed(f"the claim {name} cannot be compared: {error}") from None


def _digest(token: str | Verified) -> str:
    try:
        return token.digest if isinstance(token, Verified) else signing_input_digest(token)
    except (ValueError, TypeError, AttributeError) as error:
        raise _Malformed(f"the token handed over is no compact JWS: {error}") from None

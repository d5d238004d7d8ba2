"""How long a revocation has to be kept: one rule, shared by the publisher, the topic's contract and the guard.

A revocation may be forgotten once no verifier could accept a token it refuses. A token passes until ``exp`` plus the
verifier's leeway, so an entry dropped at ``exp`` would let a revoked token in again for the length of the leeway (RFC
7519 section 4.1.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from revoker.errors import InvalidRevocation, TokenOutlivesTopic
from revoker.events import Digest, Selector, Token

__all__ = ["FUTURE_CUTOFF_S", "Lifetimes"]

#: How far ahead of the clock a cut-off may lie, in seconds. One further ahead would refuse tokens that are not yet
#: issued.
FUTURE_CUTOFF_S = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Lifetimes:
    """The three durations that decide how long revocations live; whole seconds.

    ``longest_token_life_s``: the most ``exp - iat`` of any token the fleet accepts. ``leeway_s``: the largest leeway of
    any verifier. ``clock_margin_s``: how wrong any clock involved may be.
    """

    longest_token_life_s: int
    leeway_s: int
    clock_margin_s: int

    @property
    def keep_s(self) -> int:
        """How long after its cut-off a revocation with a cut-off is kept."""
        return self.longest_token_life_s + self.leeway_s + self.clock_margin_s

    @property
    def retention_ms(self) -> int:
        """The least ``retention.ms`` of a topic under which no revocation can vanish while it is needed."""
        return (self.keep_s + FUTURE_CUTOFF_S + self.clock_margin_s) * 1000

    def expires_at(self, selector: Selector, *, now_s: int, cutoff: int | None = None, exp: float | None = None) -> int:
        """When the entry for ``selector`` may be forgotten, in Unix seconds.

        ``exp`` is the token's own expiry and matters for the two exact token kinds only; ``None`` means unknown, and
        the longest life is assumed. Raises TokenOutlivesTopic if ``exp`` lies further ahead than the topic can keep a
        revocation, and InvalidRevocation if the token has expired for every verifier, so that there is nothing to
        revoke.
        """
        if not isinstance(selector, Token | Digest) or exp is None:
            return (now_s if cutoff is None else max(cutoff, now_s)) + self.keep_s
        life_s = exp - now_s
        if life_s > self.longest_token_life_s + self.clock_margin_s:
            raise TokenOutlivesTopic(
                f"this token is valid for another {ceil(life_s)} s, but revocations are kept for tokens that live at "
                f"most {self.longest_token_life_s} s (setting longest_token_life_s): its revocation would be forgotten "
                "first; "
                "raise the setting and the topic's retention.ms, or issue shorter tokens",
                token_life_s=life_s,
                longest_token_life_s=self.longest_token_life_s,
            )
        expires_at = ceil(exp) + self.leeway_s + self.clock_margin_s
        if expires_at <= now_s:
            raise InvalidRevocation(
                f"the token expired {ceil(-life_s)} s ago: no verifier accepts it, nothing to revoke"
            )
        return expires_at

    def outlived_by(self, *, iat: float | None, exp: float | None, now_s: float) -> str | None:
        """Why a token with these claims cannot be kept out for its whole life, or None if it can.

        The remaining life counts as well: it is all that is known without ``iat`` (a lower bound: require the claim
        where tokens may lack it), and an ``iat`` in the future would make a token look short-lived.
        """
        longest_s = self.longest_token_life_s
        if exp is None:
            return f"the token never expires; revocations are kept for tokens that live at most {longest_s} s"
        left_s = exp - now_s - self.clock_margin_s
        life_s = left_s if iat is None else max(exp - iat, left_s)
        if life_s > longest_s:
            return f"the token lives {ceil(life_s)} s; revocations are kept for tokens that live at most {longest_s} s"
        return None

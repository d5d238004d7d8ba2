"""How long a revocation is kept: until no verifier could accept a token it refuses."""

from __future__ import annotations

import pytest

from revoker.errors import InvalidRevocation, TokenOutlivesTopic
from revoker.events import Digest, Everything, Selector, Session, Subject, Token, Withdrawal
from revoker.expiry import FUTURE_CUTOFF_S, Lifetimes

NOW = 1_800_000_000
LIFETIMES = Lifetimes(longest_token_life_s=3600, leeway_s=30, clock_margin_s=300)
TOKEN = Token(iss="", jti="j")
SINGLE = pytest.mark.parametrize("selector", [TOKEN, Digest(iss="", digest="0" * 64)], ids=["token", "digest"])


@SINGLE
def test_a_tokens_entry_outlives_it_by_leeway_and_margin(selector: Selector) -> None:
    """An entry dropped at exp would let the token in again for the length of a verifier's leeway."""
    assert LIFETIMES.expires_at(selector, now_s=NOW, exp=NOW + 600) == NOW + 600 + 30 + 300


@SINGLE
def test_a_fraction_of_a_second_is_rounded_up(selector: Selector) -> None:
    """A token that expires within a second is kept out until that second is over."""
    assert LIFETIMES.expires_at(selector, now_s=NOW, exp=NOW + 0.1) == NOW + 1 + 330


@pytest.mark.parametrize(
    "selector", [TOKEN, Session(iss="", sid="s"), Subject(iss="", sub="u"), Withdrawal(event_id="e")]
)
def test_without_a_tokens_own_expiry_the_longest_life_is_assumed(selector: Selector) -> None:
    """A revocation that may hit a token issued this very second is kept for the longest life."""
    assert LIFETIMES.expires_at(selector, now_s=NOW) == NOW + 3600 + 330


def test_a_cutoff_ahead_of_the_clock_keeps_the_entry_longer() -> None:
    """Tokens issued until the cut-off have to be kept out, so the life counts from it."""
    assert LIFETIMES.expires_at(Everything(), now_s=NOW, cutoff=NOW + 60) == NOW + 60 + 3600 + 330


def test_a_cutoff_in_the_past_does_not_shorten() -> None:
    """A clock behind ours may have issued later than the cut-off says: the life counts from now."""
    assert LIFETIMES.expires_at(Everything(), now_s=NOW, cutoff=0) == NOW + 3600 + 330


@SINGLE
def test_a_token_that_outlives_the_topic_is_refused_with_both_numbers(selector: Selector) -> None:
    """Its revocation would be forgotten before it expires; the error names its life, the limit and the setting."""
    with pytest.raises(TokenOutlivesTopic, match=r"another 4000 s.* 3600 s .*longest_token_life_s") as caught:
        LIFETIMES.expires_at(selector, now_s=NOW, exp=NOW + 4000)
    assert (caught.value.token_life_s, caught.value.longest_token_life_s) == (4000, 3600)


def test_the_clock_margin_is_allowed_to_a_token() -> None:
    """A token of the longest life from an issuer whose clock runs ahead can still be revoked."""
    assert LIFETIMES.expires_at(TOKEN, now_s=NOW, exp=NOW + 3900) == NOW + 3900 + 330


def test_a_token_within_leeway_can_still_be_revoked() -> None:
    """A token past exp that some verifier still accepts gets an entry."""
    assert LIFETIMES.expires_at(TOKEN, now_s=NOW, exp=NOW - 329) == NOW + 1


def test_a_token_no_verifier_accepts_needs_no_revocation() -> None:
    """A token that has expired for everybody is refused with how long ago."""
    with pytest.raises(InvalidRevocation, match="expired 330 s ago"):
        LIFETIMES.expires_at(TOKEN, now_s=NOW, exp=NOW - 330)


def test_no_entry_is_kept_longer_than_the_topic_keeps_its_record() -> None:
    """Whatever is published, the record is still in the topic when the entry expires, even if both clocks are off."""
    latest = max(
        LIFETIMES.expires_at(TOKEN, now_s=NOW, exp=NOW + 3600 + 300),
        LIFETIMES.expires_at(Everything(), now_s=NOW, cutoff=NOW + FUTURE_CUTOFF_S),
    )
    assert NOW - 300 + LIFETIMES.retention_ms / 1000 >= latest - 300


@pytest.mark.parametrize(
    ("iat", "exp", "why"),
    [
        (NOW, NOW + 3600, None),
        (NOW, NOW + 3601, "lives 3601 s"),
        (NOW, None, "never expires"),
        (None, None, "never expires"),
        (None, NOW + 3900, None),
        (None, NOW + 3901, "lives 3601 s"),
        (NOW + 100_000, NOW + 100_060, "lives"),
        (NOW - 3600, NOW + 1, "lives 3601 s"),
    ],
)
def test_why_a_token_cannot_be_kept_out_for_its_whole_life(iat: int | None, exp: int | None, why: str | None) -> None:
    """A token whose life, or what is left of it, exceeds the longest is named with both numbers; others are None."""
    found = LIFETIMES.outlived_by(iat=iat, exp=exp, now_s=NOW)
    assert (found is None) == (why is None)
    if why is not None:
        assert found is not None
        assert why in found
        assert "3600 s" in found

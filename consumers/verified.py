"""Tokens verified a moment ago: a repeated one costs a look-up in place of a signature check.

What is remembered is that a signature held and what the claims are, never that a token is not revoked: the deny list is
asked every time. Losing an entry costs one verification, so this may forget, which the deny list may not.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from revoker.health import Family
from revoker.tokens import TOKEN_MAX_BYTES, Verified, Verifier

__all__ = ["VerifiedTokens"]

#: What an entry takes beside its claims: digest, place in the table, times, its own object. Measured.
_ENTRY_BYTES: Final = 350


class _Kept(NamedTuple):
    """What is known of a token. It holds from ``since`` until ``until``, Unix seconds.

    ``claims`` are JSON again: a quarter of the memory of objects, of a size that is known, and nobody can change them.
    """

    claims: bytes
    kid: str | None
    since: float
    until: float


class VerifiedTokens:
    """`verify` as `revoker.tokens.Verifier` has it: the same answers and the same errors, sooner for a repeated token.

    ``max_entries``, ``max_bytes``: bounds on what is kept; the least recently used go first. May be called from any
    thread: nobody waits for the lock, who finds it taken verifies properly.

    Why it cannot answer wrongly. The key is the SHA-256 of the whole token, signature included, so another spelling is
    another token. Only what `Verifier.verify` returned goes in, and each answer has claims of its own: who changes the
    claims he was given changes nobody else's. A refusal is never kept. An answer is given from the token's ``iat`` and
    ``nbf`` to its ``exp``, without the leeway; outside, the verifier decides. And all is dropped when the keys change:
    the edition is read before a token is looked up or verified, so nothing outlives the keys it was verified with.
    """

    def __init__(self, *, verifier: Verifier, max_entries: int, max_bytes: int) -> None:
        self._verifier = verifier
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        #: The least recently used first. Not of cachetools: in Python that takes longer than all the rest of a miss.
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._size_bytes = 0
        self._edition: object = None
        #: Look-ups answered, and those that were not, since the start.
        self.hits: int = 0
        self.misses: int = 0

    @property
    def entries(self) -> int:
        """Tokens kept."""
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """What the entries take, as estimated when they were put in."""
        return self._size_bytes

    def verify(self, raw: str) -> Verified:
        """The token, verified. Raises nothing but jwt.InvalidTokenError, whatever the input."""
        verifier = self._verifier
        if type(raw) is not str or len(raw) > TOKEN_MAX_BYTES or not raw.isascii():
            return verifier.verify(raw)  # which says what is wrong with it
        edition = verifier.edition
        digest = hashlib.sha256(raw.encode("ascii")).digest()
        kept = self._find(digest, edition)
        if kept is not None and kept.since <= verifier.wall() < kept.until:
            # RecursionError: claims nested deeply, and asked for from deep in the stack.
            with contextlib.suppress(RecursionError):
                verified = Verified(claims=_READ.decode(kept.claims), kid=kept.kid, raw=raw)
                self.hits += 1
                return verified
        self.misses += 1
        verified = verifier.verify(raw)
        self._keep(digest, verified, edition)
        return verified

    def families(self) -> Iterable[Family]:
        """What ``/metrics`` reports."""
        yield Family(
            name="revoker_verified_tokens_asked",
            help="Tokens looked up among those verified before.",
            kind="counter",
            labels=("result",),
            values={("hit",): float(self.hits), ("miss",): float(self.misses)},
        )
        yield Family(name="revoker_verified_tokens", help="Verified tokens kept.", values={(): float(self.entries)})
        yield Family(name="revoker_verified_tokens_bytes", help="What they take.", values={(): float(self.size_bytes)})

    def _find(self, digest: bytes, edition: object) -> _Kept | None:
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._edition is not edition:
                self._kept.clear()
                self._size_bytes = 0
                self._edition = edition
                return None
            kept = self._kept.get(digest)
            if kept is not None:
                self._kept.move_to_end(digest)  # hence the lock
            return kept
        finally:
            self._lock.release()

    def _keep(self, digest: bytes, verified: Verified, edition: object) -> None:
        claims = verified.claims
        since = max(claims.get("iat", 0), claims.get("nbf", 0))
        until = math.floor(claims["exp"]) if "exp" in claims else math.inf  # PyJWT, and so Verifier, takes it as whole
        if not since <= self._verifier.wall() < until:
            return
        try:
            kept = _Kept(_WRITE.encode(claims), verified.kid, since, until)
        except RecursionError:
            return
        size_bytes = _size(kept)
        if size_bytes > self._max_bytes:
            return
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._edition is edition:
                known = self._kept.pop(digest, None)  # outside its times, or verified in another thread meanwhile
                self._size_bytes += size_bytes - (0 if known is None else _size(known))
                self._kept[digest] = kept
                while len(self._kept) > self._max_entries or self._size_bytes > self._max_bytes:
                    self._size_bytes -= _size(self._kept.popitem(last=False)[1])
        finally:
            self._lock.release()


_READ: Final = msgspec.json.Decoder(dict[str, Any])
_WRITE: Final = msgspec.json.Encoder()


def _size(kept: _Kept) -> int:
    return _ENTRY_BYTES + len(kept.claims)

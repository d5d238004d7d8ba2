"""Identifiers as keyed 64-bit fingerprints: all that the shared deny list stores of them.

XXH3 with a secret seed for each issuer and kind, drawn from the table's own 32 random bytes. Keyed, because a user who
could compute fingerprints could look for two identifiers that share one. XXH3 is fast, not a pseudo-random function:
inputs that collide under many seeds are known (https://github.com/Cyan4973/xxHash/issues/1127), so whoever may choose
two identifiers can, with luck, have one refused for the other. Nobody can aim at an identifier that is not his own, and
no collision lets a revoked token in.
"""

from __future__ import annotations

import hashlib
from typing import Final

from xxhash import xxh3_64_intdigest

__all__ = ["HASH_NAME", "SECRET_BYTES", "TABLE_KINDS", "Fingerprints", "hashed"]

HASH_NAME: Final = "xxh3_64"

#: The hash of bytes under a seed, for those who have many.
hashed: Final = xxh3_64_intdigest

#: The kinds a table holds, by the number under which it does.
TABLE_KINDS: Final = ("token", "digest", "session", "subject")

#: Issuers whose seeds are kept. A node knows a handful; tokens of made-up issuers do not get past the signature.
_ISSUERS_KEPT: Final = 1024

#: Length of a secret. A shorter one could be guessed.
SECRET_BYTES: Final = 32

_EVEN: Final = 2**64 - 2


class Fingerprints:
    """Fingerprints under one secret of 32 bytes, which shows nowhere. Raises ValueError for another length."""

    __slots__ = ("_secret", "known", "known_of")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the secret of a table has {SECRET_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        #: Seeds of the issuers met so far, by kind in the order of `TABLE_KINDS`. For look-ups that have no time for a
        #: call; whoever misses asks `seeds`.
        self.known: dict[str, tuple[int, int, int, int]] = {}
        #: The same for each kind alone, for look-ups that ask for no other.
        self.known_of: tuple[dict[str, int], ...] = tuple({} for _ in TABLE_KINDS)

    def seeds(self, iss: str) -> tuple[int, int, int, int]:
        """The seeds of one issuer. Raises UnicodeEncodeError for a lone surrogate."""
        found = self.known.get(iss)
        if found is None:
            token, digest, session, subject = (self._seed(kind, iss) for kind in TABLE_KINDS)
            found = token, digest, session, subject
            if len(self.known) >= _ISSUERS_KEPT:
                self.known.clear()
                for kept in self.known_of:
                    kept.clear()
            for kept, seed in zip(self.known_of, found, strict=True):
                kept[iss] = seed
            self.known[iss] = found
        return found

    def of(self, kind: int, iss: str, value: str) -> int:
        """The fingerprint of an identifier, never 0. A subject's is even: its neighbour is taken by the expiry.

        Raises UnicodeEncodeError for a lone surrogate, which no record can name.
        """
        found = xxh3_64_intdigest(value.encode(), self.seeds(iss)[kind])
        return (found & _EVEN or 2) if kind == 3 else (found or 1)

    def _seed(self, kind: str, iss: str) -> int:
        name = f"{kind} {iss}".encode()
        return int.from_bytes(hashlib.blake2b(name, key=self._secret, digest_size=8).digest(), "little")

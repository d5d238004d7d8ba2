"""The first question of a request to the shared deny list, in as few steps as Python allows.

One function for each set of kinds present, with everything it needs in its own cells: it loads WORD, takes the
fingerprint of each identifier that could be listed, and looks at the slots. It answers False, which is certain, or
True, which means: ask properly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from xxhash import xxh3_64_intdigest

from consumers.denylist.control import WORD
from consumers.denylist.fingerprint import TABLE_KINDS, Fingerprints
from consumers.denylist.table import Table

__all__ = ["Screen", "screen"]

Screen: TypeAlias = Callable[[Mapping[str, Any], str | None], bool]

_EVEN: Final = 2**64 - 2
_CLAIM: Final = {"token": "jti", "session": "sid", "subject": "sub"}
# IndexError: the table is damaged and has no end.
_ODD: Final = (KeyError, AttributeError, TypeError, UnicodeEncodeError, IndexError)


def screen(
    *, words: memoryview[int], word: int, table: Table, prints: Fingerprints, kinds: frozenset[str], changed: Screen
) -> Screen:
    """The function for one table and the kinds it holds. ``changed``: what to ask once WORD is not ``word``.

    It also asks ``changed`` about an issuer that it meets for the first time.
    """
    asked = [
        (_CLAIM[kind], number, _EVEN if kind == "subject" else 2**64 - 1)
        for number, kind in enumerate(TABLE_KINDS)
        if kind in kinds and kind in _CLAIM
    ]
    digest = "digest" in kinds
    if not asked:
        return _none(words, word, changed, digest=digest)
    if len(asked) == 1 and not digest:
        name, number, _ = asked[0]
        only = _subject if name == "sub" else _exact
        return only(words, word, table, prints, changed, name, number)
    if len(asked) == 3 and not digest:
        return _three(words, word, table, prints, changed)
    return _some(words, word, table, prints, changed, tuple(asked), digest=digest)


def _none(words: memoryview[int], word: int, changed: Screen, *, digest: bool) -> Screen:
    def suspects(claims: Mapping[str, Any], kid: str | None, /) -> bool:
        if words[WORD] != word:
            return changed(claims, kid)
        return digest and "jti" not in claims

    return suspects


def _exact(
    words: memoryview[int],
    word: int,
    table: Table,
    prints: Fingerprints,
    changed: Screen,
    name: str,
    number: int,
) -> Screen:
    keys, divisor, seeds, xxh3 = table.keys, table.divisor, prints.known_of[number], xxh3_64_intdigest

    def suspects(claims: Mapping[str, Any], kid: str | None, /) -> bool:
        if words[WORD] != word:
            return changed(claims, kid)
        try:
            value = claims.get(name)
            if value is None:
                return False
            h = xxh3(value.encode(), seeds[claims.get("iss", "")])
            index = (h >> 34) // divisor
            found = keys[index]
            while found:
                if found == h:
                    return True
                index += 1
                found = keys[index]
        except _ODD:
            return _learn(prints, claims, kid, changed)
        return not h

    return suspects


def _subject(
    words: memoryview[int],
    word: int,
    table: Table,
    prints: Fingerprints,
    changed: Screen,
    name: str,
    number: int,
) -> Screen:
    keys, divisor, seeds, xxh3 = table.keys, table.divisor, prints.known_of[number], xxh3_64_intdigest

    def suspects(claims: Mapping[str, Any], kid: str | None, /) -> bool:
        if words[WORD] != word:
            return changed(claims, kid)
        try:
            value = claims.get(name)
            if value is None:
                return False
            h = xxh3(value.encode(), seeds[claims.get("iss", "")]) & _EVEN
            index = (h >> 34) // divisor
            found = keys[index]
            while found:
                if found == h:
                    return True
                index += 1
                found = keys[index]
        except _ODD:
            return _learn(prints, claims, kid, changed)
        return not h

    return suspects


def _three(  # noqa: C901 - the loop of `_some`, unrolled: a third faster
    words: memoryview[int], word: int, table: Table, prints: Fingerprints, changed: Screen
) -> Screen:
    keys, divisor, seeds, xxh3 = table.keys, table.divisor, prints.known, xxh3_64_intdigest

    def suspects(claims: Mapping[str, Any], kid: str | None, /) -> bool:  # noqa: C901
        if words[WORD] != word:
            return changed(claims, kid)
        try:
            token, _, session, subject = seeds[claims.get("iss", "")]
            if (value := claims.get("jti")) is not None:
                h = xxh3(value.encode(), token)
                index = (h >> 34) // divisor
                found = keys[index]
                while found:
                    if found == h:
                        return True
                    index += 1
                    found = keys[index]
                if not h:
                    return True
            if (value := claims.get("sid")) is not None:
                h = xxh3(value.encode(), session)
                index = (h >> 34) // divisor
                found = keys[index]
                while found:
                    if found == h:
                        return True
                    index += 1
                    found = keys[index]
                if not h:
                    return True
            if (value := claims.get("sub")) is not None:
                h = xxh3(value.encode(), subject) & _EVEN
                index = (h >> 34) // divisor
                found = keys[index]
                while found:
                    if found == h:
                        return True
                    index += 1
                    found = keys[index]
                return not h
        except _ODD:
            return _learn(prints, claims, kid, changed)
        return False

    return suspects


def _some(
    words: memoryview[int],
    word: int,
    table: Table,
    prints: Fingerprints,
    changed: Screen,
    asked: tuple[tuple[str, int, int], ...],
    *,
    digest: bool,
) -> Screen:
    keys, divisor, seeds, xxh3 = table.keys, table.divisor, prints.known, xxh3_64_intdigest

    def suspects(claims: Mapping[str, Any], kid: str | None, /) -> bool:
        if words[WORD] != word:
            return changed(claims, kid)
        if digest and "jti" not in claims:
            return True
        try:
            mine = seeds[claims.get("iss", "")]
            for name, number, mask in asked:
                value = claims.get(name)
                if value is None:
                    continue
                h = xxh3(value.encode(), mine[number]) & mask
                index = (h >> 34) // divisor
                found = keys[index]
                while found:
                    if found == h:
                        return True
                    index += 1
                    found = keys[index]
                if not h:
                    return True
        except _ODD:
            return _learn(prints, claims, kid, changed)
        return False

    return suspects


def _learn(prints: Fingerprints, claims: Mapping[str, Any], kid: str | None, changed: Screen) -> bool:
    """An issuer not met before, or claims of a shape that no look-up here understands."""
    try:
        iss = claims.get("iss", "")
        if not isinstance(iss, str) or iss in prints.known:
            return True
        prints.seeds(iss)
    except (AttributeError, UnicodeEncodeError):
        return True
    return changed(claims, kid)

"""Spoils what is valid: bytes and JSON texts, by a seeded generator, so that a failure can be had again."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["HEAVY", "NASTY", "spoiled_bytes", "spoiled_json"]

#: JSON values, and what some readers take for them, that have broken somebody's reader.
NASTY: Final = (
    *("null", "true", "false", "undefined", "'x'", "/**/1", ""),
    *("0", "-0", "-1", "1.5", "01", "0x10", "1e999", "-1e999", "1E400", "1e15", "1e308", "0.1e-400"),
    *("NaN", "Infinity", "-Infinity", "9" * 400, "9007199254740993", "18446744073709551616"),
    *("253402300799", "253402300800", '"1800000000"', '"0"', '"true"'),
    *('""', '" "', '"x"', r'"\ud800"', r'"\udfff\ud800"', r'"\u0000"', r'"\x41"', '"\x00"', '"\t"', '"a\\nb"'),
    *('"é"', '"e\u0301"', '"\u202eexe"', '"\U0001f600"', '"' + "x" * 1025 + '"', '"' + "\u20ac" * 400 + '"'),
    *("[]", "[null]", '["x","x"]', "[[]]", "{}", '{"":null}', '{"a":1,"a":2}', '{"kind":"all"}'),
    *("[" * 600 + "]" * 600, '{"a":' * 200 + "1" + "}" * 200),
)

#: Longer than anything should be: rarely drawn, since each costs.
HEAVY: Final = (
    "9" * 5000,
    "-" + "9" * 5000,
    "[" * 20_000 + "]" * 20_000,
    '"' + "y" * 70_000 + '"',
    "[" + "0," * 9000 + "0]",
    '{"a":' * 20_000,
)

_RENAMED: Final = (str.upper, str.title, lambda name: name + "\x00", lambda name: f" {name}", lambda name: name[:-1])
_JUNK: Final = (
    b"\x00",
    b"\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\r\n",
    b"{}",
    b",",
    b'"',
    b"]",
)


def spoiled_bytes(rng: random.Random, data: bytes) -> bytes:
    """``data`` with one to four wounds; by chance the same again."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        start = rng.randrange(len(found) + 1)
        stop = min(len(found), start + rng.choice((1, 1, 2, 8, 64)))
        match rng.randrange(8):
            case 0 if start < len(found):
                found[start] ^= 1 << rng.randrange(8)
            case 1:
                del found[start:]
            case 2:
                del found[start:stop]
            case 3:
                found[start:start] = found[start:stop]
            case 4:
                found[start:stop] = rng.randbytes(stop - start)
            case 5:
                found[start:start] = rng.choice(_JUNK)
            case 6:
                other = rng.randrange(len(found) + 1)
                found[start:start] = found[other : other + 16]
            case _:
                found[start:stop] = found[start:stop].swapcase()
    return bytes(found)


def spoiled_json(rng: random.Random, members: Mapping[str, Any], *, strangers: tuple[str, ...] = ()) -> bytes:
    """The JSON object with one to three of its members replaced, dropped, doubled, renamed or joined by ``strangers``,
    and now and then not an object, not UTF-8, or not JSON at all; by chance the same again.
    """
    pairs = [(name, json.dumps(value, ensure_ascii=rng.random() < 0.5)) for name, value in members.items()]
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(pairs)) if pairs else 0
        nasty = rng.choice(HEAVY) if rng.random() < 0.02 else rng.choice(NASTY)
        match rng.randrange(6):
            case 0 if len(pairs) > 1:
                del pairs[place]
            case 1 if pairs:
                pairs.insert(rng.randrange(len(pairs) + 1), (pairs[place][0], nasty))
            case 2 if pairs:
                pairs[place] = (rng.choice(_RENAMED)(pairs[place][0]), pairs[place][1])
            case 3 if strangers:
                pairs.insert(place, (rng.choice(strangers), nasty))
            case 4 if pairs:
                rng.shuffle(pairs)
            case _ if pairs:
                pairs[place] = (pairs[place][0], nasty)
    text = "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}"
    return _written(rng, text)


def _written(rng: random.Random, text: str) -> bytes:
    match rng.randrange(40):
        case 0:
            text = f"[{text}]"
        case 1:
            text += rng.choice(("}", ",", "\x00", " {}", "//"))
        case 2:
            return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig")), "surrogatepass")
        case 3:
            return spoiled_bytes(rng, text.encode("utf-8", "surrogatepass"))
        case 4:
            text = rng.choice(NASTY)
        case _:
            pass
    return text.encode("utf-8", "surrogatepass")

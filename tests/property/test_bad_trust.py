"""Hundreds of bad files of trusted publishers: refused by name, and never a trust that the file did not grant."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Final

import pytest

from revoker.errors import SettingsError
from revoker.events import KINDS
from revoker.trust import Trust
from revoker.trustfile import TrustFile
from tests.bad_inputs import tried
from tests.mutations import NASTY, spoiled_bytes
from tests.publishers import private_pem, signer
from tests.signing import private_key, public_pem

OWNERS: Final = {"service": signer("service", key="k1"), "operator": signer("operator", key="k2")}

_NAMES: Final = (
    "kinds",
    "issuers",
    "claims",
    "keys",
    "file",
    "pem",
    "not_before",
    "not_after",
    "Kinds",
    "x",
    "publishers",
)
_VALUES: Final = (
    *NASTY,
    *('["token"]', '["*"]', '["all"]', '["nothing"]', '["token", 1]', '"token"', '"*"'),
    *('{ tenant = ["a"] }', "{ tenant = [] }", '{ tenant = ["*", "a"] }', '{ "a\\nb" = 1 }'),
    *("1979-05-27T07:32:00Z", "1979-05-27T07:32:00", "1979-05-27", "07:32:00", "inf", "nan"),
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", '"/nowhere"', '"."', '"a\\u0000b"'),
    *('"key.pem"', '"private.pem"', '"publishers.toml"', '""""'),
)


def good_lines() -> list[str]:
    """A file of two publishers, line by line."""
    lines = []
    for name, one in OWNERS.items():
        kinds = '["token", "session"]' if name == "service" else '["*"]'
        lines += [f"[publishers.{name}]", f"kinds = {kinds}", f"[[publishers.{name}.keys]]"]
        lines += [f"pem = '''\n{one.key.pem}'''", "not_before = 2020-01-01T00:00:00Z"]
    return lines


def spoiled_file(rng: random.Random) -> bytes:
    lines = good_lines()
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                del lines[place]
            case 1:
                lines.insert(place, lines[rng.randrange(len(lines))])
            case 2:
                rng.shuffle(lines)
            case 3:
                table = rng.choice(
                    ("publishers", "publishers.''", 'publishers."a/b"', "publishers.service", "other", "a.b")
                )
                lines[place] = rng.choice(("[{}]", "[[{}]]", "[{}.keys]", "[[{}.keys]]", "{} = 1")).format(table)
            case _:
                lines.insert(place, f"{rng.choice(_NAMES)} = {rng.choice(_VALUES)}")
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return spoiled_bytes(rng, text) if rng.random() < 0.3 else text


def check(trust: Trust) -> None:
    """Only keys that were in the files are trusted, each in the name of one publisher, for kinds that exist."""
    ours = {one.key.kid.partition("/")[2] for one in OWNERS.values()}
    assert trust.keys
    for kid, one in trust.keys.items():
        name, _, thumbprint = kid.partition("/")
        assert thumbprint in ours
        assert name == one.publisher.id
        assert one.publisher.scope.kinds <= set(KINDS)


def test_a_bad_file_is_refused_or_grants_no_more_than_it_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Any content is read or refused by the name of the setting; read again later, the last good trust stays."""
    caplog.set_level(logging.CRITICAL)
    file = tmp_path / "publishers.toml"
    (tmp_path / "key.pem").write_bytes(public_pem(private_key("EdDSA", "k1")))
    (tmp_path / "private.pem").write_bytes(private_pem("k1"))
    file.write_text("\n".join(good_lines()), "utf-8")
    now = 0.0
    kept = TrustFile(file, monotonic=lambda: now)
    taken = 0
    with tried("trusted publishers files") as inputs:
        for rng in inputs:
            file.write_bytes(spoiled_file(rng))
            now += 2
            before = kept.trust
            kept.refresh()
            try:
                trust = TrustFile(file).trust
            except SettingsError as error:
                message = str(error)
                assert message.startswith(f"trusted_publishers_file {file} ")
                assert message.isprintable()
                assert len(message) < 1000
                assert "PRIVATE KEY" not in message
                assert kept.problem
                assert kept.trust is before
            else:
                taken += 1
                check(trust)
                assert kept.problem is None
                assert kept.trust == trust
    assert taken > 10, "the generator has become so wild that nothing is taken any more"

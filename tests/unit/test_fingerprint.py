"""The keyed fingerprints of identifiers."""

from __future__ import annotations

import hashlib
import traceback

import pytest
from xxhash import xxh3_64_intdigest

from consumers.denylist.fingerprint import TABLE_KINDS, Fingerprints

_SECRET = bytes(range(32))
_ISS = "https://issuer.example"


def test_a_fingerprint_is_xxh3_under_a_seed_of_the_issuer_and_the_kind() -> None:
    """Tables outlive a process, so the function is fixed: XXH3, seeded by keyed BLAKE2b of kind and issuer."""
    for number, kind in enumerate(TABLE_KINDS):
        name = f"{kind} {_ISS}".encode()
        seed = int.from_bytes(hashlib.blake2b(name, key=_SECRET, digest_size=8).digest(), "little")
        want = xxh3_64_intdigest(b"id", seed)
        assert Fingerprints(_SECRET).of(number, _ISS, "id") == (want & ~1 if kind == "subject" else want)


def test_secret_issuer_kind_and_text_all_count() -> None:
    """The same text under another secret, of another issuer or of another kind is something else."""
    other = Fingerprints(bytes(32))
    some = [Fingerprints(_SECRET).of(kind, iss, text) for kind in range(4) for iss in ("", "a") for text in ("", "b")]
    assert len({*some, *(other.of(kind, "a", "b") for kind in range(4))}) == 20


def test_kind_and_issuer_do_not_run_into_each_other() -> None:
    """No issuer can be named so that its seeds are those of another kind of another issuer."""
    prints = Fingerprints(_SECRET)
    assert len({*prints.seeds("token x"), *prints.seeds("x"), *prints.seeds("")}) == 12


def test_a_subject_has_an_even_fingerprint() -> None:
    """The odd number after it is the slot of its expiry, so that both have one home."""
    prints = Fingerprints(_SECRET)
    assert all(prints.of(3, _ISS, f"u{number}") % 2 == 0 for number in range(100))


@pytest.mark.parametrize(
    ("digest", "exact", "subject"), [(0, 1, 2), (1, 1, 2), (3, 3, 2), (2**64 - 1, 2**64 - 1, 2**64 - 2)]
)
def test_no_fingerprint_is_an_empty_slot(
    monkeypatch: pytest.MonkeyPatch, digest: int, exact: int, subject: int
) -> None:
    """A hash of 0, or of 1 for a subject, becomes a number that a slot can hold."""
    monkeypatch.setattr("consumers.denylist.fingerprint.xxh3_64_intdigest", lambda _data, _seed: digest)
    prints = Fingerprints(_SECRET)
    assert [prints.of(0, _ISS, "x"), prints.of(3, _ISS, "x")] == [exact, subject]


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_secret_of_another_length_is_an_error(length: int) -> None:
    """Too short is guessed, too long is a mistake; the error shows the length alone."""
    secret = b"\xaa\xbb" * 32
    with pytest.raises(ValueError, match=f"^the secret of a table has 32 bytes, not {length}$"):
        Fingerprints(secret[:length])


def test_the_secret_shows_nowhere() -> None:
    """Neither the text of the object nor of an error has the secret in it."""
    prints = Fingerprints(b"s3cr3t-s3cr3t-s3cr3t-s3cr3t-abcd")
    with pytest.raises(UnicodeEncodeError) as raised:
        prints.of(0, "\ud800", "x")
    assert "s3cr3t" not in repr(prints) + str(prints) + "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(("iss", "value"), [("\ud800", "x"), (_ISS, "\udfff")])
def test_a_lone_surrogate_has_no_fingerprint(iss: str, value: str) -> None:
    """No record can name such a text, since JSON carries UTF-8; the caller treats the token as it must."""
    with pytest.raises(UnicodeEncodeError):
        Fingerprints(_SECRET).of(0, iss, value)


def test_seeds_are_kept_but_not_without_end() -> None:
    """Seeds of known issuers cost a look-up; however many issuers are named, memory stays bounded."""
    prints = Fingerprints(_SECRET)
    first = prints.seeds("0")
    assert prints.known == {"0": first}
    for number in range(3000):
        prints.seeds(str(number))
        assert len(prints.known) <= 1024
        assert all(len(one) <= 1024 for one in prints.known_of)
    assert prints.seeds("0") == first


def test_texts_of_any_script_have_a_fingerprint() -> None:
    """An identifier is its UTF-8: what looks alike but is encoded otherwise is another one."""
    prints = Fingerprints(_SECRET)
    assert len({prints.of(0, _ISS, text) for text in ("é", "e\u0301", "用户", "\0", " ", "")}) == 6

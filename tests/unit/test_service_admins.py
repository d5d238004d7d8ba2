"""Admin tokens: what the setting may say, who is recognised, and that no secret shows anywhere."""

from __future__ import annotations

import pytest

from revoker.errors import SettingsError
from revoker.events import KINDS
from revoker.service.admins import admins_from_setting, identify

SECRET = "s3cr3t-s3cr3t-s3cr3t"
OTHER = "an0ther-an0ther-an0ther"


def test_each_entry_has_a_name_a_secret_and_kinds() -> None:
    """Entries are separated by commas, kinds by plus signs, blanks around them do not matter; * is every kind."""
    root, support = admins_from_setting(f" root:{SECRET}:* , support:{OTHER}:token + session,")
    assert (root.name, root.kinds) == ("root", frozenset(KINDS))
    assert (support.name, support.kinds) == ("support", frozenset({"token", "session"}))


@pytest.mark.parametrize("text", [None, "", " , "])
def test_no_entry_means_no_admin(text: str | None) -> None:
    """An unset or empty setting has nobody in it."""
    assert admins_from_setting(text) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SECRET, "entry 1: has 1 parts, must have three"),
        (f"root:{SECRET}", "entry 1: has 2 parts"),
        (f"root:{SECRET}:*:more", "entry 1: has 4 parts"),
        (f":{SECRET}:*", "entry 1: its name"),
        (f"ro ot:{SECRET}:*", "entry 1: its name"),
        ("root:short:*", "entry 1: its secret has 5 characters, must have at least 16"),
        ("root:has blanks, yes", "entry 1: has 2 parts"),
        (f"root:{SECRET}\xe9:*", "entry 1: its secret must be letters"),
        (f"root:{SECRET}:sesion", "entry 1: names a kind that does not exist; there are token"),
        (f"root:{SECRET}:", "entry 1: names a kind that does not exist"),
        (f"root:{SECRET}:*+token", "entry 1: names a kind that does not exist"),
        (f"root:{SECRET}:*,root:{OTHER}:*", "entry 2: its name is taken"),
        (f"root:{SECRET}:*,ops:{SECRET}:*", "entry 2: its secret is that of an earlier one"),
    ],
)
def test_a_malformed_entry_is_named_by_its_place(text: str, message: str) -> None:
    """The message says which entry is wrong and what would be right."""
    with pytest.raises(SettingsError, match=message):
        admins_from_setting(text)


@pytest.mark.parametrize("text", [SECRET, f"{SECRET}:root:*", f"root:*:{SECRET}", f"root:*:{SECRET}x", f"{SECRET}:x"])
def test_no_message_shows_a_secret_even_one_in_the_wrong_place(text: str) -> None:
    """An entry whose parts are out of order is refused without quoting any of them."""
    with pytest.raises(SettingsError) as caught:
        admins_from_setting(text)
    assert SECRET not in str(caught.value)


def test_the_repr_shows_no_secret() -> None:
    """Neither the secret nor its digest is in the repr."""
    (admin,) = admins_from_setting(f"root:{SECRET}:*")
    assert repr(admin) == f"Admin(name='root', kinds={admin.kinds!r})"


def test_the_bearer_of_a_secret_is_recognised() -> None:
    """Each secret leads to its own entry, anything else to none."""
    admins = admins_from_setting(f"root:{SECRET}:*,ops:{OTHER}:token")
    assert [getattr(identify(admins, secret=secret), "name", None) for secret in (SECRET, OTHER, SECRET[:-1], "")] == [
        "root",
        "ops",
        None,
        None,
    ]


def test_bytes_that_are_no_text_are_recognised_as_nobody() -> None:
    """A header in no encoding, which aiohttp hands over with surrogates, is answered like any wrong secret."""
    assert identify(admins_from_setting(f"root:{SECRET}:*"), secret="\udcff" * 20) is None

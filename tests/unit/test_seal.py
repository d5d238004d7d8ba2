"""The publisher's side of signatures: what it signs with, and what it refuses to publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from revoker.errors import InvalidRevocation, SettingsError
from revoker.events import Client, Everything, Session
from revoker.seal import Seal, toml_entry
from revoker.settings import Settings
from revoker.signature import HEADER, read_signature
from tests.publishers import event, private_pem, signer, trust_toml, write_key

ONE = signer()


def settings(folder: Path, **changes: Any) -> Settings:
    """Settings of a publisher named service with the key k1."""
    values: dict[str, Any] = {"publisher_id": "service", "signing_key_file": str(write_key(folder))}
    return Settings(**values | changes)


def trusting(folder: Path, text: str) -> str:
    file = folder / "publishers.toml"
    file.write_text(text)
    return str(file)


def seal(made: Settings, **options: Any) -> Seal:
    found = Seal.from_settings(made, **options)
    assert found is not None
    return found


def test_without_a_key_nothing_is_signed() -> None:
    """Signing is optional."""
    assert Seal.from_settings(Settings()) is None


def test_a_record_gets_one_further_header(tmp_path: Path) -> None:
    """The signature of these bytes, for the topic of the settings, by the key of the settings."""
    ((name, text),) = seal(settings(tmp_path, topic="t")).sign(b"value")
    claimed = read_signature([(name, text)])
    assert claimed is not None
    assert (name, claimed.topic, claimed.publisher_id) == (HEADER, "t", "service")
    assert ONE.key.verifies(claimed, value=b"value")


def test_without_the_fleets_trust_nothing_is_refused(tmp_path: Path) -> None:
    """A publisher that does not know the file leaves it to the nodes."""
    seal(settings(tmp_path)).check(event(Everything()))


def test_what_no_node_would_apply_is_refused_before_it_is_acknowledged(tmp_path: Path) -> None:
    """A caller must not hear that a revocation is acknowledged that the whole fleet ignores."""
    one = seal(settings(tmp_path, trusted_publishers_file=trusting(tmp_path, trust_toml(ONE))))
    one.check(event(Session(iss="", sid="s")))
    with pytest.raises(InvalidRevocation, match="service may not publish events of kind client"):
        one.check(event(Client(iss="", client_id="c")))


def test_the_scope_of_now_counts(tmp_path: Path) -> None:
    """A changed file counts for publishers as it does for nodes, without a restart."""
    now = [0.0]
    file = trusting(tmp_path, trust_toml(ONE))
    one = seal(settings(tmp_path, trusted_publishers_file=file), monotonic=lambda: now[0])
    trusting(tmp_path, trust_toml(ONE, scopes={"service": 'kinds = ["client"]'}))
    now[0] = 1.0
    one.check(event(Client(iss="", client_id="c")))
    trusting(tmp_path, trust_toml(signer("other", key="k2")))
    now[0] = 2.0
    with pytest.raises(InvalidRevocation, match="no longer trusted"):
        one.check(event(Client(iss="", client_id="c")))


def test_a_key_that_nobody_trusts_is_an_error_at_the_start(tmp_path: Path) -> None:
    """The message holds the lines that would make it right."""
    made = settings(tmp_path, trusted_publishers_file=trusting(tmp_path, trust_toml(signer("other", key="k2"))))
    with pytest.raises(SettingsError, match="no node would apply") as caught:
        Seal.from_settings(made)
    assert toml_entry(ONE) in str(caught.value)


def test_where_nodes_require_signatures_a_publisher_must_sign(tmp_path: Path) -> None:
    """An unsigned service beside a trust file would acknowledge logouts that no node applies."""
    made = Settings(trusted_publishers_file=trusting(tmp_path, trust_toml(ONE)))
    with pytest.raises(SettingsError, match="set publisher_id and signing_key_file"):
        Seal.from_settings(made)


@pytest.mark.parametrize("given", [{"publisher_id": "p"}, {"signing_key_file": "k.pem"}])
def test_name_and_key_belong_together(given: dict[str, str]) -> None:
    """One without the other is refused by name."""
    with pytest.raises(SettingsError, match="publisher_id and signing_key_file belong together"):
        Settings(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read: No such file"), (b"hello", "no PEM block"), (ONE.key.pem.encode(), "no readable private")],
)
def test_a_wrong_key_file_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    """With its path and what is wrong, and nothing of what it holds."""
    file = tmp_path / "signing.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=said) as caught:
        Seal.from_settings(settings(tmp_path, signing_key_file=str(file)))
    assert f"signing_key_file {file}" in str(caught.value)


def test_no_key_is_shown(tmp_path: Path) -> None:
    """Neither the seal nor its settings give the key away."""
    made = settings(tmp_path)
    assert private_pem("k1").decode().splitlines()[1] not in repr(made) + repr(seal(made)) + repr(vars(seal(made)))

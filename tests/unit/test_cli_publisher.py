"""``revoker publisher``: a key made, trusted and used; a file of publishers looked at."""

from __future__ import annotations

from pathlib import Path

from revoker.seal import Seal
from revoker.settings import Settings
from tests.command_line import revoker
from tests.publishers import SERVICE, TENANT, private_pem, trust_toml


def test_a_key_made_here_is_trusted_by_the_lines_it_prints(tmp_path: Path) -> None:
    """keygen's file signs, its output is what the trust file needs, and nobody else can read the file."""
    key, trust = tmp_path / "key.pem", tmp_path / "publishers.toml"
    made = revoker("publisher", "keygen", "logout-service", str(key), "--json")
    trust.write_text(made.json["trust"])
    settings = Settings(publisher_id="logout-service", signing_key_file=str(key), trusted_publishers_file=str(trust))
    seal = Seal.from_settings(settings)
    assert seal is not None
    assert key.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in made.out


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """A file that exists is left alone, exit code 2."""
    key = tmp_path / "key.pem"
    key.write_bytes(private_pem("k1"))
    ran = revoker("publisher", "keygen", "p", str(key))
    assert (ran.code, key.read_bytes()) == (2, private_pem("k1"))
    assert "File exists" in ran.err


def test_a_wrong_name_makes_no_file(tmp_path: Path) -> None:
    """The name is checked first."""
    ran = revoker("publisher", "keygen", "a b", str(tmp_path / "key.pem"))
    assert ran.code == 2
    assert "1 to 64" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_trust_file_is_explained(tmp_path: Path) -> None:
    """check prints who may publish what, with which keys, for programs and for people."""
    file = tmp_path / "publishers.toml"
    scope = 'kinds = ["claim", "withdrawal"]\nissuers = ["https://t"]\nclaims = { tenant = ["acme"] }'
    dates = {TENANT.key.kid: "not_after = 2027-01-01T00:00:00Z"}
    file.write_text(trust_toml(SERVICE, TENANT, scopes={"tenant": scope}, dates=dates))
    service, tenant = revoker("publisher", "check", str(file), "--json").json["publishers"]
    assert service["kinds"] == ["token", "digest", "session", "subject"]
    assert service["issuers"] is None
    assert tenant == {
        "id": "tenant",
        "kinds": ["claim", "withdrawal"],
        "issuers": ["https://t"],
        "claims": {"tenant": ["acme"]},
        "keys": [
            {"kid": TENANT.key.kid, "algorithm": "ES256", "not_before": None, "not_after": "2027-01-01T00:00:00Z"}
        ],
    }
    words = revoker("publisher", "check", str(file), "--table").out
    assert "tenant=acme" in words


def test_a_broken_trust_file_exits_2(tmp_path: Path) -> None:
    """With the place of what is wrong."""
    file = tmp_path / "publishers.toml"
    file.write_text("[publishers.a]")
    ran = revoker("publisher", "check", str(file))
    assert ran.code == 2
    assert "publishers.a has no keys" in ran.err

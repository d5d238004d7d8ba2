"""The file of trusted publishers: what it says, what is wrong with it, and when it is read again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from revoker.errors import SettingsError
from revoker.events import KINDS
from revoker.trust import NARROW_KINDS, Scope
from revoker.trustfile import TrustFile
from tests.publishers import private_pem, signer, trust_toml
from tests.signing import private_key, public_pem

ONE = signer()
PEM = f"[[publishers.service.keys]]\npem = '''\n{ONE.key.pem}'''\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "publishers.toml"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def scope_of(path: Path, lines: str) -> Scope:
    path.write_text(f"[publishers.service]\n{lines}\n{PEM}")
    (found,) = TrustFile(path).trust.publishers
    return found.scope


class TestReading:
    def test_keys_stand_in_the_file_or_beside_it(self, path: Path) -> None:
        """A file name is relative to the file's own folder, wherever the process was started."""
        (path.parent / "keys").mkdir()
        (path.parent / "keys" / "b.pem").write_bytes(public_pem(private_key("ES256", "b")))
        path.write_text(PEM + '[[publishers.backup.keys]]\nfile = "keys/b.pem"\n')
        trust = TrustFile(path).trust
        assert set(trust.keys) == {ONE.key.kid, signer("backup", key="b", algorithm="ES256").key.kid}
        assert [one.id for one in trust.publishers] == ["backup", "service"]

    def test_without_a_scope_a_publisher_may_what_a_logout_needs(self, path: Path) -> None:
        """The default is safe: narrow kinds, for every issuer."""
        assert scope_of(path, "") == Scope(kinds=NARROW_KINDS, issuers=None, claims=None)

    def test_a_scope_is_read(self, path: Path) -> None:
        """Kinds, issuers, claims and their values."""
        lines = (
            'kinds = ["claim", "withdrawal"]\nissuers = ["https://a"]\nclaims = { tenant = ["acme"], device = ["*"] }'
        )
        assert scope_of(path, lines) == Scope(
            kinds=frozenset({"claim", "withdrawal"}),
            issuers=frozenset({"https://a"}),
            claims={"tenant": frozenset({"acme"}), "device": None},
        )

    def test_a_star_is_every_kind(self, path: Path) -> None:
        """As in admin_tokens."""
        assert scope_of(path, 'kinds = ["*"]').kinds == set(KINDS)

    def test_no_kind_at_all_is_a_publisher_of_heartbeats(self, path: Path) -> None:
        """An empty list is meant."""
        assert scope_of(path, "kinds = []").kinds == set()

    def test_dates_are_times_with_their_offset(self, path: Path) -> None:
        """Both limits, in Unix milliseconds."""
        dates = {ONE.key.kid: "not_before = 1970-01-01T01:00:01+01:00\nnot_after = 1970-01-01T00:00:02.5Z"}
        path.write_text(trust_toml(ONE, dates=dates))
        key = TrustFile(path).trust.keys[ONE.key.kid]
        assert (key.not_before_ms, key.not_after_ms) == (1000, 2500)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "names no publisher"),
            ("publishers = 7", "names no publisher"),
            ("[publishers]", "names no publisher"),
            ("[publishers.a", "is not TOML"),
            ("[publisher.a]", "did you mean publishers"),
            ("[publishers.a]", "publishers.a has no keys"),
            ("[publishers]\na = 7", "publishers.a must be a table"),
            ('[publishers."a b"]', "a name must be 1 to 64"),
            ("[publishers.service]\nkind = []\n" + PEM, "did you mean kinds"),
            ('[publishers.service]\nkinds = "token"\n' + PEM, "must be a list of texts"),
            ('[publishers.service]\nkinds = ["tokens"]\n' + PEM, "did you mean token"),
            ("[publishers.service]\nissuers = []\n" + PEM, "issuers is empty"),
            ("[publishers.service]\nissuers = [7]\n" + PEM, "must be a list of texts"),
            ('[publishers.service]\nkinds = ["all"]\nissuers = ["a"]\n' + PEM, "reaches every issuer"),
            ('[publishers.service]\nclaims = {t = ["a"]}\n' + PEM, "does not allow"),
            ('[publishers.service]\nkinds = ["claim"]\nclaims = ["t"]\n' + PEM, "a table of claims"),
            ('[publishers.service]\nkinds = ["claim"]\nclaims = {t = []}\n' + PEM, "list the values allowed"),
            ('[publishers.service]\nkinds = ["claim"]\nclaims = {t = ["*", "a"]}\n' + PEM, "list the values allowed"),
            ('[publishers.service]\nkeys = ["a.pem"]', "a table with file or pem"),
            ("[[publishers.service.keys]]", "one of file and pem"),
            ('[[publishers.service.keys]]\npem = "a"\nfile = "b"', "one of file and pem"),
            ("[[publishers.service.keys]]\npem = 7", "are texts"),
            ('[[publishers.service.keys]]\npath = "a.pem"', "has 'path'"),
            ('[[publishers.service.keys]]\nfile = "missing.pem"', "missing.pem cannot be read: No such file"),
            ('[[publishers.service.keys]]\nfile = "\\u0000"', "cannot be read"),
            ('[[publishers.service.keys]]\npem = "hello"', "no PEM block"),
            (f"[[publishers.service.keys]]\npem = '''{private_pem('k1').decode()}'''", "holds a private key"),
            (
                f"[[publishers.service.keys]]\npem = '''{public_pem(private_key('RS256')).decode()}'''",
                "neither an Ed25519 nor a P-256 key",
            ),
            (PEM + PEM, "one key twice"),
            (PEM + PEM.replace("service", "other"), "same key for service and other"),
            (PEM + 'not_after = "2026-11-01"', "a time with its offset"),
            (PEM + "not_after = 2026-11-01", "a time with its offset"),
            (PEM + "not_after = 2026-11-01T00:00:00", "a time with its offset"),
            (
                PEM + "not_before = 2026-11-01T00:00:00Z\nnot_after = 2026-11-01T00:00:00Z",
                "would never count",
            ),
        ],
    )
    def test_what_is_wrong_is_named_with_what_would_be_right(self, path: Path, text: str, said: str) -> None:
        """A malformed file is refused with its path and its place, and no key is quoted."""
        path.write_text(text)
        with pytest.raises(SettingsError, match=said) as caught:
            TrustFile(path)
        assert str(path) in str(caught.value)
        assert "MC4CAQ" not in str(caught.value)

    def test_a_missing_file_is_an_error(self, path: Path) -> None:
        """No file, no trust: the node does not start as if none were asked for."""
        with pytest.raises(SettingsError, match="cannot be read: No such file"):
            TrustFile(path)


class TestReadingAgain:
    def test_an_unchanged_file_is_left_alone(self, path: Path) -> None:
        """Nothing is read, and the trust is the very same."""
        path.write_text(PEM)
        clock = Clock()
        file = TrustFile(path, monotonic=clock)
        before = file.trust
        clock.now = 5
        assert not file.refresh()
        assert file.trust is before

    def test_a_changed_file_counts_within_a_second(self, path: Path) -> None:
        """It is looked at once a second at most, and then read."""
        path.write_text(PEM)
        clock = Clock()
        file = TrustFile(path, monotonic=clock)
        path.write_text(PEM + trust_toml(signer("other", key="k2")))
        clock.now = 0.9
        assert not file.refresh()
        clock.now = 1.0
        assert file.refresh()
        assert len(file.trust.keys) == 2

    def test_a_file_replaced_with_its_times_kept_counts(self, path: Path) -> None:
        """Orchestrators swap files; the new one may carry the old one's times and size."""
        path.write_text(PEM)
        clock = Clock()
        file = TrustFile(path, monotonic=clock)
        state = path.stat()
        new = path.with_suffix(".new")
        new.write_text(PEM.replace("service", "serviec"))
        os.utime(new, ns=(state.st_atime_ns, state.st_mtime_ns))
        new.replace(path)
        clock.now = 1
        assert file.refresh()

    def test_a_changed_key_file_counts_too(self, path: Path) -> None:
        """The files it names are part of it."""
        key = path.parent / "k.pem"
        key.write_text(ONE.key.pem)
        path.write_text('[[publishers.service.keys]]\nfile = "k.pem"')
        clock = Clock()
        file = TrustFile(path, monotonic=clock)
        key.write_text(signer(key="k2").key.pem)
        clock.now = 1
        assert file.refresh()
        assert set(file.trust.keys) == {signer(key="k2").key.kid}

    def test_a_change_without_a_meaning_is_none(self, path: Path) -> None:
        """A comment more is read, and changes no trust."""
        path.write_text(PEM)
        clock = Clock()
        file = TrustFile(path, monotonic=clock)
        path.write_text(PEM + "# rotated last week\n")
        clock.now = 1
        assert not file.refresh()

    def test_a_broken_file_keeps_the_last_good_trust(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """What is wrong is said once in the log, and shown until the file is good again."""
        path.write_text(PEM)
        clock = Clock()
        file = TrustFile(path, monotonic=clock)
        before = file.trust
        path.write_text("[publishers.service")
        for _ in range(3):
            clock.now += 1
            assert not file.refresh()
        assert file.trust is before
        assert file.problem is not None
        assert "is not TOML" in file.problem
        assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1
        path.write_text(PEM)
        clock.now += 1
        assert not file.refresh(), "the same trust as before"
        assert file.problem is None

    def test_a_file_that_has_gone_keeps_the_last_good_trust(self, path: Path) -> None:
        """And one that comes back with other content counts."""
        path.write_text(PEM)
        clock = Clock()
        file = TrustFile(path, monotonic=clock)
        path.unlink()
        clock.now += 1
        assert not file.refresh()
        assert "cannot be read" in (file.problem or "")
        path.write_text(trust_toml(signer("other")))
        clock.now += 1
        assert file.refresh()

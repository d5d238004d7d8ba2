"""One table of settings: where values come from, what is refused and how, and that each is documented."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from revoker.errors import SettingsError
from revoker.settings import ENVIRONMENT_PREFIX, Row, Settings, environment_without_settings, sources, table
from tests.generated import ROOT

#: Settings without which a secret would do nothing, and is refused.
_OAUTH = {
    "REVOKER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "REVOKER_KAFKA_SASL_MECHANISM": "OAUTHBEARER",
    "REVOKER_KAFKA_OAUTH_TOKEN_URL": "https://id.example/token",
    "REVOKER_KAFKA_OAUTH_CLIENT_ID": "node",
}
USED_WITH = {
    "kafka_ssl_key_password": {
        "REVOKER_KAFKA_SECURITY_PROTOCOL": "SSL",
        "REVOKER_KAFKA_SSL_CERTIFICATE_FILE": "client.pem",
    },
    "kafka_sasl_password": {
        "REVOKER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "REVOKER_KAFKA_SASL_USERNAME": "node",
    },
    "kafka_oauth_client_secret": _OAUTH,
}

ROWS = {row.name: row for row in table()}


def load(environ: dict[str, str] | None = None, *, file: Path | None = None, **arguments: Any) -> Settings:
    """`Settings.load` away from this process's own environment."""
    return Settings.load(arguments, environ=environ or {}, file=file)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """A settings file that names a topic and a list."""
    path = tmp_path / "revoker.toml"
    path.write_text('topic = "from-file"\naudience = ["a", "b"]\nleeway_s = 7\ncookie_secure = false\n')
    return path


class TestPrecedence:
    def test_without_anything_the_defaults_hold(self) -> None:
        """Every default of the table is a valid value of its own setting."""
        settings = load()
        assert {name: getattr(settings, name) for name in ROWS} == {name: row.default for name, row in ROWS.items()}

    def test_argument_beats_environment_beats_file_beats_default(self, toml: Path) -> None:
        """Each source overrides the next, setting by setting."""
        environ = {
            "REVOKER_CONFIG": str(toml),
            "REVOKER_TOPIC": "from-environment",
            "REVOKER_REALM": "from-environment",
        }
        settings = load(environ, realm="from-argument")
        assert (settings.realm, settings.topic, settings.leeway_s) == ("from-argument", "from-environment", 7)
        assert settings.cookie_name == "USER_SESSION"

    def test_the_source_of_each_setting_can_be_told(self, toml: Path) -> None:
        """sources names, for every setting, where its value comes from."""
        told = sources({"realm": "x"}, environ={"REVOKER_TOPIC": "t"}, file=toml)
        assert set(told) == set(ROWS)
        assert [told[name] for name in ("realm", "topic", "leeway_s", "listen")] == [
            "argument",
            "environment",
            "file",
            "default",
        ]

    def test_an_argument_of_none_counts_as_not_given(self) -> None:
        """A command line option that was not used does not hide the environment."""
        assert load({"REVOKER_TOPIC": "t"}, topic=None).topic == "t"

    def test_an_explicit_file_beats_the_one_the_environment_names(self, toml: Path) -> None:
        """The argument names the file to read, whatever REVOKER_CONFIG says."""
        assert load({"REVOKER_CONFIG": "/does/not/exist"}, file=toml).topic == "from-file"

    def test_other_variables_are_not_ours(self) -> None:
        """Variables without the prefix, and those of the test suite, are no settings."""
        assert load({"TOPIC": "x", "REVOKER_TEST_BOOTSTRAP": "host:1"}) == load()

    def test_a_child_process_can_be_given_settings_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """environment_without_settings drops our variables and nothing else."""
        monkeypatch.setenv("REVOKER_TOPIC", "x")
        monkeypatch.setenv("UNRELATED", "y")
        environ = environment_without_settings()
        assert environ["UNRELATED"] == "y"
        assert not any(name.startswith(ENVIRONMENT_PREFIX) for name in environ)


class TestForms:
    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("topic", "revoked", "revoked"),
            ("leeway_s", "0", 0),
            ("jwks_timeout_s", "2", 2.0),
            ("jwks_timeout_s", "0.5", 0.5),
            ("cookie_secure", "true", True),
            ("cookie_http_only", "False", False),
            ("cookie_http_only", "0", False),
            ("tolerate_undecodable", "yes", True),
            ("algorithms", "RS256", ("RS256",)),
            ("algorithms", " RS256 , ES256,", ("RS256", "ES256")),
            ("audience", "", ()),
            ("issuer", "", None),
            ("issuer", "https://issuer.example", "https://issuer.example"),
            ("cookie_name", "", ""),
            ("topic_check", "lenient", "lenient"),
        ],
    )
    def test_text_is_read_in_the_type_of_its_setting(self, name: str, text: str, value: Any) -> None:
        """Environment variables are texts; they are read as numbers, truths, lists, or unset."""
        assert getattr(load({f"REVOKER_{name.upper()}": text}), name) == value

    def test_a_file_has_types_of_its_own(self, toml: Path) -> None:
        """Lists, numbers and truths in TOML are taken as they are."""
        settings = load(file=toml)
        assert (settings.audience, settings.leeway_s, settings.cookie_secure) == (("a", "b"), 7, False)

    def test_settings_made_in_code_are_checked_alike(self) -> None:
        """A list is accepted for a tuple and a wrong type is refused without going through load."""
        assert Settings(audience=["a"]).audience == ("a",)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="leeway_s is None, must be whole number"):
            Settings(leeway_s=None)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("listen", "address"),
        [
            ("127.0.0.1:8080", ("127.0.0.1", 8080)),
            (":0", ("0.0.0.0", 0)),
            ("[::1]:80", ("::1", 80)),
            ("host.example:65535", ("host.example", 65535)),
        ],
    )
    def test_listen_is_host_and_port(self, listen: str, address: tuple[str, int]) -> None:
        """An address is split at its last colon; without a host it means all of them."""
        assert load(listen=listen).listen_address == address

    def test_retention_follows_from_the_longest_life(self) -> None:
        """The lifetimes are the three settings they are made from."""
        lifetimes = load(longest_token_life_s=100, leeway_s=10, clock_margin_s=1).lifetimes
        assert (lifetimes.longest_token_life_s, lifetimes.leeway_s, lifetimes.clock_margin_s) == (100, 10, 1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("environ", "arguments", "message"),
        [
            ({"REVOKER_TOPIK": "x"}, {}, "unknown setting REVOKER_TOPIK; did you mean topic?"),
            ({"REVOKER_KAFKA_BOOTSTRAP": "x"}, {}, "did you mean kafka_bootstrap_servers?"),
            ({"REVOKER_TOPIC_FILE": "/x"}, {}, "unknown setting REVOKER_TOPIC_FILE"),
            ({}, {"isuer": "x"}, "unknown setting argument isuer; did you mean issuer?"),
            ({"REVOKER_QQQQQQQQ": "x"}, {}, "unknown setting REVOKER_QQQQQQQQ; "),
            ({"REVOKER_LEEWAY_S": "ten"}, {}, "leeway_s is 'ten', must be whole number"),
            ({"REVOKER_LEEWAY_S": ""}, {}, "leeway_s is '', must be whole number"),
            ({"REVOKER_LEEWAY_S": "1.5"}, {}, "leeway_s is '1.5', must be whole number"),
            ({}, {"leeway_s": True}, "leeway_s is True, must be whole number"),
            ({"REVOKER_LEEWAY_S": "-1"}, {}, "leeway_s is -1, must be at least 0"),
            ({"REVOKER_STALENESS_BOUND_S": "nan"}, {}, "staleness_bound_s is "),
            ({"REVOKER_STALENESS_BOUND_S": "inf"}, {}, "staleness_bound_s is inf, must be a finite number"),
            ({}, {"publish_timeout_s": math.inf}, "publish_timeout_s is inf, must be a finite number"),
            ({"REVOKER_COOKIE_SECURE": "maybe"}, {}, "cookie_secure is 'maybe', must be true or false"),
            ({"REVOKER_TOPIC_CHECK": "loose"}, {}, "topic_check is 'loose', must be strict or lenient"),
            ({}, {"audience": [1]}, "audience is [1], must be comma-separated list"),
            ({"REVOKER_LISTEN": "8080"}, {}, "listen is '8080', must be HOST:PORT"),
            ({"REVOKER_LISTEN": "h:99999"}, {}, "listen is 'h:99999', must be HOST:PORT"),
            ({"REVOKER_LISTEN": "h:²"}, {}, "must be HOST:PORT"),
            (
                {},
                {"topic_min_insync_replicas": 4},
                "topic_min_insync_replicas (4) exceeds topic_replication_factor (3)",
            ),
            (
                {},
                {"request_timeout_s": 1, "fetch_max_wait_ms": 1000},
                "request_timeout_s (1.0) must exceed fetch_max_wait_ms",
            ),
            ({}, {"staleness_bound_s": 0.2}, "must be at least three times fetch_max_wait_ms (100)"),
            ({}, {"cookie_same_site": "None", "cookie_secure": False}, "cookie_same_site None needs cookie_secure"),
        ],
    )
    def test_what_is_wrong_is_named_with_what_would_be_right(
        self, environ: dict[str, str], arguments: dict[str, Any], message: str
    ) -> None:
        """An unknown, malformed or contradictory setting is refused by name; nothing is ignored."""
        with pytest.raises(SettingsError) as caught:
            load(environ, **arguments)
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('topik = "x"', "did you mean topic?"),
            ("[kafka]\nbootstrap = 1", "unknown setting kafka in "),
            ("topic = ", "revoker.toml: "),
            ('leeway_s = "1"', None),
        ],
    )
    def test_a_wrong_file_is_named(self, tmp_path: Path, content: str, message: str | None) -> None:
        """An unknown name or broken TOML is refused with the file; a number written as text is taken."""
        path = tmp_path / "revoker.toml"
        path.write_text(content)
        if message is None:
            assert load(file=path).leeway_s == 1
            return
        with pytest.raises(SettingsError) as caught:
            load(file=path)
        assert message in str(caught.value)

    def test_a_missing_file_is_named(self) -> None:
        """A file that is named has to exist."""
        with pytest.raises(SettingsError, match=r"settings file /does/not/exist\.toml"):
            load({"REVOKER_CONFIG": "/does/not/exist.toml"})


class TestSecrets:
    def test_a_secret_may_stand_in_a_file_of_its_own(self, tmp_path: Path) -> None:
        """REVOKER_<NAME>_FILE names a file whose content is the secret, without the final line end."""
        path = tmp_path / "key"
        path.write_text("s3cret \n")
        assert load({"REVOKER_KEY_SECRET_FILE": str(path)}).key_secret == "s3cret "

    def test_a_secret_given_twice_is_refused(self, tmp_path: Path) -> None:
        """The variable and its _FILE together leave open which is meant."""
        with pytest.raises(SettingsError, match=r"both REVOKER_KEY_SECRET and REVOKER_KEY_SECRET_FILE"):
            load({"REVOKER_KEY_SECRET": "x", "REVOKER_KEY_SECRET_FILE": str(tmp_path / "x")})

    def test_a_secret_file_that_cannot_be_read_is_named(self) -> None:
        """The error names the variable and the file."""
        with pytest.raises(SettingsError, match=r"REVOKER_KEY_SECRET_FILE: .*/does/not/exist"):
            load({"REVOKER_KEY_SECRET_FILE": "/does/not/exist"})

    @pytest.mark.parametrize("name", [row.name for row in table() if row.secret])
    def test_no_secret_shows_in_the_repr(self, name: str) -> None:
        """Whatever prints settings prints a mask for a secret that is set."""
        settings = load({f"REVOKER_{name.upper()}": "hunter2:hunter2:token", **USED_WITH.get(name, {})})
        assert f"{name}='***'" in repr(settings)
        assert "hunter2" not in repr(settings) + str(settings) + f"{settings}"

    def test_no_secret_shows_in_an_error(self) -> None:
        """A malformed secret is refused without being quoted."""
        with pytest.raises(SettingsError) as caught:
            load(key_secret=["hunter2"])
        assert "hunter2" not in str(caught.value)
        assert "key_secret" in str(caught.value)

    def test_what_sounds_secret_is_marked(self) -> None:
        """A setting whose name speaks of a secret or a password, or that holds admins' tokens, is masked."""
        assert all(
            row.secret for row in table() if any(word in row.name for word in ("secret", "password", "admin_tokens"))
        )


class TestDocumentation:
    @pytest.mark.parametrize("row", table(), ids=lambda row: row.name)
    def test_every_setting_is_documented(self, row: Row) -> None:
        """docs/settings.md has a line for each setting, with a help text."""
        page = (ROOT / "docs/settings.md").read_text("utf-8")
        assert f"| `{row.name}` |" in page
        assert len(row.help) > 10

    def test_every_number_has_its_unit_or_counts_something(self) -> None:
        """A number's name ends in its unit, or says what is counted."""
        counted = {"topic_partitions", "topic_replication_factor", "topic_min_insync_replicas"}
        counted |= {"max_entries", "outbox_max_events", "claims_cache_entries"}
        numbers = {
            row.name for row in table() if isinstance(row.default, int | float) and not isinstance(row.default, bool)
        }
        assert {name for name in numbers if not name.endswith(("_s", "_ms", "_bytes"))} == counted

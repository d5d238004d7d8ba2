"""The command line without a broker: usage, settings, help, and what is refused before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from revoker.cli.output import clean, rfc3339, table
from revoker.events import KINDS
from revoker.settings import table as settings_table
from tests.command_line import revoker

SECRET = "s3cr3t-that-is-long-enough-for-hs256"
HS256 = {"REVOKER_ALGORITHMS": "HS256", "REVOKER_KEY_SECRET": SECRET, "REVOKER_ISSUER": "https://id.example"}
NOBODY = {"REVOKER_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}

COMMANDS = [
    "demo",
    "serve",
    "node",
    "revoke",
    "check",
    "replay",
    "tail",
    "topic",
    "outbox",
    "token",
    "settings",
    "completion",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    """--help of each command exits 0."""
    assert revoker(command, "--help").code == 0


def test_the_help_documents_the_exit_codes() -> None:
    """The exit codes a script may rely on stand in --help."""
    ran = revoker("--help")
    assert ran.code == 0
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "130"):
        assert f"\n    {code}" in ran.out


def test_the_help_of_a_setting_names_option_variable_and_default() -> None:
    """Whoever reads serve --help learns how else a setting can be set."""
    words = " ".join(revoker("serve", "--help").out.split())
    assert "--staleness-bound-s NUMBER" in words
    assert "[REVOKER_STALENESS_BOUND_S; default: 15.0]" in words


def test_a_secret_is_an_option_only_as_a_file() -> None:
    """A secret on a command line would stand in every process list."""
    words = revoker("serve", "--help").out
    assert "--key-secret-file" in words
    assert "--key-secret " not in words


def test_an_unknown_command_exits_2() -> None:
    """A command that does not exist is a usage error."""
    assert revoker("revok").code == 2


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"REVOKER_TOPICK": "x"}, "did you mean topic?"),
        ({"REVOKER_LEEWAY_S": "soon"}, "leeway_s is 'soon', must be whole number"),
        ({"REVOKER_CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
    ],
)
def test_a_wrong_setting_exits_2_without_a_traceback(environ: dict[str, str], named: str) -> None:
    """The message says which setting, and what would be right."""
    ran = revoker("settings", environ=environ)
    assert ran.code == 2
    assert named in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_an_option_comes_before_the_environment_before_the_file(tmp_path: Path) -> None:
    """`revoker settings` shows each value with the source it came from."""
    file = tmp_path / "revoker.toml"
    file.write_text('topic = "from-file"\nrealm = "from-file"\nleeway_s = 7\n', encoding="utf-8")
    ran = revoker(
        "settings",
        "--config",
        str(file),
        "--topic",
        "from-option",
        environ={"REVOKER_TOPIC": "from-environment", "REVOKER_REALM": "from-environment"},
    )
    found = {row["name"]: (row["value"], row["source"]) for row in ran.json["settings"]}
    assert found["topic"] == ("from-option", "argument")
    assert found["realm"] == ("from-environment", "environment")
    assert found["leeway_s"] == (7, "file")
    assert found["clock_margin_s"] == (300, "default")


def test_settings_lists_every_setting() -> None:
    """None is left out, so the list can be relied on."""
    listed = [row["name"] for row in revoker("settings").json["settings"]]
    assert listed == [row.name for row in settings_table()]


@pytest.mark.parametrize("form", ["--json", "--table"])
def test_settings_masks_secrets(form: str) -> None:
    """A secret only says that it is set."""
    ran = revoker("settings", form, environ=HS256 | {"REVOKER_ADMIN_TOKENS": f"ops:{SECRET}:*"})
    assert SECRET not in ran.out
    assert "***" in ran.out


def test_a_secret_file_is_read_and_a_missing_one_named(tmp_path: Path) -> None:
    """--key-secret-file gives the secret; a file that is not there is named."""
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n", encoding="utf-8")
    arguments = ("--sub", "ada", "--algorithms", "HS256", "--key-secret-file")
    assert revoker("token", *arguments, str(file)).code == 0
    ran = revoker("token", *arguments, str(tmp_path / "none"))
    assert ran.code == 2
    assert "--key-secret-file" in ran.err


@pytest.mark.parametrize("kind", [kind for kind, cls in KINDS.items() if cls.wide])
def test_a_wide_rule_is_not_published_unasked(kind: str) -> None:
    """Without --yes and without anybody to answer, nothing is sent."""
    fields = {
        "client": ["--client-id", "c"],
        "claim": ["--claim", "tenant", "--value", "acme"],
        "key": ["--kid", "k"],
        "issuer": [],
        "all": [],
    }
    ran = revoker("revoke", kind, *fields[kind], environ=HS256 | NOBODY)
    assert ran.code == 2
    assert "--yes" in ran.err


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("token", "--jti", "t1"), ["token", "https://id.example", "t1"]),
        (("digest", "--digest", "0" * 64), ["digest", "https://id.example", "0" * 64]),
        (("session", "--sid", "s1"), ["session", "https://id.example", "s1"]),
        (("subject", "--sub", "ada", "--spare-sid", "s1"), ["subject", "https://id.example", "ada"]),
        (("client", "--client-id", "c1", "--iss", "other"), ["client", "other", "c1"]),
        (("claim", "--claim", "tenant", "--value", ""), ["claim", "https://id.example", "tenant", ""]),
        (("key", "--kid", "k1"), ["key", "https://id.example", "k1"]),
        (("issuer",), ["issuer", "https://id.example"]),
        (("all",), ["all"]),
        (("withdrawal", "e1"), ["withdrawal", "e1"]),
    ],
)
def test_a_dry_run_prints_the_record_of_each_kind(arguments: tuple[str, ...], key: list[str]) -> None:
    """Without a broker, and without asking, since nothing is sent."""
    ran = revoker("revoke", *arguments, "--dry-run", "--reason", "why", "--actor", "me", environ=HS256 | NOBODY)
    assert ran.code == 0, ran.err
    assert json.loads(ran.json["key"]) == key
    assert ran.json["value"]["kind"] == arguments[0]
    assert (ran.json["value"]["reason"], ran.json["value"]["actor"]) == ("why", "me")


def test_every_kind_has_its_command() -> None:
    """What can be in the topic can be published from the command line."""
    assert {kind for kind in KINDS if revoker("revoke", kind, "--help").code == 0} == set(KINDS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("token",), "by TOKEN or by --jti"),
        (("token", "--jti", "a", "a.b.c"), "by TOKEN or by --jti"),
        (("session",), "--sid"),
        (("subject", "--sub", "a", "--spare-sid", "s", "--spare-jti", "j"), "spares a session or a token, not both"),
        (("subject", "--sub", "a", "--cutoff", "yesterday"), "RFC 3339"),
        (("subject", "--sub", "a", "--cutoff", "2099-01-01T00:00:00Z"), "in the future"),
        (("subject", "--sub", "a", "--cutoff", "2026-01-01T00:00:00"), "RFC 3339"),
        (("token", "--jti", "a", "--exp", "2099-01-01T00:00:00Z"), "longest_token_life_s"),
        (("digest", "--digest", "xyz"), "digest"),
    ],
)
def test_a_revocation_that_would_not_hold_exits_2(arguments: tuple[str, ...], named: str) -> None:
    """It is refused before anything is sent, and the message names what was wrong."""
    ran = revoker("revoke", *arguments, environ=HS256 | NOBODY)
    assert ran.code == 2
    assert named in ran.err


def test_the_issuer_has_to_be_named() -> None:
    """A jti means nothing without its issuer."""
    ran = revoker("revoke", "token", "--jti", "t1", environ=NOBODY)
    assert ran.code == 2
    assert "--iss" in ran.err


def test_revoking_a_token_that_nobody_can_verify_needs_a_word() -> None:
    """Without keys the claims could be anybody's invention, so --unverified has to be said."""
    text = revoker("token", "--sub", "ada", environ=HS256).out.strip()
    ran = revoker("revoke", "token", text, "--dry-run", environ=NOBODY)
    assert ran.code == 2
    assert "--unverified" in ran.err
    taken = revoker("revoke", "token", text, "--dry-run", "--unverified", environ=NOBODY)
    assert taken.json["value"]["kind"] == "token"


def test_revoking_a_token_keeps_its_entry_until_it_expires() -> None:
    """The token's own exp decides, not the longest life."""
    made = revoker("token", "--sub", "ada", "--life-s", "100", "--json", environ=HS256).json
    ran = revoker("revoke", "token", "-", "--dry-run", environ=HS256 | NOBODY, stdin=made["token"])
    assert ran.json["value"]["jti"] == made["claims"]["jti"]
    assert ran.json["value"]["expires_at"] == made["claims"]["exp"] + 30 + 300


@pytest.mark.parametrize("text", ["garbage", "a.b.c", "a.b.c.d.e"])
def test_a_token_that_does_not_hold_exits_4(text: str) -> None:
    """It is judged before the topic is read, and never quoted."""
    ran = revoker("check", text, environ=HS256 | NOBODY)
    assert ran.code == 4
    assert text not in ran.err


def test_an_empty_token_exits_2() -> None:
    """An empty standard input is a slip, not a token."""
    assert revoker("check", "-", environ=HS256 | NOBODY, stdin="\n").code == 2


@pytest.mark.parametrize("command", [("replay",), ("tail",), ("topic", "check"), ("topic", "create")])
def test_a_cluster_that_is_not_there_exits_3(command: tuple[str, ...]) -> None:
    """Nothing could be found out, and the message names the setting."""
    ran = revoker(*command, environ=NOBODY)
    assert ran.code == 3
    assert "127.0.0.1:1" in ran.err
    assert "Traceback" not in ran.err


def test_a_revocation_that_could_not_be_sent_does_not_exit_0() -> None:
    """Whoever scripts a log-out has to notice."""
    ran = revoker("revoke", "session", "--sid", "s", environ=HS256 | NOBODY)
    assert ran.code == 1
    assert "not sent" in ran.err
    assert ran.out == ""


def test_a_question_needs_something_to_ask_about() -> None:
    """--iss alone would ask about nothing."""
    assert revoker("replay", "--iss", "x", environ=NOBODY).code == 2


def test_signing_needs_a_shared_secret() -> None:
    """With public keys only the identity provider can sign."""
    ran = revoker("token", "--sub", "ada", "--algorithms", "ES256")
    assert ran.code == 2
    assert "key_secret" in ran.err


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_is_printed(shell: str) -> None:
    """The script calls revoker back through the variable click reads."""
    assert "_REVOKER_COMPLETE" in revoker("completion", shell).out


def test_no_color_is_honoured() -> None:
    """https://no-color.org: any value that is not empty."""
    arguments = ("settings", "--table")
    assert "\x1b[" in revoker(*arguments, colour=True).out
    assert "\x1b[" not in revoker(*arguments, colour=True, environ={"NO_COLOR": "0"}).out


def test_an_identifier_cannot_steer_the_terminal() -> None:
    """Escape sequences in what came from a token are spelled out."""
    assert clean("a\x1b[2J\nb") == r"a\x1b[2J\nb"
    assert "\x1b]0;" not in table(("name",), [("\x1b]0;title\x07",)])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00Z"),
        (1.5, "1970-01-01T00:00:01.500Z"),
        (253402300799, "9999-12-31T23:59:59Z"),
    ],
)
def test_times_are_rfc_3339(seconds: float | None, text: str | None) -> None:
    """UTC, with a Z, and milliseconds where there are some."""
    assert rfc3339(seconds) == text

"""Which rights `revoker topic acl` prints, and for whom; granting them is in tests/broker."""

from __future__ import annotations

import shlex

import pytest

from revoker.errors import SettingsError
from revoker.rights import Right, least
from tests.command_line import revoker

NOBODY = {"REVOKER_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}


def pairs(*rights: Right) -> list[tuple[str, str]]:
    """Who may do what."""
    return [(right.principal, right.operation) for right in rights]


def test_each_user_gets_what_its_roles_need_once() -> None:
    """A user of two roles is granted a shared right once; users of one role get the same."""
    rights = least("t", publishers=["svc"], nodes=["svc", "User:api"], operators=["api"])

    assert pairs(*rights) == [
        ("User:svc", "Write"),
        ("User:svc", "Read"),
        ("User:svc", "DescribeConfigs"),
        ("User:api", "Read"),
        ("User:api", "DescribeConfigs"),
        ("User:api", "Create"),
        ("User:api", "Describe"),
    ]


@pytest.mark.parametrize("name", ["CN=api,O=Example", "User:CN=api,O=Example", "User:a:b", "CN=a:b"])
def test_distinguished_names_and_colons_are_kept(name: str) -> None:
    """The user of a certificate is its whole name."""
    assert least("t", publishers=[name])[0].principal == f"User:{name.removeprefix('User:')}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is no user's name"),
        ("User:", "is no user's name"),
        (" a", "is no user's name"),
        ("a\nb", "is no user's name"),
        ("Group:ops", "is a principal of type 'Group': must be a user's name, or User:NAME"),
        ("*", r"User:\* is everybody"),
        ("User:*", r"User:\* is everybody"),
    ],
)
def test_what_is_no_user_is_refused(name: str, said: str) -> None:
    """Rights for everybody are never granted by a slip."""
    with pytest.raises(SettingsError, match=said):
        least("t", nodes=[name])


def test_a_right_on_every_topic_is_refused() -> None:
    """In a right the name * is a pattern."""
    with pytest.raises(SettingsError, match="means every topic"):
        least("*", nodes=["api"])


def test_the_commands_are_ready_for_a_shell() -> None:
    """Whatever a user's name holds."""
    (right,) = least("t", publishers=["it's; rm -rf $HOME"])

    assert shlex.split(right.command("k:9092")) == [
        *["kafka-acls.sh", "--bootstrap-server", "k:9092", "--add"],
        *["--allow-principal", "User:it's; rm -rf $HOME", "--operation", "Write", "--topic", "t"],
    ]
    assert "--remove --force" in right.command("k:9092", remove=True)


def test_the_command_prints_and_sends_nothing() -> None:
    """As JSON for programs and as a script for people, without a broker."""
    arguments = ("topic", "acl", "--publisher", "svc", "--node", "api")
    as_json = revoker(*arguments, "--json", environ=NOBODY)
    script = revoker(*arguments, "--table", environ=NOBODY)

    assert (as_json.code, as_json.json["done"]) == (0, "nothing")
    assert [(one["role"], one["operation"]) for one in as_json.json["rights"]] == [
        ("publisher", "Write"),
        ("node", "Read"),
        ("node", "DescribeConfigs"),
    ]
    commands = [line for line in script.out.splitlines() if not line.startswith("#")]
    assert commands == [one["command"] for one in as_json.json["rights"]]


def test_the_command_needs_a_user() -> None:
    """Rights for nobody are a mistake."""
    ran = revoker("topic", "acl", environ=NOBODY)

    assert ran.code == 2
    assert "name a user: --publisher, --node or --operator" in ran.err


def test_granting_without_a_broker_exits_3() -> None:
    """Nothing was granted, and the message says why."""
    ran = revoker("topic", "acl", "--node", "api", "--apply", environ=NOBODY)

    assert ran.code == 3
    assert "no broker reached at 127.0.0.1:1" in ran.err

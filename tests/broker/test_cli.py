"""The command line on real brokers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading

import aiohttp
import pytest

from revoker.settings import environment_without_settings
from tests.broker.conftest import PATIENCE_S, SECRET, put, settings_for
from tests.command_line import RunningCommand, revoker, running
from tests.conftest import Broker

ISSUER = "https://id.example"


@pytest.fixture
def environ(broker: Broker, topic_name: str) -> dict[str, str]:
    """Settings that lead to a topic of this test's own, which exists."""
    return made(broker, topic_name)


@pytest.fixture
def apache_environ(apache: Broker, topic_name: str) -> dict[str, str]:
    """As `environ`, on Apache Kafka alone."""
    return made(apache, topic_name)


def named(broker: Broker, topic: str) -> dict[str, str]:
    """Settings that lead to a topic that need not exist."""
    return {
        "REVOKER_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
        "REVOKER_TOPIC": topic,
        "REVOKER_TOPIC_REPLICATION_FACTOR": "1",
        "REVOKER_TOPIC_MIN_INSYNC_REPLICAS": "1",
        "REVOKER_TOPIC_PARTITIONS": "2" if broker.name == "apache" else "1",
        "REVOKER_ALGORITHMS": "HS256",
        "REVOKER_KEY_SECRET": SECRET,
        "REVOKER_ISSUER": ISSUER,
    }


def made(broker: Broker, topic: str) -> dict[str, str]:
    """`named`, and the topic made."""
    environ = named(broker, topic)
    assert revoker("topic", "create", environ=environ).code == 0
    return environ


def token(environ: dict[str, str], sub: str) -> str:
    """A token of ``sub``, as the command line signs it."""
    return revoker("token", "--sub", sub, environ=environ).out.strip()


def test_a_revoked_token_is_answered_1_and_another_0(environ: dict[str, str]) -> None:
    """`check` answers from the topic, by argument and by standard input."""
    ada, grace = token(environ, "ada"), token(environ, "grace")
    receipt = revoker("revoke", "token", ada, "--reason", "lost", environ=environ)
    assert receipt.code == 0, receipt.err
    assert receipt.json["state"] == "acknowledged"

    revoked = revoker("check", ada, environ=environ)
    assert (revoked.code, revoked.json["status"], revoked.json["kind"]) == (1, "revoked", "token")
    assert revoked.json["verified"] is True
    active = revoker("check", "-", environ=environ, stdin=grace)
    assert (active.code, active.json["status"]) == (0, "active")
    assert active.json["as_of"].endswith("Z")


def test_a_token_is_taken_at_its_word_where_no_keys_are_configured(environ: dict[str, str]) -> None:
    """`check` then says that it did not verify."""
    ada = token(environ, "ada")
    revoker("revoke", "token", ada, environ=environ)
    without = {name: value for name, value in environ.items() if "KEY" not in name and "ALGORITHMS" not in name}
    ran = revoker("check", ada, environ=without)
    assert (ran.code, ran.json["status"], ran.json["verified"]) == (1, "revoked", False)


def test_replay_counts_what_is_in_force_by_kind(environ: dict[str, str]) -> None:
    """Every kind is named, and a withdrawn rule is no longer among them."""
    revoker("revoke", "session", "--sid", "s1", environ=environ)
    revoker("revoke", "session", "--sid", "s1", environ=environ)
    revoker("revoke", "subject", "--sub", "bob", "--spare-sid", "s2", environ=environ)
    kept = revoker("revoke", "claim", "--claim", "tenant", "--value", "acme", "--yes", environ=environ).json["id"]
    taken_back = revoker("revoke", "all", "--yes", environ=environ).json["id"]
    assert revoker("revoke", "withdrawal", taken_back, environ=environ).code == 0

    ran = revoker("replay", environ=environ)
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["complete"] is True
    assert found["records"] == 6
    in_force = {kind: count for kind, count in found["in_force"].items() if count}
    assert in_force == {"session": 1, "subject": 1, "claim": 1}
    (rule,) = found["wide_rules"]
    assert (rule["event_id"], rule["selector"]) == (kept, [ISSUER, "tenant", "acme"])
    assert sum(one["next"] - one["first"] for one in found["partitions"]) == 6


def test_replay_answers_a_question(environ: dict[str, str]) -> None:
    """Exit 1 for what is revoked, 0 for what is not: by token, by claims, with and without a time of issue."""
    ada = token(environ, "ada")
    revoker("revoke", "subject", "--sub", "bob", "--spare-sid", "s2", environ=environ)
    revoker("revoke", "token", ada, environ=environ)
    assert revoker("replay", "--token", "-", environ=environ, stdin=ada).code == 1
    assert revoker("replay", "--sub", "bob", environ=environ).code == 1
    assert revoker("replay", "--sub", "bob", "--sid", "s2", environ=environ).code == 0
    assert revoker("replay", "--sub", "bob", "--iat", "4000000000", environ=environ).code == 0
    assert revoker("replay", "--sub", "bob", "--iss", "other", environ=environ).code == 0


def test_replay_shows_what_it_could_not_decode(apache_environ: dict[str, str], apache: Broker) -> None:
    """Partition, offset, category and detail; it is a report, not a failure."""
    settings = settings_for(apache.bootstrap, apache_environ["REVOKER_TOPIC"])
    asyncio.run(put(settings, b"garbage", b'{"v": 99}', partition=1))
    revoker("revoke", "session", "--sid", "s1", environ=apache_environ)
    ran = revoker("replay", environ=apache_environ)
    assert ran.code == 0, ran.err
    undecodable = ran.json["undecodable"]
    assert undecodable["total"] == 2
    found = [(one["partition"], one["offset"], one["category"]) for one in undecodable["last"]]
    assert found == [(1, 0, "not_json"), (1, 1, "newer_version")]
    assert "not_json" in revoker("replay", "--table", environ=apache_environ).out


def test_replay_says_when_it_was_not_in_time(environ: dict[str, str]) -> None:
    """Exit 3, with what was found so far marked as incomplete."""
    ran = revoker("replay", "--timeout", "0", environ=environ)
    assert ran.code == 3
    assert ran.json["complete"] is False


def test_tail_prints_what_is_there_and_what_is_unreadable(apache_environ: dict[str, str], apache: Broker) -> None:
    """--from-beginning and --limit; one JSON object a line."""
    revoker("revoke", "session", "--sid", "s1", "--reason", "why", "--actor", "me", environ=apache_environ)
    settings = settings_for(apache.bootstrap, apache_environ["REVOKER_TOPIC"])
    asyncio.run(put(settings, b"garbage"))
    ran = revoker("tail", "--from-beginning", "--limit", "2", environ=apache_environ)
    assert ran.code == 0, ran.err
    lines = {line["event"]: line for line in map(json.loads, ran.out.splitlines())}
    assert lines["undecodable"]["category"] == "not_json"
    event = lines["revocation"]
    assert (event["kind"], event["selector"]) == ("session", {"iss": ISSUER, "sid": "s1"})
    assert (event["reason"], event["actor"]) == ("why", "me")


async def test_tail_prints_only_what_is_new(environ: dict[str, str]) -> None:
    """What was in the topic before is read over; SIGTERM ends it with exit code 0."""
    await asyncio.to_thread(revoker, "revoke", "session", "--sid", "old", environ=environ)
    async with running("tail", "--log-level", "info", environ=environ) as tail:
        printed = asyncio.create_task(tail.line())
        number = 0
        while not printed.done():  # it starts with the topic's end at some moment; printed has a deadline of its own
            await asyncio.to_thread(revoker, "revoke", "session", "--sid", f"new-{number}", environ=environ)
            number += 1
        line = await printed
        assert line["selector"]["sid"].startswith("new-")
        assert await tail.end(signal.SIGTERM) == 0


def test_tail_ends_when_its_reader_does(environ: dict[str, str]) -> None:
    """A closed pipe is not a broker that fails: no retrying, no traceback."""
    for sid in ("s1", "s2"):
        revoker("revoke", "session", "--sid", sid, environ=environ)
    command = [sys.executable, "-m", "revoker", "tail", "--from-beginning"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment_without_settings() | environ
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        try:
            assert process.wait(30) == 1
        finally:
            process.kill()
        assert b"Traceback" not in process.stderr.read()


def test_topic_create_makes_a_topic_that_keeps_its_contract(apache: Broker, topic_name: str) -> None:
    """Made, checked, and left alone the second time."""
    environ = named(apache, topic_name)
    assert revoker("topic", "check", environ=environ).code == 1  # it does not exist
    made = revoker("topic", "create", environ=environ)
    assert (made.code, made.json["created"], made.json["keeps_contract"]) == (0, True, True)
    again = revoker("topic", "create", environ=environ)
    assert (again.code, again.json["created"]) == (0, False)
    assert revoker("topic", "check", "--table", environ=environ).out.rstrip().endswith("keeps its contract")


def test_topic_check_says_what_a_breach_loses_and_its_cure(apache: Broker, topic_name: str) -> None:
    """A topic made for shorter tokens fails the check of a fleet with longer ones."""
    environ = named(apache, topic_name)
    revoker("topic", "create", "--longest-token-life-s", "60", environ=environ)
    ran = revoker("topic", "check", environ=environ)
    assert ran.code == 1
    (breach,) = [one for one in ran.json["violations"] if one["severity"] == "loss"]
    assert breach["setting"] == "retention.ms"
    assert "kafka-configs.sh" in breach["cure"]


def test_topic_create_names_the_setting_the_cluster_cannot_meet(apache: Broker, topic_name: str) -> None:
    """More replicas than brokers is a settings error."""
    ran = revoker("topic", "create", environ=named(apache, topic_name) | {"REVOKER_TOPIC_REPLICATION_FACTOR": "99"})
    assert ran.code == 2
    assert "topic_replication_factor" in ran.err


async def started(command: RunningCommand) -> str:
    """The URL a service or node prints once it listens, after it has become ready."""
    url = str((await command.line())["url"])
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        while True:
            async with http.get(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return url
            await asyncio.sleep(0.02)


async def test_a_logout_at_the_service_is_refused_by_the_node(apache_environ: dict[str, str]) -> None:
    """`serve` and `node` as processes: 200, log out, 401; and a revoked copy cannot log out everywhere."""
    environ = apache_environ | {"REVOKER_LISTEN": "127.0.0.1:0", "REVOKER_COOKIE_SECURE": "false"}
    ada = await asyncio.to_thread(token, environ, "ada")
    bearer = {"Authorization": f"Bearer {ada}"}
    async with (
        running("serve", environ=environ) as serve,
        running("node", environ=environ) as node,
        aiohttp.ClientSession() as http,
    ):
        service, api = await started(serve), await started(node)
        async with http.get(f"{api}/whoami", headers=bearer) as answer:
            assert answer.status == 200
            said = await answer.json()
            assert said["claims"]["sub"] == "ada"
            assert said["as_of"].endswith("Z")
        async with http.post(f"{service}/logout", headers=bearer) as answer:
            assert answer.status == 204
        async with asyncio.timeout(10):
            while True:
                async with http.get(f"{api}/whoami", headers=bearer) as answer:
                    if answer.status == 401:
                        break
                    assert answer.status == 200
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        async with http.post(f"{service}/logout", headers=bearer, json={"scope": "everywhere"}) as answer:
            assert answer.status == 401


@pytest.mark.parametrize("command", ["serve", "node"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_signals_end_a_server_in_order(
    apache_environ: dict[str, str], command: str, number: signal.Signals, code: int
) -> None:
    """SIGTERM drains and exits 0; Ctrl-C exits 130."""
    async with running(command, "--listen", "127.0.0.1:0", environ=apache_environ) as server:
        await started(server)
        assert await server.end(number) == code


async def test_serve_listens_while_the_cluster_is_away() -> None:
    """It says so in /readyz, and still ends in order."""
    environ = {"REVOKER_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "REVOKER_ALGORITHMS": "HS256"}
    environ |= {"REVOKER_KEY_SECRET": SECRET, "REVOKER_LISTEN": "127.0.0.1:0"}
    async with running("serve", environ=environ) as serve, aiohttp.ClientSession() as http:
        url = (await serve.line())["url"]
        async with http.get(f"{url}/readyz") as answer:
            assert answer.status == 503
        async with http.get(f"{url}/livez") as answer:
            assert answer.status == 200
        assert await serve.end(signal.SIGTERM) == 0


async def test_an_address_in_use_exits_2(apache_environ: dict[str, str]) -> None:
    """The message names the setting, without a traceback."""
    async with running("serve", "--listen", "127.0.0.1:0", environ=apache_environ) as first:
        url = (await first.line())["url"]
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "revoker", "node", "--listen", url.removeprefix("http://")],
            env=environment_without_settings() | apache_environ,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert ran.returncode == 2
        assert "listen is" in ran.stderr
        assert "Traceback" not in ran.stderr


def on_a_terminal(*arguments: str, environ: dict[str, str], typed: str = "") -> tuple[int, str]:
    """Run a command with a terminal for all three streams; its exit code, and what the terminal showed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "revoker", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment_without_settings() | {"TERM": "xterm"} | environ,
    ) as process:
        os.close(theirs)
        impatience = threading.Timer(PATIENCE_S, process.kill)
        impatience.start()
        os.write(ours, typed.encode())
        shown = b""
        # EIO is how Linux says that nobody has the terminal open any more.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                shown += chunk
        process.wait()
        impatience.cancel()
        os.close(ours)
    return process.returncode, shown.decode()


def test_a_replay_on_a_terminal_shows_its_progress_and_a_table(environ: dict[str, str]) -> None:
    """A bar with records and rate while it reads, then text for people instead of JSON."""
    revoker("revoke", "session", "--sid", "s1", environ=environ)
    code, shown = on_a_terminal("replay", environ=environ)
    assert code == 0, shown
    assert re.search(r"replaying\s+\[#+\]\s+100%\s+1 records, [\d,]+/s", shown)
    assert re.search(r"^session\s+1\s*$", shown, re.MULTILINE)


@pytest.mark.parametrize(("typed", "code", "published"), [("n\n", 1, 0), ("y\n", 0, 1), ("\x04", 130, 0)])
def test_a_wide_rule_is_asked_about_on_a_terminal(
    environ: dict[str, str], typed: str, code: int, published: int
) -> None:
    """Only "y" publishes it, neither "n" nor Ctrl-D; the question says whom it hits."""
    found, shown = on_a_terminal("revoke", "issuer", environ=environ, typed=typed)
    assert found == code, shown
    assert re.search(rf"every node refuses all tokens of the issuer '{ISSUER}', issued at \S+Z or before", shown)
    assert "not known: how many tokens" in shown
    assert revoker("replay", environ=environ).json["records"] == published

"""``revoker demo`` as a user runs it: a process, its exit code, its figures, and nothing left behind."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from revoker.settings import environment_without_settings
from tests.command_line import revoker
from tests.conftest import Broker
from tests.leaks import look

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes left behind in /proc")

#: What the demo promises after set-up, in seconds; the machine may be busy with other tests.
PROMISED_S = 20.0


@contextmanager
def demo(*arguments: str, environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The demo in a session of its own, so that whatever it leaves can be told from everybody else's processes."""
    with subprocess.Popen(
        [sys.executable, "-m", "revoker", "demo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_without_settings() | (environ or {}),
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def left_behind(session: int) -> list[str]:
    """Command lines of the processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_text(encoding="utf-8").replace("\0", " ")
        except OSError:  # ended meanwhile
            continue
        state, in_session = after_name[0], int(after_name[3])
        if in_session == session and state != "Z":
            found.append(command)
    return found


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Both outputs, once it has ended by itself and left nothing behind."""
    out, err = process.communicate(timeout=60)
    look(err, where="standard error of the demo")
    assert left_behind(process.pid) == []
    return out, err


def test_the_logout_is_refused_by_three_of_three_nodes() -> None:
    """On the embedded broker: exit 0, the figures, others still let in, and the same answers with the broker dead."""
    began = time.monotonic()
    with demo("--json") as process:
        out, err = finished(process)
    assert process.returncode == 0, err
    assert time.monotonic() - began < PROMISED_S
    figures = json.loads(out)
    assert figures["ok"] is True
    assert (figures["refused_by"], figures["of"]) == (3, 3)
    assert [node["status"] for node in figures["nodes"]] == [401, 401, 401]
    assert all('error="invalid_token"' in node["www_authenticate"] for node in figures["nodes"])
    assert all(0 < node["after_call_ms"] < 10_000 for node in figures["nodes"])
    assert figures["cut_off"] == {"refused_by": 3, "other_user_admitted_by": 3}
    assert "message.timestamp.type" in figures["topic"]["in_name_only"]


def test_each_step_is_told() -> None:
    """What a person sees: the steps in order, plain text where there is no terminal."""
    with demo("--nodes", "2", environ={"REVOKER_TOPIC": "not-the-demos-business"}) as process:
        out, err = finished(process)
    assert process.returncode == 0, err
    steps = re.findall(r"^ *[\d.]+ s  (\S+(?: off)?)  ", out, re.MULTILINE)
    assert steps == [
        "broker",
        "topic",
        "processes",
        "login",
        "call",
        "logout",
        "again",
        "others",
        "cut off",
        "done",
    ]
    assert "refused by 2 of 2 nodes" in out
    assert "\x1b[" not in out


def test_it_runs_on_a_real_cluster_and_removes_its_topic(apache: Broker) -> None:
    """--bootstrap: nothing is reported as kept in name only, and the topic made for it is gone afterwards."""
    with demo("--json", "--bootstrap", apache.bootstrap) as process:
        out, err = finished(process)
    assert process.returncode == 0, err
    figures = json.loads(out)
    assert figures["broker"]["kind"] == "cluster"
    assert figures["refused_by"] == 3
    assert (figures["topic"]["not_kept"], figures["topic"]["in_name_only"]) == ([], [])
    environ = {"REVOKER_KAFKA_BOOTSTRAP_SERVERS": apache.bootstrap, "REVOKER_TOPIC": figures["topic"]["name"]}
    deadline = time.monotonic() + 10  # a topic is deleted a little after the answer
    while (gone := revoker("topic", "check", environ=environ)).code != 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "does not exist" in gone.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["topic", "call"])
def test_an_interrupted_demo_leaves_nothing_behind(number: signal.Signals, step: str) -> None:
    """Whether its processes are just starting or all run: Ctrl-C exits 130, SIGTERM 1, and all processes end."""
    with demo() as process:
        assert process.stdout is not None
        while step not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        _, err = finished(process)
    assert process.returncode == (130 if number is signal.SIGINT else 1), err
    assert "Traceback" not in err


@pytest.mark.skipif(shutil.which("curl") is None, reason="runs the curl lines that the demo prints")
def test_keep_leaves_everything_up_until_ctrl_c() -> None:
    """The curl lines it prints work; Ctrl-C is how it is meant to end, so it exits 0."""
    with demo("--keep", "--nodes", "1") as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "/metrics" not in lines[-1]:
            lines.append(process.stdout.readline().strip())
            assert process.poll() is None
        script = "\n".join(line for line in lines if line.startswith(("token=", "curl")))
        tried = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)
        process.send_signal(signal.SIGINT)
        _, err = finished(process)
    assert process.returncode == 0, err
    assert re.findall(r"HTTP/1\.1 (\d+)", tried.stdout)[:2] == ["200", "204"]
    assert "revoker_checks_total" in tried.stdout


def test_a_cluster_that_is_not_there_is_named() -> None:
    """Nothing starts, and the exit code says that nothing could be found out."""
    with demo("--bootstrap", "127.0.0.1:1") as process:
        _, err = finished(process)
    assert process.returncode == 3
    assert "127.0.0.1:1" in err
    assert "Traceback" not in err

"""The watch on secrets can fail: a run in which one leaks is red, names the test and the place, and not the secret."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests import leaks

ROOT = Path(__file__).parents[2]

HEAD = """
import logging, subprocess, sys
import pytest
from revoker.errors import InvalidInput
from revoker.settings import Settings
from revoker.tokens import sign
from tests.leaks import look

SECRET = "s3cr3t-planted-0123456789"

def token():
    return sign({"sub": "alice"}, key="x" * 32, algorithm="HS256")
"""

LEAKS = {
    "a log record": 'logging.getLogger("any").warning("signed in with %s", SECRET)',
    "a debug record of ours": 'logging.getLogger("revoker.tokens").debug("signed in with %s", SECRET)',
    "a traceback that is logged": """
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("any").exception("failed")""",
    "a record that no handler takes": """
    logger = logging.getLogger("quiet")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    logger.warning(SECRET)""",
    "a token": 'logging.getLogger("any").warning(token())',
    "a private key": 'logging.getLogger("any").warning("-----BEGIN " + "EC PRIVATE KEY-----")',
    "an error that is caught": """
    with pytest.raises(InvalidInput):
        raise InvalidInput(f"{SECRET} is no right value")""",
    "standard error": "print(SECRET, file=sys.stderr)",
    "standard error of a process": """
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write(sys.argv[1])", SECRET], check=True)""",
    "an answer": 'look(SECRET, where="an answer")',
    "the value of a secret setting": """
    Settings(key_secret="no mark in it at all", algorithms=("HS256",))
    logging.getLogger("any").warning("the secret is no mark in it at all")""",
    "one part of admin_tokens": """
    Settings(admin_tokens="root:nor-is-one-in-this:*")
    logging.getLogger("any").warning("the secret is nor-is-one-in-this")""",
}


HARMLESS = {
    "words that sound like it": 'logging.getLogger("any").error("eyJ, s3cr3t, key_secret, PRIVATE KEY")',
    "standard output and a masked repr": 'print(SECRET, Settings(key_secret=SECRET, algorithms=("HS256",)))',
}

AFTERWARDS = """
import logging

def pytest_sessionfinish(session):
    logging.getLogger("any").warning("s3cr3t-afterwards")
"""


@dataclass(frozen=True)
class Ran:
    """A run of pytest with the watch over it."""

    code: int
    output: str
    tests: Mapping[str, str]

    def test(self, what: str) -> str:
        """The name of the test of `LEAKS` or `HARMLESS`."""
        return self.tests[what]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run with a test for each leak and for each thing that is none; and a leak after the last of them."""
    room = tmp_path_factory.mktemp("leaks")
    tests = {what: f"test_{number}" for number, what in enumerate({**HARMLESS, **LEAKS})}
    bodies = [f"def {tests[what]}():\n    {body.strip()}\n" for what, body in {**HARMLESS, **LEAKS}.items()]
    (room / "test_it.py").write_text("\n".join([HEAD, *bodies]), encoding="utf-8")
    (room / "conftest.py").write_text(AFTERWARDS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.leaks", "-p", "no:cacheprovider", "-c", "/dev/null"]
    options = ["--rootdir", str(room), "-rN", "--show-capture=no", "--tb=short", "-v", str(room)]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return Ran(code=done.returncode, output=done.stdout + done.stderr, tests=tests)


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_fails_the_test_that_leaks(ran: Ran, leak: str) -> None:
    """The report names the test and the place."""
    assert re.search(rf"test_it\.py::{ran.test(leak)} \(call\) leaked: \w", ran.output), ran.output


@pytest.mark.parametrize("what", HARMLESS)
def test_where_nothing_leaks_the_test_passes(ran: Ran, what: str) -> None:
    """Words of the trade, standard output, and the settings, which mask what is secret."""
    assert re.search(rf"test_it\.py::{ran.test(what)} PASSED", ran.output), ran.output


def test_a_leak_after_the_last_test_is_told(ran: Ran) -> None:
    """No test is left to be named, but the run is red."""
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert "leaked after the last test: a marked secret in a log record of any" in ran.output


def test_such_a_leak_alone_makes_the_run_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although every test has passed."""
    watch, session = leaks.LeakWatch(), SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    monkeypatch.setattr(leaks, "_watch", watch)
    leaks.pytest_sessionfinish(cast(pytest.Session, session))
    assert session.exitstatus == pytest.ExitCode.OK
    watch.look("s3cr3t-", where="a log record")
    leaks.pytest_sessionfinish(cast(pytest.Session, session))
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED
    assert watch.take() == ["a marked secret in a log record"]  # or this very test would fail for it


def test_the_report_does_not_leak_it_again(ran: Ran) -> None:
    """What was seen is named by its kind."""
    assert "s3cr3t-" not in ran.output
    assert "in it at all" not in ran.output

"""Watches the whole run for secrets where none belongs: a pytest plugin, loaded by conftest.py.

A secret is what some `Settings` held in a secret setting during the run, and whatever looks like one: anything with the
mark ``s3cr3t-`` (secrets that a test makes up have it, so that those of other processes are known), a signed token, a
private key. It must not be in a log record, in the message of an error of ours, in what a process writes to standard
error, nor in what `look` is given: answers of the service, streams that a test reads itself. The test during which one
is seen fails, naming the place and not the secret.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator
from typing import Any

import pytest

from revoker.errors import RevokerError
from revoker.settings import Settings, table

__all__ = ["MARK", "LeakWatch", "look"]

#: In every secret that a test makes up.
MARK = "s3cr3t-"

_SECRETS = {
    "a marked secret": re.compile(re.escape(MARK)),
    # The third segment is what makes it one: header and claims of revoked tokens may be quoted in a test's own words.
    "a signed token": re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{16,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


#: Shorter ones stand in innocent text, and no secret of use is that short.
_LEAST_CHARS = 12


class LeakWatch:
    """What was seen since the last test, each once and in words that do not repeat it."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.seen: list[str] = []

    def learn(self, secret: str, *, kind: str) -> None:
        """From now on ``secret`` is one; ``kind``: what it is, for the message."""
        if len(secret) >= _LEAST_CHARS:
            self.known.setdefault(secret, kind)

    def look(self, text: str, *, where: str) -> None:
        """Remember every kind of secret in ``text``."""
        found = [kind for kind, pattern in _SECRETS.items() if pattern.search(text)]
        found += [kind for secret, kind in self.known.items() if secret in text]
        self.seen += [f"{kind} in {where}" for kind in found]

    def take(self) -> list[str]:
        """What was seen, and forget it."""
        seen, self.seen = list(dict.fromkeys(self.seen)), []
        return seen


_watch = LeakWatch()


def look(text: str | bytes, *, where: str) -> None:
    """For what the plugin cannot see by itself. ``where``: what this is, for the message."""
    _watch.look(text.decode(errors="replace") if isinstance(text, bytes) else text, where=where)


def _watched_records(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """Sees every record made, whichever handlers there are and whatever a command has set up."""

    def factory(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: logging complains of it, on standard error
            text = f"{record.msg} {record.args}"
        if record.exc_info and record.exc_info[1] is not None:
            text += logging.Formatter().formatException(record.exc_info)
        _watch.look(text, where=f"a log record of {record.name} ({record.levelname})")
        return record

    return factory


def _watched_calls(log: Callable[..., None], *, level: int) -> Callable[..., None]:
    """Sees what our own loggers are told and would log at another level: no record is made of it."""

    def watched(self: logging.Logger, msg: object, *arguments: Any, stacklevel: int = 1, **named: Any) -> None:
        if self.name.partition(".")[0] in ("revoker", "consumers") and not self.isEnabledFor(level):
            said = logging.LogRecord(self.name, level, "", 0, msg, arguments, None)
            _watch.look(said.getMessage(), where=f"what {self.name} logs at level {logging.getLevelName(level)}")
        log(self, msg, *arguments, stacklevel=stacklevel + 1, **named)

    return watched


def _watched_errors(init: Callable[..., None]) -> Callable[..., None]:
    """Sees the message of every error of ours, caught or not."""

    def watched(self: RevokerError, *arguments: Any) -> None:
        init(self, *arguments)
        _watch.look(f"{self} {self!r}", where=f"the message of a {type(self).__name__}")

    return watched


def _watched_settings(init: Callable[[Settings], None]) -> Callable[[Settings], None]:
    """Learns every secret that is set."""

    def watched(self: Settings) -> None:
        init(self)
        for row in table():
            value = getattr(self, row.name)
            if row.secret and isinstance(value, str):
                for part in value.replace(",", ":").split(":") if row.name == "admin_tokens" else [value]:
                    _watch.learn(part, kind=f"the setting {row.name}")

    return watched


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch."""
    logging.setLogRecordFactory(_watched_records(logging.getLogRecordFactory()))
    RevokerError.__init__ = _watched_errors(RevokerError.__init__)  # type: ignore[method-assign]
    Settings.__post_init__ = _watched_settings(Settings.__post_init__)  # type: ignore[method-assign, assignment]
    for name in ("debug", "info"):
        setattr(
            logging.Logger, name, _watched_calls(getattr(logging.Logger, name), level=getattr(logging, name.upper()))
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail the test during which a secret was seen. Standard error holds what its processes wrote there as well."""
    report = yield
    for title, text in report.sections:
        if title == f"Captured stderr {report.when}":  # later reports repeat the earlier sections
            _watch.look(text, where=title.lower())
    seen = _watch.take()
    if seen:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} ({report.when}) leaked: {'; '.join(seen)}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """What was seen after the last test fails the run."""
    if _watch.seen:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was seen after the last test."""
    if seen := _watch.take():
        terminalreporter.write_line(f"leaked after the last test: {'; '.join(seen)}", red=True)

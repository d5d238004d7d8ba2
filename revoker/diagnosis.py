"""What went wrong with Kafka, in words a person can act on: errors explained, aiokafka's flood of lines quieted.

aiokafka logs without any limit, and some causes, a refused password for one, are only in its log.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

# Each module of aiokafka makes its logger when it is imported, and QuietLogs has to find them all.
import aiokafka.admin
import aiokafka.helpers  # noqa: F401
from aiokafka.errors import KafkaError

__all__ = ["Problem", "QuietLogs", "explain", "quiet_logs"]

#: What a person can do about it, by Kafka's error code.
_ADVICE: Final[dict[int, str]] = {
    3: "the topic or partition does not exist",
    5: "the partition has no leader at the moment",
    6: "this broker no longer leads the partition",
    7: "no answer within the request timeout",
    10: "the record batch is longer than the topic's max.message.bytes",
    17: "Kafka does not allow this topic name",
    19: "fewer replicas are in sync than min.insync.replicas asks for; bring the brokers back",
    20: "written, but on fewer replicas than min.insync.replicas asks for; bring the brokers back",
    29: "this user lacks a right on the topic",
    31: "this user lacks a right on the cluster",
    35: "the broker does not speak this version of the request",
    37: "the number of partitions is not allowed",
    38: "the replication factor exceeds the number of brokers",
    40: "the broker does not allow this topic setting",
    44: "a policy of the cluster forbids it",
    58: "the broker refused the credentials",
}


def explain(error: BaseException) -> str:
    """``error`` in one line a person can act on: what happened, class, code, text. Never empty."""
    name = type(error).__name__
    if isinstance(error, KafkaError):
        code = getattr(error, "errno", None)
        advice = _ADVICE.get(code) if isinstance(code, int) else None
        text = " ".join(str(part) for part in error.args if str(part))
        label = f"{name} (Kafka error {code})" if isinstance(code, int) else name
        return ": ".join(part for part in (label, advice, text) if part)
    text = " ".join(str(error).split())
    if isinstance(error, TimeoutError) and not text:
        return "TimeoutError: no answer in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {text or name}"
    return f"{name}: {text}" if text else name


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """The last warning or error aiokafka logged. ``at_s`` is a reading of the clock given to `QuietLogs` (monotonic
    seconds)."""

    text: str
    at_s: float


@dataclass(kw_only=True, slots=True)
class _Seen:
    passed_at_s: float
    suppressed: int = 0


class QuietLogs(logging.Filter):
    """Lets one line per message template and ``every_s`` seconds of aiokafka's logs through, and remembers the last
    problem.

    With brokers away aiokafka logs up to 13,000 lines a second (https://github.com/aio-libs/aiokafka/issues/1155), and
    some causes, a refused password for one, are only in those lines. What was held back is counted in the next line of
    the same template. Lines below INFO pass untouched: whoever turns them on wants all. Other loggers are never
    touched.

    Installations are counted: the last `uninstall` takes the filter away. Use the process's own `quiet_logs`.
    """

    #: Templates remembered; messages formatted before logging would otherwise grow the table without end.
    _TEMPLATES_MAX = 256

    def __init__(self, *, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s = every_s
        self._clock = clock
        # No lock: a race between threads miscounts a line, whereas a lock held across a fork would silence the child
        # for ever.
        self._seen: dict[tuple[str, int, str], _Seen] = {}
        self._installations = 0
        self._loggers: list[logging.Logger] = []
        self.last_problem: Problem | None = None
        self.suppressed_total: int = 0

    def install(self) -> None:
        """Filter all loggers of aiokafka. A filter does not apply to the loggers below, hence each of them."""
        self._installations += 1
        for logger in _aiokafka_loggers():
            if self not in logger.filters:
                logger.addFilter(self)
                self._loggers.append(logger)

    def uninstall(self) -> None:
        """Undo one `install`. Raises RuntimeError if there is none left to undo."""
        if not self._installations:
            raise RuntimeError("QuietLogs is not installed")
        self._installations -= 1
        if not self._installations:
            while self._loggers:
                self._loggers.pop().removeFilter(self)
            self._seen.clear()

    @contextmanager
    def installed(self) -> Iterator[QuietLogs]:
        """`install` for the length of a ``with`` block."""
        self.install()
        try:
            yield self
        finally:
            self.uninstall()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line may pass; the line then says how many before it did not."""
        if record.levelno < logging.INFO:
            return True
        _name_silent_errors(record)
        now_s = self._clock()
        if record.levelno >= logging.WARNING:
            self.last_problem = Problem(text=_text(record), at_s=now_s)
        template = (record.name, record.levelno, str(record.msg))
        seen = self._seen.get(template)
        if seen is not None and now_s - seen.passed_at_s < self._every_s:
            seen.suppressed += 1
            self.suppressed_total += 1
            return False
        if seen is not None and seen.suppressed:
            span_s = round(now_s - seen.passed_at_s)
            record.msg = f"{record.msg} ({seen.suppressed} more like this in the last {span_s} s)"
        self._seen.pop(template, None)
        while len(self._seen) >= self._TEMPLATES_MAX:
            self._seen.pop(next(iter(self._seen)))
        self._seen[template] = _Seen(passed_at_s=now_s)
        return True


#: The filter of this process: the last problem is the process's, whichever client met it.
quiet_logs: Final = QuietLogs()


def _aiokafka_loggers() -> list[logging.Logger]:
    names = [name for name in logging.root.manager.loggerDict if name == "aiokafka" or name.startswith("aiokafka.")]
    return [logging.getLogger(name) for name in names]


def _name_silent_errors(record: logging.LogRecord) -> None:
    # A TimeoutError prints as nothing, which leaves "Unable connect to node with id 1: ".
    if isinstance(record.args, tuple):
        record.args = tuple(
            explain(part) if isinstance(part, BaseException) and not str(part) else part for part in record.args
        )


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # a template that does not fit its arguments; aiokafka has one
        text = str(record.msg)
    error = record.exc_info[1] if record.exc_info else None
    return f"{text}: {explain(error)}" if error is not None else text

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
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError
from aiokafka.protocol.admin import SaslAuthenticateRequest_v0, SaslAuthenticateRequest_v1

__all__ = ["Problem", "QuietLogs", "conceal_logins", "explain", "is_denial", "quiet_logs"]

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
    33: "this listener does not offer the mechanism of setting kafka_sasl_mechanism",
    34: "this listener expects no login, or another one: is setting kafka_security_protocol right?",
    58: "the broker refused the credentials (it does not tell an unknown user from a wrong password)",
}

#: Kafka's error codes for credentials that are refused or a right that is missing.
_DENIALS: Final = frozenset({29, 30, 31, 33, 58})

#: Why a broker's certificate is not accepted, by OpenSSL's verify code (X509_V_ERR_… in x509_vfy.h).
_CERTIFICATE: Final[dict[int, str]] = {
    7: "the broker's certificate is not signed by the key of the CA in setting kafka_ssl_ca_file",
    9: "the broker's certificate is not valid yet: compare the clocks",
    10: "the broker's certificate has expired",
    18: "the broker's certificate is self-signed, and setting kafka_ssl_ca_file does not name it",
    19: "the broker's certificate comes from a CA that is not in setting kafka_ssl_ca_file",
    20: "the broker's certificate comes from a CA that is not in setting kafka_ssl_ca_file",
    21: "the broker's certificate comes from a CA that is not in setting kafka_ssl_ca_file",
    62: "the broker's certificate is for other host names than the one connected to",
    64: "the broker's certificate is for other addresses than the one connected to",
}

#: What a broker's alert says of this client (RFC 8446 section 6.2), by the end of OpenSSL's name for it.
_ALERTS: Final[dict[str, str]] = {
    "CERTIFICATE_EXPIRED": "the broker says that this client's certificate has expired",
    "CERTIFICATE_REVOKED": "the broker says that this client's certificate is revoked",
    "CERTIFICATE_REQUIRED": "the broker asks for a client certificate: setting kafka_ssl_certificate_file",
    "CERTIFICATE_UNKNOWN": "the broker does not accept this client's certificate, or got none",
    "BAD_CERTIFICATE": "the broker does not accept this client's certificate, or got none",
    "UNKNOWN_CA": "this client's certificate comes from a CA the broker does not know",
    "ACCESS_DENIED": "the broker does not accept this client's certificate",
    "HANDSHAKE_FAILURE": "the broker does not accept this client's TLS version, ciphers or certificate",
}

_NO_TLS_THERE: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def explain(error: BaseException) -> str:
    """``error`` in one line a person can act on: what happened, class, code, text. Never empty."""
    name = type(error).__name__
    if isinstance(error, KafkaError):
        code = getattr(error, "errno", None)
        advice = _ADVICE.get(code) if isinstance(code, int) else None
        text = " ".join(str(part) for part in error.args if str(part))
        label = f"{name} (Kafka error {code})" if isinstance(code, int) else name
        # aiokafka says "closed" where the reason, a TLS alert for one, is in the exception behind it.
        cause = error.__cause__
        behind = _tls(cause) if isinstance(cause, ssl.SSLError) else None
        return ": ".join(part for part in (label, advice, text, behind) if part)
    text = " ".join(str(error).split())
    if isinstance(error, TimeoutError) and not text:
        return "TimeoutError: no answer in time"
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    return f"{name}: {text}" if text else name


def conceal_logins() -> None:
    """Take the credentials out of what aiokafka prints of a login; calling it again changes nothing.

    At level DEBUG it logs every request as it is: the password of PLAIN, the token of OAUTHBEARER. This is for the
    whole process, whoever logs and however: nobody needs to read them.
    """
    for request in (SaslAuthenticateRequest_v0, SaslAuthenticateRequest_v1):
        request.__repr__ = _concealed  # type: ignore[method-assign]


def _concealed(request: object) -> str:
    return f"{type(request).__name__}(***)"


def is_denial(error: BaseException) -> bool:
    """Whether Kafka refuses this user: its credentials, its certificate, or something it has no right to."""
    if getattr(error, "errno", None) in _DENIALS and isinstance(error, KafkaError):
        return True
    tls = error if isinstance(error, ssl.SSLError) else error.__cause__
    refused = isinstance(tls, ssl.SSLError) and _alert(tls) is not None
    return refused or getattr(error, "denied", False) is True


def _tls(error: ssl.SSLError) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _CERTIFICATE.get(error.verify_code)
        return f"TLS failed: {known} ({error.verify_message})" if known else f"TLS failed: {text}"
    reason = str(getattr(error, "reason", None) or "")  # one made in Python has none
    if reason in _NO_TLS_THERE:
        return f"TLS failed: this port speaks no TLS: is setting kafka_security_protocol right? ({reason})"
    alert = _alert(error)
    return f"TLS failed: {alert} ({reason})" if alert else f"TLS failed: {text}"


def _alert(error: ssl.SSLError) -> str | None:
    reason = str(getattr(error, "reason", None) or "")  # one made in Python has none
    if "ALERT" not in reason:
        return None
    return next((words for end, words in _ALERTS.items() if reason.endswith(end)), None)


def _closed(error: BaseException) -> bool:
    """Whether the other side ended the connection without a word, as listeners of another security protocol do."""
    cause = error.__cause__ if isinstance(error, KafkaConnectionError) else error
    return isinstance(cause, EOFError | ConnectionResetError | ConnectionAbortedError | ssl.SSLEOFError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """The last warning or error aiokafka logged. ``at_s`` is a reading of the clock given to `QuietLogs` (monotonic
    seconds). ``denied``: see `is_denial`. ``closed``: a broker ended the connection without a word."""

    text: str
    at_s: float
    denied: bool = False
    closed: bool = False


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
        self._telling: Problem | None = None
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

    def recent(self, *, within_s: float = 60.0) -> str | None:
        """The last problem that tells something, and its age in words, if it is younger than ``within_s`` seconds.

        A login that is refused is followed by many lines that only say "not ready"; they do not hide it.
        """
        problem = self._telling
        if problem is None:
            return None
        age_s = self._clock() - problem.at_s
        return f"{problem.text} ({age_s:.0f} s ago)" if age_s < within_s else None

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
        now_s = self._clock()
        if record.levelno >= logging.WARNING:
            error = _error(record)
            self.last_problem = problem = Problem(
                text=_text(record),
                at_s=now_s,
                denied=error is not None and is_denial(error),
                closed=error is not None and _closed(error),
            )
            hollow = error is None or isinstance(error, NodeNotReadyError) or problem.closed
            if not hollow or self._telling is None or now_s - self._telling.at_s > self._every_s:
                self._telling = problem
        _name_silent_errors(record)
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


def _error(record: logging.LogRecord) -> BaseException | None:
    """The error a line is about, if it names one."""
    if record.exc_info and record.exc_info[1] is not None:
        return record.exc_info[1]
    arguments = record.args if isinstance(record.args, tuple) else ()
    return next((part for part in arguments if isinstance(part, BaseException)), None)


def _text(record: logging.LogRecord) -> str:
    plain = record.args
    if isinstance(plain, tuple):
        plain = tuple(explain(part) if isinstance(part, BaseException) else part for part in plain)
    try:
        text = str(record.msg) % plain if plain else str(record.msg)
    except (TypeError, ValueError):  # a template that does not fit its arguments; aiokafka has one
        text = str(record.msg)
    error = record.exc_info[1] if record.exc_info else None
    return f"{text}: {explain(error)}" if error is not None else text

"""What is wrong with a secured connection, in plain words; the handshakes themselves are in tests/broker."""

from __future__ import annotations

import asyncio
import logging
import ssl

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.protocol.admin import SaslAuthenticateRequest_v1

from revoker.diagnosis import QuietLogs, conceal_logins, explain, is_denial

CLIENT = logging.getLogger("aiokafka")


def tls(reason: str) -> ssl.SSLError:
    """An error as OpenSSL names it."""
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


def unverified(code: int) -> ssl.SSLCertVerificationError:
    """A certificate that was not accepted, for the reason of this verify code."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "in OpenSSL's words"
    return error


def closed(cause: BaseException) -> kafka_errors.KafkaConnectionError:
    """aiokafka's error for a connection that ended by ``cause``."""
    error = kafka_errors.KafkaConnectionError("Connection at kafka-1:9092 closed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (unverified(10), "TLS failed: the broker's certificate has expired (in OpenSSL's words)"),
        (unverified(20), "comes from a CA that is not in setting kafka_ssl_ca_file"),
        (unverified(62), "is for other host names than the one connected to"),
        (unverified(23), "TLS failed: "),
        (tls("WRONG_VERSION_NUMBER"), "TLS failed: this port speaks no TLS: is setting kafka_security_protocol right?"),
        (tls("SSLV3_ALERT_CERTIFICATE_EXPIRED"), "the broker says that this client's certificate has expired"),
        (tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "asks for a client certificate: setting kafka_ssl_certificate_file"),
        (closed(tls("TLSV1_ALERT_UNKNOWN_CA")), "this client's certificate comes from a CA the broker does not know"),
        (kafka_errors.UnsupportedSaslMechanismError("enabled: PLAIN"), "does not offer the mechanism of setting"),
        (kafka_errors.IllegalSaslStateError(), "is setting kafka_security_protocol right?"),
    ],
)
def test_each_failure_of_a_handshake_is_explained(error: BaseException, said: str) -> None:
    """With the setting to look at, also where aiokafka only says that the connection was closed."""
    assert said in explain(error)


@pytest.mark.parametrize(
    ("error", "denied"),
    [
        (kafka_errors.SaslAuthenticationFailed("no"), True),
        (kafka_errors.TopicAuthorizationFailedError("t"), True),
        (closed(tls("SSLV3_ALERT_CERTIFICATE_UNKNOWN")), True),
        (kafka_errors.NodeNotReadyError("n"), False),
        (closed(ConnectionResetError()), False),
        (unverified(10), False),
        (OSError(29, "Illegal seek"), False),
    ],
)
def test_a_refusal_is_told_from_a_failure(error: BaseException, denied: bool) -> None:
    """Credentials, certificate and rights of this user; not the broker's, and not errno of the same number."""
    assert is_denial(error) is denied


class Clock:
    """A clock that stands still until it is told to move."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_cause_is_not_hidden_by_what_follows_from_it() -> None:
    """A refused login is followed by lines that only say "not ready", until it is long ago."""
    clock = Clock()
    logs = QuietLogs(every_s=10.0, clock=clock)
    with logs.installed():
        CLIENT.error("Unable connect to node with id %s: %s", 1, kafka_errors.SaslAuthenticationFailed("no"))
        clock.now_s += 3
        CLIENT.error("Unable to update metadata from %s", [1])
        CLIENT.error("Failed fetch messages from %s: %s", 1, kafka_errors.NodeNotReadyError("node 1"))
        CLIENT.error("Failed fetch messages from %s: %s", 1, closed(asyncio.IncompleteReadError(b"", 4)))
        assert "SaslAuthenticationFailed (Kafka error 58)" in str(logs.recent())
        assert str(logs.recent()).endswith("(3 s ago)")
        clock.now_s += 11
        CLIENT.error("Unable to update metadata from %s", [1])
        assert logs.recent() == "Unable to update metadata from [1] (0 s ago)"
        clock.now_s += 60
        assert logs.recent() is None


def test_a_connection_ended_without_a_word_is_marked() -> None:
    """Listeners of another security protocol do that; a hint belongs to it."""
    logs = QuietLogs()
    with logs.installed():
        for cause, marked in ((asyncio.IncompleteReadError(b"", 4), True), (tls("WRONG_VERSION_NUMBER"), False)):
            CLIENT.error('Unable connect to "%s:%s": %s', "kafka-1", 9092, closed(cause))
            assert logs.last_problem is not None
            assert logs.last_problem.closed is marked


def test_a_login_prints_without_its_credentials() -> None:
    """aiokafka logs its requests at level DEBUG."""
    conceal_logins()
    request = SaslAuthenticateRequest_v1(b"\0user\0s3cr3t-password")

    assert f"{request} {request!r}" == "SaslAuthenticateRequest_v1(***) SaslAuthenticateRequest_v1(***)"

"""Exit codes: which there are, and which one an error means."""

from __future__ import annotations

from enum import IntEnum

from revoker.errors import (
    BrokerUnreachable,
    InvalidInput,
    KeysUnavailable,
    NotPermitted,
    NotProven,
    OutcomeUnknown,
    RevokerError,
    SettingsError,
)
from revoker.tokens import InvalidTokenError, KeyUnknown

__all__ = ["Exit", "code_of"]

#: Kafka's error codes for a right that is missing or credentials that are refused.
_KAFKA_DENIALS = frozenset({29, 30, 31, 58})


class Exit(IntEnum):
    """What a command's exit code says."""

    OK = 0
    NO = 1
    """It failed, or the answer is no: revoked, a broken contract, a demo that went otherwise."""
    USAGE = 2
    """The command line, a setting or an input is wrong; nothing was sent."""
    UNKNOWN = 3
    """Not ready, not read to the end in time, or the outcome is unknown."""
    DENIED = 4
    """Authentication or authorisation: a token that does not verify, credentials or a right that Kafka refuses."""
    INTERRUPTED = 130
    """Ctrl-C, as shells expect it: 128 + SIGINT."""


def code_of(error: RevokerError | InvalidTokenError) -> Exit:
    """The exit code for an error that ends a command."""
    if isinstance(error, InvalidTokenError):
        return Exit.UNKNOWN if isinstance(error, KeyUnknown) and error.refreshing else Exit.DENIED
    if isinstance(error, NotPermitted) or isinstance(error.__cause__, NotPermitted):
        return Exit.DENIED
    if getattr(error.__cause__, "errno", None) in _KAFKA_DENIALS:
        return Exit.DENIED
    if isinstance(error, InvalidInput) or isinstance(error.__cause__, SettingsError):
        return Exit.USAGE
    if isinstance(error, NotProven | OutcomeUnknown | BrokerUnreachable | KeysUnavailable):
        return Exit.UNKNOWN
    return Exit.NO

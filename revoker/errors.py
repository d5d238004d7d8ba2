"""Every error revoker raises on purpose, in one tree.

::

    RevokerError
    ├── InvalidInput (ValueError)     the caller's mistake; nothing was sent, nothing changed
    │   ├── InvalidRevocation         a revocation that could not be written or would not hold
    │   │   └── TokenOutlivesTopic    the token lives longer than the topic keeps revocations
    │   └── SettingsError             a setting is unknown, malformed or contradicts another
    ├── PublishError                  the revocation was valid, the broker's answer is the trouble
    │   ├── NotAccepted               certainly not in the topic
    │   │   └── OutboxUnavailable     nor on disk: the outbox could not take it
    │   └── OutcomeUnknown            perhaps in the topic: publish again, records are idempotent
    ├── BrokerError                   talking to Kafka failed
    │   ├── BrokerUnreachable         no broker answered, or none is known
    │   ├── NotPermitted              Kafka refuses this user: its credentials, or a right it lacks
    │   ├── TopicMissing              the topic does not exist (or this user may not see it)
    │   └── ContractViolated          the topic exists and would lose revocations
    ├── DenyListFull                  the bound on entries is reached; nothing was dropped to make room
    ├── KeysUnavailable               no verification key could be loaded
    ├── NotProven                     this node cannot prove that its deny list is up to date
    └── DenyListUnreadable            this process cannot read its deny list

``TokenRevoked`` and ``TokenMalformed`` live in ``revoker.tokens``: they are also ``jwt.InvalidTokenError``, so that
existing ``except jwt.InvalidTokenError`` handlers answer 401 for them, and this module must stay free of imports.

Two facts for machines sit on each class: ``retriable`` (may the same call succeed later, unchanged?) and
``http_status`` (what a service that can do no better should answer).
"""

from __future__ import annotations

__all__ = [
    "BrokerError",
    "BrokerUnreachable",
    "ContractViolated",
    "DenyListFull",
    "DenyListUnreadable",
    "InvalidInput",
    "InvalidRevocation",
    "KeysUnavailable",
    "NotAccepted",
    "NotPermitted",
    "NotProven",
    "OutboxUnavailable",
    "OutcomeUnknown",
    "PublishError",
    "RevokerError",
    "SettingsError",
    "TokenOutlivesTopic",
    "TopicMissing",
]


class RevokerError(Exception):
    """Root of the tree. Catch it to catch everything revoker raises on purpose."""

    retriable: bool = False
    http_status: int = 500


class InvalidInput(RevokerError, ValueError):
    """The caller's mistake: nothing was sent and nothing changed. The message names what was wrong and what would be
    right.
    """

    http_status = 400


class InvalidRevocation(InvalidInput):
    """A revocation that could not be written, or would not do what it says."""

    http_status = 422


class TokenOutlivesTopic(InvalidRevocation):
    """The token stays valid for longer than the topic keeps revocations, so it could not be kept out.

    ``token_life_s`` is what the token still has, ``longest_token_life_s`` what the fleet is set up for; both in
    seconds.
    """

    def __init__(self, message: str, *, token_life_s: float, longest_token_life_s: int) -> None:
        super().__init__(message)
        self.token_life_s = token_life_s
        self.longest_token_life_s = longest_token_life_s


class SettingsError(InvalidInput):
    """A setting is unknown, malformed, missing, or contradicts another; the message names it."""


class PublishError(RevokerError):
    """The revocation was valid, but the broker did not acknowledge it.

    ``lasting``: the broker answered, and would answer the same record so again until somebody changes the topic.
    """

    retriable = True
    http_status = 503

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class NotAccepted(PublishError):
    """The broker refused, or was not asked: the revocation is certainly not in the topic."""


class OutboxUnavailable(NotAccepted):
    """The outbox could not put the revocation on disk, so it was not accepted.

    ``reason``: the trouble in a few words, fit for strangers: no path, no address, no identifier.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class OutcomeUnknown(PublishError):
    """No answer in time: the revocation may or may not be in the topic.

    Never treat it as "failed": what timed out has been found in the log afterwards. Publishing the same event id again
    is harmless, since a record that arrives twice changes nothing; ``revocation`` is the event to publish again.
    """

    def __init__(self, message: str, *, revocation: object = None, lasting: bool = False) -> None:
        super().__init__(message, lasting=lasting)
        self.revocation = revocation


class BrokerError(RevokerError):
    """Talking to Kafka failed."""

    retriable = True
    http_status = 503


class BrokerUnreachable(BrokerError):
    """No broker answered, or one did and no broker became known."""


class NotPermitted(BrokerError):
    """Kafka refuses this user: its credentials (password, token, certificate), or a right it lacks.

    The message names which, and the cure. It is retriable as what an operator grants later: nobody has to restart.
    """


class TopicMissing(BrokerError):
    """The topic does not exist, or this user may not see it: Kafka shows the two alike. revoker never creates it by
    itself.
    """


class ContractViolated(BrokerError):
    """The topic exists, but would lose revocations. ``violations`` says what, why, and the cure of each."""

    def __init__(self, message: str, *, violations: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.violations = violations


class DenyListFull(RevokerError):
    """The bound on entries is reached. Nothing unexpired was dropped to make room, so this entry cannot be taken."""

    http_status = 503


class KeysUnavailable(RevokerError):
    """No verification key could be loaded: no token can be verified."""

    retriable = True
    http_status = 503


class NotProven(RevokerError):
    """This node cannot prove that its deny list is up to date: answer 503, not 401. ``reason`` says which proof is
    missing.
    """

    retriable = True
    http_status = 503

    def __init__(self, reason: str) -> None:
        super().__init__(f"this node cannot prove that its deny list is up to date: {reason}")
        self.reason = reason


class DenyListUnreadable(RevokerError):
    """This process cannot read its deny list, so nothing is known about any token: answer 503, and admit nobody, under
    whatever policy. ``reason`` says what is wrong with it.
    """

    retriable = True
    http_status = 503

    def __init__(self, reason: str) -> None:
        super().__init__(f"this process cannot read its deny list: {reason}")
        self.reason = reason

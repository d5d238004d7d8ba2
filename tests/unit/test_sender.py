"""The sender: what is certain after each of Kafka's answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka import errors

from revoker.cli.exits import Exit, code_of
from revoker.errors import NotAccepted, OutcomeUnknown
from revoker.sender import Sender
from tests import samples

ABOUT_THE_RECORD = [
    errors.CorruptRecordException,
    errors.InvalidTimestampError,
    errors.MessageSizeTooLargeError,
    errors.PolicyViolationError,
    errors.RecordListTooLargeError,
    errors.UnsupportedForMessageFormatError,
]
CURABLE = [errors.TopicAuthorizationFailedError, errors.InvalidTopicError]
UNCERTAIN = [
    TimeoutError,
    ConnectionResetError,
    errors.KafkaTimeoutError,
    errors.KafkaConnectionError,
    errors.NodeNotReadyError,
    errors.NotEnoughReplicasAfterAppendError,
    errors.NotEnoughReplicasError,
    errors.NotLeaderForPartitionError,
    errors.ProducerClosed,
    errors.RequestTimedOutError,
    errors.UnknownTopicOrPartitionError,
]


@pytest.fixture
async def sender() -> Sender:
    return Sender(samples.settings())


@pytest.mark.parametrize("error", ABOUT_THE_RECORD)
async def test_a_refused_record_is_not_in_the_topic_and_will_be_refused_again(
    sender: Sender, error: type[Exception]
) -> None:
    """What the broker says of the record itself lasts until somebody changes the topic."""
    found = sender._judged(error())
    assert isinstance(found, NotAccepted)
    assert found.lasting


@pytest.mark.parametrize("error", CURABLE)
async def test_a_missing_right_is_a_refusal_that_may_pass(sender: Sender, error: type[Exception]) -> None:
    """Not in the topic, and no reason to set the record aside: every record would meet it."""
    found = sender._judged(error())
    assert isinstance(found, NotAccepted)
    assert not found.lasting


@pytest.mark.parametrize("error", UNCERTAIN)
async def test_everything_else_may_have_struck_after_the_write(sender: Sender, error: type[Exception]) -> None:
    """Unknown, named, and to be sent again."""
    found = sender._judged(error())
    assert isinstance(found, OutcomeUnknown)
    assert not found.lasting
    assert error.__name__ in str(found)


async def test_an_answer_aiokafka_does_not_know_is_about_the_record_and_uncertain(sender: Sender) -> None:
    """INVALID_RECORD (87) comes as UnknownError: it must block nobody, and may be in the topic for all we know."""
    assert errors.for_code(87) is errors.UnknownError
    found = sender._judged(errors.UnknownError())
    assert isinstance(found, OutcomeUnknown)
    assert found.lasting


async def test_without_a_broker_nothing_is_sent_one_by_one_or_at_once(sender: Sender) -> None:
    """NotAccepted from both; closing it, never connected, does nothing."""
    away = Sender(samples.settings(kafka_bootstrap_servers="127.0.0.1:1", publish_timeout_s=5.0))
    for attempt in (away.send(b"value"), away.send_all([])):
        with pytest.raises(NotAccepted, match="not sent"):
            await attempt
    await away.close()
    await sender.close()


async def test_certificate_files_that_cannot_be_read_now_are_no_mistake_of_the_caller(tmp_path: Path) -> None:
    """They are renewed while the service runs: nothing was sent, try again; and the file is named."""
    settings = samples.settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=str(tmp_path / "missing.pem"))
    with pytest.raises(NotAccepted, match=r"kafka_ssl_ca_file .*missing\.pem") as caught:
        await Sender(settings).send(b"value")
    assert code_of(caught.value) is Exit.USAGE

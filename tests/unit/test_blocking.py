"""The blocking publisher's end, while other threads wait for it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from revoker.blocking import BlockingPublisher
from revoker.errors import OutcomeUnknown
from revoker.events import Revocation, Session
from revoker.outbox.file import read
from tests.service_door import without_kafka

PATIENCE_S = 30.0


def test_closing_it_ends_the_calls_of_other_threads(tmp_path: Path) -> None:
    """Whoever waits for Kafka hears that the outcome is unknown, since the event is on disk, and nobody hangs."""
    path = tmp_path / "outbox.db"
    accepted = threading.Event()

    def hear(_: Revocation) -> None:
        accepted.set()

    publisher = BlockingPublisher(without_kafka(outbox_file=str(path), publish_timeout_s=20.0), on_accepted=hear)
    publisher.start()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(publisher.revoke, selector=Session(iss="", sid="s1"))
        try:
            assert accepted.wait(PATIENCE_S)
            publisher.close()
            with pytest.raises(OutcomeUnknown, match="closed"):
                call.result(timeout=5.0)
        finally:
            if not call.done():
                os._exit(99)  # it would wait for ever, and the pool for it
    assert len(read(path, limit=10)[1]) == 1

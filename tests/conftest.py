"""Fixtures of the whole suite: brokers, and names nobody else uses.

``REVOKER_TEST_BOOTSTRAP=HOST:PORT`` names a cluster that already runs (plaintext, auto-creation off): the suite then
uses it wherever it would start Apache Kafka, and skips what must kill or reconfigure brokers.
"""

from __future__ import annotations

import os
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import pytest

from revoker.cli.embedded import EmbeddedBroker
from tests.bad_inputs import TRIED
from tests.brokers.apache import ApacheKafka

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytest_plugins = ("tests.leaks",)

_ROOMS_WITH_BROKERS = {"broker": ("broker",), "e2e": ("broker", "e2e")}


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that tests share: they make their own topics and leave the broker itself alone."""

    name: Literal["apache", "embedded"]
    bootstrap: str


class StartApache(Protocol):
    """Starts a cluster that belongs to one test alone; it ends with the test."""

    def __call__(self, *, nodes: int = 1, properties: Mapping[str, str] | None = None) -> ApacheKafka:
        """``nodes`` and ``properties`` are those of :class:`ApacheKafka`. Returns when the cluster is ready."""
        ...


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test's room gives it its markers: `-m "not broker"` leaves out tests/broker and tests/e2e."""
    tests = Path(__file__).parent
    for item in items:
        room = item.path.relative_to(tests).parts[0]
        for marker in _ROOMS_WITH_BROKERS.get(room, ()):
            item.add_marker(marker)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many generated bad inputs this run has tried."""
    if TRIED:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(TRIED.items()))
        terminalreporter.write_line(f"bad inputs tried: {TRIED.total()} ({kinds})")


@pytest.fixture(scope="session")
def apache() -> Iterator[Broker]:
    """Apache Kafka, one node, shared by the session; or the cluster that REVOKER_TEST_BOOTSTRAP names."""
    external = os.environ.get("REVOKER_TEST_BOOTSTRAP")
    if external:
        yield Broker("apache", external)
        return
    with ApacheKafka() as kafka:
        yield Broker("apache", kafka.bootstrap)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Broker]:
    """The broker of `revoker demo`, shared by the session. Forgets on stop, keeps no retention, creates any topic."""
    with EmbeddedBroker() as broker:
        yield Broker("embedded", broker.bootstrap)


@pytest.fixture(params=["apache", "embedded"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Both kinds of broker, one after the other: for whatever must hold on either."""
    shared: Broker = request.getfixturevalue(request.param)
    return shared


@pytest.fixture
def bootstrap(broker: Broker) -> str:
    """The address of each kind of broker, one after the other."""
    return broker.bootstrap


@pytest.fixture
def start_apache() -> Iterator[StartApache]:
    """Clusters of a test's own, to be killed, paused or given other properties."""
    if os.environ.get("REVOKER_TEST_BOOTSTRAP"):
        pytest.skip("needs brokers that it may kill; REVOKER_TEST_BOOTSTRAP names one that others may use")
    with ExitStack() as started:

        def start(*, nodes: int = 1, properties: Mapping[str, str] | None = None) -> ApacheKafka:
            return started.enter_context(ApacheKafka(nodes=nodes, properties=properties))

        yield start


@pytest.fixture
def topic_name() -> str:
    """A topic name that no other test uses, in this run or another on the same cluster."""
    return f"revocations-{uuid.uuid4().hex[:12]}"

"""The filter on aiokafka's logs: one line per template and interval, last problem known, other loggers untouched."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Iterator

import aiokafka
import pytest

from revoker.diagnosis import QuietLogs

FETCHER = logging.getLogger("aiokafka.consumer.fetcher")
CLIENT = logging.getLogger("aiokafka")


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """A clock under the test's control."""
    return Clock()


@pytest.fixture
def quiet(clock: Clock, caplog: pytest.LogCaptureFixture) -> Iterator[QuietLogs]:
    """A filter in place, with aiokafka at its most talkative."""
    caplog.set_level(logging.DEBUG, logger="aiokafka")
    logs = QuietLogs(every_s=10.0, clock=clock)
    with logs.installed():
        yield logs


def test_one_line_per_template_passes_within_the_interval(quiet: QuietLogs, caplog: pytest.LogCaptureFixture) -> None:
    """A thousand lines that differ only in their arguments leave one."""
    for node in range(1000):
        CLIENT.error("Unable connect to node with id %s: %s", node, "refused")

    assert caplog.messages == ["Unable connect to node with id 0: refused"]
    assert quiet.suppressed_total == 999


def test_the_next_line_counts_those_held_back(quiet: QuietLogs, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Once the interval is over, the next line passes and says how many did not, and since when."""
    for _ in range(5):
        CLIENT.error("Topic %s not found in cluster metadata", "t")
    clock.now_s += 12.0
    CLIENT.error("Topic %s not found in cluster metadata", "t")

    assert caplog.messages[1:] == ["Topic t not found in cluster metadata (4 more like this in the last 12 s)"]


def test_the_count_starts_anew_after_it_was_told(
    quiet: QuietLogs, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A line told once is not counted again."""
    for _ in range(3):
        CLIENT.error("gone")
        clock.now_s += 10.0

    assert caplog.messages == ["gone"] * 3


def test_templates_loggers_and_levels_are_told_apart(quiet: QuietLogs, caplog: pytest.LogCaptureFixture) -> None:
    """Each combination of logger, level and template has an interval of its own."""
    CLIENT.error("one")
    CLIENT.error("two")
    CLIENT.warning("one")
    FETCHER.error("one")

    assert len(caplog.records) == 4


def test_debug_lines_pass_untouched(quiet: QuietLogs, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever turns debugging on gets every line."""
    for _ in range(3):
        CLIENT.debug("sending")

    assert caplog.messages == ["sending"] * 3


def test_the_last_problem_is_remembered_though_held_back(quiet: QuietLogs, clock: Clock) -> None:
    """The newest warning or error is known with its time, even if its line did not pass."""
    CLIENT.error("Unable connect to node with id %s: %s", 1, "refused")
    clock.now_s += 3.0
    CLIENT.error("Unable connect to node with id %s: %s", 2, "timed out")

    assert quiet.last_problem is not None
    assert quiet.last_problem.text == "Unable connect to node with id 2: timed out"
    assert quiet.last_problem.at_s == 1003.0


def test_information_is_no_problem(quiet: QuietLogs) -> None:
    """Lines below WARNING do not count as a problem."""
    CLIENT.info("resetting offset")

    assert quiet.last_problem is None


def test_an_error_without_text_is_named(quiet: QuietLogs, caplog: pytest.LogCaptureFixture) -> None:
    """A TimeoutError, which prints as nothing, is spelled out in the line and in the last problem."""
    CLIENT.error("Unable connect to node with id %s: %s", 1, TimeoutError())

    assert caplog.messages == ["Unable connect to node with id 1: TimeoutError: no answer in time"]
    assert quiet.last_problem is not None
    assert quiet.last_problem.text == caplog.messages[0]


def test_a_logged_exception_is_part_of_the_problem(quiet: QuietLogs) -> None:
    """The exception behind "Unexpected error in fetcher routine" is named."""
    try:
        raise RuntimeError("token provider broke")
    except RuntimeError:
        FETCHER.exception("Unexpected error in fetcher routine")

    assert quiet.last_problem is not None
    assert quiet.last_problem.text == "Unexpected error in fetcher routine: RuntimeError: token provider broke"


def test_a_template_that_does_not_fit_its_arguments_is_survived(quiet: QuietLogs) -> None:
    """aiokafka logs `error in consumer iterator: %s` without an argument; the filter does not fail on its like."""
    record = CLIENT.makeRecord("aiokafka", logging.ERROR, "f", 1, "broken: %s %s", ("one",), None)

    assert quiet.filter(record)
    assert quiet.last_problem is not None
    assert quiet.last_problem.text == "broken: %s %s"


def test_the_table_of_templates_is_bounded(quiet: QuietLogs) -> None:
    """Lines formatted before they are logged do not grow the table without end."""
    for number in range(10_000):
        CLIENT.error(f"unique {number}")

    assert len(quiet._seen) <= 256


def test_other_loggers_are_never_touched(quiet: QuietLogs, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the root, nor ours, nor a name that merely begins alike is filtered."""
    others = [logging.getLogger(name) for name in ("root", "revoker.topic", "aiokafkaesque", "asyncio")]
    for logger in others:
        logger.warning("again")
        logger.warning("again")

    assert all(quiet not in logger.filters for logger in others)
    assert len(caplog.records) == 8


def test_every_logger_of_aiokafka_is_filtered() -> None:
    """No module of aiokafka makes a logger that an installation before its import would have missed."""
    logs = QuietLogs()
    logs.install()
    try:
        for module in pkgutil.walk_packages(aiokafka.__path__, "aiokafka."):
            importlib.import_module(module.name)
        names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "aiokafka"]
        # Only members of consumer groups use the assignors, and no client of ours is one.
        names = [name for name in names if not name.startswith("aiokafka.coordinator.assignors")]
        missed = [
            name
            for name in names
            if isinstance(logging.root.manager.loggerDict[name], logging.Logger)
            and logs not in logging.getLogger(name).filters
        ]
    finally:
        logs.uninstall()

    assert "aiokafka.consumer.fetcher" in names
    assert missed == []


def test_the_last_uninstall_takes_the_filter_away() -> None:
    """Installations are counted: the filter stays for whoever still needs it, and leaves no trace after."""
    logs = QuietLogs()
    with logs.installed():
        with logs.installed():
            pass
        assert logs in FETCHER.filters
    assert logs not in FETCHER.filters


def test_uninstalling_once_too_often_is_an_error() -> None:
    """An unbalanced `uninstall` is a programming error and says so."""
    with pytest.raises(RuntimeError, match="not installed"):
        QuietLogs().uninstall()

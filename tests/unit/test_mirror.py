"""The writer's freshness as every process of the host sees it: real files, a clock moved by hand."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.denylist.control import AS_OF, FRESH_UNTIL
from consumers.denylist.shared import SharedDenyList
from consumers.freshness import Freshness, State
from consumers.host import Host
from consumers.mirror import _NOTHING, Mirror, publish, told
from consumers.node import Node as RealNode
from consumers.seat import Seat
from revoker.errors import NotProven, SettingsError
from revoker.settings import Settings
from tests.unit.made_up_follower import BOUND_S, Clock, Node, live

_SETTINGS = {"algorithms": ("HS256",), "key_secret": "a secret for tests, long enough for HS256"}


def _writer(directory: Path) -> SharedDenyList:
    store = SharedDenyList(directory, max_entries=1000)
    store.take()
    return store


def _reader(directory: Path, clock: Clock, *, writer_proved: bool = True) -> Mirror:
    mirror = Mirror(SharedDenyList(directory, max_entries=1000), monotonic=clock.monotonic)
    mirror.started(writer_proved=writer_proved)
    return mirror


def _publish(node: Node, store: SharedDenyList) -> None:
    page = store.control
    assert page is not None
    publish(node.freshness, page, now=node.clock.now)
    page.say(told(node.freshness))


@pytest.fixture
def store(tmp_path: Path) -> SharedDenyList:
    """A writer's."""
    return _writer(tmp_path)


def test_a_reader_is_as_fresh_as_the_writer(tmp_path: Path, store: SharedDenyList) -> None:
    """Bound, as-of and state of a live writer are those of every reader."""
    node = live()
    _publish(node, store)
    mirror = _reader(tmp_path, node.clock)
    assert _state(mirror) is State.LIVE
    assert mirror.missing() == ()
    assert (mirror.fresh_until, mirror.as_of) == (node.freshness.fresh_until, node.freshness.as_of)
    assert mirror.was_ready


def test_a_dead_writer_shows_by_time_alone(tmp_path: Path, store: SharedDenyList) -> None:
    """Nobody publishes any more: at the end of the bound the reader is stale, and says who gives no sign."""
    node = live()
    _publish(node, store)
    mirror = _reader(tmp_path, node.clock)
    assert _state(mirror) is State.LIVE
    node.clock.tick(BOUND_S)
    assert _state(mirror) is State.STALE
    (missing,) = mirror.missing()
    assert missing.proof == "writer"
    assert f"process {os.getpid()} gives no sign of life" in missing.reason
    assert mirror.was_ready
    assert mirror.proved_until == mirror.fresh_until


def test_a_reader_names_what_the_writer_lacks(tmp_path: Path, store: SharedDenyList) -> None:
    """The writer lives and cannot prove anything: readers show its own missing proofs."""
    node = live()
    _publish(node, store)
    mirror = _reader(tmp_path, node.clock)
    node.freshness.connecting("no broker reached")
    _publish(node, store)
    assert mirror.fresh_until == -math.inf
    (missing,) = mirror.missing()
    assert (missing.proof, missing.reason) == ("connecting", "no broker reached")
    assert _state(mirror) is State.CONNECTING


def test_a_successor_leaves_the_old_proof_until_it_ends(tmp_path: Path, store: SharedDenyList) -> None:
    """A writer that has proved nothing yet does not void what is still true, and does not stretch it either."""
    node = live()
    _publish(node, store)
    until = node.freshness.fresh_until
    store.close()
    successor = _writer(tmp_path)
    mirror = _reader(tmp_path, node.clock)
    fresh = Node(clock=node.clock)
    _publish(fresh, successor)
    assert mirror.fresh_until == until
    node.clock.now = until
    _publish(fresh, successor)
    assert mirror.fresh_until == -math.inf
    assert mirror.was_ready
    assert mirror.proved_until == until


def test_a_start_wants_a_proof_later_than_itself(tmp_path: Path, store: SharedDenyList) -> None:
    """Unless the writer that proved it lives, a proof from before the start counts for nothing."""
    node = live()
    _publish(node, store)
    node.clock.tick(0.1)
    mirror = _reader(tmp_path, node.clock, writer_proved=False)
    assert mirror.fresh_until == -math.inf
    assert not mirror.was_ready
    assert _state(mirror) is not State.LIVE
    node.run(2 * BOUND_S)
    _publish(node, store)
    assert _state(mirror) is State.LIVE
    assert mirror.was_ready


def test_a_page_from_the_future_is_refused(tmp_path: Path, store: SharedDenyList) -> None:
    """A writer in another time namespace beats ahead of our clock: nothing it says counts, and the reason says so."""
    node = live()
    _publish(node, store)
    behind = Clock(now=node.clock.now - 100)
    mirror = _reader(tmp_path, behind)
    assert mirror.fresh_until == -math.inf
    behind.tick(1)
    assert _state(mirror) is State.CONNECTING
    (missing,) = mirror.missing()
    assert "one time namespace" in missing.reason


def test_without_a_table_it_says_where_it_looks(tmp_path: Path) -> None:
    """No process has made a table: not ready, with the directory; it attaches once there is one."""
    node = live()
    mirror = _reader(tmp_path / "none", node.clock)
    assert _state(mirror) is State.CONNECTING
    assert str(tmp_path / "none") in mirror.why()
    writer = _writer(tmp_path / "none")
    node.run(2 * BOUND_S)
    _publish(node, writer)
    assert mirror.was_ready
    assert _state(mirror) is State.LIVE


def test_a_replaced_table_is_proof_of_nothing(tmp_path: Path, store: SharedDenyList) -> None:
    """Once the writer gives up its entries no reader is fresh, nor ever was."""
    node = live()
    _publish(node, store)
    mirror = _reader(tmp_path, node.clock)
    assert _state(mirror) is State.LIVE
    store.replace()
    assert mirror.fresh_until == -math.inf
    assert not mirror.was_ready


def _settings(directory: Path, **changes: object) -> Settings:
    return Settings(**_SETTINGS | {"denylist": "shared", "shared_dir": str(directory)} | changes)  # type: ignore[arg-type]


def test_a_node_opens_nothing_before_it_is_started(tmp_path: Path) -> None:
    """The constructor makes neither directory nor lock, so it may run before a fork."""
    RealNode(_settings(tmp_path / "host"))
    assert not (tmp_path / "host").exists()


def test_a_reader_without_a_loop(tmp_path: Path) -> None:
    """It looks into the table with no task, refuses while nothing is proved, and afterwards is stopped."""
    with RealNode.reader(_settings(tmp_path / "host")) as node:
        assert node.host is not None
        assert node.host.role == "reader"
        assert _state(node.proof) is State.CONNECTING
        decided = {check.name: check.ok for check in node.checks()}
        assert not decided["table"]
    assert _state(node.proof) is State.STOPPED


def test_a_reader_fetches_no_keys(tmp_path: Path) -> None:
    """A key set has to be fetched again and again, which a reader without a loop does not do."""
    settings = Settings(
        algorithms=("RS256",), jwks_url="https://id.example/jwks", denylist="shared", shared_dir=str(tmp_path)
    )
    with pytest.raises(SettingsError, match="jwks_url"), RealNode.reader(settings):
        pass


async def test_a_child_of_a_started_node_is_stopped(tmp_path: Path) -> None:
    """It has no task of its parent's: nothing passes there, and the writer's page is left alone."""
    node = RealNode(_settings(tmp_path / "host", kafka_bootstrap_servers="127.0.0.1:1", shared_role="reader"))
    node.start()
    writer = _writer(tmp_path / "host")
    assert _in_child(lambda: node.proof.state is State.STOPPED and "forked away" in node.proof.why())
    assert writer.control is not None
    assert writer.control.writer_pid == os.getpid()
    await node.close()


async def test_a_child_of_the_writer_publishes_nothing(tmp_path: Path) -> None:
    """The child hears from its follower that it has ended; the parent's proof stays as it was."""
    host = Host(_settings(tmp_path))
    made = live()
    assert Seat(tmp_path).take()
    host.store.take()
    host._own, host._pid = made.freshness, os.getpid()
    made.freshness.on_change = host.published
    host.published()
    page = host.store.control
    assert page is not None
    before = page.fresh_until
    assert before > 0

    def hears() -> bool:
        made.freshness.stop("forked away")
        return made.freshness.fresh_until == -math.inf

    assert _in_child(hears)
    assert page.fresh_until == before
    assert page.writer_pid == os.getpid()
    host.shut()


async def test_readers_wait_for_the_host(tmp_path: Path) -> None:
    """`wait_ready` of a reader ends with what is missing."""
    node = RealNode(_settings(tmp_path / "host", shared_role="reader"))
    node.start()
    with pytest.raises(NotProven, match="no process has made a table"):
        await node.wait_ready(timeout_s=0.05)
    names = {family.name for family in node.families()}
    assert {"revoker_shared_writer", "revoker_shared_bytes"} <= names
    await node.close()


def _state(proof: Freshness | Mirror) -> State:
    """A call, because a type checker would take a property for unchanged since the last look."""
    return proof.state


def _in_child(holds: Callable[[], bool]) -> bool:
    child = os.fork()
    if not child:
        os._exit(0 if holds() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _kept(mirror: Mirror) -> bool:
    """Whether a request would read the page without asking the mirror."""
    return mirror.times is not _NOTHING


def test_a_proof_that_counts_is_read_off_the_page(tmp_path: Path, store: SharedDenyList) -> None:
    """Once asked, the page itself stands in for the properties, and goes on saying what they say."""
    node = live()
    _publish(node, store)
    mirror = _reader(tmp_path, node.clock)
    assert not _kept(mirror)
    assert _state(mirror) is State.LIVE
    for _ in range(3):
        assert mirror.times is not _NOTHING
        assert (mirror.times[FRESH_UNTIL], mirror.times[AS_OF]) == (mirror.fresh_until, mirror.as_of)
        node.run(1.0)
        _publish(node, store)


def test_a_proof_older_than_the_start_is_not_kept(tmp_path: Path, store: SharedDenyList) -> None:
    """The page is read without asking only after it has proved something later than this mirror's start."""
    node = live()
    _publish(node, store)
    node.clock.tick(0.1)
    mirror = _reader(tmp_path, node.clock, writer_proved=False)
    assert mirror.fresh_until == -math.inf
    assert not _kept(mirror)
    node.run(2 * BOUND_S)
    _publish(node, store)
    assert mirror.fresh_until > node.clock.now
    assert _kept(mirror)
    mirror.started(writer_proved=False)
    assert not _kept(mirror)


def test_a_stopped_mirror_keeps_no_page(tmp_path: Path, store: SharedDenyList) -> None:
    """Stopping ends the quick way with the slow one, and asking does not bring it back."""
    node = live()
    _publish(node, store)
    mirror = _reader(tmp_path, node.clock)
    assert mirror.fresh_until > 0
    mirror.stop("closed")
    assert not _kept(mirror)
    assert (mirror.fresh_until, _state(mirror)) == (-math.inf, State.STOPPED)
    assert not _kept(mirror)


def test_a_mirror_stopped_while_it_attaches_keeps_no_page(tmp_path: Path, store: SharedDenyList) -> None:
    """Another thread stops it between the look at the page and the keeping of it."""
    node = live()
    _publish(node, store)
    mirror = _reader(tmp_path, node.clock)
    assert mirror.fresh_until > 0
    page = mirror._store.control
    assert page is not None
    mirror.stop("closed")
    mirror._keep(page)
    assert not _kept(mirror)


def test_a_page_of_the_past_is_let_go(tmp_path: Path, store: SharedDenyList) -> None:
    """A table made anew has a page of its own: the old one is void at once, and no longer read once that is noticed."""
    node = live()
    _publish(node, store)
    mirror = _reader(tmp_path, node.clock)
    assert mirror.fresh_until > 0
    old = mirror.times
    assert old is not None
    page = store.control
    assert page is not None
    page.retire()
    assert old[FRESH_UNTIL] == -math.inf
    store.close()
    (tmp_path / "control").unlink()
    node.clock.tick(1)
    successor = _writer(tmp_path)
    node.run(1.0)
    _publish(node, successor)
    assert mirror.fresh_until == node.freshness.fresh_until
    assert _kept(mirror)
    assert mirror.times is not old


def test_a_closed_store_is_read_no_more(tmp_path: Path, store: SharedDenyList) -> None:
    """Whoever lets go of the table lets go of its page, whichever of the two is told first."""
    node = live()
    _publish(node, store)
    mirror = _reader(tmp_path, node.clock)
    assert mirror.fresh_until > 0
    mirror._store.close()
    assert not _kept(mirror)


def test_a_writer_that_may_be_stopped_proves_nothing_to_who_starts(tmp_path: Path, store: SharedDenyList) -> None:
    """The lock is held and the last sign is older than a second: only a proof later than the start counts."""
    node = live()
    _publish(node, store)
    node.clock.tick(1.5)
    mirror = _reader(tmp_path, node.clock)
    assert mirror.fresh_until == -math.inf
    assert mirror.times is _NOTHING


def test_a_reader_with_a_smaller_bound_does_not_go_by_the_page(tmp_path: Path, store: SharedDenyList) -> None:
    """A proof that the writer's bound still counts may be too old for this process: it says what to set."""
    node = live()
    _publish(node, store)
    mirror = Mirror(SharedDenyList(tmp_path, max_entries=10), bound_s=BOUND_S / 2, monotonic=node.clock.monotonic)
    mirror.started(writer_proved=True)
    assert mirror.fresh_until == -math.inf
    assert f"staleness_bound_s={BOUND_S:g}" in mirror.why()

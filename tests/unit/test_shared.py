"""The deny list of a host: what readers see while one process writes, and whose own events are whose."""

from __future__ import annotations

import gc
import math
import os
from pathlib import Path

import pytest

from consumers.denylist.about import About
from consumers.denylist.control import WORD
from consumers.denylist.journal import Journal
from consumers.denylist.shared import Origin, SharedDenyList
from revoker.events import Claim, Client, Everything, Selector, Session, Subject
from tests.unit.shared_bench import ISS, SECRET, STRANGER, event, knows_nothing, listed, opened, renew, token


def open_files() -> int:
    """Descriptors of this process, but for those of what nobody holds any more."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "list"


@pytest.fixture
def writer(directory: Path) -> SharedDenyList:
    store = opened(directory)
    store.take()
    return store


@pytest.fixture
def reader(directory: Path, writer: SharedDenyList) -> SharedDenyList:
    assert writer.writes
    store = opened(directory)
    assert store.open() is None
    return store


# What a reader follows.


def test_entries_are_seen_by_all_at_once(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """A new kind, and then a further entry of it, are found by a reader's next question."""
    assert not listed(reader, "a")
    for jti in ("a", "b"):
        writer.apply(token(jti))
        assert listed(reader, jti)
        assert not listed(reader, "c")


def test_rules_are_seen_by_all_at_once(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """A rule reaches a reader's next question, and so does its withdrawal's kind among the names of claims."""
    assert not reader.suspects({**STRANGER, "iat": 10}, None)
    writer.apply(event(Claim(iss=ISS, claim="tenant", value="t")))
    assert reader.claim_names == {ISS: {"tenant"}}
    assert reader.cutoff(("claim", ISS, "tenant", "t")) == 50
    writer.apply(event(Everything()))
    assert reader.cutoff(("all",)) == 50
    assert reader.suspects({**STRANGER, "iat": 10}, None)
    assert not reader.suspects(STRANGER, None)


def test_a_reader_follows_to_new_generations_while_it_looks(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """While the table grows through several generations, whatever is in is found at any moment."""
    seen = set()
    writer.apply(event(Client(iss=ISS, client_id="c")))
    for first in range(0, 20_000, 500):
        writer.apply_all([token(f"t{number}") for number in range(first, first + 500)])
        assert listed(reader, "t0")
        assert listed(reader, f"t{first + 499}")
        assert not listed(reader, f"t{first + 500}")
        assert reader.cutoff(("client", ISS, "c")) == 50
        assert reader.control is not None
        seen.add(reader.control.word >> 40)
    assert len(seen) > 2
    assert reader.counts() == writer.counts()


def test_a_reader_that_slept_finds_the_table_of_now(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """Several generations may pass between two questions."""
    writer.apply(token("a"))
    assert listed(reader, "a")
    for _ in range(3):
        renew(writer)
    writer.apply(token("b"))
    assert listed(reader, "a")
    assert listed(reader, "b")


def test_a_function_fetched_before_a_change_still_answers(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """A request that is under way while the writer goes on asks the table there is then."""
    writer.apply(token("a"))
    listed(reader, "a")
    before = reader.suspects
    renew(writer)
    writer.apply(token("b"))
    assert before({**STRANGER, "jti": "a"}, None)
    assert before({**STRANGER, "jti": "b"}, None)


def test_what_the_writer_has_purged_a_reader_forgets(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """Slots go with the generation; rules go when the reader tidies up, by the writer's clock."""
    writer.apply_all([token("a", until=10), event(Everything(), until=10)])
    assert reader.counts()["all"] == reader.counts()["token"] == 1
    writer.advance(now_s=20)
    reader.advance(now_s=-math.inf)
    assert reader.kinds == set()
    assert sum(reader.counts().values()) == 0
    assert not listed(reader, "a")


# What a process has published itself.


def test_a_readers_own_events_are_its_own(directory: Path, writer: SharedDenyList, reader: SharedDenyList) -> None:
    """What this process has published is refused here at once, and elsewhere when the topic has brought it."""
    other = opened(directory)
    assert other.open() is None
    assert reader.apply(token("mine"))
    assert not reader.apply(token("mine"))
    assert listed(reader, "mine")
    assert not listed(other, "mine")
    assert reader.counts()["token"] == 0  # those that the host shares
    writer.apply(token("mine"))
    assert listed(other, "mine")


@pytest.mark.parametrize(
    ("selector", "key"),
    [
        (Session(iss=ISS, sid="s"), ("session", ISS, "s")),
        (Subject(iss=ISS, sub="u"), ("subject", ISS, "u")),
        (Subject(iss=ISS, sub="u", spare_sid="kept"), ("subject", ISS, "u")),
        (Client(iss=ISS, client_id="c"), ("client", ISS, "c")),
        (Claim(iss=ISS, claim="tenant", value="t"), ("claim", ISS, "tenant", "t")),
        (Everything(), ("all",)),
    ],
)
def test_a_readers_own_events_may_be_of_any_kind(
    reader: SharedDenyList, selector: Selector, key: tuple[str, ...]
) -> None:
    """Each kind is shown, asked about and found."""
    reader.apply(event(selector))
    assert key[0] in reader.kinds
    assert reader.listed(key) if selector.exact else reader.cutoff(key) == 50
    token = {**STRANGER, "sid": "s", "sub": "u", "client_id": "c", "tenant": "t", "iat": 10}
    assert reader.suspects(token, None)


def test_a_readers_own_events_outlast_a_new_generation(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """The table changes under the reader; what it has published is still refused."""
    reader.apply(token("mine"))
    renew(writer)
    assert listed(reader, "mine")


def test_own_events_of_before_there_was_a_table(directory: Path) -> None:
    """They count as soon as there is one to look into."""
    early = opened(directory)
    early.apply(token("mine"))
    knows_nothing(early)
    writer = opened(directory)
    writer.take()
    assert early.open() is None
    assert listed(early, "mine")
    assert not listed(early, "other")


@pytest.mark.parametrize("becomes", [False, True], ids=["stays a reader", "becomes the writer"])
def test_own_events_are_forgotten_when_they_have_expired(
    directory: Path, writer: SharedDenyList, reader: SharedDenyList, becomes: bool
) -> None:
    """By the writer's clock, also in the process that has become the writer meanwhile."""
    reader.apply(token("mine", until=10))
    writer.advance(now_s=5)
    reader.advance(now_s=-math.inf)
    assert listed(reader, "mine")
    if becomes:
        writer.close()
        reader.take()
        reader.advance(now_s=20)
    else:
        writer.advance(now_s=20)
        reader.advance(now_s=-math.inf)
    assert not listed(reader, "mine")
    assert reader.kinds == set()


# Processes.


def test_the_child_of_a_writer_looks_on_and_does_not_write(directory: Path, writer: SharedDenyList) -> None:
    """It sees what the parent stores after the fork, in whatever generation; what it applies stays its own."""
    writer.apply(token("before"))
    to_child, from_parent = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            writer.forked()
            os.read(to_child, 1)
            seen = [listed(writer, jti) for jti in ("before", "after", "t999", "never")]
            writer.apply(token("childs"))
            kept = listed(writer, "childs") and writer.cutoff(("all",)) == 50 and not writer.writes
            try:
                writer.adopt(Origin(cluster_id=None, topic="t", topic_id="i", partitions=1))
            except RuntimeError:
                writer.reached({0: 99})
                writer.close()
                status = 0 if seen == [True, True, True, False] and kept else 2
        finally:
            os._exit(status)
    writer.apply_all([token("after"), event(Everything())])
    writer.apply_all([token(f"t{number}") for number in range(1000)])
    renew(writer)
    os.write(from_parent, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(to_child)
    os.close(from_parent)
    assert not listed(writer, "childs")
    assert writer.writer.table.offsets == {}
    assert writer.control is not None
    assert writer.control.writer_pid == os.getpid()
    reader = opened(directory)
    assert reader.open() is None
    assert not listed(reader, "childs")


def test_a_reader_changes_nothing_of_the_hosts(reader: SharedDenyList) -> None:
    """What only the writer may do is refused, or is nothing to a reader."""
    for change in (
        lambda: reader.apply_all([token("a")]),
        lambda: reader.adopt(Origin(cluster_id=None, topic="t", topic_id="i", partitions=1)),
        reader.replace,
    ):
        with pytest.raises(RuntimeError, match="only the writer may change"):
            change()
    reader.reached({0: 5})
    reader.step()
    assert not reader.writes


def test_closed_means_nothing_is_known(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """Closing twice is as good as once; the files stay, and can be opened again."""
    writer.apply(token("a"))
    for store in (reader, writer):
        store.close()
        store.close()
        assert not store.attached
        assert store.control is None
        knows_nothing(store, reason="closed")
        assert list(store.in_force()) == []
    assert reader.open() is None
    assert listed(reader, "a")


def test_a_closed_writer_is_named_no_more(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """The page names the writer while there is one."""
    assert reader.control is not None
    assert reader.control.writer_pid == os.getpid()
    writer.close()
    assert reader.control.writer_pid == 0


def test_giving_up_all_entries_leaves_nothing_open(writer: SharedDenyList) -> None:
    """However often, also while a new generation is being made: no descriptor and no file stays behind."""
    before = open_files()
    for _ in range(5):
        writer.apply_all([token(f"t{number}") for number in range(20_000)])
        writer.writer._begin()
        writer.replace()
        assert not listed(writer, "t0")
        assert sorted(path.name.partition(".")[0] for path in writer.directory.iterdir()) == [
            "control",
            "rules",
            "table",
        ]
    assert open_files() == before
    assert writer.control is not None
    assert writer.control.writer_pid == os.getpid()
    writer.apply(token("again"))
    assert listed(writer, "again")


def test_other_threads_of_the_writer_ask_properly_while_it_stores(writer: SharedDenyList) -> None:
    """Between WORD and what fits it, a question of another thread has an answer, and not by asking itself forever."""
    writer.apply(token("a"))
    assert writer.control is not None
    writer.control.words[WORD] += 1 << 16
    assert writer.suspects(STRANGER, None)
    assert writer.listed(("token", ISS, "a"))


def test_a_rule_written_late_leaves_the_writer_quick(writer: SharedDenyList, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that found room only when offsets were noted is followed: strangers are not suspected for ever."""

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", refuse)
        with pytest.raises(Exception, match="No space"):
            writer.apply(event(Everything()))
    writer.reached({0: 1})
    assert writer.suspects({**STRANGER, "iat": 10}, None)
    assert not writer.suspects(STRANGER, None)


# What people are shown.


def test_the_secret_shows_nowhere(writer: SharedDenyList, reader: SharedDenyList) -> None:
    """Not in the text of the store, of what it sees, of what it writes with, nor of what stands in the header."""
    writer.apply_all([token("a"), event(Everything())])
    assert listed(reader, "a")
    for store in (writer, reader):
        assert store._view is not None
        told = repr([store, vars(store), store._view, store._view.about, store._view.prints, writer.writer])
        told += str(store._view) + repr(vars(writer.writer)) + format(store._view.about)
        for form in (SECRET.hex(), repr(SECRET), str(list(SECRET))):
            assert form.strip("b'[]") not in told
    assert About(secret=SECRET.hex(), boot="b", trust="t", epoch_s=0).secret == SECRET.hex()


@pytest.mark.parametrize("shown_by", ["writer", "reader"])
def test_a_large_table_is_counted_once_a_second(directory: Path, shown_by: str) -> None:
    """Counting goes through the whole table, and metrics ask often; a small one is counted at once."""
    now = 0.0
    writer, reader = opened(directory, monotonic=lambda: now), opened(directory, monotonic=lambda: now)
    writer.take()
    assert reader.open() is None
    shown = writer if shown_by == "writer" else reader
    for number in range(3):
        writer.apply(token(f"small-{number}"))
        assert shown.counts()["token"] == number + 1
    writer.apply_all([token(f"t{number}") for number in range(30_000)])
    writer.writer.finish()
    assert shown.counts()["token"] == 30_003
    writer.apply(token("one more"))
    now = 0.9
    assert shown.counts()["token"] == 30_003
    now = 1.0
    assert shown.counts()["token"] == 30_004


def test_the_size_is_that_of_the_files(writer: SharedDenyList) -> None:
    """The directory's size is what its files take."""
    assert writer.directory_bytes == sum(path.stat().st_size for path in writer.directory.iterdir()) > 4096

"""The page that all processes of a host share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.denylist.control import (
    SAID_MAX_BYTES,
    WORD,
    Control,
    ControlRefused,
    boot_id,
    pack_word,
    unpack_word,
)

_BOOT = "0b7a4bb6-7ddf-4d9a-9e8b-6c1f0e7a9d11"
_SAID_TURN = 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def page(path: Path) -> Control:
    return Control.make(path, boot=_BOOT)


def _read(path: Path) -> Control:
    return Control.open(path, writable=False, boot=_BOOT)


@pytest.mark.parametrize("generation", [0, 1, 2**24 - 1])
@pytest.mark.parametrize("rules", [0, 1, 2**24 - 1])
@pytest.mark.parametrize("kinds", [0, 0b1111])
def test_what_word_says_is_what_was_put_in(generation: int, rules: int, kinds: int) -> None:
    """Generation, rules and kinds share one word of eight bytes and do not touch each other."""
    word = pack_word(generation=generation, rules=rules, kinds=kinds)
    assert 0 <= word < 2**64
    assert unpack_word(word) == (generation, rules, kinds)


def test_rules_are_counted_in_a_circle() -> None:
    """One rule more than the counter holds changes WORD, and the generation is left alone."""
    before, after = (pack_word(generation=5, rules=rules, kinds=1) for rules in (2**24 - 1, 2**24))
    assert before != after
    assert unpack_word(after) == (5, 0, 1)


def test_a_new_page_names_no_table_and_proves_nothing(page: Control, path: Path) -> None:
    """Nothing is fresh, nobody has written, and only its owner may read it."""
    assert unpack_word(page.word)[0] == 0
    assert page.fresh_until == page.proved_until == page.proved_at == page.beat == -math.inf
    assert (page.as_of, page.was_ready, page.state, page.writer_pid, page.said()) == (None, False, 0, 0, "")
    assert path.stat().st_mode & 0o7777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["control"]


def test_all_who_map_it_see_what_is_published(page: Control, path: Path) -> None:
    """What the writer publishes is there for a reader that mapped the page before."""
    reader = _read(path)
    page.publish(fresh_until=7.5, proved_until=7.25, proved_at=1.5, as_of=1_800_000_000.5, was_ready=True, state=3)
    page.writer_pid, page.beat, page.word = 42, 6.0, pack_word(generation=2, rules=1, kinds=8)
    assert (reader.fresh_until, reader.proved_until, reader.proved_at) == (7.5, 7.25, 1.5)
    assert (reader.as_of, reader.was_ready, reader.state) == (1_800_000_000.5, True, 3)
    assert (reader.writer_pid, reader.beat, reader.word) == (42, 6.0, page.word)
    page.publish(fresh_until=-math.inf, proved_until=0, proved_at=0, as_of=None, was_ready=False, state=1)
    assert (reader.fresh_until, reader.as_of, reader.was_ready) == (-math.inf, None, False)


def test_a_reader_cannot_write(page: Control, path: Path) -> None:
    """The page is mapped for reading alone, so that no mistake there can reach the others."""
    reader = _read(path)
    with pytest.raises(TypeError):
        reader.word = 1
    assert page.word == 0


def test_a_page_that_is_retired_says_so(page: Control, path: Path) -> None:
    """Whoever has mapped it sees that another counts, that it names no table, and that nothing is proved."""
    page.publish(fresh_until=math.inf, proved_until=1, proved_at=1, as_of=1, was_ready=True, state=3)
    page.word = pack_word(generation=1, rules=0, kinds=0)
    reader = _read(path)
    page.retire()
    assert reader.replaced
    assert (reader.word, reader.fresh_until) == (0, -math.inf)


def test_a_page_knows_whether_it_is_the_one_that_stands_there(page: Control, path: Path) -> None:
    """Another file under its name is another page, and so is none."""
    reader = _read(path)
    assert page.is_at(path)
    assert reader.is_at(path)
    newer = Control.make(path, boot=_BOOT)
    assert newer.is_at(path)
    assert not reader.is_at(path)
    path.unlink()
    assert not newer.is_at(path)


def _written(at: int, data: bytes) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    return harm


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_written(0, bytes(8)), "is no control page"),
        (_written(8, b"\x02"), "has format 2, this version reads 1"),
        (_written(128, b"x"), "before the last boot, or from another time namespace"),
        (lambda path: os.truncate(path, 0), "has 0 bytes, must have 4096"),
        (lambda path: os.truncate(path, 8192), "has 8192 bytes, must have 4096"),
        (lambda path: path.chmod(0o640), r"is open to others \(mode 0640\)"),
        (_linked, "is a symbolic link"),
        (_piped, "is no regular file"),
        (_directory, "is no regular file|cannot be opened: Is a directory"),
    ],
)
def test_what_is_no_page_of_ours_is_refused(
    path: Path, harm: Callable[[Path], None], reason: str, writable: bool
) -> None:
    """A page that cannot be trusted is refused with the reason and the file's name, and waited for by nobody."""
    Control.make(path, boot=_BOOT).close()
    harm(path)
    with pytest.raises(ControlRefused, match=f"control ({reason}|.*{reason})"):
        Control.open(path, writable=writable, boot=_BOOT)


def test_where_there_is_none_that_is_another_error(path: Path) -> None:
    """No page is no trouble: nobody has made one yet."""
    with pytest.raises(FileNotFoundError):
        _read(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_page_of_another_user_is_refused(page: Control, path: Path) -> None:
    """Not even root believes what somebody else may change."""
    os.chown(path, 12345, -1)
    with pytest.raises(ControlRefused, match="belongs to user 12345"):
        _read(path)


def test_what_a_dead_maker_left_over_is_no_hindrance(path: Path) -> None:
    """A page that was not finished is made again."""
    path.with_suffix(".new").write_bytes(b"half")
    Control.make(path, boot=_BOOT)
    assert _read(path).word == 0


def test_boots_and_time_namespaces_have_names() -> None:
    """The name is the same for all of a boot, and fits into its place."""
    assert boot_id() == boot_id()
    assert 0 < len(boot_id()) <= 36


@pytest.mark.parametrize("text", ["", "poll: Kafka gives no answer", "é" * 100, "x" * SAID_MAX_BYTES])
def test_a_text_for_people_arrives(page: Control, path: Path, text: str) -> None:
    """Every reader gets the text last left, whole."""
    reader = _read(path)
    page.say("something longer that was there before")
    page.say(text)
    assert reader.said() == text


def test_a_long_text_is_cut_between_characters(page: Control) -> None:
    """Of a text that does not fit the beginning is left; no half character is shown."""
    page.say("x" + "é" * SAID_MAX_BYTES)
    assert page.said() == "x" + "é" * ((SAID_MAX_BYTES - 1) // 2)


def test_a_text_that_has_no_utf_8_form_arrives_escaped(page: Control) -> None:
    """A lone surrogate, as in a path that is no UTF-8, does not stop the writer."""
    page.say("no such file: \udcff")
    assert page.said() == r"no such file: \udcff"


def test_a_text_whose_writer_died_over_it_is_not_shown(page: Control, path: Path) -> None:
    """Half a text is none; the next writer's is shown again."""
    page.say("whole")
    page.words[_SAID_TURN] |= 1
    assert _read(path).said() == ""
    page.say("whole again")
    assert _read(path).said() == "whole again"


def test_a_text_that_is_damaged_is_not_shown(page: Control, path: Path) -> None:
    """A text that does not fit its checksum, or claims any length, is none."""
    page.say("whole")
    _written(512, b"W")(path)
    assert page.said() == ""
    page.words[_SAID_TURN + 1] = 2**63
    assert page.said() == ""


def test_word_is_where_look_ups_find_it(page: Control) -> None:
    """The index that look-ups use without a call is the property's."""
    page.word = 77
    assert page.words[WORD] == 77

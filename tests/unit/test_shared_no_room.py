"""A rule for which there was no room on the disk when it came."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from consumers.denylist.journal import Journal
from consumers.denylist.shared import SharedDenyList
from revoker.errors import DenyListFull
from revoker.events import Everything, Revocation

_ALL = Revocation(id="e", selector=Everything(), revoked_at=0, expires_at=100, cutoff=50)


def _no_room(_journal: Journal, _revocation: Revocation) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("again", [True, False])
def test_a_rule_refused_for_want_of_room_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """The rule that found no room reaches the readers before the offsets pass it, read again or not."""
    writer = SharedDenyList(tmp_path / "list", max_entries=100, epoch_s=0)
    writer.take()
    reader = SharedDenyList(tmp_path / "list", max_entries=100, epoch_s=0)
    assert reader.open() is None
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", _no_room)
        with pytest.raises(DenyListFull):
            writer.apply_all((_ALL,))
    if again:
        writer.apply_all((_ALL,))
    writer.reached({0: 1})
    assert reader.cutoff(("all",)) == 50
    writer.close()
    reader.close()

"""When a host reads on from where its table ends, and when it must read everything: real files, no broker."""

from __future__ import annotations

import asyncio
import math
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from consumers.guard import Guard, Status
from consumers.host import Host
from consumers.mirror import publish
from consumers.node import Node
from consumers.seat import Seat, SeatLost
from revoker.cluster import PartitionView, TopicView
from revoker.events import Revocation, Token
from revoker.settings import Settings
from revoker.tokens import Verified
from tests.publishers import OPERATOR, SERVICE, trust_toml
from tests.unit.made_up_follower import live

_NOW = 1_800_000_000


def _node(directory: Path, **settings: object) -> Node:
    return Node(
        Settings(
            denylist="shared",
            shared_dir=str(directory / "list"),
            algorithms=("HS256",),
            key_secret="a secret for tests, long enough for HS256",
            **settings,  # type: ignore[arg-type]
        )
    )


def _host(node: Node) -> Host:
    """The node's host, in the writer's seat, without a loop."""
    host = node.host
    assert host is not None
    host._follower, host._own, host._pid = node.follower, node.freshness, os.getpid()
    assert host._sit()
    return host


def _view(*, leader_epoch: int = 3) -> TopicView:
    partition = PartitionView(leader=1, leader_epoch=leader_epoch, replicas=(1,), isr=(1,))
    return TopicView(
        cluster_id="c",
        topic="revocations",
        topic_id=uuid.UUID(int=1),
        partitions={0: partition},
        rights=None,
        asked=1,
        answered=1,
    )


def _filled(directory: Path, *, unread: int = 0, **settings: object) -> None:
    """A writer that has read up to offset 100, and is gone."""
    host = _host(_node(directory, **settings))
    assert host.resume(_view()) == {}
    host.store.apply(Revocation(id="e", selector=Token(iss="", jti="j"), revoked_at=_NOW, expires_at=_NOW + 600))
    host.store.reached({0: 100}, unread=unread)
    host._leave()


def test_the_next_writer_reads_on(tmp_path: Path) -> None:
    """Same log, same terms, nothing unsettled: it reads on, and has the entries."""
    _filled(tmp_path)
    host = _host(_node(tmp_path))
    assert host.resume(_view()) == {0: 100}
    assert host.store.listed(("token", "", "j"))


@pytest.mark.parametrize(
    ("filled", "then"),
    [
        ({}, {"leader_epoch": 4}),
        ({"unread": 1}, {}),
        ({"replay_from": "longest_life"}, {}),
        ({"longest_token_life_s": 3600}, {}),
    ],
    ids=["elections", "unsettled records", "only the longest life was read", "revocations were kept for less long"],
)
def test_it_reads_everything_if_in_doubt(tmp_path: Path, filled: dict[str, object], then: dict[str, int]) -> None:
    """An election meanwhile, records not applied, or a table filled from less of the log: a full replay."""
    _filled(tmp_path, **filled)  # type: ignore[arg-type]
    assert _host(_node(tmp_path)).resume(_view(**then)) == {}


def test_another_trust_is_noticed_at_every_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom the node believes changes between two sessions: entries stay, offsets go."""
    host = _host(_node(tmp_path))
    host.resume(_view())
    host.store.apply(Revocation(id="e", selector=Token(iss="", jti="j"), revoked_at=_NOW, expires_at=_NOW + 600))
    host.store.reached({0: 100})
    monkeypatch.setattr(host, "_terms", lambda: "others")
    assert host.resume(_view()) == {}
    assert host.store.listed(("token", "", "j"))
    assert host.store.writer.table.offsets == {}


def test_what_other_terms_let_in_stays_for_one_writers_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next writer, under the new terms all along, does not take over what was filled in part under the old ones."""
    _filled(tmp_path)
    host = _host(_node(tmp_path))
    monkeypatch.setattr(Host, "_terms", lambda _host: "others")
    assert host.resume(_view()) == {}
    assert host.store.listed(("token", "", "j"))
    host._leave()
    assert not _host(_node(tmp_path)).store.listed(("token", "", "j"))


def test_the_table_names_the_trust_of_now(tmp_path: Path) -> None:
    """A process that watched for long sits down: it goes by the file as it is, not as it was at its own start."""
    now = [1000.0]
    file = tmp_path / "trust.toml"
    file.write_text(trust_toml(SERVICE))
    settings = _node(tmp_path, trusted_publishers_file=str(file)).settings
    watched = Node(settings, monotonic=lambda: now[0])
    file.write_text(trust_toml(SERVICE, OPERATOR))
    _filled(tmp_path, trusted_publishers_file=str(file))
    now[0] += 60
    assert _host(watched).resume(_view()) == {0: 100}


def test_the_most_partitions_fit(tmp_path: Path) -> None:
    """Elections of 1024 partitions are told apart, and find room in the header."""
    many = {number: PartitionView(leader=1, leader_epoch=10**6, replicas=(1,), isr=(1,)) for number in range(1024)}
    view = _view()
    view = replace(view, partitions=many)
    assert _host(_node(tmp_path)).resume(view) == {}


def test_what_a_trust_in_between_let_in_goes(tmp_path: Path) -> None:
    """Trusted, distrusted and trusted again while a writer ran: the next one keeps nothing of what it filled."""
    file = tmp_path / "trust.toml"
    file.write_text(trust_toml(SERVICE))
    _filled(tmp_path, unread=1, trusted_publishers_file=str(file))
    host = _host(_node(tmp_path, trusted_publishers_file=str(file)))
    assert host.store.listed(("token", "", "j"))
    assert host.resume(_view()) == {}
    assert not host.store.listed(("token", "", "j"))


async def test_closing_after_the_task_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its death was told when it happened; closing the node afterwards is no further error."""
    node = _node(tmp_path, kafka_bootstrap_servers="127.0.0.1:1")
    assert node.host is not None

    def broken(_steps: int = 1) -> None:
        raise OverflowError("the tail of the table is full")

    monkeypatch.setattr(node.host.store, "step", broken)
    node.start()
    async with asyncio.timeout(30):
        assert node.host._task is not None
        await asyncio.wait([node.host._task])
        await node.close()
    assert node.follower.ended
    assert not node.host._seat.held


def test_a_table_of_another_log_is_proof_of_nothing(tmp_path: Path) -> None:
    """The topic was made anew: the entries go, and with them all that was ever proved about them."""
    _filled(tmp_path)
    node = _node(tmp_path)
    host = _host(node)
    node.freshness.was_ready, node.freshness.proved_until = True, math.inf
    other = TopicView(
        cluster_id="c",
        topic="revocations",
        topic_id=uuid.UUID(int=2),
        partitions=_view().partitions,
        rights=None,
        asked=1,
        answered=1,
    )
    assert host.resume(other) == {}
    assert not host.store.listed(("token", "", "j"))
    assert (node.freshness.was_ready, node.freshness.proved_until) == (False, -math.inf)


def test_nothing_is_written_without_the_seat(tmp_path: Path) -> None:
    """A follower that outlives its seat ends at its next session."""
    host = _host(_node(tmp_path))
    host._seat.leave()
    with pytest.raises(SeatLost):
        host.resume(_view())


def test_a_lock_that_was_removed_is_no_seat(tmp_path: Path) -> None:
    """Whoever locked a file that is no longer there finds out; whoever comes later locks the one that is."""
    first, second = Seat(tmp_path), Seat(tmp_path)
    assert first.take()
    (tmp_path / "lock").unlink()
    assert not first.in_place
    assert second.take()
    assert second.in_place
    first.leave()
    second.leave()


class _Interrupted:
    """A deny list under which the table is given up during the look-up."""

    def __init__(self, store: object, give_up: Callable[[], None]) -> None:
        self._store = store
        self._give_up = give_up

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def suspects(self, _claims: dict[str, object], _kid: str | None, /) -> bool:
        self._give_up()
        return False

    def listed(self, _key: tuple[str, ...]) -> bool:
        self._give_up()
        return False


def test_a_proof_of_the_table_before_does_not_count_for_the_one_after(tmp_path: Path) -> None:
    """The proof is read, the table is given up, and then looked into: UNKNOWN, not ACTIVE by the old proof."""
    made_up = live()
    node = _node(tmp_path)
    host = _host(node)
    page = host.store.control
    assert page is not None
    host.store.apply(Revocation(id="e", selector=Token(iss="", jti="j"), revoked_at=_NOW, expires_at=2 * _NOW))
    publish(made_up.freshness, page, now=made_up.clock.now)
    host.proof.monotonic = made_up.clock.monotonic
    host.proof.started(writer_proved=True)
    store = _Interrupted(host.store, host.store.replace)
    guard = Guard(denylist=store, freshness=host.proof, lifetimes=node.settings.lifetimes)  # type: ignore[arg-type]
    claims = {"jti": "j", "iat": _NOW, "exp": _NOW + 60}
    assert guard.check(claims, token="a.b.c").status is not Status.ACTIVE


def test_a_page_that_is_let_go_during_a_look_up_proves_nothing(tmp_path: Path) -> None:
    """The proof is read, another thread lets go of the page, and the look-up finds nothing: no answer by that proof."""
    made_up = live()
    node = _node(tmp_path)
    host = _host(node)
    page = host.store.control
    assert page is not None
    publish(made_up.freshness, page, now=made_up.clock.now)
    host.proof.monotonic = made_up.clock.monotonic
    host.proof.started(writer_proved=True)

    def given_up() -> None:
        host.store.replace()
        host.store.on_control()

    store = _Interrupted(host.store, given_up)
    guard = Guard(denylist=store, freshness=host.proof, lifetimes=node.settings.lifetimes)  # type: ignore[arg-type]
    claims = {"jti": "j", "iat": _NOW, "exp": _NOW + 60}
    assert guard.check(claims, token="a.b.c").status is not Status.ACTIVE
    token = Verified(claims=claims, kid=None, raw="a.b.c")
    assert guard.check_verified(token).status is not Status.ACTIVE

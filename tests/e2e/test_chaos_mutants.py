"""The checker finds what it looks for: planted bugs, real Kafka, real processes, and the same scene without the bug.

In each scene a healthy process and its mutants meet the same faults. The verdict about the healthy one has to be clean,
and each mutant has to be caught by the rule that its bug breaks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.brokers.apache import ApacheKafka
from tests.brokers.proxy import Fault as ProxyFault
from tests.chaos import acts, report
from tests.chaos.history import Erased, Fault
from tests.chaos.mutants import MUTANTS
from tests.e2e.mutant_scenes import BOUND_S, Scene, open_scene, set_clock

#: Which rule catches which bug.
CAUGHT_BY: Mapping[str, str] = {
    "ready_too_early": "ready_too_early",
    "skip_undecodable": "allowed_after_bound",
    "acks_1": "allowed_after_bound",
    "evict_at_bound": "forgotten",
    "jump_on_out_of_range": "allowed_after_bound",
    "no_second_replay": "allowed_after_bound",
    "topic_by_name": "allowed_after_bound",
    "new_partition_ignored": "allowed_after_bound",
    "leaders_ignored": "allowed_after_bound",
    "trust_wall_clock": "unproven",
    "silence_is_news": "unproven",
    "purge_by_wall_clock": "forgotten",
    "row_deleted_before_ack": "stored_lost",
    "answered_before_commit": "stored_lost",
}

BROKERS = (1, 2, 3)
#: Long enough that a busy machine does not depose leaders by itself.
BROKER_PROPERTIES = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "300"}
BALLAST = 40_000


class Play(Protocol):
    """Opens a scene."""

    def __call__(self, **changes: Any) -> AbstractAsyncContextManager[Scene]: ...


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApacheKafka]:
    """Three brokers, to be killed and stopped by all scenes in turn."""
    with ApacheKafka(nodes=3, proxied=True, properties=BROKER_PROPERTIES, start_timeout_s=180.0) as kafka:
        yield kafka


@pytest.fixture
def play(cluster: ApacheKafka, tmp_path: Path) -> Play:
    """Scenes on that cluster, each with a topic and processes of its own."""

    @asynccontextmanager
    async def opened(**changes: Any) -> AsyncIterator[Scene]:
        async with open_scene(cluster, tmp_path, **changes) as scene:
            yield scene

    return opened


async def assert_caught(scene: Scene, *mutants: str, converged: bool = False) -> None:
    """Each mutant is caught by its rule, and without all of them nothing is found."""
    control = await scene.judged(without=mutants, converged=converged)
    assert control.violations == [], report.text(control)
    assert control.answers["denied"] + control.answers["unknown"] > 0
    for mutant in mutants:
        others = [name for name in mutants if name != mutant]
        verdict = await scene.judged(without=others, converged=converged)
        assert CAUGHT_BY[mutant] in verdict.rules, f"{mutant} escaped:\n{report.text(verdict)}"


async def test_a_node_that_is_ready_too_early_is_caught(play: Play) -> None:
    """A long log whose last record counts: the mutant answers before it has read that far."""
    async with play() as scene:
        await scene.append("ballast", times=BALLAST, reason="x" * 600)
        scene.token("last")
        await scene.publish("last")
        for name in ("none", "ready_too_early"):
            scene.node(name, mutant=name)
        await scene.says("none", "last", "denied")
        await scene.says("ready_too_early", "last", "denied")
        await assert_caught(scene, "ready_too_early")


async def test_a_node_that_skips_what_it_cannot_read_is_caught(play: Play) -> None:
    """A revocation of a newer schema: the healthy node says it cannot say, the mutant goes on."""
    async with play() as scene:
        scene.token("newer")
        for name in ("none", "skip_undecodable"):
            scene.node(name, mutant=name)
        await scene.live("none", "skip_undecodable")
        asked_at = time.monotonic()
        await acts.append(scene.settings, b'{"v":2,"kind":"token","tokens":["newer"]}')
        scene.acknowledged("newer", asked_at=asked_at)
        await scene.says("none", "newer", "unknown")
        await scene.until_past(time.monotonic() + BOUND_S + 0.2, "none", "skip_undecodable")
        await scene.says("skip_undecodable", "newer", "allowed")
        await assert_caught(scene, "skip_undecodable")


async def test_a_deny_list_that_evicts_is_caught(play: Play) -> None:
    """More revocations than the deny list may hold: the healthy node refuses to go on, the mutant drops others."""
    async with play() as scene:
        names = [f"t{number}" for number in range(12)]
        for name in names:
            scene.token(name)
        for name in ("none", "evict_at_bound"):
            scene.node(name, mutant=name, max_entries=8)
        await scene.live("none", "evict_at_bound")
        await scene.publish(*names[:8])
        for name in ("none", "evict_at_bound"):
            for token in names[:8]:
                await scene.says(name, token, "denied")
        await scene.publish(*names[8:])
        await scene.says("none", names[-1], "unknown")
        await scene.says("evict_at_bound", names[-1], "denied")
        await scene.until_past(time.monotonic() + 0.5, "none", "evict_at_bound")
        await assert_caught(scene, "evict_at_bound")


async def test_a_node_that_jumps_or_resumes_after_a_gap_is_caught(play: Play) -> None:
    """Records deleted under a stopped node, and one more published: whoever goes on at the end has missed it."""
    mutants = ("jump_on_out_of_range", "no_second_replay")
    async with play() as scene:
        for name in ("first", "gone1", "gone2", "left"):
            scene.token(name)
        for name in ("none", *mutants):
            scene.node(name, mutant=name)
        await scene.live("none", *mutants)
        await scene.publish("first")
        for name in ("none", *mutants):
            await scene.says(name, "first", "denied")
            assert await scene.members[name].pause()
        # A fetch that was parked when the node stopped may bring the first of the two, never both.
        await scene.publish("gone1")
        await scene.publish("gone2")
        began_at = time.monotonic()
        assert await acts.delete_records(scene.settings, older_than_s=None) == 3
        now = time.monotonic()
        scene.record(Erased(at=now, how="records_deleted", began_at=began_at, ended_at=now))
        acknowledged_at = await scene.publish("left")
        for name in ("none", *mutants):
            assert await scene.members[name].resume()
        await scene.says("none", "left", "denied")
        await scene.until_past(acknowledged_at + BOUND_S, *mutants)
        await scene.live("none", *mutants)
        for name in mutants:
            await scene.says(name, "left", "allowed")
        await assert_caught(scene, *mutants)


async def test_a_node_that_takes_a_new_topic_for_the_old_is_caught(play: Play) -> None:
    """Deleted, made anew and grown past the old position: reading on from there misses the beginning."""
    async with play() as scene:
        for name in ("old1", "old2", "new1", "new2", "new3"):
            scene.token(name)
        for name in ("none", "topic_by_name"):
            scene.node(name, mutant=name)
        await scene.live("none", "topic_by_name")
        await scene.publish("old1", "old2")
        for name in ("none", "topic_by_name"):
            await scene.says(name, "old2", "denied")
            assert await scene.members[name].pause()
        began_at = time.monotonic()
        before, after = await acts.recreate(scene.settings)
        assert before != after
        now = time.monotonic()
        scene.record(Erased(at=now, how="topic_replaced", began_at=began_at, ended_at=now))
        acknowledged_at = await scene.publish("new1", "new2", "new3")
        for name in ("none", "topic_by_name"):
            assert await scene.members[name].resume()
        await scene.says("none", "new1", "denied")
        await scene.says("topic_by_name", "new3", "denied")
        await scene.until_past(acknowledged_at + BOUND_S, "topic_by_name")
        await scene.says("topic_by_name", "new1", "allowed")
        await assert_caught(scene, "topic_by_name")


async def test_a_node_that_takes_silence_or_a_clock_for_proof_is_caught(
    play: Play, cluster: ApacheKafka, tmp_path: Path
) -> None:
    """All brokers hang and the nodes' clocks are set back an hour: only the healthy node says that it cannot know."""
    mutants, clock = ("trust_wall_clock", "silence_is_news"), tmp_path / "clock"
    set_clock(clock, 0)
    async with play() as scene:
        scene.token("revoked")
        scene.token("valid")
        for name in ("none", *mutants):
            # Long enough that no session gives up meanwhile: a node that starts over forgets what fooled it.
            scene.node(name, mutant=name, clock=clock, request_timeout_s=20.0)
        await scene.live("none", *mutants)
        await scene.publish("revoked")
        for name in ("none", *mutants):
            await scene.says(name, "revoked", "denied")
        try:
            for number in BROKERS:
                cluster.pause(number)
            began_at = time.monotonic()
            await scene.says("none", "valid", "unknown")
            # Only now: an answer still under way, processed after the step, would carry the time after it.
            set_clock(clock, -3600)
            await scene.until_past(max(time.monotonic(), began_at + BOUND_S) + 1.0, "none", *mutants)
            ended_at = time.monotonic()
        finally:
            for number in BROKERS:
                cluster.resume(number)
        scene.record(
            Fault(
                at=time.monotonic(),
                kind="broker-pause",
                target="all brokers",
                began_at=began_at,
                ended_at=ended_at,
                verified=True,
                blinds=("none", *mutants),
            )
        )
        await scene.live("none")
        await assert_caught(scene, *mutants)


async def test_a_node_that_forgets_by_its_own_clock_is_caught(play: Play, tmp_path: Path) -> None:
    """The nodes' clocks run two days ahead for a moment, and are put right: the healthy node has forgotten nothing."""
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    async with play() as scene:
        scene.token("revoked")
        for name in ("none", "purge_by_wall_clock"):
            scene.node(name, mutant=name, clock=clock)
        await scene.live("none", "purge_by_wall_clock")
        await scene.publish("revoked")
        for name in ("none", "purge_by_wall_clock"):
            await scene.says(name, "revoked", "denied")
        set_clock(clock, 2 * 86400)
        await scene.says("purge_by_wall_clock", "revoked", "allowed")
        await scene.until_past(time.monotonic() + 1.2, "none")
        set_clock(clock, 0)
        await scene.live("none")
        await scene.says("none", "revoked", "denied")
        await assert_caught(scene, "purge_by_wall_clock")


async def test_a_node_that_knows_only_the_partitions_of_its_start_is_caught(play: Play) -> None:
    """A partition is added, and a revocation written to it."""
    async with play() as scene:
        scene.token("in the new one")
        for name in ("none", "new_partition_ignored"):
            scene.node(name, mutant=name)
        await scene.live("none", "new_partition_ignored")
        assert await acts.add_partition(scene.settings) == (1, 2)
        asked_at = time.monotonic()
        await scene.append("in the new one", partition=1)
        scene.acknowledged("in the new one", asked_at=asked_at)
        await scene.says("none", "in the new one", "denied")
        await scene.until_past(time.monotonic() + BOUND_S, "new_partition_ignored")
        await scene.says("new_partition_ignored", "in the new one", "allowed")
        await assert_caught(scene, "new_partition_ignored")


async def test_a_node_that_believes_a_deposed_leader_is_caught(play: Play, cluster: ApacheKafka) -> None:
    """The leader is cut off from its cluster and not from the nodes: its empty answers look perfect."""
    async with play() as scene:
        scene.token("through the new leader")
        for name in ("none", "leaders_ignored"):
            # Whoever drops a slow connection asks anew who leads, and is fooled no longer.
            scene.node(name, mutant=name, metadata_max_age_s=60.0, request_timeout_s=20.0)
        await scene.live("none", "leaders_ignored")
        before = (await acts.view(scene.settings)).partitions[0]
        others = ",".join(cluster.address(number) for number in BROKERS if number != before.leader)
        try:
            cluster.cut_off(before.leader)
            began_at = time.monotonic()
            await scene.until(lambda: _is_deposed(scene, before.leader_epoch), "another broker leads")
            acknowledged_at = await scene.publish("through the new leader", kafka_bootstrap_servers=others)
            await scene.says("none", "through the new leader", "denied")
            await scene.until_past(acknowledged_at + BOUND_S, "leaders_ignored")
            await scene.says("leaders_ignored", "through the new leader", "allowed")
            ended_at = time.monotonic()
        finally:
            cluster.join()
        scene.record(
            Fault(
                at=time.monotonic(),
                kind="broker-cut-off",
                target=f"broker {before.leader}",
                began_at=began_at,
                ended_at=ended_at,
                verified=True,
            )
        )
        await assert_caught(scene, "leaders_ignored")


async def _is_deposed(scene: Scene, epoch: int) -> bool:
    return (await acts.view(scene.settings)).partitions[0].leader_epoch > epoch


async def test_a_service_content_with_one_replica_is_caught(play: Play, cluster: ApacheKafka) -> None:
    """The followers hang, the leader acknowledges alone and dies: what it had said was safe is gone."""
    async with play(publish_timeout_s=2.0) as scene:
        tokens = {name: scene.token(name) for name in ("warm", "warm too", "replicated?", "alone", "all")}
        scene.node("witness")
        await asyncio.gather(scene.service("none"), scene.service("acks_1", mutant="acks_1"))
        await scene.live("witness")
        await scene.publishing("none", "acks_1")
        assert await scene.log_out("none", tokens["warm"]) == "acknowledged"
        assert await scene.log_out("acks_1", tokens["warm too"]) == "acknowledged"
        leader = (await acts.view(scene.settings)).partitions[0].leader
        followers = [number for number in BROKERS if number != leader]
        for number in followers:
            cluster.pause(number)
        try:
            began_at = time.monotonic()
            # A follower's fetch that was parked when it stopped is answered with the first; nobody asks for the next.
            assert await scene.log_out("acks_1", tokens["replicated?"]) == "acknowledged"
            by_one, by_all = await asyncio.gather(
                scene.log_out("acks_1", tokens["alone"]), scene.log_out("none", tokens["all"])
            )
            assert (by_one, by_all) == ("acknowledged", "unknown")
            ended_at = time.monotonic()
            cluster.kill(leader)
        finally:
            for number in followers:
                cluster.resume(number)
        scene.record(
            Fault(
                at=time.monotonic(),
                kind="broker-kill",
                target=f"broker {leader}, alone",
                began_at=began_at,
                ended_at=ended_at,
                verified=not cluster.running(leader),
            )
        )
        await scene.says("witness", "alone", "allowed")
        await scene.until_past(ended_at + BOUND_S, "witness")
        await scene.says("witness", "alone", "allowed")
        # The scenes after this one wait for it.
        cluster.start(leader, wait=False)
        await assert_caught(scene, "acks_1")


async def test_an_outbox_that_keeps_too_little_is_caught(play: Play, cluster: ApacheKafka, tmp_path: Path) -> None:
    """Kafka is away, revocations are stored, the services are killed and start again: what was stored arrives."""
    mutants = ("row_deleted_before_ack", "answered_before_commit")
    names = ("none", *mutants)
    async with play(publish_timeout_s=2.0) as scene:
        tokens = {name: scene.token(f"stored by {name}") for name in names}
        files = {name: str(tmp_path / f"{name}.db") for name in names}
        scene.node("witness")
        await asyncio.gather(*(scene.service(name, mutant=name, outbox_file=files[name]) for name in names))
        await scene.live("witness")
        try:
            for number in BROKERS:
                cluster.proxy(number).set(ProxyFault(kind="refuse"))
            began_at = time.monotonic()
            assert await asyncio.gather(*(scene.log_out(name, tokens[name]) for name in names)) == ["stored"] * 3
            for name in names:
                await scene.crash(name)
            ended_at = time.monotonic()
        finally:
            cluster.join()
        scene.record(
            Fault(
                at=time.monotonic(),
                kind="net-refuse",
                target="all brokers",
                began_at=began_at,
                ended_at=ended_at,
                verified=True,
                blinds=("witness",),
            )
        )
        await asyncio.gather(*(scene.service(name, mutant=name, outbox_file=files[name]) for name in names))
        await scene.says("witness", tokens["none"].name, "denied")
        await scene.live("witness")
        await scene.conclude("witness")
        await assert_caught(scene, *mutants, converged=True)


def test_every_mutant_has_its_scene() -> None:
    """No bug is planted that nobody looks for."""
    assert set(CAUGHT_BY) == set(MUTANTS)

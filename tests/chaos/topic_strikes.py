"""Faults that an operator, or a careless client, does to the topic. Nothing else is wrong meanwhile, and the load is
held where records are erased: what was acknowledged a moment before could not be judged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from tests.chaos import acts
from tests.chaos.fleet import Fleet
from tests.chaos.history import Erased
from tests.chaos.population import LEEWAY_S
from tests.chaos.schedule import Fault
from tests.chaos.struck import Effect

__all__ = ["OPERATORS_ACTS", "forget_garbage"]

#: Longer than a node takes to notice, and to replay.
_NOTICED_S: Final = 30.0
#: Values no version of the product ever wrote: noise, half a record, a newer schema, no value at all would be the rest.
_GARBAGE: Final = (b"\x00\xff\xfe noise", b'{"v":1,"id":"half', b'{"v":99,"kind":"token"}', b"[]")


async def _delete_expired(fleet: Fleet, fault: Fault) -> Effect:
    """Records whose tokens have all expired; where there are none yet, all records."""
    settled_s = fleet.pace.longest_life_s + LEEWAY_S + 6
    began_at = time.monotonic()
    deleted = await acts.delete_records(fleet.settings, older_than_s=settled_s)
    if not deleted:
        return await _delete_all(fleet, fault)
    await forget_garbage(fleet)
    await asyncio.sleep(fault.lasts_s)
    return Effect(
        began_at=began_at, ended_at=time.monotonic(), verified=True, detail=f"{deleted} records, all of expired tokens"
    )


async def _delete_all(fleet: Fleet, fault: Fault) -> Effect:
    async def delete() -> tuple[bool, str]:
        deleted = await acts.delete_records(fleet.settings, older_than_s=None)
        await forget_garbage(fleet)
        return deleted > 0, f"{deleted} records, those of valid tokens included"

    return await _erasing(fleet, fault, "records_deleted", delete)


async def _recreate(fleet: Fleet, fault: Fault) -> Effect:
    async def recreate() -> tuple[bool, str]:
        before, after = await acts.recreate(fleet.settings)
        fleet.garbage.clear()

        def replaced(status: dict[str, Any]) -> bool:
            return bool(status["topic_id"] == after)

        noticed = await _all_nodes(fleet, replaced)
        return before != after and noticed, f"topic id {before} became {after}{'' if noticed else ', unnoticed'}"

    return await _erasing(fleet, fault, "topic_replaced", recreate)


async def _erasing(fleet: Fleet, fault: Fault, how: Any, erase: Callable[[], Awaitable[tuple[bool, str]]]) -> Effect:
    await fleet.ask(fleet.load, "/hold", post=True, timeout_s=30.0)
    try:
        await fleet.well()
        began_at = time.monotonic()
        verified, detail = await erase()
        ended_at = time.monotonic()
        fleet.recorder(Erased(at=ended_at, how=how, began_at=began_at, ended_at=ended_at, detail=detail))
    finally:
        await fleet.ask(fleet.load, "/go", post=True)
    return Effect(began_at=began_at, ended_at=ended_at, verified=verified, detail=detail)


async def _add_partition(fleet: Fleet, fault: Fault) -> Effect:
    began_at = time.monotonic()
    before, after = await acts.add_partition(fleet.settings)

    def follows(status: dict[str, Any]) -> bool:
        return bool(len(status["positions"]) == after)

    noticed = await _all_nodes(fleet, follows)
    return Effect(
        began_at=began_at,
        ended_at=time.monotonic(),
        verified=after == before + 1 and noticed,
        detail=f"{before} became {after}{'' if noticed else ', unnoticed by some node'}",
    )


async def _append_garbage(fleet: Fleet, fault: Fault) -> Effect:
    """A record nobody can read: nodes say so and are not ready, unless they were started to tolerate such. The others
    are then started again, so.
    """
    before = await fleet.statuses()
    strict = [number for number, one in fleet.nodes.items() if not (before[one.name] or {}).get("tolerates")]
    began_at = time.monotonic()
    fleet.garbage.append(await acts.append(fleet.settings, _GARBAGE[fault.number % len(_GARBAGE)]))

    def told(status: dict[str, Any]) -> bool:
        known = (before[status["name"]] or {}).get("unread", 0)
        return int(status["unread"]) > known and (status["tolerates"] or "undecodable" in status["missing"])

    noticed = await _all_nodes(fleet, told)
    await asyncio.sleep(fault.lasts_s / 2)
    ended_at = time.monotonic()
    await asyncio.gather(*(_restart(fleet, number) for number in strict))
    return Effect(
        began_at=began_at,
        ended_at=ended_at,
        verified=noticed,
        detail=f"counted by all nodes; unready, and told to tolerate it: {len(strict)}",
    )


async def _restart(fleet: Fleet, number: int) -> None:
    member = fleet.nodes[number]
    await member.stop()
    fleet.ended(member, how="stopped")
    fleet.start_node(number)
    await fleet.answering(member, "/status")


async def forget_garbage(fleet: Fleet) -> None:
    """Take note of undecodable records that have left the topic: nodes started from now on need not bear them."""
    starts = await acts.log_starts(fleet.settings)
    fleet.garbage[:] = [(partition, offset) for partition, offset in fleet.garbage if offset >= starts[partition]]


async def _all_nodes(fleet: Fleet, condition: Callable[[dict[str, Any]], bool]) -> bool:
    deadline = time.monotonic() + _NOTICED_S
    while True:
        statuses = (await fleet.statuses()).values()
        if all(status is not None and condition(status) for status in statuses):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)


OPERATORS_ACTS: Final[Mapping[str, Callable[[Fleet, Fault], Awaitable[Effect]]]] = {
    "records-deleted": _delete_expired,
    "topic-emptied": _delete_all,
    "topic-recreated": _recreate,
    "partition-added": _add_partition,
    "undecodable": _append_garbage,
}

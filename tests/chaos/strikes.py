"""Each kind of fault: struck, seen to have had its effect, lifted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from revoker.cli.embedded import known_brokers
from tests.brokers import proxy
from tests.chaos.fleet import Fleet
from tests.chaos.members import Member, process_state
from tests.chaos.schedule import BROKERS, Fault
from tests.chaos.struck import Effect
from tests.chaos.topic_strikes import OPERATORS_ACTS

__all__ = ["STRIKES", "revive"]

#: How much longer than planned a fault may last, to be seen to have an effect at all.
_OVERTIME_S: Final = 6.0
_POLL_S: Final = 0.05
#: libfaketime reads its file about once a second.
_CLOCK_S: Final = 4.0

Strike = Callable[[Fleet, Fault], Awaitable[Effect]]


def _number(fault: Fault) -> int:
    return int(fault.targets[0].split()[1])


async def _kill_broker(fleet: Fleet, fault: Fault) -> Effect:
    broker = _number(fault)
    await revive(fleet, broker)
    fleet.cluster.kill(broker)
    began_at = time.monotonic()
    gone = not fleet.cluster.running(broker)
    await asyncio.sleep(fault.lasts_s)
    ended_at = time.monotonic()
    fleet.cluster.start(broker, wait=False)
    await _serving(fleet, broker)
    return Effect(began_at=began_at, ended_at=ended_at, verified=gone)


async def revive(fleet: Fleet, *brokers: int) -> list[int]:
    """Start the brokers, of all by default, that ended by themselves, as a supervisor would; which they were."""
    dead = [broker for broker in brokers or BROKERS if not fleet.cluster.running(broker)]
    for broker in dead:
        fleet.cluster.start(broker, wait=False)
        await _serving(fleet, broker)
    return dead


async def _serving(fleet: Fleet, broker: int) -> None:
    """Wait until a broker that was started answers; one that ends is started again."""
    deadline = time.monotonic() + fleet.pace.recovery_s
    address = fleet.cluster._node(broker).own_address
    while await asyncio.to_thread(known_brokers, address, timeout_s=1.0) < 1:
        if not fleet.cluster.running(broker):
            fleet.cluster.start(broker, wait=False)
        if time.monotonic() > deadline:
            raise TimeoutError(f"broker {broker} does not come back:\n{fleet.cluster.log(broker)[-2000:]}")
        await asyncio.sleep(0.2)


async def _pause_broker(fleet: Fleet, fault: Fault) -> Effect:
    broker = _number(fault)
    await revive(fleet, broker)
    pid = fleet.cluster._process(broker).pid
    fleet.cluster.pause(broker)
    stopped = await _seen(lambda: process_state(pid) == "T")
    began_at = time.monotonic()
    await asyncio.sleep(fault.lasts_s)
    stopped = stopped and process_state(pid) == "T"
    ended_at = time.monotonic()
    fleet.cluster.resume(broker)
    return Effect(began_at=began_at, ended_at=ended_at, verified=stopped)


async def _seen(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 2.0
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


async def _cut_off_broker(fleet: Fleet, fault: Fault) -> Effect:
    broker = _number(fault)
    between = [fleet.cluster._proxy(f"{kind}{n}") for kind in ("controller", "internal") for n in BROKERS]
    held = sum(one.counts["stall"] for one in between)
    fleet.cluster.cut_off(broker)
    began_at = time.monotonic()
    await asyncio.sleep(fault.lasts_s)
    ended_at = time.monotonic()
    held = sum(one.counts["stall"] for one in between) - held
    for one in between:
        one.set(proxy.PASS)
    return Effect(
        began_at=began_at,
        ended_at=ended_at,
        verified=held > 0,
        healed_by_itself=True,
        detail=f"{held} frames between brokers held back",
    )


_NETWORK: Final[Mapping[str, str]] = {
    "net-refuse": "refuse",
    "net-stall": "stall",
    "net-half-open": "mute",
    "net-lost-ack": "mute",
    "net-corrupt": "corrupt",
    "net-slow": "slow",
    "net-error": "error",
}
#: Under these nothing honest comes through.
_BLINDING: Final = ("net-refuse", "net-stall", "net-half-open")


async def _network(fleet: Fleet, fault: Fault) -> Effect:
    kind = _NETWORK[fault.kind]
    proxies = [fleet.cluster.proxy(int(target.split()[1])) for target in fault.targets]
    before = sum(one.counts[kind] for one in proxies)
    only = proxy.PRODUCE_ONLY if fault.kind == "net-lost-ack" else None
    broken = proxy.Fault(kind=kind, code=fault.code, apis=only)  # type: ignore[arg-type]  # the words are the proxy's
    for one in proxies:
        one.set(broken)
    began_at = time.monotonic()
    struck = 0
    while (now := time.monotonic()) < began_at + fault.lasts_s or (
        struck == 0 and now < began_at + fault.lasts_s + _OVERTIME_S
    ):
        await asyncio.sleep(_POLL_S)
        struck = sum(one.counts[kind] for one in proxies) - before
    ended_at = time.monotonic()
    for one in proxies:
        one.set(proxy.PASS)
    everywhere = len(proxies) == len(BROKERS)
    return Effect(
        began_at=began_at,
        ended_at=ended_at,
        verified=struck > 0,
        detail=f"took effect {struck} times",
        blinds=tuple(one.name for one in fleet.nodes.values()) if everywhere and fault.kind in _BLINDING else (),
    )


async def _kill_node(fleet: Fleet, fault: Fault) -> Effect:
    member = fleet.nodes[_number(fault)]
    code = await member.kill()
    fleet.ended(member, how="killed")
    began_at = time.monotonic()
    await asyncio.sleep(fault.lasts_s)
    ended_at = time.monotonic()
    fleet.start_node(_number(fault))
    await fleet.answering(member, "/status")
    return Effect(began_at=began_at, ended_at=ended_at, verified=code == -9, detail=f"exit code {code}")


async def _kill_service(fleet: Fleet, fault: Fault) -> Effect:
    code = await fleet.service.kill()
    fleet.ended(fleet.service, how="killed")
    began_at = time.monotonic()
    await asyncio.sleep(fault.lasts_s / 2)
    ended_at = time.monotonic()
    fleet.start_service()
    await fleet.answering(fleet.service, "/livez")
    return Effect(began_at=began_at, ended_at=ended_at, verified=code == -9, detail=f"exit code {code}")


def _member(fleet: Fleet, fault: Fault) -> Member:
    return fleet.service if fault.targets == ("service",) else fleet.nodes[_number(fault)]


async def _pause(fleet: Fleet, fault: Fault) -> Effect:
    member = _member(fleet, fault)
    stopped = await member.pause()
    began_at = time.monotonic()
    await asyncio.sleep(fault.lasts_s)
    stopped = stopped and process_state(member.pid) == "T"
    ended_at = time.monotonic()
    resumed = await member.resume()
    return Effect(began_at=began_at, ended_at=ended_at, verified=stopped and resumed)


async def _set_clock(fleet: Fleet, fault: Fault) -> Effect:
    member = _member(fleet, fault)
    clock = fleet.clocks[member.name]
    true_s = time.time() - time.monotonic()

    async def off_by() -> float | None:
        return await fleet.clock_offset(member, true_s=true_s)

    async def reads(step_s: int) -> bool:
        deadline = time.monotonic() + _CLOCK_S
        while True:
            found = await off_by()
            if found is not None and abs(found - step_s) < 1.5:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)

    clock.set(fault.step_s)
    stepped = await reads(fault.step_s)
    began_at = time.monotonic()
    await asyncio.sleep(fault.lasts_s)
    ended_at = time.monotonic()
    clock.set(0)
    back = await reads(0)
    return Effect(
        began_at=began_at,
        ended_at=ended_at,
        verified=stepped and back,
        detail=f"the process {'read' if stepped else 'did not read'} {fault.step_s:+d} s"
        f"{'' if back else ', and did not come back'}",
    )


async def _fill_disk(fleet: Fleet, fault: Fault) -> Effect:
    """Full, and the service has said so to somebody: it may have room left in files it has already."""

    async def told() -> int:
        return int((await fleet.ask(fleet.load, "/status") or {}).get("disk_full", 0))

    before = await told()
    full = fleet.disk.fill()
    began_at = time.monotonic()
    refused = 0
    while (now := time.monotonic()) < began_at + fault.lasts_s or (
        not refused and now < began_at + fault.lasts_s + _OVERTIME_S
    ):
        await asyncio.sleep(4 * _POLL_S)
        fleet.disk.fill()  # whoever deletes a file makes room
        refused = await told() - before
    ended_at = time.monotonic()
    fleet.disk.empty()
    return Effect(
        began_at=began_at, ended_at=ended_at, verified=full and refused > 0, detail=f"{refused} log-outs refused for it"
    )


STRIKES: Final[Mapping[str, Strike]] = {
    "broker-kill": _kill_broker,
    "broker-pause": _pause_broker,
    "broker-cut-off": _cut_off_broker,
    **dict.fromkeys(_NETWORK, _network),
    "node-kill": _kill_node,
    "node-pause": _pause,
    "node-clock": _set_clock,
    "service-kill": _kill_service,
    "service-pause": _pause,
    "service-clock": _set_clock,
    "disk-full": _fill_disk,
    **OPERATORS_ACTS,
}

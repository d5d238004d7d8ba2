"""Runs a schedule against a fleet: rounds of faults that overlap, calm after each, a last word from every node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from tests.chaos.fleet import Fleet, NotConverged
from tests.chaos.history import Fault as FaultEvent
from tests.chaos.history import Recovered
from tests.chaos.schedule import Fault, Round
from tests.chaos.strikes import STRIKES, revive
from tests.chaos.struck import Effect
from tests.chaos.topic_strikes import forget_garbage

__all__ = ["Driver"]

#: Faults under way at once, at most.
_AT_ONCE: Final = 3
_LOOK_S: Final = 0.2
#: A fault that cannot be lifted holds up everything: the run is then broken, not the product.
_STRIKE_TIMEOUT_S: Final = 300.0


class Driver:
    """``say``: told of each fault and each recovery. ``minutes``: after so many no further round begins."""

    def __init__(self, fleet: Fleet, *, say: Callable[[str], None], minutes: float | None = None) -> None:
        self.struck: int = 0
        self.unverified: int = 0
        self._fleet = fleet
        self._say = say
        self._ends_at = None if minutes is None else time.monotonic() + 60 * minutes
        self._locks: dict[str, asyncio.Lock] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._began_at = time.monotonic()

    async def run(self, rounds: Sequence[Round]) -> None:
        """All rounds. Raises NotConverged if the fleet does not recover, or a member crashed."""
        looking = asyncio.create_task(self._look_for_crashes(), name="crashes")
        working = asyncio.create_task(self._rounds(rounds), name="rounds")
        try:
            await asyncio.wait((looking, working), return_when=asyncio.FIRST_COMPLETED)
            for task in (looking, working):
                if task.done():
                    task.result()
        finally:
            for task in (looking, working):
                task.cancel()
            await asyncio.gather(looking, working, return_exceptions=True)

    async def _rounds(self, rounds: Sequence[Round]) -> None:
        for one in rounds:
            if self._ends_at is not None and time.monotonic() > self._ends_at:
                self._say(f"the time is up: rounds {one.number} to {len(rounds)} are left out")
                break
            await self._round(one)
            if dead := await revive(self._fleet):
                self._say(f"brokers that had ended by themselves were started again: {dead}")
            began_at = time.monotonic()
            well_at = await self._fleet.well()
            await forget_garbage(self._fleet)
            self._say(f"round {one.number} of {len(rounds)}: all well {well_at - began_at:.1f} s after its last fault")
        await self._last_word()

    async def _round(self, one: Round) -> None:
        async with asyncio.TaskGroup() as under_way:
            tasks: set[asyncio.Task[None]] = set()
            for fault in one.faults:
                await asyncio.sleep(fault.after_s)
                if fault.alone:
                    if tasks:
                        await asyncio.wait(tasks)
                    await self._fleet.well()
                await self._places.acquire()
                task = under_way.create_task(self._strike(fault), name=str(fault))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                if fault.alone:
                    await task

    async def _strike(self, fault: Fault) -> None:
        try:
            async with self._all_of(fault.targets), asyncio.timeout(_STRIKE_TIMEOUT_S):
                effect = await STRIKES[fault.kind](self._fleet, fault)
        except Exception as error:
            raise NotConverged(f"{fault} could not be struck, or not be lifted: {error!r}") from error
        finally:
            self._places.release()
        self.struck += 1
        self.unverified += not effect.verified
        self._note(fault, effect)
        if fault.alone:
            well_at = await self._fleet.well()
            since = effect.began_at if effect.healed_by_itself else effect.ended_at
            seconds = max(0.0, well_at - since)
            self._fleet.recorder(Recovered(at=well_at, kind=fault.kind, seconds=seconds))
            self._say(f"    {fault.kind} alone: all well {seconds:.2f} s later")

    def _note(self, fault: Fault, effect: Effect) -> None:
        self._fleet.recorder(
            FaultEvent(
                at=time.monotonic(),
                kind=fault.kind,
                target=fault.struck,
                began_at=effect.began_at,
                ended_at=effect.ended_at,
                verified=effect.verified,
                detail=effect.detail,
                blinds=effect.blinds,
            )
        )
        seen = "" if effect.verified else " NOT SEEN TO HAVE AN EFFECT"
        detail = f" ({effect.detail})" if effect.detail else ""
        self._say(f"{time.monotonic() - self._began_at:7.1f} s  {fault}{detail}{seen}")

    @asynccontextmanager
    async def _all_of(self, targets: Sequence[str]) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            for target in sorted(targets):  # always in one order, or two faults could wait for one another
                await held.enter_async_context(self._locks.setdefault(target, asyncio.Lock()))
            yield

    async def _look_for_crashes(self) -> None:
        while True:
            if crashed := self._fleet.crashed():
                told = "\n".join(f"{one.name} ended, exit code {one.exit_code}:\n{one.logged()}" for one in crashed)
                raise NotConverged(f"nobody had ended them: {told}")
            await asyncio.sleep(_LOOK_S)

    async def _last_word(self) -> None:
        """Nobody is logged out any more; what was stored is delivered; every node says what it holds."""
        await self._fleet.ask(self._fleet.load, "/hold", post=True, timeout_s=30.0)
        await self._fleet.well()
        # The bound is each node's to hear of the last logout: what `well` looked for went through one partition, and
        # that logout may have gone through another, a moment ago.
        await asyncio.sleep(self._fleet.pace.bound_s)
        for member in self._fleet.nodes.values():
            found = await self._fleet.ask(member, "/final", post=True, timeout_s=30.0)
            if found is None:
                raise NotConverged(f"{member.name} gave no last word")
            self._say(f"{member.name}: {', '.join(f'{count} {answer}' for answer, count in found.items())}")

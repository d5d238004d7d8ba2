"""A TCP proxy before a broker's listener that can go wrong on purpose, while connections are open.

It understands Kafka's framing (https://kafka.apache.org/protocol): length, then in a request API key, version and
correlation id, in an answer the correlation id. So it can lose answers and not requests, or change one field of one.
No pytest here: a test, a benchmark and a chaos harness use it alike, from any thread.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self

from tests.brokers.frames import PRODUCE, spoil, with_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from types import TracebackType
    from typing import Any

__all__ = ["PASS", "PRODUCE_ONLY", "Fault", "Proxy", "ProxyThread"]

_CHUNK_S: Final = 0.05
_ANSWER_S: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What a proxy does to its connections, those already open included.

    ``kind``:
        - ``pass``: nothing.
        - ``refuse``: resets them, and every new one as soon as it is made.
        - ``stall``: accepts and forwards nothing, either way, like a network that drops every packet. What was sent
          meanwhile goes through afterwards, as TCP would send it again.
        - ``mute``: requests pass, answers are dropped: the broker does what it was asked, and nobody hears of it.
          ``apis`` limits it to the answers of these API keys. A connection that lost an answer is reset afterwards.
        - ``slow``: ``bytes_per_s`` in each direction of each connection.
        - ``corrupt``: flips the last byte of the records in fetch answers, so that their CRC is wrong.
        - ``length``: makes the first batch of a fetch answer claim a megabyte more than came.
        - ``error``: puts ``code`` into every partition of fetch answers, or its topic's of ``codes``; 0 is none.

    ``times``: how often it takes effect before the proxy passes again; None: for good. ``sources``: only connections
    that come from these; see `Proxy`.
    """

    kind: Literal["pass", "refuse", "stall", "mute", "slow", "corrupt", "length", "error"]
    code: int = 0
    codes: Mapping[str, int] = field(default_factory=dict)
    apis: frozenset[int] | None = None
    bytes_per_s: int = 1024
    times: int | None = None
    sources: frozenset[int] | None = None


#: Nothing is wrong.
PASS: Final = Fault(kind="pass")

#: For ``Fault(kind="mute", apis=PRODUCE_ONLY)``: only acknowledgements are lost.
PRODUCE_ONLY: Final = frozenset({PRODUCE})


@dataclass(slots=True, eq=False)
class _Link:
    """One connection: the two sockets, the kinds of request under way, and whether an answer was dropped."""

    peer_port: int
    down: asyncio.StreamWriter
    up: asyncio.StreamWriter | None = None
    asked: dict[int, tuple[int, int]] = field(default_factory=dict)
    lost: bool = False
    source: int | None = None
    source_known: bool = False

    def reset(self) -> None:
        for writer in (self.down, self.up):
            if writer is not None:
                writer.transport.abort()


class Proxy:
    """Listens on ``port`` and passes everything on to ``target_port``, both on loopback.

    ``source_of``: told the local port of a new connection's other end, it says whom the connection comes from, for
    `Fault.sources`. ``counts`` says how often each kind of fault took effect, and how many connections were made:
    connections refused, frames held back by a stall, answers dropped, slowed chunks, answers spoiled.

    Create, start and close it in one event loop; `set` and `counts` may be used from any thread.
    """

    def __init__(self, *, port: int, target_port: int, source_of: Callable[[int], int | None] | None = None) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self._target_port = target_port
        self._source_of = source_of
        self._fault = PASS
        self._left: int | None = None
        self._changed = asyncio.Event()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def fault(self) -> Fault:
        """What it does now."""
        return self._fault

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in list(self._links):
            link.reset()
        for _ in range(3):  # an aborted transport closes its socket in a later turn of the loop
            await asyncio.sleep(0)

    def set(self, fault: Fault) -> None:
        """From now on do this, and nothing else. In force when it returns."""
        if self._loop is None:
            message = "a proxy does nothing before it is started"
            raise RuntimeError(message)
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            self._set(fault)
            return

        async def setting() -> None:
            self._set(fault)

        asyncio.run_coroutine_threadsafe(setting(), self._loop).result(_ANSWER_S)

    def _set(self, fault: Fault) -> None:
        self._fault, self._left = fault, fault.times
        for link in list(self._links):
            if fault.kind == "refuse" and self._concerns(link):
                self.counts["refuse"] += 1
                link.reset()
            elif fault.kind != "mute" and link.lost:
                link.reset()
        self._changed.set()
        self._changed = asyncio.Event()

    def _concerns(self, link: _Link) -> bool:
        return self._fault.sources is None or self._source(link) in self._fault.sources

    def _source(self, link: _Link) -> int | None:
        # Only when it matters: looking it up takes milliseconds, a second on a busy machine, and holds up every link.
        if not link.source_known and self._source_of is not None:
            link.source, link.source_known = self._source_of(link.peer_port), True
        return link.source

    def _takes_effect(self) -> None:
        self.counts[self._fault.kind] += 1
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._set(PASS)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        _, peer_port = writer.get_extra_info("peername")
        link = _Link(peer_port=peer_port, down=writer)
        self.counts["connections"] += 1
        self._links.add(link)
        try:
            if self._fault.kind == "refuse" and self._concerns(link):
                self._takes_effect()
                return
            await self._held(link)
            from_broker, link.up = await asyncio.open_connection("127.0.0.1", self._target_port)
            pumps = [
                asyncio.ensure_future(self._pump(link, reader, link.up, self._request)),
                asyncio.ensure_future(self._pump(link, from_broker, writer, self._answer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:  # the broker is not there: the client's connection ends, as one to the broker would
            pass
        finally:
            link.reset()
            self._links.discard(link)

    async def _held(self, link: _Link) -> None:
        first = True
        while self._fault.kind == "stall" and self._concerns(link):
            if first:
                self._takes_effect()
            first = False
            await self._changed.wait()

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seen: Callable[[_Link, bytes], bytes | None],
    ) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):  # either end has hung up
            while True:
                head = await reader.readexactly(4)
                frame = await reader.readexactly(*struct.unpack(">i", head))
                await self._held(link)
                passed = seen(link, frame)
                if passed is None:
                    continue
                await self._write(link, writer, head + passed)

    async def _write(self, link: _Link, writer: asyncio.StreamWriter, data: bytes) -> None:
        while data and self._fault.kind == "slow" and self._concerns(link):
            self._takes_effect()
            size = max(1, round(self._fault.bytes_per_s * _CHUNK_S))
            writer.write(data[:size])
            data = data[size:]
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHUNK_S):
                    await self._changed.wait()
        writer.write(data)
        await writer.drain()

    def _request(self, link: _Link, frame: bytes) -> bytes | None:
        key, version, correlation = struct.unpack_from(">hhi", frame)
        link.asked[correlation] = key, version
        return frame

    def _answer(self, link: _Link, frame: bytes) -> bytes | None:
        (correlation,) = struct.unpack_from(">i", frame)
        key, version = link.asked.pop(correlation, (-1, -1))
        fault = self._fault
        if not self._concerns(link):
            return frame
        if fault.kind == "mute" and (fault.apis is None or key in fault.apis):
            link.lost = True
            self._takes_effect()
            return None
        changed = None
        if fault.kind in ("corrupt", "length"):
            changed = spoil(frame, key=key, version=version, what="crc" if fault.kind == "corrupt" else "length")
        elif fault.kind == "error":
            changed = with_error(frame, key=key, version=version, code=fault.code, codes=fault.codes)
        if changed is None:
            return frame
        self._takes_effect()
        return changed


class ProxyThread:
    """Proxies in a loop and thread of their own, so that they work on while a test stalls its own loop.

    A context manager; ``proxies`` by whatever name they were given.
    """

    def __init__(self, proxies: Mapping[str, Proxy]) -> None:
        self.proxies = dict(proxies)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kafka-proxies", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            for proxy in self.proxies.values():
                self._call(proxy.start())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def set(self, fault: Fault, *, names: Iterable[str] | None = None) -> None:
        """The same fault for these proxies, by default for all."""
        for name in self.proxies if names is None else names:
            self.proxies[name].set(fault)

    def close(self) -> None:
        """Reset every connection and end the thread. Twice is harmless."""
        if self._loop.is_closed():
            return
        for proxy in self.proxies.values():
            self._call(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_S)

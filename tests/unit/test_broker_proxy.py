"""The proxy that goes wrong on purpose does go wrong, and counts it: no fault of a test may be imagined."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from revoker.cli.children import free_ports
from tests.brokers.proxy import PASS, Fault, Proxy

PAYLOAD = b"x" * 200
MUTED, HEARD = 0, 3


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with its correlation id and payload, as far as the proxy looks into either."""
    try:
        while True:
            frame = await reader.readexactly(*struct.unpack(">i", await reader.readexactly(4)))
            writer.write(struct.pack(">i", len(frame) - 4) + frame[4:])
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[Proxy]:
    """A proxy before a server that echoes."""
    port, target = free_ports(2)
    server = await asyncio.start_server(echo, "127.0.0.1", target)
    proxy = Proxy(port=port, target_port=target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._number = 0

    def ask(self, *, api: int = HEARD) -> None:
        self._number += 1
        body = struct.pack(">hhi", api, 0, self._number) + PAYLOAD
        self._writer.write(struct.pack(">i", len(body)) + body)

    async def answer(self) -> int:
        """The correlation id of the next answer, whole and unchanged."""
        frame = await self._reader.readexactly(*struct.unpack(">i", await self._reader.readexactly(4)))
        assert frame[4:] == PAYLOAD
        return int.from_bytes(frame[:4])


@asynccontextmanager
async def client_of(proxy: Proxy) -> AsyncIterator[Client]:
    """A client whose first request was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    client = Client(reader, writer)
    try:
        client.ask()
        assert await client.answer() == 1
        yield client
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def test_a_stall_holds_everything_back_and_lets_it_go() -> None:
    """Nothing comes through an open connection, and everything afterwards."""
    async with proxied() as proxy, client_of(proxy) as client:
        proxy.set(Fault(kind="stall"))
        client.ask()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.answer()
        assert proxy.counts["stall"] == 1
    async with proxied() as proxy, client_of(proxy) as client:
        proxy.set(Fault(kind="stall"))
        client.ask()
        proxy.set(PASS)
        assert await client.answer() == 2


async def test_a_refusal_resets_old_and_new_connections() -> None:
    """The open connection ends, and so does every new one."""
    async with proxied() as proxy, client_of(proxy) as client:
        proxy.set(Fault(kind="refuse"))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, AssertionError)):
            async with client_of(proxy):
                pass
        assert proxy.counts["refuse"] == 2


async def test_a_mute_drops_the_answers_it_names_and_then_resets() -> None:
    """The request of that kind is lost, others are answered, and the connection does not outlive the fault."""
    async with proxied() as proxy, client_of(proxy) as client:
        proxy.set(Fault(kind="mute", apis=frozenset({MUTED})))
        client.ask(api=MUTED)
        client.ask(api=HEARD)
        assert await client.answer() == 3
        assert proxy.counts["mute"] == 1
        proxy.set(PASS)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()


async def test_a_slow_connection_takes_its_time() -> None:
    """200 bytes and their frames, each way, at 1,000 a second."""
    async with proxied() as proxy, client_of(proxy) as client:
        proxy.set(Fault(kind="slow", bytes_per_s=1000))
        asked_at = time.monotonic()
        client.ask()
        assert await client.answer() == 2
        assert time.monotonic() - asked_at > 0.3
        assert proxy.counts["slow"] >= 8


async def test_a_fault_may_end_by_itself() -> None:
    """After so many times the proxy passes again."""
    async with proxied() as proxy, client_of(proxy) as client:
        proxy.set(Fault(kind="mute", times=1))
        client.ask()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()
        assert proxy.fault == PASS
        async with client_of(proxy):
            pass

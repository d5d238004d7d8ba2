"""What it costs to be rude: clients that send too much, too slowly, or no HTTP, and what of it is logged."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator

import pytest

from tests import samples
from tests.service_door import ROOT_SECRET, SUPPORT_SECRET, Door, always, open_door
from tests.service_door import without_kafka as settings


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A service whose Kafka is away."""
    async with open_door(settings()) as found:
        yield found


async def test_a_body_longer_than_the_bound_is_refused_unread(door: Door) -> None:
    """An announced length beyond max_body_bytes is 413 at once, even before Expect: 100-continue is answered."""
    head = f"POST /logout HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {samples.token()}\r\n"
    plain = await door.raw(f"{head}Content-Length: 70000\r\n\r\n".encode())
    expecting = await door.raw(f"{head}Content-Length: 70000\r\nExpect: 100-continue\r\n\r\n".encode())
    assert plain.startswith(b"HTTP/1.1 413 ")
    assert expecting.startswith(b"HTTP/1.1 413 ")


async def test_a_body_of_a_gibibyte_is_cut_at_the_bound(door: Door) -> None:
    """A chunked body that never ends is answered 413 and the connection closed, long before it is all sent."""
    reader, writer = await asyncio.open_connection(door.host, door.port)
    writer.write(
        f"POST /logout HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {samples.token()}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    status = asyncio.create_task(reader.readline())
    sent = 0
    try:
        while sent < 1 << 30 and not status.done():
            writer.write(chunk)
            sent += 0x4000
            await writer.drain()
    finally:
        writer.close()
    assert (await status).startswith(b"HTTP/1.1 413 ")
    assert sent < 32 << 20


async def test_a_body_just_at_the_bound_is_read() -> None:
    """max_body_bytes is the longest body taken; one byte more is refused."""
    async with open_door(settings(max_body_bytes=1024), is_revoked=always(True)) as door:
        fits = b'{"scope":"everywhere"}'.ljust(1024)
        headers = {"Content-Type": "application/json"}
        assert (await door.logout(samples.token(), data=fits, headers=headers)).problem[
            "detail"
        ] == "The token was revoked"
        assert (await door.logout(samples.token(), data=fits + b" ", headers=headers)).status == 413


async def test_a_slow_body_is_cut() -> None:
    """A body that does not arrive within its time is 408, and the connection is closed."""
    async with open_door(settings(), body_timeout_s=0.1) as door:
        answer = await door.raw(
            f"POST /logout HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {samples.token()}\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_slow_head_is_cut() -> None:
    """A connection whose request does not arrive, or arrives by drips, is closed without an answer."""
    async with open_door(settings(), idle_timeout_s=0.2) as door:
        began = time.monotonic()
        assert await door.raw() == b""
        assert await door.raw(b"POST /logout HTTP/1.1\r\n", b"Host: x\r\nX-Drip: ") == b""
        assert time.monotonic() - began < 10


async def test_a_broken_body_is_refused(door: Door) -> None:
    """A malformed chunk is 400, whoever notices it."""
    answer = await door.raw(
        f"POST /logout HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {samples.token()}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode(),
        b"nonsense\r\n",
    )
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))


@pytest.mark.parametrize("asked", ["POST /logout", "POST /revocations", "GET /livez", "POST /livez", "GET /nowhere"])
async def test_an_unknown_expectation_is_417_and_not_repeated(door: Door, asked: str) -> None:
    """Expect with anything but 100-continue is refused without quoting it, whatever is asked for."""
    answer = await door.raw(f"{asked} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: s3cret\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 417 ")
    assert b"Content-Type: application/problem+json\r\n" in head
    assert json.loads(body)["status"] == 417
    assert b"s3cret" not in answer


@pytest.mark.parametrize("junk", ["t" * 9000, "\0", "\r"])
async def test_malformed_http_is_not_quoted(door: Door, junk: str, caplog: pytest.LogCaptureFixture) -> None:
    """A head that aiohttp cannot read is a problem, and neither answer nor log repeat the token in it."""
    caplog.set_level(logging.DEBUG)
    answer = await door.raw(f"POST /logout HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret{junk}\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert b"application/problem+json" in head
    assert b'"code":"bad_request"' in body
    assert b"s3cret" not in answer
    assert "s3cret" not in caplog.text


async def test_a_body_that_nobody_reads_and_nobody_could_is_one_line_in_the_log(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """A compressed body that cannot be unpacked, sent where none is wanted, is no error of ours."""
    answer = await door.raw(
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


async def test_no_token_and_no_secret_is_ever_logged(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is asked, with good and with bad credentials, the log holds none of them."""
    caplog.set_level(logging.DEBUG)
    good, bad = samples.token(), samples.token(secret="s3cr3t-another that signs this one")
    for token in (good, bad):
        await door.logout(token, json={"scope": "everywhere"})
        await door.logout(cookie=token)
        await door.ask("POST", f"/logout?token={token}")
        await door.revoke({"kind": "all", "reason": token}, secret=token)
    await door.revoke({"kind": "all"})
    await door.ask("GET", f"/nowhere/{good}")
    for secret in (good, bad, ROOT_SECRET, SUPPORT_SECRET, samples.SECRET):
        assert secret not in caplog.text

"""One deny list for all workers of a server: gunicorn with and without preload, uvicorn's workers, plain processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from revoker import topic
from revoker.cli.children import die_with_parent, free_ports
from revoker.events import Token
from revoker.publisher import Publisher
from revoker.tokens import sign
from tests.broker.conftest import PATIENCE_S, SECRET, settings_for
from tests.conftest import Broker

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples"
WORKERS = 3


@pytest.fixture
def shared_dir() -> Iterator[Path]:
    """Where the table is, in memory as in production."""
    place = Path(tempfile.mkdtemp(prefix="revoker-servers-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield place
    shutil.rmtree(place)


def token(jti: str) -> str:
    now = int(time.time())
    return sign({"sub": "alice", "jti": jti, "iat": now, "exp": now + 600}, key=SECRET, algorithm="HS256")


@asynccontextmanager
async def process(
    *command: str, environment: dict[str, str], log: Path, stdin: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server of its own process group, ended with all of its workers."""
    with log.open("wb") as output:
        started = await asyncio.create_subprocess_exec(
            *die_with_parent([sys.executable, "-m", *command]),
            env=environment,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE if stdin else output,
            stderr=output,
        )
        try:
            yield started
        finally:
            if started.returncode is None:
                started.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await started.wait()
                except TimeoutError:
                    started.kill()
                    await started.wait()


@pytest.fixture
async def environment(apache: Broker, topic_name: str, shared_dir: Path) -> dict[str, str]:
    """What every process of this test is told, and its topic."""
    await topic.create(settings_for(apache.bootstrap, topic_name))
    return {name: value for name, value in os.environ.items() if not name.startswith("REVOKER_")} | {
        "PYTHONPATH": f"{EXAMPLES.parent}:{EXAMPLES}",
        "REVOKER_KAFKA_BOOTSTRAP_SERVERS": apache.bootstrap,
        "REVOKER_TOPIC": topic_name,
        "REVOKER_TOPIC_REPLICATION_FACTOR": "1",
        "REVOKER_TOPIC_MIN_INSYNC_REPLICAS": "1",
        "REVOKER_ALGORITHMS": "HS256",
        "REVOKER_KEY_SECRET": SECRET,
        "REVOKER_DENYLIST": "shared",
        "REVOKER_SHARED_DIR": str(shared_dir),
    }


async def answers(url: str, jti: str, *, wanted: int, times: int) -> None:
    """Return once ``times`` answers in a row, each over a connection of its own, have the wanted status."""
    headers = {"Authorization": f"Bearer {token(jti)}"}
    row, last = 0, "nothing listens"
    try:
        async with asyncio.timeout(PATIENCE_S):
            while row < times:
                try:
                    async with (
                        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
                        session.get(f"{url}/whoami", headers=headers) as response,
                    ):
                        last = f"{response.status} {await response.text()}"
                        row = row + 1 if response.status == wanted else 0
                except aiohttp.ClientConnectionError:
                    row = 0
                if not row:
                    await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not {wanted} {times} times in a row; last: {last}")


SERVERS = {
    "gunicorn": ("gunicorn", "--workers", str(WORKERS), "wsgi_api:app"),
    "gunicorn-preload": ("gunicorn", "--workers", str(WORKERS), "--preload", "wsgi_api:app"),
    "gunicorn-asgi": (
        *("gunicorn", "--workers", str(WORKERS), "--worker-class", "uvicorn_worker.UvicornWorker"),
        "fastapi_api:app",
    ),
    "gunicorn-asgi-preload": (
        *("gunicorn", "--workers", str(WORKERS), "--preload", "--worker-class", "uvicorn_worker.UvicornWorker"),
        "fastapi_api:app",
    ),
    "uvicorn": ("uvicorn", "--workers", str(WORKERS), "fastapi_api:app"),
}


@pytest.mark.parametrize("server", sorted(SERVERS))
async def test_a_logout_reaches_every_worker(
    apache: Broker, environment: dict[str, str], topic_name: str, tmp_path: Path, server: str
) -> None:
    """All workers let a token pass, and refuse it once it was revoked; one process of the host follows the topic."""
    port, other = free_ports(2)
    url = f"http://127.0.0.1:{port}"
    where = ("--bind", f"127.0.0.1:{port}") if server.startswith("gunicorn") else ("--port", str(port))
    command = (SERVERS[server][0], *where, *SERVERS[server][1:])
    log = tmp_path / "server.log"
    revoked, innocent = uuid.uuid4().hex, uuid.uuid4().hex
    writer = ("revoker", "node", "--listen", f"127.0.0.1:{other}")
    alone = tmp_path / "writer.log"
    async with (
        Publisher(settings_for(apache.bootstrap, topic_name)) as publisher,
        process(*writer, environment=environment, log=alone) if "wsgi_api:app" in command else _nobody(),
        process(*command, environment=environment, log=log),
    ):
        await answers(url, revoked, wanted=200, times=4 * WORKERS)
        await publisher.revoke(selector=Token(iss="", jti=revoked), exp=int(time.time()) + 600)
        await answers(url, revoked, wanted=401, times=8 * WORKERS)
        await answers(url, innocent, wanted=200, times=2 * WORKERS)
    said = log.read_text()
    assert "Traceback" not in said, said


@asynccontextmanager
async def _nobody() -> AsyncIterator[None]:
    yield


async def test_plain_processes_look_into_one_table(
    apache: Broker, environment: dict[str, str], topic_name: str, tmp_path: Path
) -> None:
    """A pool of processes without a loop refuses what one of the host's processes has read from the topic."""
    jti = uuid.uuid4().hex
    async with (
        Publisher(settings_for(apache.bootstrap, topic_name)) as publisher,
        process(
            "worker_processes", environment=environment, log=tmp_path / "log", stdin=asyncio.subprocess.PIPE
        ) as pool,
    ):
        assert pool.stdin is not None
        assert pool.stdout is not None

        async def said(wanted: str) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    pool.stdin.write(f"{token(jti)}\n".encode())  # type: ignore[union-attr]
                    line = (await pool.stdout.readline()).decode()  # type: ignore[union-attr]
                    assert line, (tmp_path / "log").read_text()
                    if wanted in line:
                        return
                    await asyncio.sleep(0.02)

        await said("may pass")
        await publisher.revoke(selector=Token(iss="", jti=jti), exp=int(time.time()) + 600)
        await said("refused: the token was revoked")
        pool.stdin.close()
        async with asyncio.timeout(PATIENCE_S):
            await pool.wait()

"""The examples, started as a reader would start them, on Apache Kafka: login, a protected route, logout, refusal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from revoker import topic
from revoker.cli.children import die_with_parent, free_ports
from tests.broker.conftest import PATIENCE_S, SECRET, settings_for
from tests.conftest import Broker
from tests.leaks import look

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST_LINES = 60


@asynccontextmanager
async def running(script: str, *, bootstrap: str, topic_name: str, log: Path) -> AsyncIterator[str]:
    """The example as a process of its own; gives its address once it is ready, and has it end as it should."""
    (port,) = free_ports(1)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REVOKER_")} | {
        "PYTHONPATH": str(EXAMPLES.parent),
        "REVOKER_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "REVOKER_TOPIC": topic_name,
        "REVOKER_TOPIC_REPLICATION_FACTOR": "1",
        "REVOKER_TOPIC_MIN_INSYNC_REPLICAS": "1",
        "REVOKER_ALGORITHMS": "HS256",
        "REVOKER_KEY_SECRET": SECRET,
        "REVOKER_COOKIE_SECURE": "false",
        "REVOKER_LISTEN": f"127.0.0.1:{port}",
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *die_with_parent([sys.executable, str(EXAMPLES / script)]), env=environment, stdout=output, stderr=output
        )
        try:
            await ready(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(PATIENCE_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    look(said(log), where="what the example wrote")
    assert "Traceback" not in said(log), said(log)


def said(log: Path) -> str:
    """What the example wrote."""
    return log.read_text()


async def ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    """Return once the example answers ready; fail with its log if it ends or takes too long."""
    last = "nothing listens"
    try:
        async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
            while process.returncode is None:
                try:
                    async with session.get(f"{url}/readyz") as response:
                        if response.status == 200:
                            return
                        last = await response.text()
                except aiohttp.ClientConnectionError:
                    pass  # not listening yet
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not ready within {PATIENCE_S} s: {last}\n{said(log)}")
    pytest.fail(f"ended with {process.returncode}:\n{said(log)}")


@pytest.fixture
async def prepared(apache: Broker, topic_name: str) -> str:
    """This test's topic, on Apache Kafka."""
    await topic.create(settings_for(apache.bootstrap, topic_name))
    return topic_name


@pytest.mark.parametrize("script", ["aiohttp_api.py", "fastapi_api.py"])
@pytest.mark.parametrize("way", ["header", "cookie"])
async def test_log_in_call_log_out_be_refused(
    apache: Broker, prepared: str, tmp_path: Path, script: str, way: str
) -> None:
    """Two processes of an example: after a logout at one of them the other refuses the token as well."""
    login = {"name": "alice", "password": "wonderland"}
    form = {"json": login} if script.startswith("fastapi") else {"data": login}
    async with (
        running(script, bootstrap=apache.bootstrap, topic_name=prepared, log=tmp_path / "one.log") as one,
        running(script, bootstrap=apache.bootstrap, topic_name=prepared, log=tmp_path / "two.log") as two,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        async with session.get(f"{one}/whoami") as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, 'Bearer realm="api"')
        async with session.post(f"{one}/login", **form) as response:  # type: ignore[arg-type]
            assert response.status == 200
            cookie = response.cookies["USER_SESSION"]
            token = (await response.json())["access_token"]
        headers = (
            {"Cookie": f"USER_SESSION={cookie.value}"} if way == "cookie" else {"Authorization": f"Bearer {token}"}
        )
        for url in (one, two):
            async with session.get(f"{url}/whoami", headers=headers) as response:
                assert (response.status, await response.json()) == (200, {"sub": "alice"})

        async with session.post(f"{one}/logout", headers=headers) as response:
            assert (response.status, response.cookies["USER_SESSION"]["max-age"]) == (204, "0")

        async with session.get(f"{one}/whoami", headers=headers) as response:
            assert response.status == 401  # at once: the same process applied it itself
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with session.get(f"{two}/whoami", headers=headers) as response:
                    if response.status != 200:
                        break
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].endswith('error_description="The token was revoked"')
        async with session.post(f"{one}/login", **form) as response:  # type: ignore[arg-type]
            again = (await response.json())["access_token"]
        async with session.get(f"{two}/whoami", headers={"Authorization": f"Bearer {again}"}) as response:
            assert response.status == 200


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_fits_a_screen(script: str) -> None:
    """No example is longer than sixty lines."""
    assert len((EXAMPLES / script).read_text().splitlines()) <= LONGEST_LINES

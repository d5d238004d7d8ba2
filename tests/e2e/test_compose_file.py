"""docker-compose.yml, without a container engine: each service's own command and environment, run as processes.

Kafka's own service is not run: its image is not ours, and a broker of the same version is here already. What it is told
is checked as far as that goes without it. Addresses between containers are mapped to this machine.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from revoker.cli.children import die_with_parent, free_ports
from revoker.settings import environment_without_settings
from tests.brokers.artifacts import KAFKA_VERSION
from tests.conftest import Broker

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file, read with its anchors merged."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return found


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that run our image."""
    return {name: service for name, service in compose["services"].items() if service["image"] == "revoker"}


def test_the_broker_is_of_the_version_the_tests_run_and_makes_no_topics(compose: dict[str, Any]) -> None:
    """The image's tag is the tests' Kafka, auto-creation is off, and whoever needs it waits for its health check."""
    kafka = compose["services"]["kafka"]
    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert kafka["healthcheck"]["test"]
    assert compose["services"]["topic"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}


def test_the_broker_listens_where_the_services_look_for_it(compose: dict[str, Any]) -> None:
    """The address our services start from is advertised inside, every listener has a protocol and a port it binds."""
    told = compose["services"]["kafka"]["environment"]
    advertised = dict(part.split("://") for part in told["KAFKA_ADVERTISED_LISTENERS"].split(","))
    bound = dict(part.split("://") for part in told["KAFKA_LISTENERS"].split(","))
    protocols = dict(part.split(":") for part in told["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(protocols) == set(bound) == set(advertised) | {told["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert all(bound[name] == f":{address.rpartition(':')[2]}" for name, address in advertised.items())
    for service in ours(compose).values():
        assert service["environment"]["REVOKER_KAFKA_BOOTSTRAP_SERVERS"] in advertised.values()


def test_every_service_of_ours_is_built_from_the_one_dockerfile_and_is_not_root(compose: dict[str, Any]) -> None:
    """A topic job, a logout service and three nodes; the image runs as a user of its own and installs by hash."""
    assert set(ours(compose)) == {"topic", "logout", "node-1", "node-2", "node-3"}
    assert all(service["build"] == "." for service in ours(compose).values())
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert re.search(r"^USER revoker$", dockerfile, re.MULTILINE)
    assert "--require-hashes" in dockerfile
    for copied in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        assert all((ROOT / path).exists() for path in copied.split())


def environment(
    compose: dict[str, Any], service: dict[str, Any], bootstrap: str, topic: str, port: int
) -> dict[str, str]:
    """A service's own environment, with what only exists between containers put on this machine."""
    found = dict(service["environment"])
    assert found["REVOKER_KAFKA_BOOTSTRAP_SERVERS"] == "kafka:19092"
    found["REVOKER_KAFKA_BOOTSTRAP_SERVERS"] = bootstrap
    assert found["REVOKER_KEY_SECRET_FILE"] == "/run/secrets/key"
    found["REVOKER_KEY_SECRET_FILE"] = str(ROOT / compose["secrets"]["key"]["file"])
    assert found["REVOKER_LISTEN"] == "0.0.0.0:8080"
    found["REVOKER_LISTEN"] = f"127.0.0.1:{port}"
    found["REVOKER_TOPIC"] = topic
    return environment_without_settings() | found


@pytest.fixture
async def fleet(
    compose: dict[str, Any], apache: Broker, topic_name: str
) -> AsyncIterator[tuple[dict[str, str], dict[str, str]]]:
    """Every service started in the file's order; yields their URLs, and the environment for further commands."""
    services = ours(compose)
    ports = dict(zip(services, free_ports(len(services)), strict=True))
    environments = {
        name: environment(compose, service, apache.bootstrap, topic_name, ports[name])
        for name, service in services.items()
    }
    job = await run(services["topic"]["command"], environments["topic"])
    assert await job.wait() == 0
    async with AsyncExitStack() as running:
        for name, service in services.items():
            if name == "topic":
                continue
            assert service["depends_on"] == {"topic": {"condition": "service_completed_successfully"}}
            process = await run(service["command"], environments[name])
            running.push_async_callback(end, process)
        yield (
            {name: f"http://127.0.0.1:{port}" for name, port in ports.items() if name != "topic"},
            environments["logout"],
        )


async def run(command: list[str], environ: dict[str, str], **options: Any) -> asyncio.subprocess.Process:
    """What the image's entry point does with a service's command."""
    program = die_with_parent([sys.executable, "-m", "revoker", *command])
    return await asyncio.create_subprocess_exec(*program, env=environ, **options)


async def until_healthy(service: dict[str, Any], url: str) -> None:
    """Run the service's own health check as the engine does, until it passes."""
    kind, program, *arguments = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    command = [sys.executable, *(text.replace("http://127.0.0.1:8080", url) for text in arguments)]
    assert any(url in text for text in command), "the probe asks another port than the service's own"
    async with asyncio.timeout(PATIENCE_S):
        while True:
            probe = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            if await probe.wait() == 0:
                return


async def end(process: asyncio.subprocess.Process) -> None:
    """Stop it as the engine does; it exits 0."""
    process.terminate()
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0


async def test_the_fleet_of_the_file_logs_a_user_out(
    compose: dict[str, Any], fleet: tuple[dict[str, str], dict[str, str]]
) -> None:
    """All become healthy by the file's probe; a token of `revoker token` passes all nodes, after its logout none."""
    urls, environ = fleet
    signed = await run(["token", "--sub", "alice"], environ, stdout=asyncio.subprocess.PIPE)
    token = (await signed.communicate())[0].decode().strip()
    bearer = {"Authorization": f"Bearer {token}"}
    nodes = [f"{url}/whoami" for name, url in urls.items() if name.startswith("node-")]
    async with aiohttp.ClientSession() as session:
        for name, url in urls.items():
            await until_healthy(compose["services"][name], url)
        for url in nodes:
            await until(session, url, 200, bearer)
        async with session.post(f"{urls['logout']}/logout", headers=bearer) as response:
            assert response.status == 204
        for url in nodes:
            await until(session, url, 401, bearer)


async def until(session: aiohttp.ClientSession, url: str, wanted: int, headers: dict[str, str]) -> None:
    """Ask until the status is the wanted one."""
    deadline, status = time.monotonic() + PATIENCE_S, 0
    while status != wanted:
        assert time.monotonic() < deadline, f"{url} answers {status}, not {wanted}"
        try:
            async with session.get(url, headers=headers) as response:
                status = response.status
        except aiohttp.ClientConnectorError:
            status = 0
        if status != wanted:
            await asyncio.sleep(0.02)

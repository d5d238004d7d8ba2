"""What the demo plays on: a broker, a topic made for it, a service and nodes; all gone afterwards, in every case."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from revoker.cli.demo import processes
from revoker.cli.demo.identity import ALGORITHM, COOKIE, KID, IdentityProvider
from revoker.cli.demo.processes import DemoProcess, DemoProcessError
from revoker.cli.embedded import EmbeddedBroker
from revoker.kafka import connected
from revoker.settings import Settings
from revoker.topic import Report, create, delete, enforce

__all__ = ["Stage", "broker_and_topic", "processes_ready"]

_READY_TIMEOUT_S = 15.0
_POLL_S = 0.02

#: Unlike Apache Kafka the embedded broker does not wake a waiting fetch when a record arrives: every revocation takes
#: about half the wait.
_EMBEDDED_FETCH_WAIT_MS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """``embedded``: None on a cluster that is not ours. ``report``: what the check of the topic found."""

    settings: Settings
    embedded: EmbeddedBroker | None
    report: Report


@asynccontextmanager
async def broker_and_topic(bootstrap: str | None) -> AsyncIterator[Stage]:
    """The embedded broker, or the cluster at ``bootstrap``, with a topic of an unused name.

    The topic is deleted from the cluster afterwards. Raises ContractViolated if the cluster would lose revocations. The
    embedded broker does lose them, being memory, so there the report is only shown.
    """
    given: dict[str, object] = {
        "topic": f"revoker-demo-{secrets.token_hex(4)}",
        "kafka_client_id": "revoker-demo",
        "algorithms": (ALGORITHM,),
        "cookie_name": COOKIE,
        "cookie_secure": False,  # plain HTTP on loopback
        "log_level": "warning",
    }
    async with AsyncExitStack() as stack:
        embedded = None
        if bootstrap is None:
            embedded = stack.enter_context(EmbeddedBroker())
            given |= {"kafka_bootstrap_servers": embedded.bootstrap, "topic_check": "lenient"}
            given |= {"fetch_max_wait_ms": _EMBEDDED_FETCH_WAIT_MS}
            brokers = 1
        else:
            given |= {"kafka_bootstrap_servers": bootstrap}
            async with connected(Settings(**given)) as client:  # type: ignore[arg-type]  # converted and checked by the class
                brokers = len(client.cluster.brokers())
        given |= {"topic_replication_factor": min(3, brokers), "topic_min_insync_replicas": 2 if brokers >= 3 else 1}
        settings = Settings(**given)  # type: ignore[arg-type]  # as above
        if embedded is None:
            stack.push_async_callback(delete, settings)
        made = await create(settings)
        if embedded is None:
            enforce(made.report, mode="strict")
        yield Stage(settings=settings, embedded=embedded, report=made.report)


@asynccontextmanager
async def processes_ready(
    stage: Stage, *, nodes: int, http: aiohttp.ClientSession
) -> AsyncIterator[tuple[IdentityProvider, DemoProcess, list[DemoProcess]]]:
    """The identity provider, the logout service and ``nodes`` API nodes, all ready.

    Raises DemoProcessError naming the one that is not.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="revoker-demo-")))
        key_file = directory / "identity-provider.pem"
        provider = await stack.enter_async_context(IdentityProvider(key_file=key_file))
        settings = stage.settings
        told = {
            name: str(getattr(settings, name))
            for name in (
                "kafka_bootstrap_servers",
                "topic",
                "topic_check",
                "topic_replication_factor",
                "topic_min_insync_replicas",
                "fetch_max_wait_ms",
                "cookie_name",
                "log_level",
            )
        }
        told |= {"algorithms": ALGORITHM, "issuer": provider.issuer, "key_files": f"{KID}={key_file}"}

        running: list[DemoProcess] = []

        async def stop_all() -> None:
            await asyncio.gather(*(process.stop() for process in running))

        stack.push_async_callback(stop_all)

        async def started(name: str, command: str, further: dict[str, str]) -> DemoProcess:
            process = await processes.start(name, command, told | further)
            running.append(process)
            await _until_ready(process, http)
            return process

        try:
            async with asyncio.TaskGroup() as group:
                service = group.create_task(started("logout service", "serve", {"cookie_secure": "false"}))
                numbered = [group.create_task(started(f"node {number}", "node", {})) for number in range(1, nodes + 1)]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        yield provider, service.result(), [task.result() for task in numbered]


async def _until_ready(process: DemoProcess, http: aiohttp.ClientSession) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while True:
        async with http.get(f"{process.url}/readyz?verbose") as answer:
            said = (await answer.text()).strip()
            if answer.status == 200:
                return
        if not process.running or time.monotonic() > deadline:
            raise DemoProcessError(f"{process.name} did not become ready: {said}\n{process.logged()}")
        await asyncio.sleep(_POLL_S)

"""What every Kafka client of revoker needs: arguments from the settings, and no topic made by accident.

aiokafka has no public switch for two things a fleet depends on, so they are mended here, per client and never
process-wide: its metadata requests let brokers create topics, and it connects to one broker at a time.
"""

# ruff: noqa: SLF001  - what is mended here has no public door

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final, cast
from weakref import WeakSet

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, codec
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from revoker.diagnosis import Problem, explain, quiet_logs
from revoker.errors import BrokerError, BrokerUnreachable, NotPermitted, SettingsError
from revoker.secured import certificate_doubt, security_arguments
from revoker.settings import Settings

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_PARTITION_FETCH_BYTES",
    "client_arguments",
    "client_of",
    "connect_in_parallel",
    "connected",
    "consumer_arguments",
    "died_inside",
    "discard",
    "hang_up",
    "hold_empty_fetches",
    "never_create_topics",
    "on_trouble",
    "prepare",
    "producer_arguments",
    "readable_codecs",
    "unreachable",
]

#: Longest record batch a publisher sends, in bytes; the topic has to take it. At aiokafka's 16 KiB a thousand
#: concurrent callers queue for one batch: a tenth of the rate, at ten times the latency.
MAX_BATCH_BYTES: Final = 262_144

#: Most bytes of one partition in one fetch. aiokafka decodes a fetch without yielding: 1 MiB keeps the loop's longest
#: turn short.
MAX_PARTITION_FETCH_BYTES: Final = 1 << 20

#: Clients and connections that no longer allow topic creation.
_never_creating: WeakSet[AIOKafkaClient] = WeakSet()
_forbidding: WeakSet[Any] = WeakSet()

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/,]+):([0-9]{1,5})")


def client_arguments(settings: Settings) -> dict[str, Any]:
    """Arguments every aiokafka client takes, those that secure its connections included.

    Raises SettingsError for a bootstrap list that is not ``HOST:PORT[,HOST:PORT…]``, and for certificate files or an
    OAuth function that cannot be used.
    """
    return {
        "bootstrap_servers": _bootstrap_servers(settings.kafka_bootstrap_servers),
        "client_id": settings.kafka_client_id,
        "request_timeout_ms": _ms(settings.request_timeout_s),
        "metadata_max_age_ms": _ms(settings.metadata_max_age_s),
        "retry_backoff_ms": 100,
        **security_arguments(settings),
    }


def consumer_arguments(settings: Settings) -> dict[str, Any]:
    """Arguments of an ``AIOKafkaConsumer`` that reads a whole topic by itself: ``assign`` and ``seek``, no group, no
    commits.

    ``auto_offset_reset`` is "none": any other value turns a deleted or rewritten log into a silent jump over
    revocations.
    """
    return client_arguments(settings) | {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        # With read_committed another producer's hanging transaction would stop delivery while everything looks alive.
        "isolation_level": "read_uncommitted",
        "fetch_max_wait_ms": settings.fetch_max_wait_ms,
        "max_partition_fetch_bytes": MAX_PARTITION_FETCH_BYTES,
        "check_crcs": True,
    }


def producer_arguments(settings: Settings) -> dict[str, Any]:
    """Arguments of an ``AIOKafkaProducer`` whose acknowledgement means "on every in-sync replica" and whose wait is
    bounded.

    Not idempotent: aiokafka's idempotent producer never times out (https://github.com/aio-libs/aiokafka/issues/1101),
    and one rejected batch breaks it for good (https://github.com/aio-libs/aiokafka/issues/1017). Revocations may arrive
    twice.
    """
    return client_arguments(settings) | {
        "acks": "all",
        "enable_idempotence": False,
        "linger_ms": 0,
        "max_batch_size": MAX_BATCH_BYTES,
        "request_timeout_ms": _ms(settings.publish_timeout_s),
    }


def readable_codecs() -> frozenset[str]:
    """Names, as in ``compression.type``, of the codecs this process can read. With another one aiokafka fails on every
    fetch."""
    found = {"uncompressed", "gzip"}
    found |= {name for name in ("snappy", "lz4", "zstd") if getattr(codec, f"has_{name}")()}
    return frozenset(found)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AIOKafkaClient]:
    """A bare client that knows at least one broker, prepared and closed again: for questions outside a consumer or
    producer.

    Raises BrokerUnreachable, with the cause aiokafka only logs.
    """
    client = prepare(AIOKafkaClient(**client_arguments(settings)))
    before = quiet_logs.last_problem
    with quiet_logs.installed():
        try:
            try:
                await client.bootstrap()
            except (KafkaError, OSError, TimeoutError) as error:
                raise unreachable(settings, explain(error), before=before) from error
            if not client.cluster.brokers():
                # Brokers show a refused OAuth token as a connection that works and knows nobody.
                raise unreachable(
                    settings, "connected, but no broker is known: are the credentials refused?", before=before
                )
            yield client
        finally:
            await client.close()


def client_of(consumer: AIOKafkaConsumer) -> AIOKafkaClient:
    """The client inside a consumer: aiokafka has no other way to ask brokers anything over its connections."""
    return consumer._client


def died_inside(user: AIOKafkaConsumer | AIOKafkaProducer) -> str | None:
    """Which of a consumer's or producer's own tasks has ended, and of what; None: they run.

    An error that is neither a KafkaError nor an OSError while it reconnects kills them for good, and nothing tells:
    ``getmany`` goes on returning nothing, and every send waits until it times out.
    """
    if isinstance(user, AIOKafkaProducer):
        tasks = [("metadata task", user.client._sync_task), ("sending task", user._sender.sender_task)]
    else:
        tasks = [("metadata task", user._client._sync_task)]
        if user._fetcher is not None:
            tasks.append(("fetch task", user._fetcher._fetch_task))
    for name, task in tasks:
        if task is not None and task.done():
            error = None if task.cancelled() else task.exception()
            return f"{name} died{'' if error is None else f' of {explain(error)}'}"
    return None


async def discard(consumer: AIOKafkaConsumer, *, timeout_s: float) -> BaseException | None:
    """Stop ``consumer`` within ``timeout_s`` seconds and close its connections, whatever became of its tasks.

    Returns the error that had killed one of them, if any; nothing else tells. ``consumer.stop()`` alone raises that
    error, and leaves the connections open. It also lets the cancellation of its own tasks escape, as when a fetch waits
    out its back-off after every broker was lost: a caller that awaits it takes that for its own and ends.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    try:
        await asyncio.wait({stopping}, timeout=timeout_s)
    finally:
        stopping.cancel()
        closing = _tear_down(consumer)
    if closing:
        await asyncio.wait(closing, timeout=timeout_s)
    if not stopping.done():
        return TimeoutError(f"it did not stop within {timeout_s:g} s")
    return None if stopping.cancelled() else stopping.exception()


def _tear_down(consumer: AIOKafkaConsumer) -> set[asyncio.Future[Any]]:
    """Cancel what still runs inside, hang up, and return what to wait for; nothing after an orderly stop."""
    client, fetcher = consumer._client, consumer._fetcher
    tasks = [client._sync_task]
    if fetcher is not None:
        tasks += [fetcher._fetch_task, *fetcher._pending_tasks]
    for task in tasks:
        if task is not None and not task.cancel() and not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain of it
    return {connection.close() for connection in list(client._conns.values())}


def hang_up(client: AIOKafkaClient, node: int) -> None:
    """Close the connection over which ``client`` fetches from ``node``, so that no answer still under way arrives."""
    connection = client._conns.get((node, ConnectionGroup.DEFAULT))
    if connection is not None:
        connection.close()


def hold_empty_fetches(consumer: AIOKafkaConsumer, wait_ms: int) -> None:
    """How long brokers may hold an empty fetch of ``consumer`` from now on. aiokafka takes it at construction only."""
    fetcher: Any = consumer._fetcher
    fetcher._fetch_max_wait_ms = wait_ms


def on_trouble(client: AIOKafkaClient, told: Callable[[], None]) -> None:
    """Call ``told`` whenever ``client`` doubts what it knows of the cluster: a connection broke or could not be made,
    or a broker said that it does not lead, or does not know, a partition. aiokafka shows none of it to its users.
    """
    refresh = client.force_metadata_update

    def tell_and_refresh() -> Any:
        told()
        return refresh()  # type: ignore[no-untyped-call]

    client.force_metadata_update = tell_and_refresh  # type: ignore[method-assign]


def prepare(client: AIOKafkaClient) -> AIOKafkaClient:
    """`never_create_topics` and `connect_in_parallel`. Call it before the client starts."""
    never_create_topics(client)
    connect_in_parallel(client)
    return client


def never_create_topics(client: AIOKafkaClient) -> None:
    """Make every metadata request of ``client`` forbid topic creation; calling it again changes nothing.

    aiokafka always allows it, and brokers do it by default: a node would re-create a deleted topic with the brokers'
    default retention, read it as empty, and be "ready". The one request sent before, at bootstrap, names no topic.
    """
    if client in _never_creating:
        return
    _never_creating.add(client)
    get_connection = client._get_conn

    async def get_forbidding_connection(*arguments: Any, **options: Any) -> Any:
        connection = await get_connection(*arguments, **options)  # type: ignore[no-untyped-call]
        if connection is not None and connection not in _forbidding:
            _forbidding.add(connection)
            connection.send = _without_creation(connection.send)
        return connection

    client._get_conn = get_forbidding_connection  # type: ignore[method-assign]


def _without_creation(send: Callable[..., Any]) -> Callable[..., Any]:
    def send_without_creation(request: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(request, MetadataRequest):
            request._allow_auto_topic_creation = False
        return send(request, *arguments, **options)

    return send_without_creation


def connect_in_parallel(client: AIOKafkaClient) -> None:
    """Let ``client`` connect to several brokers at once; calling it again changes nothing.

    aiokafka holds one lock per client while it connects. A broker that accepts connections and never answers then keeps
    the client from every other broker, the new leader included, for one request timeout per attempt. Here each
    connection has its own lock.
    """
    if isinstance(client._get_conn_lock_value, nullcontext):
        return
    client._get_conn_lock_value = cast("asyncio.Lock", nullcontext())
    get_connection = client._get_conn
    locks: defaultdict[tuple[Any, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get_connection_under_its_lock(
        node_id: Any, *, group: int = ConnectionGroup.DEFAULT, **options: Any
    ) -> Any:
        async with locks[node_id, group]:
            return await get_connection(node_id, group=group, **options)  # type: ignore[no-untyped-call]

    client._get_conn = get_connection_under_its_lock  # type: ignore[method-assign]


def _bootstrap_servers(text: str) -> list[str]:
    servers = [part.strip() for part in text.split(",") if part.strip()]
    for server in servers:
        match = _HOST_PORT.fullmatch(server)
        if match is None or not 0 < int(match[2]) < 65536 or not _nameable(match[1]):
            raise SettingsError(f"kafka_bootstrap_servers has {server!r}, must be HOST:PORT such as kafka-1:9092")
    if not servers:
        raise SettingsError("kafka_bootstrap_servers is empty, must be HOST:PORT[,HOST:PORT...] such as kafka-1:9092")
    return servers


def _nameable(host: str) -> bool:
    """Whether the resolver takes it: Python raises UnicodeError for a..b, where nobody expects one."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def unreachable(settings: Settings, why: str, *, before: Problem | None = None) -> BrokerError:
    """The error to raise, with the cause that aiokafka logs and does not raise, if it logged one since ``before``.

    It raises one error for a wrong address, a wrong password and a wrong certificate alike. NotPermitted if a broker
    was reached and refuses this user, else BrokerUnreachable.
    """
    where = f"{settings.kafka_bootstrap_servers} (setting kafka_bootstrap_servers)"
    problem = quiet_logs.last_problem
    if problem is before:
        problem = None
    hints = [] if problem is None else [f"aiokafka: {problem.text}"]
    if problem is not None and problem.closed:
        hints.append(
            f"kafka_security_protocol is {settings.kafka_security_protocol}: a listener of another one ends the "
            "connection like this"
        )
    if doubt := certificate_doubt(settings):
        hints.append(doubt)
    said = f" ({'; '.join(hints)})" if hints else ""
    if problem is not None and problem.denied:
        return NotPermitted(f"Kafka refuses this user at {where}{said}")
    return BrokerUnreachable(f"no broker reached at {where}: {why}{said}")


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))

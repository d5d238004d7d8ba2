"""``/livez``, ``/readyz``, ``/metrics``: routes around `revoker.health`."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from revoker.health import Family, build_info, expose, readyz
from revoker.service.state import SERVICE, Service

__all__ = ["livez", "metrics", "openapi", "ready"]


async def livez(request: web.Request) -> web.Response:
    """200 unless a background task died, which only a restart mends. Kafka being away is no reason to restart."""
    deaths = request.app[SERVICE].deaths()
    status, text = readyz(deaths, verbose=bool(deaths))
    return web.Response(status=status, text=text)


async def ready(request: web.Request) -> web.Response:
    """200 if revocations can probably be accepted now. Answered from memory: a probe never waits for Kafka."""
    status, text = readyz(request.app[SERVICE].checks(), verbose="verbose" in request.query)
    return web.Response(status=status, text=text)


async def metrics(request: web.Request) -> web.Response:
    """For Prometheus; no label holds anything a client chose."""
    content_type, body = expose(_families(request.app[SERVICE]), accept=request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def openapi(request: web.Request) -> web.Response:
    """The description of this API, OpenAPI 3.1."""
    return web.Response(body=request.app[SERVICE].openapi, content_type="application/json")


def _families(service: Service) -> Iterable[Family]:
    yield build_info()
    yield Family(
        name="revoker_service_ready",
        help="1 while revocations can probably be accepted: published, or with an outbox stored.",
        values={(): float(all(check.ok for check in service.checks()))},
    )
    yield Family(
        name="revoker_publications",
        help="Revocations, by what was known of them when their caller was answered.",
        kind="counter",
        labels=("outcome",),
        values={(outcome,): float(count) for outcome, count in service.publisher.outcomes.items()},
    )
    if service.heartbeats is not None:
        yield Family(
            name="revoker_heartbeats",
            help="Heartbeats through partitions that were silent.",
            kind="counter",
            labels=("outcome",),
            values={(outcome,): float(service.heartbeats.outcomes[outcome]) for outcome in ("sent", "failed")},
        )
    if service.publisher.delivery is not None:
        yield from service.publisher.delivery.families()
    yield Family(
        name="revoker_service_broker_reachable",
        help="1 while Kafka can be reached and has the topic.",
        values={(): float(service.watch.reachable)},
    )
    yield Family(
        name="revoker_http_answers",
        help="Answers by route and class of status.",
        kind="counter",
        labels=("route", "status"),
        values={labels: float(count) for labels, count in service.answers.items()},
    )

"""The demo's steps: log in, call, log out, be refused; each is told as it happens, and any difference ends it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from revoker.cli.demo.identity import COOKIE, IdentityProvider
from revoker.cli.demo.processes import DemoProcess
from revoker.cli.demo.stage import Stage, broker_and_topic, processes_ready
from revoker.cli.embedded import IN_NAME_ONLY, EmbeddedBroker
from revoker.topic import Report

__all__ = ["DemoDiffers", "Tell", "play"]

_REFUSED_WITHIN_S = 10.0
_POLL_S = 0.001

#: Prints one step: its word and what happened.
Tell = Callable[[str, str], None]


class DemoDiffers(Exception):
    """Something went otherwise than promised; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A node's first 401. ``at``: when it was read, on the clock of `time.perf_counter`."""

    at: float
    www_authenticate: str


async def play(
    *, bootstrap: str | None, nodes: int, tell: Tell, keep: Callable[[], Awaitable[None]] | None = None
) -> dict[str, Any]:
    """Run the demo and return its figures. ``bootstrap``: a cluster, None = the embedded broker.

    ``keep``: awaited at the end, with everything up; the broker is then not stopped.

    Raises DemoDiffers, DemoProcessError, or what making the broker and the topic raises.
    """
    began = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=20)
    async with (
        broker_and_topic(bootstrap) as stage,
        # Requests carry the cookie by hand: to a cookie jar all ports of 127.0.0.1 are one host.
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as http,
    ):
        figures: dict[str, Any] = {"broker": _tell_broker(stage, tell), "topic": _tell_topic(stage, tell)}
        async with processes_ready(stage, nodes=nodes, http=http) as (provider, service, api):
            tell("processes", f"logout service {service.url}, nodes {' '.join(node.url for node in api)}: all ready")
            demo = _Demo(http=http, provider=provider, service=service, nodes=api, tell=tell)
            figures |= await demo.log_in_and_out()
            if stage.embedded is not None and keep is None:
                bound_s = stage.settings.staleness_bound_s
                figures["cut_off"] = await demo.cut_off(stage.embedded, staleness_bound_s=bound_s)
            figures |= {"ok": True, "took_s": round(time.perf_counter() - began, 2)}
            if keep is not None:
                await demo.keep(keep)
    return figures


def _tell_broker(stage: Stage, tell: Tell) -> dict[str, Any]:
    address = stage.settings.kafka_bootstrap_servers
    if stage.embedded is None:
        brokers = stage.report.view.answered
        tell("broker", f"cluster at {address}, {brokers} broker{'s' if brokers != 1 else ''}")
        return {"kind": "cluster", "bootstrap": address, "brokers": brokers}
    tell("broker", f"embedded, in memory, {address} (process {stage.embedded.pid})")
    return {"kind": "embedded", "bootstrap": address, "brokers": 1}


def _tell_topic(stage: Stage, tell: Tell) -> dict[str, Any]:
    report: Report = stage.report
    tell("topic", f"{stage.settings.topic} made and checked against its contract")
    for words, found in (("not kept by this broker", report.losing), ("not proven by this broker", report.unproven)):
        if found:
            tell("", f"{words}: {', '.join(sorted({violation.setting for violation in found}))}")
    if stage.embedded is not None:
        tell("", f"reported as set, but not acted on by this broker: {', '.join(IN_NAME_ONLY)}")
        tell("", "(good for showing, not for keeping; a real cluster is checked strictly)")
    return {
        "name": stage.settings.topic,
        "partitions": len(report.view.partitions),
        "not_kept": sorted({violation.setting for violation in report.losing}),
        "not_proven": sorted({violation.setting for violation in report.unproven}),
        "in_name_only": list(IN_NAME_ONLY) if stage.embedded is not None else [],
    }


class _Demo:
    """Two users, one service, several nodes."""

    def __init__(
        self,
        *,
        http: aiohttp.ClientSession,
        provider: IdentityProvider,
        service: DemoProcess,
        nodes: list[DemoProcess],
        tell: Tell,
    ) -> None:
        self._http = http
        self._provider = provider
        self._service = service
        self._nodes = nodes
        self._tell = tell
        self._ada = self._grace = ""

    async def log_in_and_out(self) -> dict[str, Any]:
        """The round trip, and its figures."""
        began = time.perf_counter()
        self._ada, self._grace = await self._log_in("ada"), await self._log_in("grace")
        login_ms = (time.perf_counter() - began) * 500
        self._tell("login", f"ada, grace: 200, cookie {COOKIE}, {login_ms:.1f} ms each")
        await self._expect("call", "ada", self._ada, status=200)
        counted = [await self._count_refusals(node) for node in self._nodes]

        # Asking begins before the logout, so that the first 401 is seen when it comes.
        polls = [asyncio.create_task(self._until_refused(node)) for node in self._nodes]
        try:
            called_at = time.perf_counter()
            await self._log_out()
            answered_at = time.perf_counter()
            refusals = await asyncio.gather(*polls)
        finally:
            for poll in polls:
                poll.cancel()
        self._tell("logout", f"ada: 204 after {(answered_at - called_at) * 1e3:.1f} ms")
        rows = [
            self._tell_refusal(node, refusal, called_at=called_at, answered_at=answered_at)
            for node, refusal in zip(self._nodes, refusals, strict=True)
        ]
        await self._expect("again", "ada", self._ada, status=401)
        for node, before in zip(self._nodes, counted, strict=True):
            refused = await self._count_refusals(node) - before
            if refused < 2:
                raise DemoDiffers(f"{node.name} answered two requests with 401, but its own metrics count {refused:g}")
        last_ms = max(row["after_call_ms"] for row in rows)
        self._tell("", f"refused by {len(rows)} of {len(self._nodes)} nodes, the last {last_ms:.1f} ms after the call")
        await self._expect("others", "grace", self._grace, status=200)
        return {
            "login_ms": round(login_ms, 2),
            "logout": {"status": 204, "took_ms": round((answered_at - called_at) * 1e3, 2)},
            "nodes": rows,
            "refused_by": len(rows),
            "of": len(self._nodes),
            "other_user_admitted_by": len(self._nodes),
        }

    async def cut_off(self, broker: EmbeddedBroker, *, staleness_bound_s: float) -> dict[str, Any]:
        """Stop the broker: what the nodes answer now they can only have from their own memory."""
        process = broker.pid
        broker.kill()
        self._tell("cut off", f"broker killed, process {process} is gone; every node is on its own")
        await self._expect("", "ada", self._ada, status=401)
        await self._expect("", "grace", self._grace, status=200)
        self._tell("", f"(others are let in for the staleness bound, {staleness_bound_s:g} s, then answered 503)")
        return {"refused_by": len(self._nodes), "other_user_admitted_by": len(self._nodes)}

    async def keep(self, until: Callable[[], Awaitable[None]]) -> None:
        """Leave everything up, with lines to try."""
        node, other = self._nodes[0].url, self._nodes[-1].url
        self._tell("keep", "everything stays up until Ctrl-C; try, in another terminal:")
        for line in (
            f"token=$(curl -s -d user=mary {self._provider.issuer}/login | grep -o 'eyJ[^\"]*')",
            f'curl -i -H "Authorization: Bearer $token" {node}/whoami',
            f'curl -i -X POST -H "Authorization: Bearer $token" {self._service.url}/logout',
            f'curl -i -H "Authorization: Bearer $token" {other}/whoami',
            f"curl -s {node}/readyz?verbose; curl -s {node}/metrics | grep ^revoker_",
        ):
            self._tell("", f"  {line}")
        await until()

    async def _log_in(self, user: str) -> str:
        async with self._http.post(f"{self._provider.issuer}/login", data={"user": user}) as answer:
            cookie = answer.cookies.get(COOKIE)
            if answer.status != 200 or cookie is None:
                raise DemoDiffers(f"login of {user}: {answer.status}, expected 200 with a cookie {COOKIE}")
            return cookie.value

    async def _log_out(self) -> None:
        # As a browser does it, from a page of the service's own origin.
        headers = {"Cookie": f"{COOKIE}={self._ada}", "Origin": self._service.url, "Sec-Fetch-Site": "same-origin"}
        async with self._http.post(f"{self._service.url}/logout", headers=headers) as answer:
            if answer.status != 204:
                raise DemoDiffers(
                    f"logout: {answer.status}, expected 204: {await answer.text()}\n{self._service.logged()}"
                )

    async def _call(self, node: DemoProcess, token: str) -> tuple[int, str]:
        async with self._http.get(f"{node.url}/whoami", headers={"Cookie": f"{COOKIE}={token}"}) as answer:
            await answer.read()
            return answer.status, answer.headers.get("WWW-Authenticate", "")

    async def _expect(self, step: str, user: str, token: str, *, status: int) -> None:
        found = [(await self._call(node, token))[0] for node in self._nodes]
        self._tell(step, f"{user}: {' '.join(map(str, found))}")
        if found != [status] * len(self._nodes):
            raise DemoDiffers(f"{user} was answered {found}, expected {status} from every node")

    async def _until_refused(self, node: DemoProcess) -> Refusal:
        deadline = time.perf_counter() + _REFUSED_WITHIN_S
        while True:
            status, challenge = await self._call(node, self._ada)
            now = time.perf_counter()
            if status == 401:
                return Refusal(at=now, www_authenticate=challenge)
            if status != 200:
                raise DemoDiffers(f"{node.name} answered {status} while waiting for the refusal\n{node.logged()}")
            if now > deadline:
                raise DemoDiffers(
                    f"{node.name} still lets ada in {_REFUSED_WITHIN_S:g} s after the logout\n{node.logged()}"
                )
            await asyncio.sleep(_POLL_S)

    def _tell_refusal(
        self, node: DemoProcess, refusal: Refusal, *, called_at: float, answered_at: float
    ) -> dict[str, Any]:
        if "invalid_token" not in refusal.www_authenticate:
            raise DemoDiffers(f'{node.name} refused without WWW-Authenticate: Bearer error="invalid_token"')
        after_call_ms, after_204_ms = (refusal.at - called_at) * 1e3, (refusal.at - answered_at) * 1e3
        order = "after" if after_204_ms >= 0 else "before"
        self._tell(
            "", f"{node.name}: 401, {abs(after_204_ms):.1f} ms {order} the 204 ({after_call_ms:.1f} ms after the call)"
        )
        return {
            "name": node.name,
            "url": node.url,
            "status": 401,
            "www_authenticate": refusal.www_authenticate,
            "after_call_ms": round(after_call_ms, 2),
            "after_204_ms": round(after_204_ms, 2),
        }

    async def _count_refusals(self, node: DemoProcess) -> float:
        async with self._http.get(f"{node.url}/metrics") as answer:
            text = await answer.text()
        found = re.search(r'^revoker_checks_total\{result="revoked"\} (\S+)$', text, re.MULTILINE)
        if found is None:
            raise DemoDiffers(f"{node.name} has no metric revoker_checks_total")
        return float(found[1])

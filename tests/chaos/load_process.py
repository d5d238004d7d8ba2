"""The load on the logout service: issues tokens, has them revoked over HTTP, and asks the nodes over HTTP now and then.

``python -m tests.chaos.load_process CONFIG.json``. Tokens go to a file all nodes read, what the service answered to its
history file. ``/hold``, ``/go``, ``/canary`` and ``/status`` are for the driver.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from tests.chaos.history import Answer, Answered, Outcome, Recorder, Revoked
from tests.chaos.population import Logout, TokenUnderTest, User, draw_user
from tests.chaos.serving import work_until_stopped

__all__ = ["LoadConfig"]

_TURN_S: Final = 0.05
_HTTP_CHECKS_PER_S: Final = 5.0
#: Longer than the service takes to give up on a broker.
_PATIENCE_S: Final = 15.0
#: What a token is refused with that an earlier request, of unknown outcome, has revoked.
_REVOKED: Final = "was revoked"
_WITH_CUTOFF: Final = ("subject", "client")
#: What a wide rule is answered first, and the header that confirms it.
_CONFIRM: Final = 428
_CONFIRMATION: Final = "Revoker-Confirmation"
#: How often whoever was just logged out tries, with the same token, to log out everywhere.
_RETURNING_SHARE: Final = 0.2
#: How often somebody logs out once more, some seconds later: an answer then is worth as much as the first one.
_REPEATING_SHARE: Final = 0.1


class LoadConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told. ``nodes``: their ports. ``service_incarnation``: the file that holds its number."""

    seed: int
    port: int
    history: str
    tokens: str
    service: str
    service_incarnation: str
    nodes: list[int]
    key: str
    admin_secret: str
    users_per_s: float
    longest_life_s: int


class Load:
    """Users come, and are logged out. ``held``: nobody is just now."""

    def __init__(self, config: LoadConfig, session: aiohttp.ClientSession, recorder: Recorder) -> None:
        self.outcomes: Counter[str] = Counter()
        self.surprises: list[str] = []
        self.http_checks: int = 0
        #: Requests refused because the service's disk was full.
        self.disk_full: int = 0
        self.going: asyncio.Event = asyncio.Event()
        self._config = config
        self._session = session
        self._recorder = recorder
        self._chance = random.Random(f"revoker load {config.seed}")
        self._tokens = Path(config.tokens).open("ab", buffering=0)  # noqa: SIM115 - open as long as the process
        self._recent: list[TokenUnderTest] = []
        self._users = 0
        self._under_way = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.going.set()

    async def run(self) -> None:
        """Until cancelled."""
        last = time.monotonic()
        owed = 0.0
        self._spawn(self._http_checks())
        while True:
            await asyncio.sleep(_TURN_S)
            now = time.monotonic()
            owed = min(owed + (now - last) * self._config.users_per_s, 10.0)
            last = now
            while owed >= 1:
                owed -= 1
                user = self._new_user()
                if user.logout is not None:
                    self._spawn(self._log_out(user.logout, wait_s=user.logout.after_s))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.surprises.append(repr(task.exception()))

    def _new_user(self) -> User:
        self._users += 1
        user = draw_user(
            self._chance,
            number=self._users,
            key=self._config.key,
            wall_s=time.time(),
            now_s=time.monotonic(),
            longest_life_s=self._config.longest_life_s,
        )
        for token in user.tokens:
            self._tokens.write(_encoder.encode(token) + b"\n")
        self._recent = [*self._recent[-200:], *user.tokens]
        return user

    async def _log_out(self, logout: Logout, *, wait_s: float) -> Outcome:
        """Ask until it is accepted or the tokens have expired; as a user's client would."""
        await asyncio.sleep(wait_s)
        while True:
            await self.going.wait()
            state, detail = await self._ask(logout)
            if state in ("acknowledged", "stored") and self._chance.random() < _RETURNING_SHARE:
                await self._returns(logout)
            if state in ("acknowledged", "stored") and self._chance.random() < _REPEATING_SHARE:
                await asyncio.sleep(self._chance.uniform(1.0, 15.0))
                await self.going.wait()
                await self._ask(logout)
            if state in ("acknowledged", "stored") or time.time() > logout.exp or _REVOKED in detail:
                return state
            await asyncio.sleep(self._chance.uniform(0.5, 2.0))

    async def _ask(self, logout: Logout) -> tuple[Outcome, str]:
        self._under_way += 1
        asked_at = time.monotonic()
        event_id, incarnation = "", self._incarnation()
        try:
            status, body = await self._post(logout)
            state, event_id, detail = self._judged(status, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Nothing was sent if nobody listens; otherwise nobody knows.
            state = "refused" if isinstance(error, aiohttp.ClientConnectorError) else "unknown"
            detail = type(error).__name__
        finally:
            self._under_way -= 1
        self._recorder(
            Revoked(
                at=time.monotonic(),
                asked_at=asked_at,
                tokens=logout.tokens,
                state=state,
                exp=logout.exp,
                event_id=event_id,
                by="service",
                incarnation=incarnation,
                kind=logout.kind,
                detail=detail,
            )
        )
        self.outcomes[state] += 1
        self.disk_full += "disk is full" in detail
        return state, detail

    async def _returns(self, logout: Logout) -> None:
        """Somebody with a copy of the token tries to use it: the process that accepted the revocation refuses at once.

        Only with tokens that are their user's only one: were it let through, it would log out nobody else.
        """
        if logout.bearer is None or logout.scope != "token":
            return
        incarnation, asked_at = self._incarnation(), time.monotonic()
        again = replace(logout, scope="everywhere")
        try:
            status, _ = await self._post(again)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return
        answers: dict[int, Answer] = {401: "denied", 200: "allowed", 202: "allowed", 204: "allowed"}
        if self._incarnation() == incarnation and status in answers:
            self._recorder(
                Answered(
                    at=time.monotonic(),
                    node="service",
                    incarnation=incarnation,
                    token=logout.tokens[0],
                    answer=answers[status],
                    asked_at=asked_at,
                )
            )

    async def _post(self, logout: Logout) -> tuple[int, dict[str, Any]]:
        service, timeout = self._config.service, aiohttp.ClientTimeout(total=_PATIENCE_S)
        body: dict[str, Any]
        if logout.bearer is not None:
            path, bearer, body = "/logout", logout.bearer, {"scope": logout.scope}
        else:
            path, bearer, body = "/revocations", self._config.admin_secret, logout.body or {}
        if logout.kind in _WITH_CUTOFF and logout.body is not None:
            # Said outright: the service's clock may be set back behind the issue of the tokens.
            body = body | {"cutoff": int(time.time())}
        headers = {"Authorization": f"Bearer {bearer}"}
        while True:
            async with self._session.post(service + path, json=body, headers=headers, timeout=timeout) as answer:
                text = await answer.read()
            told = msgspec.json.decode(text) if text.startswith(b"{") else {}
            if answer.status != _CONFIRM or _CONFIRMATION in headers:
                return answer.status, told
            headers[_CONFIRMATION] = told["confirmation"]

    def _judged(self, status: int, body: dict[str, Any]) -> tuple[Outcome, str, str]:
        event_id = str(body.get("event_id") or "")
        detail = f"{status} {body.get('code', '')} {body.get('detail', '')}"[:200].strip()
        if status in (200, 204):
            return ("stored" if body.get("state") == "stored" else "acknowledged"), event_id, ""
        if status == 202:
            return "stored", event_id, ""
        if status == 503 and body.get("outcome") != "unknown":
            return "refused", event_id, detail
        if 400 <= status < 500:
            return "refused", event_id, detail
        if status != 503:
            self.surprises.append(detail)
        return "unknown", event_id, detail

    def _incarnation(self) -> int:
        return int(Path(self._config.service_incarnation).read_text(encoding="ascii") or "0")

    async def _http_checks(self) -> None:
        """The same question by the whole way an API's client takes; the nodes note what they answer."""
        while True:
            await asyncio.sleep(1 / _HTTP_CHECKS_PER_S)
            alive = [token for token in self._recent if token.until_at > time.monotonic() + 1]
            if alive:
                token, port = self._chance.choice(alive), self._chance.choice(self._config.nodes)
                self._spawn(self._http_check(token, port))

    async def _http_check(self, token: TokenUnderTest, port: int) -> None:
        headers = {"Authorization": f"Bearer {token.jwt}", "X-Token-Name": token.name}
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with self._session.get(f"http://127.0.0.1:{port}/whoami", headers=headers, timeout=timeout) as got:
                self.http_checks += 1
                if got.status not in (200, 401, 503):
                    self.surprises.append(f"/whoami answered {got.status}: {(await got.text())[:200]}")
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # the node is dead or stopped, as it may be

    async def hold(self) -> None:
        """Have nobody logged out until `going` is set again; returns when nothing is under way."""
        self.going.clear()
        while self._under_way:  # noqa: ASYNC110 - several requests, one number
            await asyncio.sleep(_TURN_S)

    async def canary(self) -> str | None:
        """Issue one token and revoke it now; its name if that was accepted, else None."""
        self._users += 1
        user = draw_user(
            random.Random("logged out at once"),
            number=self._users,
            key=self._config.key,
            wall_s=time.time(),
            now_s=time.monotonic(),
            longest_life_s=self._config.longest_life_s,
        )
        token = user.tokens[0]
        self._tokens.write(_encoder.encode(token) + b"\n")
        logout = Logout(after_s=0, kind="token", tokens=(token.name,), exp=token.exp, bearer=token.jwt, scope="token")
        return token.name if (await self._ask(logout))[0] in ("acknowledged", "stored") else None


_encoder = msgspec.json.Encoder()


def _application(load: Load) -> web.Application:
    async def hold(_request: web.Request) -> web.Response:
        await load.hold()
        return web.json_response({})

    async def go(_request: web.Request) -> web.Response:
        load.going.set()
        return web.json_response({})

    async def canary(_request: web.Request) -> web.Response:
        return web.json_response({"token": await load.canary()})

    async def status(_request: web.Request) -> web.Response:
        return web.json_response(
            {
                "outcomes": load.outcomes,
                "surprises": load.surprises[:20],
                "http_checks": load.http_checks,
                "disk_full": load.disk_full,
            }
        )

    app = web.Application()
    app.router.add_post("/hold", hold)
    app.router.add_post("/go", go)
    app.router.add_post("/canary", canary)
    app.router.add_get("/status", status)
    return app


async def _main(config: LoadConfig) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    with Recorder(Path(config.history)) as recorder:
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            load = Load(config, session, recorder)
            await work_until_stopped(load.run(), app=_application(load), port=config.port)


if __name__ == "__main__":
    asyncio.run(_main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=LoadConfig)))

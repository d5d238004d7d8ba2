"""One node of the fleet under test: the product's `Node` in a process of its own, and a loop that asks it all the time.

``python -m tests.chaos.node_process CONFIG.json``. What it answers goes to its history file; ``/whoami``, ``/readyz``
and ``/metrics`` are the product's; ``/status``, ``/answers`` and ``/final`` are for the driver.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web
from jwt import InvalidTokenError

from consumers.aiohttp import CLAIMS, DECISION, add_health_routes, public, setup
from consumers.denylist.purge import PurgeClock
from consumers.freshness import State
from consumers.guard import Status
from consumers.node import Node
from revoker.cli.logs import configure
from revoker.errors import NotProven
from revoker.settings import Settings
from revoker.tokens import TokenRevoked
from tests.chaos.history import (
    Answer,
    AnswerLog,
    NodeException,
    NodeReady,
    NodeStale,
    NodeStarted,
    Recorder,
)
from tests.chaos.history import Final as FinalAnswers
from tests.chaos.population import TokenUnderTest
from tests.chaos.serving import work_until_stopped

__all__ = ["NodeConfig"]

_TURN_S: Final = 0.02
_SUMMARY_S: Final = 5.0
#: Every so many checks goes the whole way, signature included.
_AUTHENTICATE_EVERY: Final = 50
#: A node that was stopped for seconds does not make up for all it missed in one turn.
_MOST_CHECKS_A_TURN: Final = 400
#: The product's is five minutes; the tokens of a run live less than that, and forgetting is to be seen.
_PURGE_GRACE_S: Final = 5.0
_NO_REVOCATION: Final = ("malformed", "long_lived")


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told. ``settings``: of the product. ``tokens``: the file the load writes them to."""

    name: str
    incarnation: int
    port: int
    history: str
    tokens: str
    checks_per_s: int
    settings: dict[str, Any]


class Asker:
    """Asks one node about every token that has not expired, round and round."""

    def __init__(self, node: Node, config: NodeConfig, recorder: Recorder) -> None:
        self.checks: int = 0
        self.exceptions: int = 0
        self.tokens: dict[str, TokenUnderTest] = {}
        self._node = node
        self._config = config
        self._recorder = recorder
        self._log = AnswerLog(recorder, node=config.name, incarnation=config.incarnation)
        self._read_up_to = 0
        self._queue: list[TokenUnderTest] = []
        self._live = False

    async def run(self) -> None:
        """Until cancelled."""
        last = summary_at = time.monotonic()
        owed = 0.0
        while True:
            await asyncio.sleep(_TURN_S)
            now = time.monotonic()
            owed = min(owed + (now - last) * self._config.checks_per_s, _MOST_CHECKS_A_TURN)
            last = now
            self._note_state()
            self._read_tokens()
            while owed >= 1:
                owed -= 1
                self._check_next()
            if now - summary_at >= _SUMMARY_S:
                summary_at = now
                self._log.summarize()
                self._forget(now)

    def _note_state(self) -> None:
        at, live = time.monotonic(), self._node.freshness.state is State.LIVE
        if live != self._live:
            self._live = live
            name, incarnation = self._config.name, self._config.incarnation
            if live:
                self._recorder(NodeReady(at=at, node=name, incarnation=incarnation))
            else:
                why = self._node.freshness.why()
                self._recorder(NodeStale(at=at, node=name, incarnation=incarnation, reason=why))

    def _read_tokens(self) -> None:
        with Path(self._config.tokens).open("rb") as file:
            file.seek(self._read_up_to)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_up_to += len(whole) + len(newline)
        now = time.monotonic()
        for line in whole.splitlines():
            token = _decoder.decode(line)
            if token.until_at > now:
                self.tokens[token.name] = token

    def _forget(self, now: float) -> None:
        for name in [name for name, token in self.tokens.items() if token.until_at <= now]:
            del self.tokens[name]

    def _check_next(self) -> None:
        if not self._queue:
            self._queue = list(self.tokens.values())
            if not self._queue:
                return
        token = self._queue.pop()
        if token.until_at > time.monotonic():
            self.check(token, whole=self.checks % _AUTHENTICATE_EVERY == 0)

    def check(self, token: TokenUnderTest, *, whole: bool = False) -> Answer | None:
        """One check, recorded; None if it raised what is no answer. ``whole``: with the signature."""
        freshness = self._node.freshness
        asked_at = time.monotonic()
        proved_at = freshness.fresh_until - freshness.bound_s
        try:
            answer = self._authenticate(token) if whole else self._ask(token)
        except Exception as error:  # noqa: BLE001 - whatever it is: a check may raise nothing
            self.exceptions += 1
            self._recorder(
                NodeException(
                    at=time.monotonic(),
                    node=self._config.name,
                    incarnation=self._config.incarnation,
                    error=repr(error),
                )
            )
            return None
        finally:
            self.checks += 1
        self.saw(token.name, answer, asked_at=asked_at, proved_at=proved_at)
        return answer

    def saw(self, name: str, answer: Answer, *, asked_at: float, proved_at: float) -> None:
        """Note one answer, by whichever door it came."""
        known = max(proved_at, 0.0)
        self._log.saw(name, answer, asked_at=asked_at, answered_at=time.monotonic(), proved_at=known)

    def _ask(self, token: TokenUnderTest) -> Answer:
        decision = self._node.guard.check(token.claims, token=None if "jti" in token.claims else token.jwt)
        if decision.status is Status.REVOKED:
            return "invalid" if decision.kind in _NO_REVOCATION else "denied"
        if decision.status is Status.ACTIVE:
            return "allowed"
        return "flagged" if decision.admitted else "unknown"

    def _authenticate(self, token: TokenUnderTest) -> Answer:
        try:
            _, decision = self._node.judge(token.jwt)
        except TokenRevoked as error:
            return "invalid" if error.kind in _NO_REVOCATION else "denied"
        except InvalidTokenError:
            return "invalid"
        except NotProven:
            return "unknown"
        return "allowed" if decision.status is Status.ACTIVE else "flagged"

    def final(self) -> dict[str, Any]:
        """Ask about everything now, and record it as the last word."""
        self._read_tokens()
        self._forget(time.monotonic())
        asked_at = time.monotonic()
        answers: dict[str, list[str]] = {"denied": [], "allowed": [], "unknown": [], "invalid": []}
        for token in list(self.tokens.values()):
            answer = self.check(token)
            if token.until_at > time.monotonic():
                answers["unknown" if answer in (None, "flagged") else str(answer)].append(token.name)
        self._recorder(
            FinalAnswers(
                at=time.monotonic(),
                node=self._config.name,
                incarnation=self._config.incarnation,
                asked_at=asked_at,
                **{name: tuple(tokens) for name, tokens in answers.items()},
            )
        )
        return {name: len(tokens) for name, tokens in answers.items()}

    def close(self) -> None:
        """Write what has not been written."""
        self._log.summarize()


_decoder = msgspec.json.Decoder(TokenUnderTest)


def _status(node: Node, asker: Asker, config: NodeConfig) -> dict[str, Any]:
    freshness, intake = node.freshness, node.intake
    return {
        "name": config.name,
        "incarnation": config.incarnation,
        "state": freshness.state.name.lower(),
        "why": freshness.why(),
        "missing": [one.proof for one in freshness.missing()],
        "positions": {str(number): position for number, position in freshness.positions.items()},
        "topic_id": str(node.follower.view.topic_id) if node.follower.view is not None else None,
        "sessions": node.follower.sessions_total,
        "tolerates": node.settings.tolerate_undecodable,
        "unread": sum(intake.unread_total.values()),
        "entries": sum(node.denylist.counts().values()),
        "checks": asker.checks,
        "exceptions": asker.exceptions,
        "wall_minus_monotonic": time.time() - time.monotonic(),
    }


def _recorded(asker: Asker, node: Node) -> Any:
    """A middleware outside the product's, which notes what ``/whoami`` answered."""

    @web.middleware
    async def record(request: web.Request, handler: Any) -> web.StreamResponse:
        name = request.headers.get("X-Token-Name")
        asked_at, proved_at = time.monotonic(), node.freshness.fresh_until - node.freshness.bound_s
        response: web.StreamResponse = await handler(request)
        if name is not None and name in asker.tokens:
            revoked = response.status == 401 and b"was revoked" in (getattr(response, "body", b"") or b"")
            admitted: Answer = "flagged" if response.headers.get("X-Unproven") else "allowed"
            answer: Answer = {200: admitted, 401: "denied" if revoked else "invalid", 503: "unknown"}[response.status]
            asker.saw(name, answer, asked_at=asked_at, proved_at=proved_at)
        return response

    return record


def _application(node: Node, asker: Asker, config: NodeConfig) -> web.Application:
    app = web.Application(middlewares=[_recorded(asker, node)])
    setup(app, node, run_node=False)
    add_health_routes(app, node)

    async def whoami(request: web.Request) -> web.Response:
        unproven = request[DECISION].status is not Status.ACTIVE
        return web.json_response({"sub": request[CLAIMS]["sub"]}, headers={"X-Unproven": "1"} if unproven else {})

    @public
    async def status(_request: web.Request) -> web.Response:
        return web.json_response(_status(node, asker, config))

    @public
    async def answers(request: web.Request) -> web.Response:
        token = asker.tokens.get(request.query["token"])
        return web.json_response({"answer": None if token is None else asker.check(token)})

    @public
    async def final(_request: web.Request) -> web.Response:
        return web.json_response(asker.final())

    app.router.add_get("/whoami", whoami)
    app.router.add_get("/status", status)
    app.router.add_get("/answers", answers)
    app.router.add_post("/final", final)
    return app


async def _main(config: NodeConfig) -> None:
    with Recorder(Path(config.history)) as recorder:
        recorder(NodeStarted(at=time.monotonic(), node=config.name, incarnation=config.incarnation, pid=os.getpid()))
        node = Node(Settings(**config.settings))
        node.intake.purge_clock = PurgeClock(wall=time.time, monotonic=time.monotonic, grace_s=_PURGE_GRACE_S)
        asker = Asker(node, config, recorder)
        async with node:
            await work_until_stopped(asker.run(), app=_application(node, asker, config), port=config.port)
            asker.close()


if __name__ == "__main__":
    loaded = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=NodeConfig)
    configure(level="info", form="text")
    asyncio.run(_main(loaded))

"""Thousands of bad requests to `revoker serve` and `revoker node`.

Each is answered as the document of the API says, without a 5xx but an honest 503; and no traceback, no token and no
secret is in an answer or on standard error.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from revoker import topic
from revoker.cli.children import die_with_parent
from revoker.settings import environment_without_settings
from tests import samples
from tests.bad_inputs import LEAST, TRIED, Generated, tried
from tests.broker.conftest import settings_for
from tests.conftest import Broker
from tests.leaks import look
from tests.rude_http import raw_request, sent_raw
from tests.service_door import ADMIN_TOKENS, NOBODY, ROOT_SECRET, SUPPORT_SECRET

load_all_checks()

PATIENCE_S: Final = 30.0
SECRETS: Final = (ROOT_SECRET, SUPPORT_SECRET, samples.SECRET)
CONFORMANCE: Final = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass(frozen=True)
class Running:
    """A command that listens. ``answers``: how often each status was met."""

    url: str
    process: subprocess.Popen[bytes]
    errors: Path
    answers: Counter[int] = field(default_factory=Counter)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)


@contextmanager
def listening(command: str, environ: Mapping[str, str], *, folder: Path) -> Iterator[Running]:
    """`revoker COMMAND` with these settings; at the end it still lives, and has written no traceback and no secret."""
    errors = folder / f"{command}.err"
    own = {f"REVOKER_{name.upper()}": value for name, value in environ.items()}
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            die_with_parent([sys.executable, "-m", "revoker", command, "--json"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment_without_settings() | own | {"REVOKER_LISTEN": "127.0.0.1:0"},
        )
    try:
        assert process.stdout is not None
        yield Running(json.loads(process.stdout.readline())["url"], process, errors)
        assert process.poll() is None, f"it has died: {errors.read_text('utf-8')[-2000:]}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    written = errors.read_text("utf-8")
    look(written, where=f"standard error of revoker {command}")
    assert "Traceback" not in written, written[-3000:]


@pytest.fixture(scope="module", params=["there", "away", "away, with an outbox"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`revoker serve` with Kafka there, away, and away with an outbox."""
    folder = tmp_path_factory.mktemp("service")
    environ = {
        "algorithms": "HS256",
        "key_secret": samples.SECRET,
        "admin_tokens": ADMIN_TOKENS,
        "topic": f"bad-requests-{random.randrange(10**9)}",
        "topic_replication_factor": "1",
        "topic_min_insync_replicas": "1",
        "kafka_bootstrap_servers": NOBODY,
        "publish_timeout_s": "0.1",
        "issuer": "https://id.example",
    }
    if request.param == "there":
        broker: Broker = request.getfixturevalue("apache")
        environ |= {"kafka_bootstrap_servers": broker.bootstrap, "publish_timeout_s": "15"}
        asyncio.run(topic.create(settings_for(broker.bootstrap, environ["topic"])))
    if "outbox" in request.param:
        environ["outbox_file"] = str(folder / "outbox.db")
    with listening("serve", environ, folder=folder) as running:
        yield running


def credentials(choice: int, *, admin: bool) -> dict[str, str]:
    """Mostly good ones, so that what comes behind is reached."""
    good = ROOT_SECRET if admin else samples.token(iss="https://id.example")
    shapes: tuple[dict[str, str], ...] = (
        {"Authorization": f"Bearer {good}"},
        {"Cookie": f"USER_SESSION={good}"},
        {"Authorization": f"Bearer {SUPPORT_SECRET}"},
        {"Authorization": f"Basic {good}"},
        {"Authorization": f"Bearer {good[:-1]}"},
        {},
    )
    return shapes[max(0, choice - 8) % len(shapes)]


def check(running: Running, status: int, text: bytes, *, sent: Mapping[str, str]) -> None:
    """What holds for every answer, whatever was asked. ``text``: headers and body."""
    running.answers[status] += 1
    assert status < 500 or status == 503, text
    assert b"Traceback" not in text
    brought = [value.rpartition(" ")[2].rpartition("=")[2] for value in sent.values()]
    for secret in (*SECRETS, *brought):
        assert len(secret) < 12 or secret.encode() not in text, "an answer repeats a credential"


def test_the_service_answers_as_its_document_says(service: Running) -> None:
    """Bodies, parameters and headers made from the document, right and wrong: each answer is one it announces."""
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    session = requests.Session()
    before = service.answers.total()
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        for mode in schemathesis.GenerationMode if operation.method.upper() == "POST" else (_POSITIVE,):
            ask_all(service, session, operation.as_strategy(generation_mode=mode), writes=operation.method == "post")
    made = service.answers.total() - before
    assert made >= LEAST["requests to the service"] // 3
    assert {200, 400, 401, 403, 422, 428} < set(service.answers), "too little of the API was reached"
    TRIED["requests to the service"] += made


_POSITIVE: Final = schemathesis.GenerationMode.POSITIVE


def ask_all(service: Running, session: requests.Session, cases: st.SearchStrategy[Any], *, writes: bool) -> None:
    """Send as many of the cases as there should be."""

    @hypothesis_settings(
        max_examples=LEAST["requests to the service"] // 3 // 4 if writes else 10,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, choice=st.integers(0, 13))
    def ask(case: Any, choice: int) -> None:
        headers = credentials(choice, admin=case.path == "/revocations") if writes else {}
        response = case.call(session=session, headers=headers)
        text = f"{response.headers}".encode() + response.content
        check(service, response.status_code, text, sent=headers)
        if response.status_code == 503:
            assert "retry-after" in response.headers or b"[-]" in response.content
        case.validate_response(response, checks=CONFORMANCE)

    ask()


def rude(running: Running, kind: str, *, share: float, token: str) -> None:
    """Send raw requests, a hundred at a time, and look at every answer."""

    async def ask(request: bytes) -> None:
        answer = await sent_raw(*running.address, request)
        statuses = [int(found) for found in re.findall(rb"(?:^|\n)HTTP/\d\.\d (\d\d\d)", answer)]
        assert statuses or answer == b"", answer
        for status in statuses:
            check(running, status, answer, sent={"token": token})

    async def ask_all(inputs: Generated) -> None:
        made = (raw_request(rng, token) for rng in inputs)
        while batch := list(itertools.islice(made, 100)):
            await asyncio.gather(*map(ask, batch))

    with tried(kind, share=share) as inputs:
        asyncio.run(ask_all(inputs))
    assert {200, 400} < set(running.answers)


def test_the_service_takes_rude_http(service: Running) -> None:
    """Requests that are hardly HTTP are answered or cut off, and repeat nothing of the token in them."""
    stranger = samples.token(secret="s3cr3t-of-somebody-else, long enough")
    rude(service, "rude requests to the service", share=1 / 3, token=stranger)
    assert {404, 405} < set(service.answers)


def test_a_node_takes_rude_http(tmp_path: Path) -> None:
    """So does a node, whose Kafka is away: it lets nobody in."""
    environ = {"algorithms": "HS256", "key_secret": samples.SECRET, "kafka_bootstrap_servers": NOBODY}
    with listening("node", environ, folder=tmp_path) as node:
        rude(node, "requests to a node", share=1, token=samples.token())
        assert {401, 503} < set(node.answers)

"""The service without Kafka: every refusal that needs no broker, over real HTTP, and what it costs to be rude."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from revoker.errors import SettingsError
from revoker.keys import keys_from_settings
from revoker.service.server import serving
from revoker.tokens import Verified, sign
from tests import samples, signing
from tests.service_door import (
    NOBODY,
    ROOT_SECRET,
    SUPPORT_SECRET,
    Door,
    always,
    hanging,
    open_door,
    silent_broker,
)
from tests.service_door import without_kafka as settings

CLEARED = "USER_SESSION=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; Secure; HttpOnly; SameSite=Lax"


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A service whose Kafka is away."""
    async with open_door(settings()) as found:
        yield found


async def test_without_kafka_a_logout_is_503_and_the_cookie_stays(door: Door) -> None:
    """The user is not logged out: 503 with Retry-After in time, the outcome named, and the browser keeps the token."""
    began = time.monotonic()
    answer = await door.logout(cookie=samples.token())
    assert time.monotonic() - began < settings().publish_timeout_s
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (answer.problem["code"], answer.problem["outcome"]) == ("not_published", "not_accepted")
    assert "Set-Cookie" not in answer.headers
    assert NOBODY not in answer.body.decode()


async def test_without_kafka_the_service_lives_and_is_not_ready(door: Door) -> None:
    """/livez is 200, since no restart would help; /readyz is 503 and names the broker's address and the reason."""
    assert (await door.ask("GET", "/livez")).status == 200
    assert (await door.ask("GET", "/healthz")).status == 200
    answer = await door.until("/readyz?verbose", status=503)
    assert b"[-]broker failed" in answer.body
    assert b"[+]keys ok" in answer.body


async def test_many_logouts_at_once_are_refused_in_time() -> None:
    """Callers whose Kafka takes connections and stays silent do not wait for one another beyond publish_timeout_s."""
    async with silent_broker() as address, open_door(settings(**hanging(address))) as door:
        began = time.monotonic()
        answers = await asyncio.gather(*(door.logout(samples.token()) for _ in range(30)))
        took_s = time.monotonic() - began
    assert {answer.status for answer in answers} == {503}
    assert took_s < 5


async def test_a_logout_in_progress_is_answered_before_the_service_ends() -> None:
    """Stopping waits for requests in progress: a deployment does not leave users without an answer."""
    arrived = asyncio.Event()

    def is_revoked(token: Verified) -> bool:
        arrived.set()
        return False

    async with silent_broker() as address, aiohttp.ClientSession() as session:
        async with open_door(settings(**hanging(address)), is_revoked=is_revoked) as door:
            headers = {"Authorization": f"Bearer {samples.token()}"}
            request = asyncio.create_task(
                session.post(f"{door.origin}/logout", headers=headers, json={"scope": "everywhere"})
            )
            async with asyncio.timeout(30):
                await arrived.wait()
            assert not request.done()
        assert (await request).status == 503


async def test_no_token_is_401_with_a_bare_challenge(door: Door) -> None:
    """RFC 6750 section 3.1: who brings no credentials is told no error."""
    answer = await door.logout()
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="api"')
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == ("application/problem+json", "no-store")


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("nonsense", "segments"),
        (samples.token(exp=5, iat=1), "expired"),
        (samples.token(secret="s3cr3t-another that signs this one"), "Signature"),
        ("a.b.c.d.e", "JWE"),
    ],
)
async def test_a_token_that_is_not_valid_is_401_and_its_cookie_is_cleared(door: Door, token: str, words: str) -> None:
    """error=invalid_token with a reason; a cookie that no node takes is of no use, one in the header is not there."""
    in_header, in_cookie = await door.logout(token), await door.logout(cookie=token)
    for answer in (in_header, in_cookie):
        assert answer.status == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert words in answer.problem["detail"]
        assert token not in answer.body.decode() + answer.headers["WWW-Authenticate"]
    assert "Set-Cookie" not in in_header.headers
    assert in_cookie.headers.getall("Set-Cookie") == [CLEARED]


async def test_a_token_in_the_query_string_is_none(door: Door) -> None:
    """RFC 6750 section 5.3: query strings end up in logs, so no token is read from there."""
    assert (await door.ask("POST", f"/logout?access_token={samples.token()}")).problem["code"] == "token_missing"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 503),
        ({"Origin": "SELF"}, 503),
        ({"Sec-Fetch-Site": "same-origin"}, 503),
        ({"Origin": "https://app.example.com", "Sec-Fetch-Site": "same-site"}, 503),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://shop.example.com", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_a_cookie_counts_only_on_the_users_own_requests(headers: dict[str, str], status: int) -> None:
    """403 for other pages, naming allowed_origins; 503 here means let through, to a Kafka that is away."""
    async with open_door(settings(allowed_origins=("https://app.example.com",))) as door:
        sent = {name: door.origin if value == "SELF" else value for name, value in headers.items()}
        answer = await door.logout(cookie=samples.token(), headers=sent)
        by_header = await door.logout(samples.token(), headers=sent)
    assert answer.status == status
    assert by_header.status == 503
    if status == 403:
        assert "allowed_origins" in answer.problem["detail"]
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(("scope", "missing"), [("everywhere", "sub"), ("elsewhere", "sid or jti")])
async def test_a_scope_the_token_cannot_support_is_422(door: Door, scope: str, missing: str) -> None:
    """The problem names the claim that the scope needs."""
    now = int(time.time())
    claims = {"iat": now, "exp": now + 60} | ({} if missing == "sub" else {"sub": "alice"})
    answer = await door.logout(sign(claims, key=samples.SECRET, algorithm="HS256"), json={"scope": scope})
    assert (answer.status, answer.problem["code"]) == (422, "invalid_revocation")
    assert missing in answer.problem["detail"]


async def test_a_token_that_outlives_the_topic_is_422_with_both_numbers(door: Door) -> None:
    """A revocation that would be forgotten before the token expires is refused, in both endpoints."""
    far = int(time.time()) + 10 * 86400
    by_user = await door.logout(samples.token(exp=far))
    by_admin = await door.revoke({"kind": "token", "iss": "", "jti": "j", "exp": far})
    for answer in (by_user, by_admin):
        assert (answer.status, answer.problem["code"]) == (422, "token_outlives_topic")
        assert answer.problem["longest_token_life_s"] == 86400
        assert 863_000 < answer.problem["token_life_s"] <= 864_000


async def test_a_revoked_token_logs_out_nothing_but_itself() -> None:
    """Itself once more, which is 503 while Kafka is away; 401 for anything wider, which a thief could abuse."""
    async with open_door(settings(), is_revoked=always(True)) as door:
        itself = await door.logout(cookie=samples.token())
        wider = [await door.logout(cookie=samples.token(), json={"scope": s}) for s in ("everywhere", "elsewhere")]
    assert (itself.status, "Set-Cookie" in itself.headers) == (503, False)
    for answer in wider:
        assert (answer.status, answer.problem["detail"]) == (401, "The token was revoked")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("known", [False, None])
async def test_a_token_not_known_to_be_revoked_may_act(known: bool | None) -> None:
    """Not revoked and not known go on to publishing, which is 503 here."""
    async with open_door(settings(), is_revoked=always(known)) as door:
        assert (await door.logout(samples.token(), json={"scope": "everywhere"})).status == 503


async def test_keys_that_are_not_there_yet_are_503_and_spare_the_cookie() -> None:
    """While a key set cannot be fetched, whether a token is valid is not known: no 401, and the cookie stays."""
    unreachable = settings(
        jwks_url="http://127.0.0.1:1/jwks", key_secret=None, algorithms=("ES256",), jwks_timeout_s=0.5
    )
    token = sign(signing.claims(), key=signing.signing_key("ES256"), algorithm="ES256", headers={"kid": "new"})
    async with open_door(unreachable) as door:
        answer = await door.logout(cookie=token)
        readiness = await door.until("/readyz?verbose", status=503)
    assert (answer.status, answer.problem["code"], answer.headers["Retry-After"]) == (503, "not_known_yet", "1")
    assert "Set-Cookie" not in answer.headers
    assert b"[-]keys failed" in readiness.body


async def test_who_may_publish_revocations(door: Door) -> None:
    """401 without a known secret, and a user's token is none; 403 naming the kind beyond one's scopes."""
    body = {"kind": "all"}
    nobody = await door.ask("POST", "/revocations", json=body)
    assert (nobody.status, nobody.headers["WWW-Authenticate"]) == (401, 'Bearer realm="api"')
    for secret in ("x" * 20, samples.token()):
        stranger = await door.revoke(body, secret=secret)
        assert (stranger.status, stranger.problem["code"]) == (401, "token_invalid")
    support = await door.revoke(body, secret=SUPPORT_SECRET)
    assert (support.status, support.problem["code"]) == (403, "insufficient_scope")
    assert 'error="insufficient_scope"' in support.headers["WWW-Authenticate"]
    assert "kind all" in support.problem["detail"]
    assert (await door.confirmed(body)).status == 503


async def test_an_admins_cookie_is_worth_nothing(door: Door) -> None:
    """POST /revocations reads no cookie, so no page can make a browser send one."""
    answer = await door.ask(
        "POST", "/revocations", json={"kind": "all"}, headers={"Cookie": f"USER_SESSION={ROOT_SECRET}"}
    )
    assert answer.status == 401


async def test_without_admins_nobody_may() -> None:
    """403 naming the setting, whatever the secret."""
    async with open_door(settings(admin_tokens=None)) as door:
        answer = await door.revoke({"kind": "all"})
    assert (answer.status, answer.problem["code"]) == (403, "no_admins")
    assert "admin_tokens" in answer.problem["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_body"),
        (b"[" * 50000, 400, "malformed_body"),
        (b"", 400, "malformed_body"),
        (b"[]", 422, "invalid_body"),
        (b'{"kind":"sesion"}', 422, "invalid_body"),
        (b'{"kind":"all","jti":"x"}', 422, "unknown_field"),
        (b'{"kind":"all","cutoff":9999999999}', 422, "invalid_revocation"),
        (b'{"kind":"subject","iss":"","sub":"s","spare_sid":"a","spare_jti":"b"}', 422, "invalid_revocation"),
    ],
)
async def test_a_body_that_is_wrong_is_told_so(door: Door, body: bytes, status: int, code: str) -> None:
    """400 for what is no JSON, 422 for what means nothing, before anything is sent."""
    headers = {"Authorization": f"Bearer {ROOT_SECRET}", "Content-Type": "application/json"}
    answer = await door.ask("POST", "/revocations", data=body, headers=headers)
    assert (answer.status, answer.problem["code"]) == (status, code)


@pytest.mark.parametrize("path", ["/logout", "/revocations"])
async def test_other_types_and_compressed_bodies_are_415(door: Door, path: str) -> None:
    """The types that are taken stand in the header Accept, the encoding in Accept-Encoding."""
    bearer = {"Authorization": f"Bearer {ROOT_SECRET if path == '/revocations' else samples.token()}"}
    text = await door.ask("POST", path, data=b"scope=token", headers=bearer | {"Content-Type": "text/plain"})
    packed = await door.ask(
        "POST", path, data=b"x", headers=bearer | {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    )
    assert (text.status, packed.status) == (415, 415)
    assert "application/json" in text.headers["Accept"]
    assert packed.headers["Accept-Encoding"] == "identity"


async def test_wrong_paths_and_methods_are_problems(door: Door) -> None:
    """404 and 405 are problem+json as well; 405 names the right methods in Allow."""
    nowhere, get, put = (
        await door.ask("GET", "/nowhere"),
        await door.ask("GET", "/logout"),
        await door.ask("PUT", "/readyz"),
    )
    assert (nowhere.status, nowhere.problem["code"]) == (404, "not_found")
    assert (get.status, get.headers["Allow"]) == (405, "POST")
    assert (put.status, put.headers["Allow"]) == (405, "GET,HEAD")


async def test_a_defect_is_a_500_without_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """What went wrong stands in the log, with a traceback, and not in the answer."""

    def broken(token: Verified) -> bool:
        raise ValueError("an inner detail")

    async with open_door(settings(), is_revoked=broken) as door:
        answer = await door.logout(samples.token(), json={"scope": "everywhere"})
    assert (answer.status, answer.problem["code"]) == (500, "internal_server_error")
    assert "inner detail" not in answer.body.decode()
    assert "an inner detail" in caplog.text


async def test_metrics_count_by_route_and_name_nobody(door: Door) -> None:
    """Answers are counted under the route's pattern and the class of status; a path a client chose is no label."""
    await door.logout()
    await door.logout(samples.token())
    await door.ask("GET", "/nowhere/alice")
    text = (await door.ask("GET", "/metrics")).body.decode()
    assert 'revoker_http_answers_total{route="/logout",status="4xx"} 1.0' in text
    assert 'revoker_http_answers_total{route="/logout",status="5xx"} 1.0' in text
    assert 'revoker_http_answers_total{route="unmatched",status="4xx"} 1.0' in text
    assert 'revoker_publications_total{outcome="refused"} 1.0' in text
    assert "revoker_service_ready 0.0" in text
    assert "alice" not in text


async def test_a_dead_background_task_asks_for_a_restart() -> None:
    """If the task that fetches keys dies, /livez and /readyz are 503 and name it."""

    class DyingKeys(signing.FixedKeys):
        async def run(self) -> None:
            raise ValueError("a defect")

    async with open_door(settings(), keys=DyingKeys(*keys_from_settings(settings()).candidates(None, "HS256"))) as door:
        alive = await door.until("/livez", status=503)
        ready = await door.ask("GET", "/readyz")
    assert b"[-]keys failed: the task died (ValueError)" in alive.body
    assert b"the task died" in ready.body


async def test_the_document_is_served(door: Door) -> None:
    """/openapi.json is there, as JSON."""
    answer = await door.ask("GET", "/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert b'"openapi":"3.1.0"' in answer.body


async def test_every_answer_forbids_storing_it(door: Door) -> None:
    """Cache-Control: no-store stands on all answers, good or bad, and none names the software's versions."""
    for method, path in [
        ("GET", "/livez"),
        ("GET", "/metrics"),
        ("GET", "/x"),
        ("POST", "/logout"),
        ("GET", "/logout"),
    ]:
        headers = (await door.ask(method, path)).headers
        assert (headers["Cache-Control"], headers["Server"]) == ("no-store", "revoker")


async def test_an_address_in_use_is_named(door: Door) -> None:
    """Listening where somebody listens already is a SettingsError naming the setting."""
    with pytest.raises(SettingsError, match=f"listen is 127.0.0.1:{door.port}"):
        async with serving(web.Application(), host=door.host, port=door.port):
            pass


@pytest.mark.parametrize(
    "changes",
    [{"admin_tokens": "root:short:*"}, {"allowed_origins": ("*",)}, {"cookie_name": "a b"}],
)
async def test_a_wrong_setting_stops_the_start(changes: dict[str, object]) -> None:
    """Settings of the service that make no sense are found before anything listens."""
    with pytest.raises(SettingsError, match=next(iter(changes))):
        async with open_door(settings(**changes)):
            pass


async def heartbeats_failed(door: Door) -> float:
    """How many heartbeats could not be sent, as the metrics tell."""
    found = re.search(rb'revoker_heartbeats_total\{outcome="failed"\} (\S+)', (await door.ask("GET", "/metrics")).body)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("outbox", [False, True], ids=["without an outbox", "with one"])
async def test_certificate_files_that_are_away_end_nothing(tmp_path: Path, outbox: bool) -> None:
    """As while they are renewed: no 500, no task that dies of it, and ``/readyz`` names the file."""
    changes = {"kafka_security_protocol": "SSL", "kafka_ssl_ca_file": str(tmp_path / "missing.pem")}
    changes |= {"outbox_file": str(tmp_path / "outbox.db")} if outbox else {}
    async with open_door(settings(heartbeat_interval_s=0.2, publish_timeout_s=0.5, **changes)) as door:
        logout = await door.logout(samples.token())
        revoked = await door.revoke({"kind": "session", "iss": "", "sid": "s1"})
        await door.until("/readyz?verbose", status=200 if outbox else 503, holding=b"missing.pem")
        deadline = time.monotonic() + 30
        while await heartbeats_failed(door) < 2:
            assert time.monotonic() < deadline
        assert (await door.ask("GET", "/livez")).status == 200
    assert logout.status == revoked.status == (202 if outbox else 503)

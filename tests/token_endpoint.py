"""A real token endpoint (RFC 6749 section 4.4) on a thread, which signs RS256 and misbehaves on demand."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus

from revoker.tokens import sign
from tests.signing import private_key

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "TokenEndpoint", "access_token"]

#: With characters that have to be quoted (RFC 6749 section 2.3.1).
CLIENT_ID, CLIENT_SECRET = "node:1", "s3cr3t-p@ss%word/with+signs"


def access_token(*, subject: str, issuer: str, audience: str, life_s: float = 300.0, key: str = "issuer") -> str:
    """A token that a broker takes if ``key`` is the one it knows."""
    now = time.time()
    return sign(
        {"iss": issuer, "aud": audience, "sub": subject, "iat": int(now), "exp": int(now + life_s)},
        key=private_key("RS256", key),
        algorithm="RS256",
        headers={"kid": "k1"},
    )


class TokenEndpoint:
    """Gives out what ``grant`` returns; a context manager.

    ``status``: of every answer; ``body``: in place of the right one. ``hanging``: requests are taken and not answered.
    ``forms``: what came.
    """

    def __init__(self, *, subject: str, issuer: str, audience: str, life_s: float = 300.0) -> None:
        self.life_s = life_s
        self.key = "issuer"
        self.status = 200
        self.body: bytes | None = None
        self.location: str | None = None
        self.forms: list[dict[str, list[str]]] = []
        self.answering = threading.Event()
        self.answering.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                endpoint.forms.append(form)
                endpoint.answering.wait(20)
                login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
                given = tuple(unquote_plus(part) for part in login.split(":", 1))
                status, answer = endpoint.status, endpoint.body
                if given != (CLIENT_ID, CLIENT_SECRET) or form.get("grant_type") != ["client_credentials"]:
                    status, answer = 401, b'{"error":"invalid_client"}'
                elif answer is None:
                    answer = endpoint._grant(subject=subject, issuer=issuer, audience=audience)
                try:
                    self.send_response(status)
                    if endpoint.location:
                        self.send_header("Location", endpoint.location)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client gave up waiting, as some tests want it to

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  - the name it overrides
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def _grant(self, **names: str) -> bytes:
        grant: dict[str, Any] = {
            "access_token": access_token(**names, life_s=self.life_s, key=self.key),
            "token_type": "Bearer",
            "expires_in": int(self.life_s),
        }
        return json.dumps(grant).encode()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

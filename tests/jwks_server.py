"""A real HTTP server on a thread that publishes a key set, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class JwksServer:
    """Serves ``document`` as JSON, or as bytes if it is bytes; a context manager.

    ``status``: of every answer. ``hanging``: while set, requests are taken and not answered until it is cleared.
    ``requests``: how many came.
    """

    def __init__(self, *keys: dict[str, object]) -> None:
        self.document: object = {"keys": list(keys)}
        self.status = 200
        self.location: str | None = None
        self.requests = 0
        self._answering = threading.Event()
        self._answering.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                server._answering.wait(10)
                body = server.document if isinstance(server.document, bytes) else json.dumps(server.document).encode()
                try:
                    self.send_response(server.status)
                    if server.location:
                        self.send_header("Location", server.location)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client gave up waiting, as some tests want it to

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  - the name it overrides
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys.json"

    def publish(self, *keys: dict[str, object]) -> None:
        """Serve these keys from now on."""
        self.document = {"keys": list(keys)}

    def hang(self) -> None:
        """Take requests and do not answer."""
        self._answering.clear()

    def answer(self) -> None:
        """Answer all that hang, and those to come."""
        self._answering.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answer()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

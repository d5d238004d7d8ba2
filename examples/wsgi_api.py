"""A WSGI API under workers that have no event loop: they only look into the deny list that all of the host share.

Beside it one process of the host follows the topic and writes the table, with the same settings:

export REVOKER_ALGORITHMS=HS256 REVOKER_KEY_SECRET=... REVOKER_DENYLIST=shared REVOKER_SHARED_DIR=/dev/shm/revoker
revoker node --listen 127.0.0.1:9000 &
gunicorn --workers 4 --preload --chdir examples wsgi_api:app
"""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from consumers.node import Node
from consumers.refusal import Answer, ask
from revoker.settings import Settings

node = Node(Settings.load())
node.look()  # before the fork or after it: there is no task, no lock and no connection to lose


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    asked = ask(
        node,
        authorization=[environ["HTTP_AUTHORIZATION"]] if "HTTP_AUTHORIZATION" in environ else [],
        cookies=[environ["HTTP_COOKIE"]] if "HTTP_COOKIE" in environ else [],
    )
    if isinstance(asked, Answer):
        start_response(f"{asked.status} {HTTPStatus(asked.status).phrase}", list(asked.headers))
        return [asked.body]
    verified, _decision = asked
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"sub": verified.claims.get("sub")}).encode()]

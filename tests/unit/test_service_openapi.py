"""The description of the API: valid, complete, and made from what reads the bodies."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from revoker.events import KINDS
from revoker.keys import keys_from_settings
from revoker.publisher import Publisher
from revoker.service import admin
from revoker.service.app import create_app
from revoker.service.openapi import document
from revoker.tokens import Verifier
from tests import samples
from tests.service_door import ROOT_SECRET, open_door, without_kafka


def described(**changes: object) -> dict[str, Any]:
    settings = samples.settings(**changes)
    found: dict[str, Any] = json.loads(document(settings, forms=admin.forms(issuer=settings.issuer)))
    return found


async def test_every_route_is_described_and_nothing_else() -> None:
    """The paths and methods of the document are those of the application."""
    settings = samples.settings()
    keys = keys_from_settings(settings)
    app = create_app(
        settings, publisher=Publisher(settings), verifier=Verifier.from_settings(settings, keys), keys=keys
    )
    routes = {(route.resource.canonical, route.method) for route in app.router.routes() if route.resource is not None}
    paths = described()["paths"]
    assert {(path, method.upper()) for path, methods in paths.items() for method in methods} == {
        (path, method) for path, method in routes if method != "HEAD"
    }


@pytest.mark.parametrize("changes", [{}, {"issuer": "https://id.example"}, {"cookie_name": ""}])
def test_the_document_is_valid_openapi(changes: dict[str, object]) -> None:
    """openapi-spec-validator finds nothing wrong, whatever the settings."""
    assert list(OpenAPIV31SpecValidator(described(**changes)).iter_errors()) == []


def test_the_described_body_is_the_one_that_is_read() -> None:
    """For bodies right and wrong, the schema in the document and the service agree."""
    found = described()
    resolved = {**found["components"]["schemas"]["Revocation"], "components": found["components"]}
    validator = jsonschema.Draft202012Validator(resolved)
    good: list[dict[str, object]] = [
        {"kind": "token", "iss": "", "jti": "j", "exp": 5.5, "reason": "r"},
        {"kind": "subject", "iss": "i", "sub": "u", "cutoff": 5},
        {"kind": "claim", "iss": "i", "claim": "tenant", "value": 5},
        {"kind": "all"},
        {"kind": "withdrawal", "event_id": "e"},
    ]
    bad: list[dict[str, object]] = [
        {"kind": "token", "iss": "", "jti": ""},
        {"kind": "session", "iss": "", "sid": "s", "cutoff": 5},
        {"kind": "subject", "iss": "i"},
        {"kind": "nothing"},
        {"kind": "all", "cutoff": -1},
        {"kind": "claim", "iss": "i", "claim": "tenant", "value": ["a"]},
    ]
    assert [validator.is_valid(body) for body in good + bad] == [True] * len(good) + [False] * len(bad)


async def test_a_preview_is_what_the_document_says() -> None:
    """The answer 428 to each wide kind fits its schema, and its header is described by the name that is read."""
    found = described()
    responses = found["paths"]["/revocations"]["post"]["responses"]
    (content,) = responses["428"]["content"].values()
    assert content["schema"] == {"$ref": "#/components/schemas/Unconfirmed"}
    schema = {**found["components"]["schemas"]["Unconfirmed"], "components": found["components"]}
    bodies: dict[str, dict[str, str]] = {
        "client": {"client_id": "c"},
        "claim": {"claim": "tenant", "value": "acme"},
        "key": {"kid": "k"},
        "issuer": {},
        "all": {},
    }
    (header,) = found["paths"]["/revocations"]["post"]["parameters"]
    async with open_door(without_kafka()) as door:
        for kind, fields in bodies.items():
            body = {"kind": kind, **fields} | ({} if kind == "all" else {"iss": ""})
            answer = await door.revoke(body)
            assert answer.status == 428
            jsonschema.validate(answer.problem, schema, cls=jsonschema.Draft202012Validator)
            assert len(answer.problem["confirmation"]) <= header["schema"]["maxLength"]
            headers = {"Authorization": f"Bearer {ROOT_SECRET}", header["name"]: answer.problem["confirmation"]}
            assert (await door.ask("POST", "/revocations", json=body, headers=headers)).status == 503


def test_every_kind_is_described() -> None:
    """The body of POST /revocations is one of the kinds, each told by its word."""
    assert described()["components"]["schemas"]["Revocation"]["discriminator"]["mapping"].keys() == KINDS.keys()


def test_iss_is_required_unless_the_issuer_is_known() -> None:
    """With the setting issuer the document shows it as the default of iss."""
    known = described(issuer="https://id.example")["components"]["schemas"]["SessionRevocation"]
    assert "iss" not in known["required"]
    assert known["properties"]["iss"]["default"] == "https://id.example"
    assert "iss" in described()["components"]["schemas"]["SessionRevocation"]["required"]


def test_the_cookie_is_named_where_there_is_one() -> None:
    """The security schemes name the configured cookie, and none if there is none."""
    assert described(cookie_name="sid")["components"]["securitySchemes"]["cookie"]["name"] == "sid"
    assert "cookie" not in described(cookie_name="")["components"]["securitySchemes"]

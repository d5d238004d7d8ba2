"""Settings of a connection that need or forbid one another: each contradiction is named, with what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from revoker.errors import SettingsError
from revoker.settings import Settings

TLS: dict[str, Any] = {"kafka_security_protocol": "SSL"}
SASL: dict[str, Any] = {"kafka_security_protocol": "SASL_SSL"}
PASSWORD: dict[str, Any] = {"kafka_sasl_username": "node", "kafka_sasl_password": "s3cr3t-of-the-connection"}
OAUTH: dict[str, Any] = SASL | {"kafka_sasl_mechanism": "OAUTHBEARER"}
ENDPOINT: dict[str, Any] = {
    "kafka_oauth_token_url": "https://id.example/token",
    "kafka_oauth_client_id": "node",
    "kafka_oauth_client_secret": "s3cr3t-of-the-connection",
}


@pytest.mark.parametrize(
    "values",
    [
        {},
        TLS,
        TLS | {"kafka_ssl_ca_file": "ca.pem", "kafka_ssl_certificate_file": "me.pem", "kafka_ssl_key_password": "p"},
        SASL | PASSWORD,
        SASL | PASSWORD | {"kafka_sasl_mechanism": "PLAIN"},
        SASL | PASSWORD | {"kafka_ssl_certificate_file": "me.pem", "kafka_ssl_key_file": "me.key"},
        {"kafka_security_protocol": "SASL_PLAINTEXT", **PASSWORD},
        OAUTH | ENDPOINT,
        OAUTH | ENDPOINT | {"kafka_oauth_scope": "kafka"},
        OAUTH | ENDPOINT | {"kafka_oauth_token_url": "http://127.0.0.1:9000/token"},
        OAUTH | {"kafka_oauth_callable": "our.tokens:Source.kafka"},
    ],
)
def test_what_fits_together_is_taken(values: dict[str, Any]) -> None:
    """Every way to connect that revoker offers can be set."""
    Settings(**values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kafka_ssl_ca_file": "ca.pem"}, "kafka_ssl_ca_file is set, but kafka_security_protocol is PLAINTEXT"),
        (
            {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_ssl_certificate_file": "me.pem", **PASSWORD},
            "kafka_ssl_certificate_file is set, but kafka_security_protocol is SASL_PLAINTEXT: only SSL and SASL_SSL",
        ),
        (PASSWORD, "kafka_sasl_username is set, but kafka_security_protocol is PLAINTEXT: only SASL_SSL and"),
        (TLS | ENDPOINT, "kafka_oauth_token_url is set, but kafka_security_protocol is SSL"),
        (SASL, "kafka_sasl_mechanism is SCRAM-SHA-512, which needs kafka_sasl_username and kafka_sasl_password"),
        (SASL | {"kafka_sasl_username": "node"}, "which needs kafka_sasl_password"),
        (SASL | PASSWORD | {"kafka_sasl_password": "a\0b"}, "holds a null character"),
        (SASL | PASSWORD | ENDPOINT, "kafka_oauth_token_url is set, but kafka_sasl_mechanism is SCRAM-SHA-512"),
        (OAUTH | ENDPOINT | PASSWORD, "kafka_sasl_username is set, but kafka_sasl_mechanism is OAUTHBEARER"),
        (OAUTH, "which needs kafka_oauth_token_url, kafka_oauth_client_id, kafka_oauth_client_secret, or"),
        (OAUTH | ENDPOINT | {"kafka_oauth_client_id": None}, "which needs kafka_oauth_client_id, or"),
        (OAUTH | ENDPOINT | {"kafka_oauth_callable": "a:b"}, "kafka_oauth_callable and kafka_oauth_token_url are both"),
        (OAUTH | {"kafka_oauth_callable": "a.b"}, "kafka_oauth_callable is 'a.b', must be MODULE:FUNCTION"),
        (OAUTH | {"kafka_oauth_callable": "a:b()"}, "must be MODULE:FUNCTION"),
        (OAUTH | ENDPOINT | {"kafka_oauth_token_url": "http://id.example/t"}, "must be https://"),
        (OAUTH | ENDPOINT | {"kafka_oauth_token_url": "id.example"}, "must be an https:// URL with a host"),
        (OAUTH | ENDPOINT | {"kafka_oauth_token_url": "https://[::1/t"}, "is no URL"),
        (
            OAUTH | ENDPOINT | {"kafka_oauth_token_url": "https://u:s3cr3t-of-the-connection@id.example/t"},
            "holds a user name",
        ),
        (OAUTH | ENDPOINT | {"kafka_oauth_token_url": "https://id.example/t#f"}, "has a fragment"),
        (TLS | {"kafka_ssl_key_file": "me.key"}, "kafka_ssl_key_file is set without kafka_ssl_certificate_file"),
        (SASL | PASSWORD | {"kafka_ssl_key_password": "p"}, "kafka_ssl_key_password is set without"),
        (OAUTH | ENDPOINT | {"kafka_ssl_key_file": "me.key"}, "kafka_ssl_key_file is set without"),
    ],
)
def test_what_contradicts_is_named(values: dict[str, Any], said: str) -> None:
    """A setting that is missing, or that would do nothing, is named; no secret is."""
    with pytest.raises(SettingsError) as caught:
        Settings(**values)

    assert said in str(caught.value)
    assert "s3cr3t-of-the-connection" not in str(caught.value)


def test_no_secret_of_a_connection_is_printed() -> None:
    """The repr of settings says that passwords are set, and not which."""
    text = repr(Settings(**SASL | PASSWORD)) + repr(Settings(**OAUTH | ENDPOINT))

    assert "s3cr3t-of-the-connection" not in text
    assert "kafka_sasl_password='***'" in text
    assert "kafka_oauth_client_secret='***'" in text

"""Which settings need, or forbid, one another: the connection to Kafka. Pure: nothing is opened or read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from revoker.settings import Settings

__all__ = ["connection_problem", "is_callable_name"]

_TLS: Final = (
    "kafka_ssl_ca_file",
    "kafka_ssl_certificate_file",
    "kafka_ssl_key_file",
    "kafka_ssl_key_password",
)
_PASSWORD: Final = ("kafka_sasl_username", "kafka_sasl_password")
_ENDPOINT: Final = ("kafka_oauth_token_url", "kafka_oauth_client_id", "kafka_oauth_client_secret")
_OAUTH: Final = (*_ENDPOINT, "kafka_oauth_scope", "kafka_oauth_callable")

_CALLABLE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)

#: Hosts to which a secret may go unencrypted, since it does not leave the machine.
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def is_callable_name(text: str) -> bool:
    """Whether ``text`` has the form ``MODULE:FUNCTION``."""
    return _CALLABLE.fullmatch(text) is not None


def connection_problem(settings: Settings) -> str | None:
    """What is wrong with the settings of a secured connection, and what would be right; None if they fit.

    A setting that would have no effect is wrong too: whoever set it believes in a protection that is not there.
    """
    protocol, mechanism = settings.kafka_security_protocol, settings.kafka_sasl_mechanism
    tls, sasl = protocol.endswith("SSL"), protocol.startswith("SASL_")
    given = {name for name in (*_TLS, *_PASSWORD, *_OAUTH) if getattr(settings, name)}

    def idle(names: tuple[str, ...], why: str) -> str | None:
        found = [name for name in names if name in given]
        return f"{found[0]} is set, but {why}" if found else None

    of_protocol = f"kafka_security_protocol is {protocol}"
    if not tls and (problem := idle(_TLS, f"{of_protocol}: only SSL and SASL_SSL use TLS")):
        return problem
    if not sasl:
        return idle((*_PASSWORD, *_OAUTH), f"{of_protocol}: only SASL_SSL and SASL_PLAINTEXT log in") or _certificate(
            given
        )
    of_mechanism = f"kafka_sasl_mechanism is {mechanism}"
    if mechanism == "OAUTHBEARER":
        problem = idle(_PASSWORD, f"{of_mechanism}, which takes tokens: set kafka_sasl_mechanism, or unset it")
        return problem or _oauth(settings, given) or _certificate(given)
    missing = [name for name in _PASSWORD if name not in given]
    if missing:
        return f"{of_protocol} and {of_mechanism}, which needs {' and '.join(missing)}"
    if "\0" in f"{settings.kafka_sasl_username}{settings.kafka_sasl_password}":
        return "kafka_sasl_username or kafka_sasl_password holds a null character, which no mechanism allows"
    return idle(_OAUTH, f"{of_mechanism}: only OAUTHBEARER takes tokens") or _certificate(given)


def _certificate(given: set[str]) -> str | None:
    if "kafka_ssl_certificate_file" in given:
        return None
    for name in ("kafka_ssl_key_file", "kafka_ssl_key_password"):
        if name in given:
            return f"{name} is set without kafka_ssl_certificate_file, to which the key belongs"
    return None


def _oauth(settings: Settings, given: set[str]) -> str | None:
    if settings.kafka_oauth_callable is not None:
        if not is_callable_name(settings.kafka_oauth_callable):
            return (
                f"kafka_oauth_callable is {settings.kafka_oauth_callable!r}, must be MODULE:FUNCTION "
                "such as our_tokens:for_kafka"
            )
        further = [name for name in (*_ENDPOINT, "kafka_oauth_scope") if name in given]
        return f"kafka_oauth_callable and {further[0]} are both set: keep one source of tokens" if further else None
    missing = [name for name in _ENDPOINT if name not in given]
    if missing:
        return (
            f"kafka_sasl_mechanism is OAUTHBEARER, which needs {', '.join(missing)}, "
            "or kafka_oauth_callable in place of a token endpoint"
        )
    return _token_url(str(settings.kafka_oauth_token_url))


def _token_url(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "kafka_oauth_token_url is no URL"
    if parts.scheme not in ("http", "https") or not host:
        return "kafka_oauth_token_url must be an https:// URL with a host"
    if "@" in parts.netloc:
        return "kafka_oauth_token_url holds a user name: set kafka_oauth_client_id and kafka_oauth_client_secret"
    if parts.fragment:
        return "kafka_oauth_token_url has a fragment, which a token endpoint must not have (RFC 6749 section 3.2)"
    if parts.scheme == "http" and host not in _LOOPBACK:
        return (
            "kafka_oauth_token_url begins with http://, which would show the client secret to the network: "
            "must be https:// (RFC 6749 section 3.2), except on this very machine"
        )
    return None

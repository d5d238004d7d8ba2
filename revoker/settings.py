"""The one table of settings: name with unit, type, default, help, secret.

A value comes from the first of: argument, environment (``REVOKER_`` and the name in capitals), file (TOML, named by
``REVOKER_CONFIG``), default. A secret may stand in a file of its own, named by ``REVOKER_<NAME>_FILE`` (Docker and
Kubernetes secrets). What is unknown or malformed is refused by name; nothing is ignored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Literal, TypeVar, get_type_hints

from revoker.combinations import connection_problem
from revoker.errors import SettingsError
from revoker.expiry import Lifetimes
from revoker.sources import ENVIRONMENT_PREFIX, Names, convert, merged, words

__all__ = ["ENVIRONMENT_PREFIX", "Row", "Settings", "environment_without_settings", "sources", "table"]

T = TypeVar("T")

#: The largest number any setting may be: 31 years in seconds, a gibibyte. Beyond lie typing errors, and numbers that
#: Kafka, the event loop and the wire format do not take.
_MOST = 1_000_000_000


def _row(default: T, help_text: str, *, secret: bool = False, at_least: float | None = None) -> T:
    """One row of the table. ``at_least`` is the least a number may be."""
    metadata = {"help": help_text, "secret": secret, "at_least": at_least}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """All settings, checked. Make one with `Settings.load`, or directly in code; both check alike."""

    kafka_bootstrap_servers: str = _row("127.0.0.1:9092", "brokers to start from, HOST:PORT, comma-separated")
    kafka_client_id: str = _row("revoker", "name under which brokers see this client")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _row(
        "PLAINTEXT", "how connections to brokers are secured"
    )
    kafka_ssl_ca_file: str | None = _row(None, "PEM file of the CAs that brokers are checked against; unset = system's")
    kafka_ssl_certificate_file: str | None = _row(None, "PEM file of this client's certificate and its chain")
    kafka_ssl_key_file: str | None = _row(None, "PEM file of the certificate's key; unset = in the certificate's file")
    kafka_ssl_key_password: str | None = _row(None, "password of that key", secret=True)
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = _row(
        "SCRAM-SHA-512", "how this client proves who it is, under a SASL protocol"
    )
    kafka_sasl_username: str | None = _row(None, "user for PLAIN and SCRAM")
    kafka_sasl_password: str | None = _row(None, "password for PLAIN and SCRAM", secret=True)
    kafka_oauth_token_url: str | None = _row(
        None, "token endpoint for OAUTHBEARER by client credentials (RFC 6749 section 4.4)"
    )
    kafka_oauth_client_id: str | None = _row(None, "client id at that endpoint")
    kafka_oauth_client_secret: str | None = _row(None, "client secret at that endpoint", secret=True)
    kafka_oauth_scope: str | None = _row(None, "scope asked for there")
    kafka_oauth_callable: str | None = _row(
        None, "MODULE:FUNCTION that returns a token for OAUTHBEARER, in place of a token endpoint"
    )

    topic: str = _row("revocations", "topic that carries the revocations")
    topic_partitions: int = _row(1, "partitions of a topic made by `topic create`; every node reads all", at_least=1)
    topic_replication_factor: int = _row(3, "copies of each partition the contract asks for", at_least=1)
    topic_min_insync_replicas: int = _row(2, "copies that must have a revocation before it is acknowledged", at_least=1)
    topic_segment_s: int = _row(
        3600, "longest span of one log segment; bounds the dead records a replay carries", at_least=1
    )
    topic_check: Literal["strict", "lenient"] = _row(
        "strict", "a topic that could lose revocations: strict = never become ready, lenient = warn and go on"
    )

    longest_token_life_s: int = _row(
        86400, "most `exp - iat` of any token in use; the topic's retention follows", at_least=1
    )
    leeway_s: int = _row(30, "clock leeway when verifying exp, nbf and iat; the largest of any verifier", at_least=0)
    clock_margin_s: int = _row(300, "how wrong any clock involved may be", at_least=0)
    long_lived_tokens: Literal["refuse", "accept"] = _row(
        "refuse", "tokens that live longer than longest_token_life_s, and so cannot be kept out for their whole life"
    )

    algorithms: tuple[str, ...] = _row((), "signature algorithms accepted, such as RS256,ES256; there is no default")
    issuer: str | None = _row(None, "required iss; unset = any")
    audience: tuple[str, ...] = _row((), "accepted aud, any of; unset = not checked")
    required_claims: tuple[str, ...] = _row(("exp", "iat"), "claims a token must have")
    key_secret: str | None = _row(None, "shared secret for HS256, HS384, HS512", secret=True)
    key_files: tuple[str, ...] = _row((), "PEM files of public keys or certificates, PATH or KID=PATH")
    jwks_url: str | None = _row(None, "URL of a JSON Web Key Set")
    jwks_refresh_s: float = _row(300.0, "seconds between two fetches of the key set", at_least=1)
    jwks_timeout_s: float = _row(5.0, "longest fetch of the key set", at_least=0.1)

    cookie_name: str = _row("USER_SESSION", "cookie that may carry the token beside Authorization; empty = none")
    cookie_path: str = _row("/", "Path the cookie was set with")
    cookie_domain: str | None = _row(None, "Domain the cookie was set with; unset = host-only")
    cookie_secure: bool = _row(True, "Secure attribute the cookie was set with")
    cookie_http_only: bool = _row(True, "HttpOnly attribute the cookie was set with")
    cookie_same_site: Literal["Lax", "Strict", "None"] = _row("Lax", "SameSite attribute the cookie was set with")
    allowed_origins: tuple[str, ...] = _row(
        (), "origins that may log out by cookie beside the service's own, scheme://host[:port]"
    )
    realm: str = _row("api", "realm in WWW-Authenticate (RFC 6750)")

    listen: str = _row("127.0.0.1:8080", "HOST:PORT of the HTTP server; port 0 = any free one")
    max_body_bytes: int = _row(65536, "longest request body", at_least=1024)
    admin_tokens: str | None = _row(
        None, "who may POST /revocations: NAME:SECRET:KIND+KIND, comma-separated; * = every kind", secret=True
    )

    admin_audit_file: str | None = _row(
        None, "file to which every use of POST /revocations is appended; unset = the log (logger revoker.audit)"
    )

    outbox_file: str | None = _row(
        None, "SQLite file that keeps accepted revocations until Kafka has them; unset = refuse while Kafka is away"
    )
    outbox_max_events: int = _row(1_000_000, "revocations the outbox may hold; beyond, none is accepted", at_least=1)

    publisher_id: str | None = _row(None, "name under which this publisher signs its revocations")
    signing_key_file: str | None = _row(None, "PEM file of the private key, Ed25519 or P-256, it signs with")
    trusted_publishers_file: str | None = _row(
        None, "TOML file of publishers, their keys and scopes; set = a node applies no event they did not sign"
    )

    publish_timeout_s: float = _row(15.0, "how long a revocation may wait for its acknowledgement", at_least=0.1)
    request_timeout_s: float = _row(5.0, "longest single request to a broker; above fetch_max_wait_ms", at_least=0.1)
    fetch_max_wait_ms: int = _row(
        100, "how long a broker may hold an empty fetch; revocations arrive at once regardless", at_least=1
    )
    metadata_max_age_s: float = _row(5.0, "age at which the client asks again who leads", at_least=0.1)
    staleness_bound_s: float = _row(15.0, "oldest proof under which a node still calls itself up to date", at_least=0.1)
    when_unknown: Literal["refuse", "accept"] = _row(
        "refuse", "requests while a node cannot prove that it is up to date; before it first was, always refuse"
    )
    outage_budget_s: float = _row(
        300.0, "longest that accept holds, counted from the end of the last proof; after it, refuse", at_least=0
    )
    watch_interval_s: float = _row(
        0.0, "seconds between two questions to the brokers who leads; 0 = a third of staleness_bound_s", at_least=0
    )
    heartbeat_interval_s: float = _row(
        0.0, "publishers send a heartbeat through a topic silent for so long, and nodes miss it; 0 = none", at_least=0
    )
    retry_after_s: int = _row(1, "Retry-After of a 503", at_least=0)
    replay_from: Literal["beginning", "longest_life"] = _row(
        "beginning", "where a starting node reads from: the whole topic, or only what can still matter, by timestamp"
    )
    tolerate_undecodable: bool = _row(False, "be ready although the topic holds records this node cannot read")
    max_entries: int = _row(
        2_000_000, "entries a deny list may hold; at the bound the node says so and is not ready", at_least=1
    )

    denylist: Literal["memory", "shared"] = _row(
        "memory", "memory = one deny list a process; shared = one table a host, for all its processes (extra shared)"
    )
    shared_dir: str | None = _row(
        None, "directory of that table, one for each fleet; best in memory, such as /dev/shm/revoker"
    )
    shared_role: Literal["auto", "reader"] = _row(
        "auto", "auto = follow the topic and write the table if no other process does; reader = only look into it"
    )
    snapshot_dir: str | None = _row(
        None, "directory on a disk where copies of that table are kept, for the start after a reboot; unset = none"
    )
    snapshot_interval_s: float = _row(300.0, "seconds between two copies", at_least=1)

    claims_cache_entries: int = _row(
        10_000, "verified tokens kept, so that a repeated one costs no signature check; 0 = none", at_least=0
    )
    claims_cache_bytes: int = _row(16_777_216, "bytes that the verified tokens kept may take", at_least=65536)

    log_level: Literal["debug", "info", "warning", "error"] = _row("info", "least level logged")
    log_format: Literal["text", "json"] = _row("text", "form of log lines on standard error")

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for column in fields(self):
            value = convert(
                column.name, getattr(self, column.name), hint=hints[column.name], secret=column.metadata["secret"]
            )
            _check_number(column.name, value, at_least=column.metadata["at_least"])
            object.__setattr__(self, column.name, value)
        if self.topic_min_insync_replicas > self.topic_replication_factor:
            raise SettingsError(
                f"topic_min_insync_replicas ({self.topic_min_insync_replicas}) exceeds topic_replication_factor "
                f"({self.topic_replication_factor}): no write could ever be acknowledged"
            )
        if self.request_timeout_s * 1000 <= self.fetch_max_wait_ms:
            raise SettingsError(
                f"request_timeout_s ({self.request_timeout_s}) must exceed fetch_max_wait_ms "
                f"({self.fetch_max_wait_ms}): every idle fetch would time out"
            )
        if self.staleness_bound_s * 1000 < 3 * self.fetch_max_wait_ms:
            raise SettingsError(
                f"staleness_bound_s ({self.staleness_bound_s}) must be at least three times fetch_max_wait_ms "
                f"({self.fetch_max_wait_ms}): an idle topic would look stale"
            )
        if self.heartbeat_interval_s * 3 > self.staleness_bound_s:
            raise SettingsError(
                f"heartbeat_interval_s ({self.heartbeat_interval_s}) must be at most a third of staleness_bound_s "
                f"({self.staleness_bound_s}): up to two may pass between two records, and one may fail"
            )
        if self.watch_interval_s > self.staleness_bound_s / 3 and not self.heartbeat_interval_s:
            raise SettingsError(
                f"watch_interval_s ({self.watch_interval_s}) exceeds a third of staleness_bound_s "
                f"({self.staleness_bound_s}), and without heartbeat_interval_s nothing proves in between that the "
                "leader read from is still the leader"
            )
        if self.denylist == "shared" and self.shared_dir is None:
            raise SettingsError("denylist is shared, so shared_dir must name a directory, such as /dev/shm/revoker")
        if self.denylist != "shared" and self.snapshot_dir is not None:
            raise SettingsError("snapshot_dir keeps copies of a shared deny list: set denylist to shared, or unset it")
        if (self.publisher_id is None) != (self.signing_key_file is None):
            raise SettingsError("publisher_id and signing_key_file belong together: set both to sign, or neither")
        if self.cookie_same_site == "None" and not self.cookie_secure:
            raise SettingsError("cookie_same_site None needs cookie_secure: browsers refuse the cookie otherwise")
        if problem := connection_problem(self):
            raise SettingsError(problem)
        self.listen_address  # noqa: B018  - checked here, so that a typo is found before anything starts

    @property
    def lifetimes(self) -> Lifetimes:
        """The durations that decide how long revocations are kept."""
        return Lifetimes(
            longest_token_life_s=self.longest_token_life_s, leeway_s=self.leeway_s, clock_margin_s=self.clock_margin_s
        )

    @property
    def watch_s(self) -> float:
        """``watch_interval_s``, or what follows from the staleness bound if it is 0."""
        return self.watch_interval_s or self.staleness_bound_s / 3

    @property
    def listen_address(self) -> tuple[str, int]:
        """``listen`` as host and port."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
            raise SettingsError(f"listen is {self.listen!r}, must be HOST:PORT such as 0.0.0.0:8080")
        return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what `:8080` means everywhere

    def __repr__(self) -> str:
        shown = (f"{row.name}={row.shown(getattr(self, row.name))}" for row in table())
        return f"Settings({', '.join(shown)})"

    @classmethod
    def load(
        cls,
        arguments: Mapping[str, object] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        file: str | Path | None = None,
    ) -> Settings:
        """Merge arguments over environment over file over defaults.

        ``arguments``: by setting name; a value of ``None`` counts as not given. ``environ``: ``None`` = this process's.
        ``file``: a TOML file; ``None`` = the one ``REVOKER_CONFIG`` names, if any. Raises SettingsError naming the
        setting and its source.
        """
        given = merged(arguments or {}, environ=os.environ if environ is None else environ, file=file, names=_names())
        return cls(**{name: value for name, (value, _) in given.items()})  # type: ignore[arg-type]  # __post_init__ converts and checks


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table, for documentation and for the command line."""

    name: str
    kind: str
    default: object
    help: str
    secret: bool

    @property
    def environment_name(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()

    def shown(self, value: object) -> str:
        """The value as it may be printed: a secret only says that it is set."""
        return "'***'" if self.secret and value else repr(value)


def table() -> tuple[Row, ...]:
    """Every setting, in the order of the class."""
    hints = get_type_hints(Settings)
    return tuple(
        Row(
            name=column.name,
            kind=words(hints[column.name]),
            default=column.default,
            help=column.metadata["help"],
            secret=column.metadata["secret"],
        )
        for column in fields(Settings)
        if column.default is not MISSING
    )


def sources(
    arguments: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: str | Path | None = None,
) -> dict[str, str]:
    """Where `Settings.load` takes each setting from: ``argument``, ``environment``, ``file`` or ``default``.

    Raises as it does.
    """
    given = merged(arguments or {}, environ=os.environ if environ is None else environ, file=file, names=_names())
    return {row.name: given[row.name][1] if row.name in given else "default" for row in table()}


def environment_without_settings() -> dict[str, str]:
    """This process's environment without revoker's variables: for a child process that is given settings of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}


def _check_number(name: str, value: object, *, at_least: float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name} is {value}, must be a finite number")
    if value > _MOST:
        raise SettingsError(f"{name} is too large, must be at most {_MOST}")
    if at_least is not None and not value >= at_least:
        raise SettingsError(f"{name} is {max(value, -_MOST)}, must be at least {at_least}")


def _names() -> Names:
    rows = fields(Settings)
    return Names(
        all=[column.name for column in rows], secret=[column.name for column in rows if column.metadata["secret"]]
    )

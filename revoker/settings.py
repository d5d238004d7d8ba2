"""The one table of settings: name with unit, type, default, help, secret.

A value comes from the first of: argument, environment (``REVOKER_`` and the name in capitals), file (TOML, named by
``REVOKER_CONFIG``), default. A secret may stand in a file of its own, named by ``REVOKER_<NAME>_FILE`` (Docker and
Kubernetes secrets). What is unknown or malformed is refused by name; nothing is ignored.
"""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from revoker.errors import SettingsError
from revoker.expiry import Lifetimes

__all__ = ["ENVIRONMENT_PREFIX", "Row", "Settings", "environment_without_settings", "sources", "table"]

ENVIRONMENT_PREFIX = "REVOKER_"

#: Names under the prefix that are no settings: the name of the settings file, and what the test suite reads.
_RESERVED = ("CONFIG", "TEST_")

T = TypeVar("T")


def _row(default: T, help_text: str, *, secret: bool = False, at_least: float | None = None) -> T:
    """One row of the table. ``at_least`` is the least a number may be."""
    metadata = {"help": help_text, "secret": secret, "at_least": at_least}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """All settings, checked. Make one with `Settings.load`, or directly in code; both check alike."""

    kafka_bootstrap_servers: str = _row("127.0.0.1:9092", "brokers to start from, HOST:PORT, comma-separated")
    kafka_client_id: str = _row("revoker", "name under which brokers see this client")
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
    retry_after_s: int = _row(1, "Retry-After of a 503", at_least=0)
    replay_from: Literal["beginning", "longest_life"] = _row(
        "beginning", "where a starting node reads from: the whole topic, or only what can still matter, by timestamp"
    )
    tolerate_undecodable: bool = _row(False, "be ready although the topic holds records this node cannot read")
    max_entries: int = _row(
        2_000_000, "entries a deny list may hold; at the bound the node says so and is not ready", at_least=1
    )

    log_level: Literal["debug", "info", "warning", "error"] = _row("info", "least level logged")
    log_format: Literal["text", "json"] = _row("text", "form of log lines on standard error")

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for column in fields(self):
            value = _convert(column.name, getattr(self, column.name), hints[column.name])
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{column.name} is {value}, must be a finite number")
            at_least = column.metadata["at_least"]
            if at_least is not None and not value >= at_least:
                raise SettingsError(f"{column.name} is {value}, must be at least {at_least}")
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
        if self.cookie_same_site == "None" and not self.cookie_secure:
            raise SettingsError("cookie_same_site None needs cookie_secure: browsers refuse the cookie otherwise")
        self.listen_address  # noqa: B018  - checked here, so that a typo is found before anything starts

    @property
    def lifetimes(self) -> Lifetimes:
        """The durations that decide how long revocations are kept."""
        return Lifetimes(
            longest_token_life_s=self.longest_token_life_s, leeway_s=self.leeway_s, clock_margin_s=self.clock_margin_s
        )

    @property
    def listen_address(self) -> tuple[str, int]:
        """``listen`` as host and port."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
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
        merged = _merged(arguments or {}, environ=os.environ if environ is None else environ, file=file)
        return cls(**{name: value for name, (value, _) in merged.items()})  # type: ignore[arg-type]  # __post_init__ converts and checks


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
            kind=_words(hints[column.name]),
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
    merged = _merged(arguments or {}, environ=os.environ if environ is None else environ, file=file)
    return {row.name: merged[row.name][1] if row.name in merged else "default" for row in table()}


def environment_without_settings() -> dict[str, str]:
    """This process's environment without revoker's variables: for a child process that is given settings of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}


def _merged(
    arguments: Mapping[str, object], *, environ: Mapping[str, str], file: str | Path | None
) -> dict[str, tuple[object, str]]:
    """Each setting that is given, with its source."""
    file = file or environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or None
    merged: dict[str, tuple[object, str]] = {}
    if file is not None:
        merged |= {name: (value, "file") for name, value in _from_file(Path(file)).items()}
    merged |= {name: (value, "environment") for name, value in _from_environment(environ).items()}
    for name, value in arguments.items():
        _known(name, f"argument {name}")
        if value is not None:
            merged[name] = (value, "argument")
    return merged


def _from_file(path: Path) -> dict[str, object]:
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}") from error
    for name in found:
        _known(name, f"{name} in {path}")
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    secret_files: dict[str, str] = {}
    secrets = {row.name for row in table() if row.secret}
    for variable, value in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        suffix = variable.removeprefix(ENVIRONMENT_PREFIX)
        if suffix.startswith(_RESERVED[1]) or suffix == _RESERVED[0]:
            continue
        name = suffix.lower()
        if name.endswith("_file") and name.removesuffix("_file") in secrets:
            secret_files[name.removesuffix("_file")] = value
            continue
        _known(name, variable)
        found[name] = value
    for name, path in secret_files.items():
        if name in found:
            raise SettingsError(
                f"both {ENVIRONMENT_PREFIX}{name.upper()} and {ENVIRONMENT_PREFIX}{name.upper()}_FILE are set: keep one"
            )
        try:
            found[name] = Path(path).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{ENVIRONMENT_PREFIX}{name.upper()}_FILE: {error}") from error
    return found


def _known(name: str, said: str) -> None:
    names = [column.name for column in fields(Settings)]
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `revoker settings` lists them all"
    raise SettingsError(f"unknown setting {said}{hint}")


def _convert(name: str, value: object, hint: Any) -> Any:
    """The value in the type of its row; text is parsed as environment variables are written."""
    optional = NoneType in get_args(hint) if get_origin(hint) in (Union, UnionType) else False
    if isinstance(value, str):
        if optional and not value:
            return None
        if get_origin(hint) is tuple:
            value = tuple(part for part in (part.strip() for part in value.split(",")) if part)
        elif hint is bool:
            value = value.lower()
    secret = next(column.metadata["secret"] for column in fields(Settings) if column.name == name)
    try:
        if hint is bool and isinstance(value, str):
            return {
                "true": True,
                "1": True,
                "yes": True,
                "on": True,
                "false": False,
                "0": False,
                "no": False,
                "off": False,
            }[value]
        return msgspec.convert(value, hint, strict=not isinstance(value, str))
    except (msgspec.ValidationError, KeyError):
        shown = "a malformed value" if secret else repr(value)
        raise SettingsError(f"{name} is {shown}, must be {_words(hint)}") from None


def _words(hint: Any) -> str:
    """A type in the words of a person who sets it."""
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    if get_origin(hint) is tuple:
        return "comma-separated list"
    if get_origin(hint) in (Union, UnionType):
        return " or unset".join(_words(part) for part in get_args(hint) if part is not NoneType) + " or unset"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[hint]

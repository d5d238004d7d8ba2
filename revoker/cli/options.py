"""Every setting as an option of the commands where it matters, made from the one table of settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from revoker.cli import logs
from revoker.settings import Row, Settings, sources, table
from revoker.sources import secret_in

__all__ = [
    "CONTRACT",
    "COOKIE",
    "FOLLOWING",
    "HTTP",
    "KAFKA",
    "KEEPING",
    "PUBLISHING",
    "SHARING",
    "TOKENS",
    "Command",
    "given_settings",
    "settings_options",
]

SECURITY = (
    "kafka_security_protocol",
    "kafka_ssl_ca_file",
    "kafka_ssl_certificate_file",
    "kafka_ssl_key_file",
    "kafka_ssl_key_password",
    "kafka_sasl_mechanism",
    "kafka_sasl_username",
    "kafka_sasl_password",
    "kafka_oauth_token_url",
    "kafka_oauth_client_id",
    "kafka_oauth_client_secret",
    "kafka_oauth_scope",
    "kafka_oauth_callable",
)
KAFKA = (
    "kafka_bootstrap_servers",
    "topic",
    "kafka_client_id",
    "request_timeout_s",
    "metadata_max_age_s",
    *SECURITY,
)
KEEPING = ("longest_token_life_s", "leeway_s", "clock_margin_s")
PUBLISHING = (*KAFKA, *KEEPING, "publish_timeout_s", "publisher_id", "signing_key_file")
CONTRACT = ("topic_partitions", "topic_replication_factor", "topic_min_insync_replicas", "topic_segment_s")
FOLLOWING = (
    *KAFKA,
    *KEEPING,
    *CONTRACT,
    "topic_check",
    "replay_from",
    "tolerate_undecodable",
    "max_entries",
    "fetch_max_wait_ms",
    "staleness_bound_s",
    "trusted_publishers_file",
)
SHARING = ("denylist", "shared_dir", "shared_role", "snapshot_dir", "snapshot_interval_s")
TOKENS = (
    "algorithms",
    "issuer",
    "audience",
    "required_claims",
    "key_secret",
    "key_files",
    "jwks_url",
    "jwks_refresh_s",
    "jwks_timeout_s",
    "long_lived_tokens",
)
COOKIE = ("cookie_name",)
HTTP = ("listen", "realm", "retry_after_s", *COOKIE)
_LOGGING = ("log_level", "log_format")

_ROWS = {row.name: row for row in table()}
_GIVEN = "revoker.cli.given"
_CONFIG = "revoker.cli.config"


class SettingOption(click.Option):
    """The option of one setting. Text goes to `Settings` as it is, so that one place converts and complains."""

    def __init__(self, row: Row) -> None:
        self.row = row
        name = row.name.replace("_", "-")
        # A secret on the command line is in every process list; a file is not.
        declarations = [f"--{name}-file" if row.secret else f"--{name}"]
        if row.name == "kafka_bootstrap_servers":
            declarations.append("--bootstrap")
        environment = f"{row.environment_name}, {row.environment_name}_FILE" if row.secret else row.environment_name
        default = "" if row.default in (None, (), "") else f"; default: {_as_text(row.default)}"
        super().__init__(
            [*declarations, f"setting_{row.name}"],
            type=str,
            expose_value=False,
            callback=self._keep,
            metavar="FILE" if row.secret else _metavar(row.kind),
            help=f"{'File that holds: ' if row.secret else ''}{row.help}  [{environment}{default}]",
        )

    def _keep(self, context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is None:
            return
        if self.row.secret:
            value = secret_in(value, said=self.opts[0])
        context.meta.setdefault(_GIVEN, {})[self.row.name] = value


class Command(click.Command):
    """A command whose help lists its own options first and its settings below."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Two lists instead of one."""
        own: list[tuple[str, str]] = []
        settings: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (settings if isinstance(parameter, SettingOption) else own).append(record)
        for title, records in (
            ("Options", own),
            ("Settings (an option before the environment before --config)", settings),
        ):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def settings_options(
    *groups: tuple[str, ...], quiet: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds ``--config``, an option for each named setting and those of logging; the command gets ``settings``, checked.

    A setting that is not among them still counts where the environment or the file sets it. Logging is set up as well;
    ``quiet``: unless a level is asked for, only errors are logged, since the answer is what the command is for.
    """
    names = dict.fromkeys([name for group in groups for name in group] + list(_LOGGING))

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_settings(*arguments: Any, **options: Any) -> Any:
            given, file = given_settings(click.get_current_context())
            settings = Settings.load(given, file=file)
            hushed = quiet and sources(given, file=file)["log_level"] == "default"
            logs.configure(level="error" if hushed else settings.log_level, form=settings.log_format)
            return function(*arguments, settings=settings, **options)

        # Options show in the order of this list, which click expects last first.
        parameters = getattr(with_settings, "__click_params__", [])
        parameters += [SettingOption(_ROWS[name]) for name in reversed(names)]
        with_settings.__click_params__ = parameters  # type: ignore[attr-defined]
        return config_option(with_settings)

    return decorate


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--config FILE``."""

    def keep(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        context.meta[_CONFIG] = value

    return click.option(
        "--config",
        type=click.Path(dir_okay=False),
        expose_value=False,
        callback=keep,
        help="Settings file, TOML.  [REVOKER_CONFIG]",
    )(function)


def given_settings(context: click.Context) -> tuple[dict[str, object], str | None]:
    """The settings given as options, as text, and the settings file named by ``--config``."""
    return context.meta.get(_GIVEN, {}), context.meta.get(_CONFIG)


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metavar(kind: str) -> str:
    kind = kind.removesuffix(" or unset")
    words = {"text": "TEXT", "whole number": "NUMBER", "number": "NUMBER", "comma-separated list": "A,B,…"}
    return words.get(kind, kind.replace(" or ", "|"))

"""Where settings come from: arguments over environment over file; texts into the types of the table."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec

from revoker.errors import SettingsError

__all__ = ["ENVIRONMENT_PREFIX", "Names", "convert", "merged", "secret_in", "words"]

ENVIRONMENT_PREFIX: Final = "REVOKER_"

#: Names under the prefix that are no settings: the name of the settings file, and what the test suite reads.
_RESERVED: Final = ("CONFIG", "TEST_")

#: Most of a wrong value or name that a message quotes. Long enough for any path that somebody would type.
_SHOWN_CHARS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of all settings, and of those that are secret and may therefore stand in a file of their own."""

    all: Collection[str]
    secret: Collection[str]


def merged(
    arguments: Mapping[str, object], *, environ: Mapping[str, str], file: str | Path | None, names: Names
) -> dict[str, tuple[object, str]]:
    """Each setting that is given, with its source: ``argument``, ``environment`` or ``file``.

    Raises SettingsError for a name that is none, an unreadable file, or a secret given twice.
    """
    file = file or environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or None
    found: dict[str, tuple[object, str]] = {}
    if file is not None:
        found |= {name: (value, "file") for name, value in _from_file(Path(file), names).items()}
    found |= {name: (value, "environment") for name, value in _from_environment(environ, names).items()}
    for name, value in arguments.items():
        _known(name, f"argument {_named(name)}", names)
        if value is not None:
            found[name] = (value, "argument")
    return found


def _from_file(path: Path, names: Names) -> dict[str, object]:
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except RecursionError:
        raise SettingsError(f"settings file {_named(path)}: nested too deeply") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, no TOML, no path, a number of thousands of digits
        raise SettingsError(f"settings file {_named(path)}: {_why(error)}") from error
    for name in found:
        _known(name, f"{_named(name)} in {_named(path)}", names)
    return found


def _from_environment(environ: Mapping[str, str], names: Names) -> dict[str, object]:
    found: dict[str, object] = {}
    secret_files: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        suffix = variable.removeprefix(ENVIRONMENT_PREFIX)
        if suffix.startswith(_RESERVED[1]) or suffix == _RESERVED[0]:
            continue
        name = suffix.lower()
        if name.endswith("_file") and name.removesuffix("_file") in names.secret:
            secret_files[name.removesuffix("_file")] = value
            continue
        _known(name, _named(variable), names)
        found[name] = value
    for name, path in secret_files.items():
        if name in found:
            raise SettingsError(
                f"both {ENVIRONMENT_PREFIX}{name.upper()} and {ENVIRONMENT_PREFIX}{name.upper()}_FILE are set: keep one"
            )
        found[name] = secret_in(path, said=f"{ENVIRONMENT_PREFIX}{name.upper()}_FILE")
    return found


def secret_in(path: str, *, said: str) -> str:
    """The secret in a file, without the line end. ``said``: what named the file, for the SettingsError that is raised
    if it cannot be read.
    """
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        # What is no absolute path may be the secret itself, given where the name of its file belongs.
        shown = f": {_named(path)}" if path.startswith("/") else ""
        raise SettingsError(f"{said}: {_why(error)}{shown}") from None


def _known(name: str, said: str, names: Names) -> None:
    if name in names.all:
        return
    near = difflib.get_close_matches(name[:_SHOWN_CHARS], names.all, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `revoker settings` lists them all"
    raise SettingsError(f"unknown setting {said}{hint}")


def convert(name: str, value: object, *, hint: Any, secret: bool) -> Any:
    """The value in the type of its row; text is parsed as environment variables are written.

    Raises SettingsError naming the setting, and quoting the value unless it is ``secret``. Text other than a secret may
    hold no control characters.
    """
    optional = NoneType in get_args(hint) if get_origin(hint) in (Union, UnionType) else False
    if isinstance(value, str):
        if optional and not value:
            return None
        if get_origin(hint) is tuple:
            value = tuple(part for part in (part.strip() for part in value.split(",")) if part)
        elif hint is bool:
            value = value.lower()
    try:
        _check_characters(name, value, secret=secret)
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
    except (msgspec.ValidationError, KeyError, OverflowError):
        raise SettingsError(f"{name} is {_shown(value, secret=secret)}, must be {words(hint)}") from None


def _check_characters(name: str, value: object, *, secret: bool) -> None:
    """Text becomes a path, a header, a line in a log or a name in Kafka: none may hold what ends or hides one."""
    for text in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(text, str):
            continue
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise SettingsError(f"{name} holds bytes that are no UTF-8")
        if not secret and any(character < " " or character == "\x7f" for character in text):
            raise SettingsError(f"{name} holds a control character")


def _shown(value: object, *, secret: bool) -> str:
    """A wrong value as it may be printed."""
    if secret:
        return "a malformed value"
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(part, dict | list) for part in value)):
        # In TOML whatever follows the head of a table is part of it: any secret may be in there.
        return "a table"
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _named(name: object) -> str:
    """A name or a path in a message: as it is, unless it is too long or would not be one line of plain text."""
    text = str(name)
    return text if text.isprintable() and len(text) <= _SHOWN_CHARS else _shown(text, secret=False)


def _why(error: OSError | ValueError) -> str:
    return error.strerror or "cannot be read" if isinstance(error, OSError) else _named(error)


def words(hint: Any) -> str:
    """A type in the words of a person who sets it."""
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    if get_origin(hint) is tuple:
        return "comma-separated list"
    if get_origin(hint) in (Union, UnionType):
        return " or unset".join(words(part) for part in get_args(hint) if part is not NoneType) + " or unset"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[hint]

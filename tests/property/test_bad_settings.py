"""Thousands of bad settings, from every source: refused by the name of the setting, and no secret is shown."""

from __future__ import annotations

import math
import random
import string
from pathlib import Path
from typing import Any, Final

from revoker.errors import RevokerError, SettingsError
from revoker.keys import keys_from_settings
from revoker.service.credentials import clearing_cookie
from revoker.service.origin import listed_origins
from revoker.settings import Settings, sources, table
from tests.bad_inputs import tried
from tests.command_line import revoker
from tests.leaks import MARK
from tests.mutations import NASTY, spoiled_bytes

SECRET: Final = f"{MARK}of-a-setting-0123456789"
_ROWS: Final = table()
_SECRETS: Final = tuple(row.name for row in _ROWS if row.secret)

_TEXTS: Final = (
    *("", " ", "x", "0", "-1", "1.5", "1e999", "-1e999", "nan", "inf", "-Infinity", "1_000", "0x10", "1e3", "9" * 30),
    *("9" * 5000, "1" + "0" * 400, "true", "TRUE", "yes", "None", "null", "[]", "{}", "a,b", ",,,", "a,,b", "١٢"),
    *("\x00", "a\x00b", "\n", "a\r\nSet-Cookie: b", "\x1b[31m", "\ud800", "\udcff", "é", "\u202e", "x" * 100_000),
    *(
        "PLAINTEXT",
        "strict",
        "HS256",
        "none",
        "*",
        "/",
        "/nowhere/file",
        "k=/nowhere",
        "=",
        ":",
        ":0",
        "::1",
        "[::1]:0",
    ),
    *("127.0.0.1:70000", "127.0.0.1:-1", "h:" + "9" * 5000, "h:٣", "http://", "https://u:p@h/", "file:///etc/passwd"),
)
_OBJECTS: Final[tuple[Any, ...]] = (
    *(True, 0, -1, 10**30, 10**5000, -(10**400), 1.5, math.nan, math.inf, -math.inf, 1e308, 2**63, 1 + 2j),
    *(
        b"x",
        bytearray(b"x"),
        [],
        [1],
        ["a", None],
        (),
        (("a",),),
        {},
        {"a": 1},
        {1},
        object(),
        int,
        Path("/x"),
        range(3),
    ),
)


def spoiled_text(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(_TEXTS)
    return "".join(rng.choice(string.printable + "\x00é\ud800") for _ in range(rng.randrange(12)))


def spoiled_toml(rng: random.Random) -> bytes:
    """A settings file of a few lines, one of them at least wrong in some way; by chance a right one."""
    lines = [f'key_secret = "{SECRET}"'] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice(_ROWS).name if rng.random() < 0.85 else spoiled_name(rng, rng.choice(_ROWS).name)
        value = rng.choice(
            (*NASTY, "1979-05-27", "07:32:00", "inf", "-nan", "0b1", "1_0", "[1, [2]]", "{a = 1}", '"""')
        )
        if name in _SECRETS and rng.random() < 0.5:
            value = rng.choice((f'["{SECRET}"]', f'{{ x = "{SECRET}" }}', f'"{SECRET}'))
        shape = rng.choice(
            ("{} = {}", "{} = {}", "{} = {}", "[{}]\nx = {}", "{}.x = {}", "[[{}]]\nx = {}", '"{}" = {}')
        )
        lines.append(shape.format(name, value))
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return spoiled_bytes(rng, text) if rng.random() < 0.2 else text


def spoiled_name(rng: random.Random, name: str) -> str:
    return rng.choice((name.upper(), name + "_", name[:-1], name + "_file", "", "no_such", "x" * 5000, "é", "a\nb"))


def outcome(names: list[str], **given: Any) -> Settings | None:
    """The settings, if they are taken; else the message is one that may be shown and names one of ``names``."""
    try:
        settings = Settings.load(**given)
    except SettingsError as error:
        message = str(error)
    else:
        assert SECRET not in repr(settings)
        return settings
    assert SECRET not in message
    assert len(message) < 1500, message[:3000]
    assert message.isprintable(), f"control characters reach terminals and logs: {message!r}"
    assert any(name in message for name in names), message
    return None


def used(settings: Settings) -> None:
    """What a service makes of its settings at once: again a SettingsError or nothing."""
    for use in (keys_from_settings, clearing_cookie, lambda found: listed_origins(found.allowed_origins)):
        try:
            use(settings)
        except SettingsError as error:
            message = str(error)
            assert SECRET not in message


def test_bad_files(tmp_path: Path) -> None:
    """A settings file of any content is taken or refused, naming itself or the setting."""
    file = tmp_path / "revoker.toml"
    with tried("settings", share=1 / 3) as inputs:
        for rng in inputs:
            file.write_bytes(spoiled_toml(rng))
            taken = outcome([str(file), *(row.name for row in _ROWS)], file=file, environ={})
            if taken is not None:
                used(taken)


def test_bad_environments(tmp_path: Path) -> None:
    """Any text in the environment, as a value or as the file of a secret, is taken or refused by name."""
    secret_file = tmp_path / "secret"
    with tried("settings", share=1 / 3) as inputs:
        for rng in inputs:
            row = rng.choice(_ROWS)
            environ = {row.environment_name: spoiled_text(rng)}
            match rng.randrange(5):
                case 0:
                    name = rng.choice(_SECRETS)
                    secret_file.write_bytes(spoiled_bytes(rng, SECRET.encode()))
                    path = rng.choice((str(secret_file), str(tmp_path), "", "a\x00b", "/nowhere", "\ud800", SECRET))
                    environ = {f"REVOKER_{name.upper()}_FILE": path}
                    if rng.random() < 0.2:
                        environ[f"REVOKER_{name.upper()}"] = SECRET
                case 1:
                    environ = {f"REVOKER_{spoiled_name(rng, rng.choice(_SECRETS)).upper()}": SECRET}
                case 2:
                    environ["REVOKER_CONFIG"] = rng.choice((str(tmp_path), "/nowhere", "a\x00b", "x" * 5000, "\ud800"))
                case _:
                    environ["REVOKER_KEY_SECRET"] = SECRET
            named = [name.removeprefix("REVOKER_").lower() for name in environ] + list(environ)
            related = [row.name for row in _ROWS]
            taken = outcome([*named, *related, "settings file", "unknown setting"], environ=environ)
            if taken is not None:
                used(taken)
                assert sources(environ=environ)


def test_bad_arguments() -> None:
    """Any object as the value of any setting, given in code, is taken or refused by name."""
    with tried("settings", share=1 / 3) as inputs:
        for rng in inputs:
            row = rng.choice(_ROWS)
            value = rng.choice(_OBJECTS) if rng.random() < 0.7 else spoiled_text(rng)
            if row.secret and rng.random() < 0.5:
                value = rng.choice(([SECRET], {"x": SECRET}, SECRET.encode(), (SECRET,)))
            related = [other.name for other in _ROWS]
            taken = outcome([row.name] if row.secret else related, arguments={row.name: value}, environ={})
            if taken is not None:
                used(taken)


def test_the_command_line_says_so_and_exits_2(tmp_path: Path) -> None:
    """What `Settings.load` refuses is one line on standard error and exit code 2 in the command line."""
    file = tmp_path / "revoker.toml"
    for text in (
        "x = 1",
        "topic = 1",
        "a" * 10,
        'listen = "h:' + "9" * 5000 + '"',
        "x = " + "9" * 5000,
        "x = " + "[" * 9000,
    ):
        file.write_text(text, "utf-8")
        ran = revoker("settings", "--config", str(file))
        assert ran.code == 2
        assert "Traceback" not in ran.err
        assert ran.err.count("\n") <= 2
    assert issubclass(SettingsError, RevokerError)

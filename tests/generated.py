"""Files made from the code and kept in the repository; `python -m tests.generated` writes them anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from revoker import record, settings

ROOT = Path(__file__).parent.parent


def record_schema() -> str:
    """The JSON Schema of the record."""
    return json.dumps(record.json_schema(), indent=2, ensure_ascii=False) + "\n"


def settings_page() -> str:
    """The page of all settings."""
    lines = [
        "# Settings",
        "",
        "Every setting has one name. A value comes from the first of: argument of the command or of `Settings.load`,",
        "environment variable, settings file, default.",
        "",
        "- **Environment**: `REVOKER_` and the name in capitals: `REVOKER_TOPIC=revocations`.",
        "- **File**: TOML with the names as keys; the variable `REVOKER_CONFIG` names the file.",
        "- **Lists** are comma-separated in the environment and arrays in the file.",
        "- **Secrets** may stand in a file of their own, as Docker and Kubernetes mount them:",
        "  `REVOKER_KEY_SECRET_FILE=/run/secrets/key`. They are masked in every printed form of the settings.",
        "- **Unset**: an empty environment variable unsets a setting that may be unset.",
        "",
        "An unknown name or a malformed value is refused, with the nearest right one; nothing is ignored.",
        "Units are in the names: `_s` seconds, `_ms` milliseconds, `_bytes` bytes.",
        "",
        "| setting | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for row in settings.table():
        meaning = row.help + (" (secret)" if row.secret else "")
        lines.append(f"| `{row.name}` | {row.kind} | {_default(row.default)} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    match value:
        case None | ():
            return "unset"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple():
            return f"`{','.join(value)}`"
        case _:
            return f"`{value}`"


FILES: Mapping[str, Callable[[], str]] = {
    "revoker/record.schema.json": record_schema,
    "docs/settings.md": settings_page,
}


def main() -> None:
    """Write every file."""
    for name, make in FILES.items():
        path = ROOT / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()

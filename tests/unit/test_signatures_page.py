"""docs/signatures.md: its files can be read, its code makes signatures, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from revoker.signature import HEADER, read_signature
from revoker.trust import NARROW_KINDS, REASONS
from revoker.trustfile import TrustFile
from tests.publishers import SERVICE, TOPIC
from tests.signing import private_key

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "signatures.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def test_every_file_on_the_page_can_be_read(tmp_path: Path) -> None:
    """Each TOML example is a whole file of trusted publishers, as it stands."""
    for name in ("acme-admin.pem", "logout-service-2026.pem"):
        (tmp_path / name).write_text(SERVICE.key.pem)
    examples = blocks("toml")
    assert len(examples) == 3
    for example in examples:
        file = tmp_path / "publishers.toml"
        file.write_text(example)
        assert len(TrustFile(file).trust.publishers) == 1


def test_the_code_on_the_page_signs() -> None:
    """What another implementation would make by the page verifies."""
    (code,) = blocks("python")
    scope: dict[str, Any] = {}
    exec(code, scope)
    text = scope["signature"](b"value", private_key("EdDSA", "k1"), publisher="service", topic=TOPIC)
    claimed = read_signature([(HEADER, text)])
    assert claimed is not None
    assert SERVICE.key.verifies(claimed, value=b"value")


def test_every_reason_and_default_kind_is_on_the_page() -> None:
    """The tables keep up with the code."""
    assert all(f"`{word}`" in PAGE for word in (*REASONS, *NARROW_KINDS))

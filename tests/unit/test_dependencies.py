"""What the project depends on: declared, locked and explained are the same thing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

_ROOT = Path(__file__).parents[2]


def declared() -> dict[str, list[Requirement]]:
    """Every direct requirement in pyproject.toml, by canonical name; one may be declared in two places."""
    project: dict[str, Any] = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    texts: list[str] = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        texts += extra
    for group in project["dependency-groups"].values():
        texts += [line for line in group if isinstance(line, str)]  # a table includes a group that is read as well
    requirements: dict[str, list[Requirement]] = {}
    for text in texts:
        requirement = Requirement(text)
        requirements.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return requirements


def locked() -> dict[str, tuple[Version, int]]:
    """Version and number of hashes of every package in requirements.lock, by canonical name."""
    text = (_ROOT / "requirements.lock").read_text(encoding="utf-8")
    packages: dict[str, tuple[Version, int]] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        head, *hashes = block.split("--hash=")
        name, version = head.split(";")[0].rstrip(" \\\n").split("==")
        packages[canonicalize_name(name.split("[")[0])] = (Version(version.strip()), len(hashes))
    return packages


def test_the_lock_satisfies_every_declared_requirement() -> None:
    """Each requirement in pyproject.toml is in the lock at a version that it allows."""
    lock = locked()
    wrong = [
        str(requirement)
        for name, requirements in declared().items()
        for requirement in requirements
        if name not in lock or lock[name][0] not in requirement.specifier
    ]
    assert wrong == [], "run `make lock`"


def test_every_locked_package_has_hashes() -> None:
    """No package in the lock can be replaced by another file of the same version."""
    assert [name for name, (_, hashes) in locked().items() if hashes == 0] == []


def test_the_lock_names_no_index() -> None:
    """The lock holds no address and no option, so that it installs from any mirror."""
    lines = (_ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "://" in line or line.startswith("-")] == []


def test_every_dependency_is_explained() -> None:
    """docs/dependencies.md has a row for each declared requirement, and for nothing else."""
    page = (_ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    explained: set[str] = set()
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        column = 2 if section.startswith("Extras") else 1
        for row in re.findall(r"^\|.*\|$", section, flags=re.MULTILINE):
            explained |= {canonicalize_name(name) for name in re.findall(r"`([^`]+)`", row.split("|")[column])}
    assert explained == set(declared())

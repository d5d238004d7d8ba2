"""The shared deny list under attack: writers that die anywhere lose nothing, and the attacks can see a loss."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from revoker.cli.children import die_with_parent
from tests.shared.mutants import MUTANTS

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory in memory, as in production."""
    place = Path(tempfile.mkdtemp(prefix="revoker-kills-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield place
    shutil.rmtree(place)


async def run(*arguments: str) -> tuple[int, str]:
    """One attack as a process of its own; its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *die_with_parent([sys.executable, "-m", *arguments]),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@pytest.mark.slow
async def test_a_thousand_kills_lose_nothing_and_make_nothing_up(directory: Path) -> None:
    """The writer is killed a thousand times under two checking readers: no acknowledged entry is missed, no stranger
    refused.
    """
    code, said = await run("tests.shared.kills", str(directory), "--kills", "1000")
    result = json.loads(said.splitlines()[-1])
    assert (code, result["problems"], result["kills"]) == (0, [], 1000), said
    assert result["generation"] > 20, "it was hardly ever made anew"
    assert result["checks"] > 100_000, "hardly anything was checked"


@pytest.mark.slow
async def test_a_crash_before_any_line_of_the_writer_loses_nothing() -> None:
    """The writer dies before a line of its own code, and what was acknowledged is in force for whoever takes over.

    A sample; ``python -m tests.shared.crash`` dies before every line.
    """
    code, said = await run("tests.shared.crash", "--every", "7")
    assert code == 0, said
    assert int(said.split()[0]) > 100, said


@pytest.mark.parametrize("plant", sorted(MUTANTS))
async def test_a_planted_bug_is_found(plant: str) -> None:
    """Each rule the shared deny list rests on, broken on purpose: the crashes show a loss."""
    code, said = await run("tests.shared.crash", "--plant", plant)
    assert code == 1, f"not found: {said}"
    assert "lost" in said or "not seen" in said or "refused" in said, said

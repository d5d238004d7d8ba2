"""A check needs nothing but this process's memory, and only the process that follows the topic may answer."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from revoker import topic
from revoker.cli.children import die_with_parent
from revoker.keys import keys_from_settings
from revoker.publisher import Publisher
from revoker.tokens import Verifier
from tests.broker.conftest import PATIENCE_S, SECRET, settings_for
from tests.conftest import Broker
from tests.leaks import look
from tests.samples import token

ROOT = Path(__file__).parents[2]


async def run(lose: str, apache: Broker, topic_name: str) -> list[dict[str, str]]:
    """What the node in cut_off.py said after it had lost its network, or its parent."""
    settings = settings_for(apache.bootstrap, topic_name)
    await topic.create(settings)
    revoked, good = token(secret=SECRET), token(secret=SECRET)
    async with Publisher(settings) as publisher:
        await publisher.logout(Verifier.from_settings(settings, keys_from_settings(settings)).verify(revoked))
    command = [sys.executable, "-m", "tests.e2e.cut_off", lose, apache.bootstrap, topic_name, revoked, good]
    process = await asyncio.create_subprocess_exec(
        *die_with_parent(command), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(2 * PATIENCE_S):
        output, errors = await process.communicate()
    look(errors, where="standard error of the node")
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in output.splitlines()]


async def test_a_check_works_with_the_network_gone(apache: Broker, topic_name: str) -> None:
    """A live node whose sockets are closed, in a namespace without network, still tells revoked from good, at once."""
    (said,) = await run("network", apache, topic_name)
    assert said.pop("means").startswith(("network namespace", "sockets refused"))
    assert said == {
        "state": "LIVE",
        "through_aiohttp revoked": "401",
        "through_aiohttp good": "200",
        "through_asgi revoked": "401",
        "through_asgi good": "200",
    }


async def test_a_forked_process_is_never_ready(apache: Broker, topic_name: str) -> None:
    """A child of a live node refuses: revoked tokens for good, all others until it follows the topic itself."""
    child, parent = await run("parent", apache, topic_name)
    assert "forked away from its follower" in child.pop("reason")
    assert child == {
        "state": "STOPPED",
        "through_aiohttp revoked": "401",
        "through_aiohttp good": "503",
        "through_asgi revoked": "401",
        "through_asgi good": "503",
    }
    assert parent == {"parent": "LIVE"}

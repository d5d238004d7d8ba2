"""Plain multiprocessing: one process follows the topic, any number of others look. Tokens come on standard input.

REVOKER_ALGORITHMS=HS256 REVOKER_KEY_SECRET=... REVOKER_DENYLIST=shared REVOKER_SHARED_DIR=/dev/shm/revoker \
python examples/worker_processes.py < tokens
"""

import asyncio
import multiprocessing
import os
import sys

from consumers.node import Node
from revoker.errors import NotProven
from revoker.settings import Settings
from revoker.tokens import InvalidTokenError

node = Node(Settings.load())  # opens nothing


async def follow() -> None:
    async with Node(Settings.load()):
        await asyncio.Event().wait()


def check(token: str) -> str:
    try:
        return f"{os.getpid()} {node.authenticate(token).claims.get('sub')} may pass"
    except NotProven:
        return f"{os.getpid()} cannot tell yet"
    except InvalidTokenError as error:
        return f"{os.getpid()} refused: {error}"


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    writer = fork.Process(target=lambda: asyncio.run(follow()), daemon=True)
    writer.start()
    with fork.Pool(4, initializer=node.look) as pool:
        for line in sys.stdin:
            print(pool.apply(check, (line.strip(),)), flush=True)
    writer.terminate()

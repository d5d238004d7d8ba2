"""A short chaos run as the command runs it: faults into three brokers, a service and five nodes, no promise broken.

The long one is ``make chaos FAULTS=1000``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from revoker.cli.children import die_with_parent
from tests.chaos.history import Fault, Final, Recovered, Revoked, read

#: One of each family that is quickly over. The rest, and their combinations, take the long run.
KINDS = "broker-kill,broker-pause,net-stall,net-half-open,node-kill,node-pause,service-kill,topic-recreated"
FAULTS = 8
#: Far more than it takes, on a machine that does much else.
LONGEST_S = 400.0


@pytest.mark.slow
@pytest.mark.skipif(bool(os.environ.get("REVOKER_TEST_BOOTSTRAP")), reason="needs brokers that it may kill")
async def test_a_short_chaos_run_breaks_no_promise(tmp_path: Path) -> None:
    """Every fault is seen to have had its effect, the load is real, and the checker finds nothing."""
    history = tmp_path / "history.jsonl"
    command = [sys.executable, "-m", "tests.chaos", f"--faults={FAULTS}", "--seed=21", f"--kinds={KINDS}"]
    command += [f"--history={history}", "--checks-per-s=500", "--users-per-s=5", "--longest-life-s=60"]
    process = await asyncio.create_subprocess_exec(
        *die_with_parent(command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(LONGEST_S):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = printed.decode()
    assert process.returncode == 0, text
    line = json.loads(text.splitlines()[-1])
    assert line["violations"] == {}
    assert line["figures"]["faults_verified"] == FAULTS

    events = read(history)
    faults = [event for event in events if isinstance(event, Fault)]
    assert {fault.kind for fault in faults} == set(KINDS.split(","))
    assert all(fault.verified for fault in faults)
    assert any(isinstance(event, Recovered) for event in events)
    assert sum(isinstance(event, Revoked) and event.state == "acknowledged" for event in events) > 20
    finals = [event for event in events if isinstance(event, Final)]
    assert len(finals) == 5
    assert all(final.denied for final in finals)

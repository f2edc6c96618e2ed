"""500 calls that wait for a human: what they cost the sidecar's process, in memory and in processor time.

The figures are printed (pytest -s). The calls are of two agents, about 40 tickets, and want to hear of progress.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from tests.resilience.test_memory import rss
from tests.support.approver import guarded, sqlite
from tests.support.gate import KEYS, call
from tests.support.process import sidecar as process
from tests.support.raw import Connection, connect

CALLS = 500
TICKETS = 20
SECONDS = float(os.environ.get("OPENMCP_HELD_SECONDS", "10"))
MEMORY = 20 * 1024
"""KiB, for all of them together."""
CPU = 0.05
"""Of one core, while nothing happens."""


def spent(pid: int) -> float:
    """Return the processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _listening(agent: Connection) -> None:
    """Read what comes, for a while."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            while True:
                await agent.event()


async def test_what_500_held_calls_cost(tmp_path: Path) -> None:
    config = guarded(
        "http://127.0.0.1:9/mcp",
        approvals={"hold": "5m", "holdWithProgress": "5m"},
        state=sqlite(tmp_path),
    )
    del config["listen"]
    with process(config) as gateway:
        pid = gateway.running.process.pid
        async with AsyncExitStack() as stack:
            agents = [
                await stack.enter_async_context(connect(gateway.url, "/server", x_api_key=list(KEYS.values())[n % 2]))
                for n in range(CALLS)
            ]
            await agents[0].ask(call("forbidden"))
            warm = [await one.ask(call("guarded-", ticket="w" * 70_000)) for one in agents[:1]]
            assert "too large" in json.dumps(warm[0].json)
            before = rss(gateway)
            for number, one in enumerate(agents):
                document = call("guarded", number, ticket=number // 2 % TICKETS, text="x" * 500)
                document["params"]["_meta"] = {"progressToken": number}
                await one.send(one.request(document))
            for one in agents:
                assert (await one.answer_head())[0] == 200
                assert (await one.event())["method"] == "notifications/progress"
            grown = rss(gateway) - before
            used, began = spent(pid), time.monotonic()
            await asyncio.gather(*(_listening(one) for one in agents))
            share = (spent(pid) - used) / (time.monotonic() - began)
            print(f"{CALLS} held calls: {grown / 1024:.1f} MiB, {share:.1%} of a core")
            assert grown < MEMORY
            assert share < CPU

"""`timeouts.tools`: calls of some tools have a time of their own, whichever way they are answered."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.net.test_upstream import TIMEOUT, failed
from tests.support.gate import ask_modern, call, configuration, gate, message
from tests.support.hostile import Hostile, Reply, Request, friendly

TIMES: dict[str, Any] = {
    "request": "100ms",
    "idle": "100ms",
    "tools": {"allowed_quick_report": "200ms", "allowed_*report": "1m", "allowed_lookup": "20ms"},
}


async def late(request: Request, reply: Reply) -> None:
    """Answer after 300 ms, a list at once."""
    if request.json["method"] == "tools/call":
        await asyncio.sleep(0.3)
    await friendly(request, reply)


@pytest.mark.parametrize(
    ("tool", "least", "most"),
    [("allowed", 0.1, 0.2), ("allowed_quick_report", 0.2, 0.3), ("allowed_lookup", 0.02, 0.1)],
)
async def test_a_call_has_the_time_of_its_tool(
    server: Hostile, tmp_path: Path, tool: str, least: float, most: float
) -> None:
    async def hangs(request: Request, reply: Reply) -> None:
        await reply.left()

    server.handler = hangs
    async with gate(tmp_path, configuration(server.url, timeouts=TIMES)) as sidecar, sidecar.connect() as agent:
        started = asyncio.get_running_loop().time()
        failed(await agent.ask(call(tool)), TIMEOUT)
        took = asyncio.get_running_loop().time() - started
        assert took >= least
        line = await sidecar.recorded(outcome="timeout")
        # The loop's clock ticks in milliseconds; a busy machine sweeps late.
        assert least - 0.001 <= line["latency"]["upstream_us"] / 1e6 < most + 0.5


async def test_the_first_glob_counts_and_a_long_one_lets_a_call_finish(server: Hostile, tmp_path: Path) -> None:
    server.handler = late
    async with gate(tmp_path, configuration(server.url, timeouts=TIMES)) as sidecar, sidecar.connect() as agent:
        assert "result" in (await agent.ask(call("allowed_big_report"))).json
        assert "result" in (await ask_modern(agent, call("allowed_big_report"))).json
        failed(await agent.ask(call("allowed_quick_report")), TIMEOUT)
        failed(await agent.ask(call()), TIMEOUT)
        assert "result" in (await agent.ask(message("tools/list"))).json


async def test_a_stream_has_no_more_time_than_its_tool(server: Hostile, tmp_path: Path) -> None:
    """Events do not prolong it, and pauses that the tool may make do not end it."""

    async def streams(request: Request, reply: Reply) -> None:
        await reply.stream()
        while not reply.writer.transport.is_closing():
            await reply.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}})
            await asyncio.sleep(0.02)

    server.handler = streams
    async with gate(tmp_path, configuration(server.url, timeouts=TIMES)) as sidecar, sidecar.connect() as agent:
        answer = await agent.ask(call("allowed_quick_report"))
        assert answer.events[-1] == {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": TIMEOUT}}

        async def pauses(request: Request, reply: Reply) -> None:
            await reply.stream()
            await asyncio.sleep(0.3)
            await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
            await reply.end()

        server.handler = pauses
        assert (await agent.ask(call("allowed_big_report"))).events[-1]["result"] == {"content": []}
        assert "error" in (await agent.ask(call())).events[-1]

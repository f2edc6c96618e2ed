"""`timeouts.tools`: calls of some tools have a time of their own, whichever way they are answered."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.net.test_upstream import TIMEOUT, failed, streamed
from tests.support.gate import ask_modern, call, configuration, gate, message
from tests.support.hostile import Hostile, Reply, Request, friendly

TIMES: dict[str, Any] = {
    "request": "100ms",
    "idle": "100ms",
    "tools": {"allowed_quick_report": "200ms", "allowed_*report": "1m", "allowed_lookup": "20ms"},
}


async def late(request: Request, reply: Reply) -> None:
    """Answer after 300 ms, what is called big or a list; the rest never."""
    if request.json["method"] == "tools/call" and "big" not in request.json["params"]["name"]:
        await reply.left()
        return
    await asyncio.sleep(0.3)
    await friendly(request, reply)


@pytest.mark.parametrize(
    ("tool", "times", "least"),
    [
        ("allowed", {"request": "100ms", "idle": "100ms"}, 0.1),
        ("allowed_quick_report", {"tools": {"allowed_quick_report": "200ms", "allowed_*report": "1m"}}, 0.2),
        ("allowed_lookup", {"tools": {"allowed_*report": "1m", "allowed_lookup": "20ms"}}, 0.02),
    ],
)
async def test_a_call_has_the_time_of_its_tool(
    server: Hostile, tmp_path: Path, tool: str, times: dict[str, Any], least: float
) -> None:
    """All other times are longer than the test waits for."""

    async def hangs(request: Request, reply: Reply) -> None:
        await reply.left()

    server.handler = hangs
    timeouts = {"request": "1m", "idle": "1m", "tools": {"allowed_*report": "1m", "allowed_lookup": "1m"}} | times
    async with gate(tmp_path, configuration(server.url, timeouts=timeouts)) as sidecar, sidecar.connect() as agent:
        started = asyncio.get_running_loop().time()
        failed(await agent.ask(call(tool)), TIMEOUT)
        took = asyncio.get_running_loop().time() - started
        assert took >= least
        line = await sidecar.recorded(outcome="timeout")
        assert least - 0.001 <= line["latency"]["upstream_us"] / 1e6  # the loop's clock ticks in milliseconds


async def test_the_first_glob_counts_and_a_long_one_lets_a_call_finish(server: Hostile, tmp_path: Path) -> None:
    server.handler = late
    async with gate(tmp_path, configuration(server.url, timeouts=TIMES)) as sidecar, sidecar.connect() as agent:
        assert "result" in (await agent.ask(call("allowed_big_report"))).json
        assert "result" in (await ask_modern(agent, call("allowed_big_report"))).json
        failed(await agent.ask(call("allowed_quick_report")), TIMEOUT)
        failed(await agent.ask(call()), TIMEOUT)


async def test_a_list_is_no_call_of_a_tool(server: Hostile, tmp_path: Path) -> None:
    server.handler = late
    config = configuration(server.url, timeouts={"tools": {"*": "20ms"}})
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
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
        *_, end = await streamed(agent, call("allowed_quick_report"))
        assert end == {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": TIMEOUT}}

        async def pauses(request: Request, reply: Reply) -> None:
            await reply.stream()
            await asyncio.sleep(0.3)
            await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
            await reply.end()

        server.handler = pauses
        assert (await agent.ask(call("allowed_big_report"))).events[-1]["result"] == {"content": []}
        assert "error" in (await streamed(agent, call()))[-1]

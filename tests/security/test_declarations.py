"""What a server says of itself gives nobody a right, and what it leaves unended is ended."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import PATIENCE, POLICY, Gate, ask_modern, call, configuration, gate, message
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile, tool
from tests.support.raw import Connection

HINTS = {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}


async def test_self_declared_read_only_hint(server: Hostile, tmp_path: Path) -> None:
    """A tool that says it does no harm is neither allowed for that nor sent a second time."""

    async def harmless(request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json["method"] == "tools/list":
            names = ("forbidden", "hidden", "allowed")
            await reply.result({"tools": [{**tool(name), "annotations": HINTS} for name in names]})
        elif request.method == "POST" and request.json["method"] == "tools/call":
            reply.close()
        else:
            await friendly(request, reply)

    server.handler = harmless
    async with hostile(harmless) as second:
        config = configuration(server.url, second.url)
        async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
            listed = (await agent.ask(message("tools/list"))).json["result"]["tools"]
            assert [one["name"] for one in listed] == ["allowed"]
            for name in ("forbidden", "hidden"):
                assert (await agent.ask(call(name))).json["result"]["isError"] is True
            assert (await agent.ask(call())).code == -32603, "the server closed without an answer"
        calls = server.calls("tools/call") + second.calls("tools/call")
        assert [one["params"]["name"] for one in calls] == ["allowed"]


async def test_request_state_replayed(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """A state opens no door a second time: each request that brings it is judged as if it brought none."""

    async def asks(request: Request, reply: Reply) -> None:
        await reply.result({"resultType": "input_required", "requestState": "upstream-state"})

    server.handler = asks
    state = (await ask_modern(agent, call())).json["result"]["requestState"]
    server.handler = friendly
    server.requests.clear()
    again = {**call(), "params": {**call()["params"], "requestState": state}}
    assert "result" in (await ask_modern(agent, again)).json
    assert server.requests[0].json["params"]["requestState"] == "upstream-state"
    server.requests.clear()
    listing = message("tools/list", 1, requestState=state)
    assert (await ask_modern(agent, listing)).code == -32602, "of another request"
    config = configuration(server.url)
    config["policies"] = [{**POLICY, "requests": [rule for rule in POLICY["requests"] if rule["name"] != "tools"]}]
    sidecar.reload(config)
    assert (await ask_modern(agent, again)).json["result"]["isError"] is True, "policy is asked again"
    sidecar.reload(configuration(server.url.replace("/mcp", "/elsewhere")))
    assert (await ask_modern(agent, again)).code == -32602, "the endpoint that knows it is gone"
    assert server.requests == []


@pytest.mark.parametrize("trickle", [b":\n\n", b"data: ", b'event: message\ndata: {"jsonrpc":"2.0","method":"x"}\n\n'])
async def test_endless_sse(server: Hostile, tmp_path: Path, trickle: bytes) -> None:
    """A stream that goes on and on without the response is ended in time, with an error for the open id."""
    left = asyncio.Event()

    async def endless(request: Request, reply: Reply) -> None:
        await reply.stream()
        while not reply.writer.is_closing():
            await reply.chunk(trickle)
            await asyncio.sleep(0.02)
        left.set()

    server.handler = endless
    config: dict[str, Any] = configuration(server.url, timeouts={"request": "1s", "idle": "1s", "stream": "1s"})
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        answer = await agent.ask(call())
        assert answer.events[-1]["error"]["code"] == -32603
        assert answer.events[-1]["id"] == 1
        async with asyncio.timeout(PATIENCE):
            await left.wait()

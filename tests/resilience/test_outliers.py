"""Endpoints that fail are left out, and come back: what agents and servers see of it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.gate import Gate, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile
from tests.support.process import nobody
from tests.support.raw import Connection

LEFT_ALONE = "the MCP server has failed again and again and is left alone for a while"


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


async def leaves(request: Request, reply: Reply) -> None:
    """Close where an answer should come."""
    reply.close()


async def metric(sidecar: Gate, line: str) -> float:
    """The value of a metric whose name and labels are these, of the endpoint that is left out at most."""
    found = re.search(rf"^{line}(?:\{{.*\}})? (\S+)$", await sidecar.page("/metrics"), re.MULTILINE)
    assert found is not None, line
    return float(found[1])


async def results(agent: Connection, count: int) -> int:
    """How many of so many calls succeed."""
    answers = [(await agent.ask(call(identifier=number))).json for number in range(count)]
    return sum("result" in answer for answer in answers)


async def test_an_endpoint_that_is_down_is_no_longer_asked(server: Hostile, tmp_path: Path) -> None:
    outliers = {"failures": 2, "ejectFor": "1h"}
    async with AsyncExitStack() as stack:
        down = stack.enter_context(nobody())
        sidecar = await stack.enter_async_context(gate(tmp_path, configuration(down, server.url, outliers=outliers)))
        agent = await stack.enter_async_context(sidecar.connect())
        assert await results(agent, 20) == 20
        attempts = f'openmcp_connects_total{{endpoint="{down}",result="refused",server="server"}} 2.0'
        page = await sidecar.page("/metrics")
        assert attempts in page
        assert f'openmcp_endpoint_ejected{{endpoint="{down}",server="server"}} 1.0' in page
        assert f'openmcp_endpoint_ejected{{endpoint="{server.url}",server="server"}} 0.0' in page
        assert f'openmcp_endpoint_ejections_total{{endpoint="{down}",server="server"}} 1.0' in page
        assert '"ejected":true' in (await sidecar.page("/readyz")).replace(" ", "")


async def test_the_only_endpoint_is_left_alone_and_comes_back(server: Hostile, tmp_path: Path) -> None:
    """Circuit breaking: calls are refused at once, until one that is let through succeeds."""
    server.handler = leaves
    outliers = {"failures": 3, "ejectFor": "1h", "maxEjected": 1}
    async with gate(tmp_path, configuration(server.url, outliers=outliers)) as sidecar, sidecar.connect() as agent:
        assert await results(agent, 3) == 0
        assert len(server.requests) == 3
        answer = await agent.ask(call(identifier=9))
        assert answer.json["error"] == {"code": -32603, "message": LEFT_ALONE}
        assert len(server.requests) == 3
        line = await sidecar.recorded(outcome="ejected")
        assert line["reason"].startswith("no endpoint is asked for another ")
        assert "endpoint" not in line

        server.handler = friendly
        assert await results(agent, 1) == 0
        (standing,) = sidecar.app.snapshot.routes["/server"].upstream.resending.outliers._standing.values()
        standing.until = 0.0  # the hour is over
        assert await results(agent, 5) == 5
        assert await metric(sidecar, "openmcp_endpoint_ejected") == 0.0


async def test_one_call_tries_it_and_the_others_are_refused(server: Hostile, tmp_path: Path) -> None:
    server.handler = leaves
    outliers = {"failures": 1, "ejectFor": "1ms", "maxEjected": 1}
    async with (
        gate(tmp_path, configuration(server.url, outliers=outliers)) as sidecar,
        sidecar.connect() as agent,
        sidecar.connect() as other,
    ):
        assert await results(agent, 1) == 0
        answered = asyncio.Event()

        async def slow(request: Request, reply: Reply) -> None:
            await answered.wait()
            await friendly(request, reply)

        server.handler = slow
        await asyncio.sleep(0.01)  # the time for which it is left alone
        trying = asyncio.create_task(agent.ask(call()))
        await server.received(2)
        assert (await other.ask(call())).json["error"]["message"] == LEFT_ALONE
        answered.set()
        assert "result" in (await trying).json
        assert "result" in (await other.ask(call())).json


async def test_no_agent_can_have_an_endpoint_left_out_by_slow_calls(
    server: Hostile, tmp_path: Path, fast_clock: None
) -> None:
    async def hangs(request: Request, reply: Reply) -> None:
        await reply.left()

    server.handler = hangs
    outliers = {"failures": 1, "ejectFor": "1h", "maxEjected": 1}
    config = configuration(server.url, outliers=outliers, timeouts={"tools": {"allowed_slow": "50ms"}})
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        for _ in range(3):
            assert "error" in (await agent.ask(call("allowed_slow"))).json
        server.handler = friendly
        assert await results(agent, 1) == 1


async def test_an_error_of_the_server_itself_does_not_count(server: Hostile, tmp_path: Path) -> None:
    async def fails(request: Request, reply: Reply) -> None:
        await reply.respond(status=500)

    server.handler = fails
    outliers = {"failures": 1, "ejectFor": "1h", "maxEjected": 1}
    async with gate(tmp_path, configuration(server.url, outliers=outliers)) as sidecar, sidecar.connect() as agent:
        assert await results(agent, 3) == 0
        server.handler = friendly
        assert await results(agent, 1) == 1


async def test_sessions_of_an_endpoint_that_is_left_out_begin_anew(tmp_path: Path) -> None:
    async with hostile() as one, hostile() as two:
        config = configuration(one.url, two.url, outliers={"failures": 2, "ejectFor": "1h"})
        async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
            await initialize(agent)
            mine, other = (one, two) if one.requests else (two, one)
            mine.handler = leaves
            for _ in range(2):
                assert (await agent.ask(message("tools/list"))).code == -32603
            assert (await agent.ask(call())).status == 404
            del agent.headers["mcp-session-id"], agent.headers["mcp-protocol-version"]
            await initialize(agent)
            assert "result" in (await agent.ask(call())).json
            assert len(other.calls("tools/call")) == 1


async def test_endpoints_that_are_all_down_are_asked_once_each(tmp_path: Path) -> None:
    """Of two that are down one is left out; the other one is not asked again and again in its place."""
    outliers = {"failures": 1, "ejectFor": "1h"}
    async with AsyncExitStack() as stack:
        config = configuration(*(stack.enter_context(nobody()) for _ in range(2)), outliers=outliers)
        sidecar = await stack.enter_async_context(gate(tmp_path, config))
        agent = await stack.enter_async_context(sidecar.connect())
        for number in range(5):
            error = (await agent.ask(call(identifier=number))).json["error"]
            assert error["message"] == "the MCP server cannot be reached"
        page = await sidecar.page("/metrics")
        attempts = [float(found[1]) for found in re.finditer(r'connects_total{.*result="refused".*} (\S+)', page)]
        assert sorted(attempts) == [1.0, 5.0]


async def test_lists_still_go_to_the_next_endpoint(server: Hostile, tmp_path: Path) -> None:
    async with hostile(leaves) as other:
        config = configuration(other.url, server.url, outliers={"failures": 1000})
        async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
            for number in range(6):
                assert "result" in (await agent.ask(message("tools/list", number))).json
        assert other.calls("tools/list")

"""Official clients of one era and official servers of the other complete the plan, where the sidecar translates.

The plan is that of the matrix, and so is what must come of it: nobody notices that the other one is of another era.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import types
from mcp.client.client import Client, ConnectMode
from mcp.shared.exceptions import MCPError

from openmcp.config.model import SqliteState
from openmcp.sidecar.approvals.making import new_rid, wall_clock
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.values import Limits
from openmcp.sidecar.state.opening import open_store
from tests.interop.clients import NodeClient, PythonClient
from tests.interop.plans import EVERYTHING, LEGACY_ALONE, MODERN_ALONE, OUR_ANSWER, Upstream
from tests.interop.test_matrix import LEGACY, MODERN, expected
from tests.support.approver import Approver, sqlite
from tests.support.http2front import http2_front
from tests.support.parts import require, sdk_environment
from tests.support.process import ROOT, allow_all, free_ports, mcp_server, python_server, sidecar

URL = tuple[Upstream, str]


def translating(url: str) -> dict[str, Any]:
    """Return the configuration of a sidecar that translates for this server."""
    config = allow_all(upstream=url)
    config["servers"][0]["translate"] = True
    return config


@pytest.fixture(scope="module")
def translated(request: pytest.FixtureRequest) -> Iterator[URL]:
    """A running server: what it is, and its URL through a sidecar that translates."""
    upstream: Upstream = request.param
    require(*upstream.parts)
    environment = sdk_environment() if upstream.parts else {}
    with (
        mcp_server(upstream.name, upstream.command(), environment) as url,
        sidecar(translating(url)) as gateway,
    ):
        yield upstream, f"{gateway.url}/upstream"


def upstreams(those: tuple[Upstream, ...]) -> pytest.MarkDecorator:
    """Run a test with each of these."""
    params = [pytest.param(each, id=each.name, marks=[pytest.mark.real] if each.parts else []) for each in those]
    return pytest.mark.parametrize("translated", params, indirect=True)


@upstreams(LEGACY_ALONE)
async def test_the_modern_python_client_with_a_legacy_server(translated: URL) -> None:
    upstream, url = translated
    assert await PythonClient("auto").play(url, upstream) == expected(upstream, MODERN)
    pinned = await PythonClient(MODERN).play(url, upstream)
    assert pinned == [{"connected": {"server": None, "version": MODERN}}, *upstream.report()]


@pytest.mark.real
@upstreams(LEGACY_ALONE)
@pytest.mark.parametrize("mode", ["auto", MODERN])
async def test_the_modern_typescript_client_with_a_legacy_server(translated: URL, mode: str) -> None:
    require("node", "sdk")
    upstream, url = translated
    assert await NodeClient("client-v2.mjs", mode).play(url, upstream) == expected(upstream, MODERN)


@upstreams(MODERN_ALONE)
async def test_the_legacy_python_client_with_a_modern_server(translated: URL) -> None:
    upstream, url = translated
    assert await PythonClient("legacy").play(url, upstream) == expected(upstream, LEGACY)


@pytest.mark.real
@upstreams(MODERN_ALONE)
@pytest.mark.parametrize(("script", "mode"), [("client-v1.mjs", "-"), ("client-v2.mjs", "legacy")])
async def test_the_legacy_typescript_clients_with_a_modern_server(translated: URL, script: str, mode: str) -> None:
    require("node", "sdk")
    upstream, url = translated
    assert await NodeClient(script, mode).play(url, upstream) == expected(upstream, LEGACY)


# The other ways to a server, and to the sidecar


@contextmanager
def behind_stdio(command: list[str]) -> Iterator[str]:
    """Run a sidecar that translates for a stdio server, and yield the server's URL there."""
    program, *arguments = command
    config = allow_all(upstream="http://unused")
    stdio = {"command": program, "args": arguments, "cwd": str(ROOT)}
    config["servers"] = [{"name": "upstream", "stdio": stdio, "translate": True}]
    with sidecar(config) as gateway:
        yield f"{gateway.url}/upstream"


def texts(result: types.CallToolResult) -> list[Any]:
    """What a tool said."""
    return [content.text for content in result.content if isinstance(content, types.TextContent)]


async def answered(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    """The user's answer to any question."""
    return types.ElicitResult(action="accept", content={"name": params.message})


async def test_a_modern_client_with_a_legacy_program() -> None:
    told: list[float] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    with behind_stdio([*python_server("tests.fixtures.stdio_server")]) as url:
        async with Client(url, mode=MODERN, elicitation_callback=answered) as client:
            first, second = [texts(await client.call_tool("allowed_echo", {"text": "hello"})) for _ in range(2)]
            assert first == second  # one session, which is one process
            await client.call_tool("allowed_progress", {}, progress_callback=progressed)
            assert told == [1, 2]
            said = texts(await client.call_tool("allowed_asks", {}))
            assert json.loads(said[0]) == {"action": "accept", "content": {"name": "Who?"}}


async def test_a_legacy_client_with_a_modern_program() -> None:
    with behind_stdio([*python_server("tests.fixtures.stdio_server", "--modern")]) as url:
        async with Client(url, mode="legacy") as client:
            assert client.protocol_version == LEGACY
            (said,) = texts(await client.call_tool("allowed_echo", {"text": "hello"}))
            assert said.startswith("hello ")
            with pytest.raises(MCPError, match="Method not found"):
                await client.list_prompts()


@pytest.mark.real
async def test_a_modern_client_with_the_reference_server_as_a_program() -> None:
    require("node", "sdk")
    command = [str(part) for part in EVERYTHING.command()]
    with behind_stdio([*command[:-1], "stdio"]) as url:
        assert await PythonClient("auto").play(url, EVERYTHING) == expected(EVERYTHING, MODERN)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_clients_that_come_by_http2(mode: ConnectMode) -> None:
    upstream = MODERN_ALONE[0] if mode == "legacy" else LEGACY_ALONE[0]
    ours, front = free_ports(2)
    url = f"http://127.0.0.1:{front}"
    with mcp_server(upstream.name, upstream.command()) as server:
        config = {**translating(server), "listen": {"mcp": f"127.0.0.1:{ours}", "url": url, "allowedOrigins": [url]}}
        with sidecar(config) as gateway, http2_front(gateway.url, front) as by_http2:
            report = await PythonClient(mode).play(f"{by_http2}/upstream", upstream)
    assert report == expected(upstream, LEGACY if mode == "legacy" else MODERN)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_call_that_somebody_approves_and_that_asks_its_user(mode: ConnectMode, tmp_path: Path) -> None:
    """Both in the client's era: the approval, and the question of a server of the other one."""
    upstream = MODERN_ALONE[0] if mode == "legacy" else LEGACY_ALONE[0]
    approval = {"workflow": "leads", "duration": "10m"}
    rule = {"name": "all", "tools": ["*"], "action": "requireApproval", "approval": approval}
    with mcp_server(upstream.name, upstream.command()) as server:
        config = {
            **translating(server),
            "policies": [{"name": "ask", "servers": ["upstream"], "requests": [rule]}],
            "approvals": {"hold": "1s", "workflows": [{"name": "leads", "approvers": ["token:ann"]}]},
            "state": sqlite(tmp_path),
        }
        store = open_store(SqliteState(path=str(tmp_path / "state.db")))
        human = Approver(ApprovalService(store, wall_clock, new_rid, Limits(), lambda event: None))
        with sidecar(config) as gateway:
            async with Client(f"{gateway.url}/upstream", mode=mode, elicitation_callback=asked_for) as client:
                calling = asyncio.create_task(_repeated(client))
                while not calling.done():  # what the user says is approved as well: each request is a call of its own
                    for record in (await human.service.pending(10)).records:
                        await human.approve(record)
                    await asyncio.wait([calling], timeout=0.1)
            assert calling.result() == ["accepted: because"]
            assert {line["era"] for line in gateway.records() if line["event"] == "request"} == {
                "legacy" if mode == "legacy" else "modern"
            }
        await human.service.close()
        await store.close()


async def _repeated(client: Client) -> list[Any]:
    """What comes of a call that is made again where its answer is to do so: it was approved a moment too late."""
    for _ in range(5):
        result = await client.call_tool("ask", {"question": "Why?"})
        if not result.is_error:
            break
    return texts(result)


async def asked_for(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    """The user's answer to the question of the plan."""
    return types.ElicitResult(action="accept", content=OUR_ANSWER)

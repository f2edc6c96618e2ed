"""Health checks: when an endpoint counts as down and up again, and that plain SDK servers answer without an effect."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp.server.mcpserver import MCPServer

from openmcp.config.model import Health, Server, SpiffeAuth
from openmcp.sidecar.net import health
from openmcp.sidecar.net.health import check, watch
from openmcp.sidecar.net.pool import Endpoint, Upstream
from tests.support import hostile as scripted
from tests.support.gate import configuration, gate, initialize
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile


def upstream(*urls: str, after: int = 3) -> Upstream:
    """The endpoints of a server, without anything that checks them."""
    server = Server(
        name="server", path="/server", endpoints=urls, health=Health(interval=1.0, timeout=0.1, unhealthy_after=after)
    )
    return Upstream(server, lambda server, endpoint, result: None)


class Rounds:
    """Runs `health.watch`, which the folder's fixture puts out of action for the sidecar, round by round."""

    def __init__(self, checked: Upstream) -> None:
        self._go, self._done = asyncio.Semaphore(0), asyncio.Semaphore(0)
        self._task = asyncio.ensure_future(watch(checked, self._sleep))  # type: ignore[arg-type]  # awaited only

    async def _sleep(self, interval: float) -> None:
        assert interval == 1.0
        self._done.release()
        await self._go.acquire()

    async def next(self) -> None:
        """Let one round happen."""
        await self._done.acquire()
        self._go.release()

    async def end(self) -> None:
        """End the watching after the round that is under way."""
        await self._done.acquire()
        self._task.cancel()


async def status_500(request: Request, reply: Reply) -> None:
    """Fail."""
    await reply.respond(status=500)


async def hang(request: Request, reply: Reply) -> None:
    """Say nothing."""
    await reply.left()


async def garbage(request: Request, reply: Reply) -> None:
    """Say nonsense."""
    await reply.raw(b"\x00" * 100)
    reply.close()


async def test_our_own_lack_of_an_svid_says_nothing_of_the_endpoint():
    """As at each start, before the Workload API has answered: the problem is shown, and nothing is counted."""
    auth = SpiffeAuth(server_ids=("spiffe://example.org/server",))
    server = Server(name="s", path="/s", endpoints=("https://127.0.0.1:1",), auth=auth, health=Health(interval=1.0))
    checked = Upstream(server, lambda server, endpoint, result: None)
    rounds = Rounds(checked)
    for _ in range(server.health.unhealthy_after + 1):
        await rounds.next()
    await rounds.end()
    endpoint = checked.endpoints[0]
    assert (endpoint.healthy, endpoint.failures) == (True, 0)
    assert endpoint.problem == "no Workload API is configured"


@pytest.mark.parametrize(
    ("bad", "why"),
    [(status_500, "HTTP 500"), (hang, "no answer in 0.1 s"), (garbage, "not valid HTTP/1.1")],
)
async def test_down_after_three_failures_up_after_one_success(
    bad: Any, why: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "openmcp.net")
    async with hostile(friendly) as server:
        checked = upstream(server.url)
        rounds = Rounds(checked)
        monkeypatch.setattr(scripted.Request, "is_health_check", property(lambda self: False))  # show them

        async def as_it_needs(endpoint: Endpoint, patience: float) -> str | None:
            return await check(endpoint, patience if server.handler is hang else 10.0)

        monkeypatch.setattr(health, "check", as_it_needs)  # however busy the machine is
        (endpoint,) = checked.endpoints
        found = []
        for handler in (friendly, bad, bad, friendly, bad, bad, bad, bad, friendly):
            server.handler = handler
            await rounds.next()
            found.append((endpoint.healthy, endpoint.failures))
        await rounds.end()
        up, down = (True, False)
        assert found == [(up, 0), (up, 1), (up, 2), (up, 0), (up, 1), (up, 2), (down, 3), (down, 4), (up, 0)]
        failed, healed = caplog.records
        assert failed.getMessage().startswith(f"server server: endpoint {server.url} is unhealthy: ")
        assert why in failed.getMessage()
        assert healed.getMessage() == f"server server: endpoint {server.url} is healthy again"
        checked.close()


async def test_new_sessions_avoid_what_is_down(tmp_path: Path) -> None:
    async with hostile() as one, hostile() as two, gate(tmp_path, configuration(one.url, two.url)) as sidecar:
        (first, _) = sidecar.app.snapshot.routes["/server"].upstream.endpoints
        first.healthy = False
        for _ in range(4):
            async with sidecar.connect() as agent:
                await initialize(agent)
        assert (len(one.calls("initialize")), len(two.calls("initialize"))) == (0, 4)
        first.healthy = True
        for _ in range(4):
            async with sidecar.connect() as agent:
                await initialize(agent)
        assert (len(one.calls("initialize")), len(two.calls("initialize"))) == (2, 6)


async def test_where_all_are_down_the_call_is_tried(tmp_path: Path, server: Hostile) -> None:
    async with gate(tmp_path, configuration(server.url)) as sidecar, sidecar.connect() as agent:
        sidecar.app.snapshot.routes["/server"].upstream.endpoints[0].healthy = False
        await initialize(agent)


@asynccontextmanager
async def sdk_server(**options: Any) -> AsyncIterator[tuple[Endpoint, MCPServer]]:
    """The official SDK's server, as its users write one."""
    server = MCPServer("plain", log_level="ERROR")
    app = server.streamable_http_app(**options)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        running = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        serving = asyncio.ensure_future(running.serve(sockets=[bound]))
        checked = upstream(f"http://127.0.0.1:{bound.getsockname()[1]}/mcp")
        try:
            yield checked.endpoints[0], server
        finally:
            checked.close()
            running.should_exit = True
            await serving


@pytest.mark.parametrize("options", [{}, {"stateless_http": True}, {"json_response": True}])
async def test_plain_sdk_servers_answer_and_make_no_session(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcp")
    async with sdk_server(**options) as (endpoint, server):
        for _ in range(3):
            assert await health.check(endpoint, 5.0) is None
        assert server.session_manager._server_instances == {}
    assert [line for line in caplog.messages if "Created new transport" in line] == []

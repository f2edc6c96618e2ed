"""Sessions of the legacy era before several replicas: where they live, what ends them, and whose they are."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import LEGACY, Gate, ask_modern, call, configuration, gate, initialize
from tests.support.hostile import Reply, Request, friendly, hostile, initialized
from tests.support.raw import Answer, Connection


class Replica:
    """A server with sessions of its own, which can be killed: then it answers nobody and refuses to be connected."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions: set[str] = set()
        self.calls = 0
        self.url = ""

    async def __call__(self, request: Request, reply: Reply) -> None:
        session = request.header("mcp-session-id")
        if request.method == "POST" and request.json.get("method") == "initialize":
            made = f"{self.name}-{len(self.sessions)}"
            self.sessions.add(made)
            await reply.result(initialized(request), mcp_session_id=made)
        elif session is not None and session not in self.sessions:
            await reply.respond(b"Session not found", 404, content_type="text/plain")
        elif request.method == "POST" and request.json.get("method") == "tools/call":
            self.calls += 1
            await reply.result({"content": [{"type": "text", "text": f"{self.name} {session}"}]})
        else:
            await friendly(request, reply)


@asynccontextmanager
async def replicas(count: int) -> AsyncIterator[tuple[list[Replica], list[AsyncExitStack]]]:
    """Run replicas, and give the stacks that kill them one by one."""
    made, stacks = [Replica(f"r{number}") for number in range(count)], []
    async with AsyncExitStack() as all_of_them:
        for replica in made:
            stack = await all_of_them.enter_async_context(AsyncExitStack())
            replica.url = (await stack.enter_async_context(hostile(replica))).url
            stacks.append(stack)
        yield made, stacks


def text(answer: Answer) -> str:
    """What a call's answer says."""
    assert answer.status == 200, answer
    said: str = answer.json["result"]["content"][0]["text"]
    return said


def not_found(answer: Answer) -> None:
    """Expect the 404 on which a client initialises anew, and nothing that tells why."""
    assert (answer.status, answer.code, answer.json["error"]["message"]) == (404, 40400, "Session not found")


async def test_sessions_are_spread_and_stay_where_they_began(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers, _ = await stack.enter_async_context(replicas(2))
        config = configuration(*(one.url for one in servers))
        sidecar = await stack.enter_async_context(gate(tmp_path, config))
        agents = [await stack.enter_async_context(sidecar.connect()) for _ in range(10)]
        for agent in agents:
            await initialize(agent)
        assert [len(one.sessions) for one in servers] == [5, 5]
        first = [text(await agent.ask(call())) for agent in agents]
        assert len(set(first)) == 10
        for _ in range(5):
            assert list(await asyncio.gather(*(_ask(agent) for agent in agents))) == first
        for agent in agents[:6]:
            assert (await agent.ask(method="DELETE")).status == 200


async def _ask(agent: Connection) -> str:
    return text(await agent.ask(call()))


async def test_stateless_calls_are_spread(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers, _ = await stack.enter_async_context(replicas(3))
        sidecar = await stack.enter_async_context(gate(tmp_path, configuration(*(one.url for one in servers))))
        agent = await stack.enter_async_context(sidecar.connect())
        for number in range(30):
            assert (await ask_modern(agent, call(identifier=number))).status == 200
        assert [one.calls for one in servers] == [10, 10, 10]


class Worker:
    """An agent that calls again and again, and initialises anew where its session is not found."""

    def __init__(self, sidecar: Gate) -> None:
        self.sidecar = sidecar
        self.said: list[str] = []
        self.lost = 0
        self.failed: list[Any] = []
        self.stop = False
        self.begun = asyncio.Event()

    async def work(self) -> None:
        async with self.sidecar.connect() as agent:
            await initialize(agent)
            while not self.stop:
                answer = await agent.ask(call())
                if answer.status == 404:
                    not_found(answer)
                    self.lost += 1
                    agent.headers = {key: value for key, value in agent.headers.items() if not key.startswith("mcp-")}
                    await initialize(agent)
                elif "result" in answer.json:
                    self.said.append(text(answer))
                    self.begun.set()
                else:
                    self.failed.append(answer.json["error"]["message"])


async def test_a_replica_that_is_killed_costs_its_own_sessions_alone(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers, kill = await stack.enter_async_context(replicas(2))
        sidecar = await stack.enter_async_context(gate(tmp_path, configuration(*(one.url for one in servers))))
        workers = [Worker(sidecar) for _ in range(10)]
        working = [asyncio.ensure_future(worker.work()) for worker in workers]
        await asyncio.gather(*(worker.begun.wait() for worker in workers))
        mine = [worker for worker in workers if worker.said[-1].startswith("r0")]
        assert len(mine) == 5
        await kill[0].aclose()
        before = servers[1].calls
        async with asyncio.timeout(10):
            while True:
                if all(worker.lost for worker in mine) and servers[1].calls >= before + 200:
                    break
                await asyncio.sleep(0.005)
        for worker in workers:
            worker.stop = True
        await asyncio.gather(*working)
        for worker in workers:
            assert worker.lost == (1 if worker in mine else 0)
            # A call that was under way when its replica died may have failed, and no other one.
            assert len(worker.failed) <= (1 if worker in mine else 0), worker.failed
            assert worker.said[-1].startswith("r1")


async def test_a_replica_that_comes_back_without_its_sessions(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers, _ = await stack.enter_async_context(replicas(1))
        sidecar = await stack.enter_async_context(gate(tmp_path, configuration(servers[0].url)))
        agent = await stack.enter_async_context(sidecar.connect())
        await initialize(agent)
        servers[0].sessions.clear()
        assert (await agent.ask(method="DELETE")).status == 404
        not_found(await agent.ask(call()))


# Whose it is


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_a_stolen_session_is_not_found(sidecar: Gate, agent: Connection, server: Any, method: str) -> None:
    session = await initialize(agent)
    before = len(server.requests)
    async with sidecar.connect("bob", mcp_session_id=session, mcp_protocol_version=LEGACY) as thief:
        not_found(await thief.ask(call() if method == "POST" else b"", method))
        not_found(await thief.ask(method="GET", last_event_id="1"))
    assert len(server.requests) == before
    assert (await agent.ask(call())).status == 200


async def test_a_stolen_stream_is_not_resumed(sidecar: Gate, agent: Connection, server: Any) -> None:
    async def resumable(request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json.get("method") == "tools/call":
            await reply.stream()
            await reply.event(
                {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "secret"}}, id="7"
            )
            await reply.end()
        elif request.method == "GET":
            assert request.header("last-event-id") == "7"
            await reply.stream()
            await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
            await reply.end()
        elif request.json.get("method") == "initialize":
            await reply.result(initialized(request), mcp_session_id=f"s{len(server.requests)}")
        else:
            await friendly(request, reply)

    server.handler = resumable
    await initialize(agent)
    answer = await agent.ask(call())
    event_id = next(line for line in answer.body.decode().split("\n") if line.startswith("id: "))[4:]
    async with sidecar.connect("bob") as bob, sidecar.connect() as again:
        await initialize(bob)
        await initialize(again)
        for other in (bob, again):  # another principal's session, and another session of the same
            not_found(await other.ask(method="GET", last_event_id=event_id))
    assert (await agent.ask(method="GET", last_event_id=event_id)).events == [
        {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
    ]


async def test_an_expired_session_is_not_found(
    sidecar: Gate, agent: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await initialize(agent)
    late = time.time() + sidecar.app._sessions.lifetime + 1
    monkeypatch.setattr(time, "time", lambda: late)
    for method in ("POST", "GET", "DELETE"):
        not_found(await agent.ask(call() if method == "POST" else b"", method))


@pytest.mark.parametrize("configured", [True, False])
async def test_sessions_outlive_a_restart_with_a_configured_key_alone(
    tmp_path: Path, server: Any, configured: bool
) -> None:
    config = configuration(server.url)
    if configured:
        (tmp_path / "key").write_bytes(base64.b64encode(b"k" * 32))
        config["sessions"] = {"key": {"file": str(tmp_path / "key")}}
    async with gate(tmp_path, config) as first, first.connect() as agent:
        await initialize(agent)
        headers = agent.headers
    async with gate(tmp_path, config) as second, second.connect() as agent:
        agent.headers = headers
        answer = await agent.ask(call())
        if configured:
            assert text(answer) == "done"
        else:
            not_found(answer)

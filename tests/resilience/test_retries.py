"""Calls to servers whose connections fail: what may be sent twice gets its answer, and nothing else is sent twice."""

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.approver import HOLD, approver, guarded
from tests.support.flaky import flaky
from tests.support.gate import Gate, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile

Handler = Callable[[Request, Reply], Awaitable[None]]
ALWAYS: dict[str, Any] = {"attempts": 10, "budget": 1, "backoff": "1ms"}


async def closing(request: Request, reply: Reply) -> None:
    """Answer, and take no second request on the connection."""
    await reply.message({"jsonrpc": "2.0", "id": request.json["id"], "result": {"tools": []}}, connection="close")
    reply.close()


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    """A server that takes one request on each connection."""
    async with hostile(closing) as running:
        yield running


async def asked(sidecar: Gate, messages: list[dict[str, Any]], agents: int = 8) -> list[Any]:
    """The answers to these messages, which so many agents share."""
    answers: list[Any] = []
    left = iter(messages)

    async def one() -> None:
        async with sidecar.connect() as agent:
            for each in left:
                answers.append((await agent.ask(each)).json)

    await asyncio.gather(*(one() for _ in range(agents)))
    return answers


def good(answers: list[Any]) -> float:
    return sum("result" in answer for answer in answers) / len(answers)


async def test_lists_succeed_where_a_fifth_of_the_connections_fails(server: Hostile, tmp_path: Path) -> None:
    async with (
        flaky(server.url) as way,
        gate(tmp_path, configuration(way.url, retries=ALWAYS)) as sidecar,
    ):
        answers = await asked(sidecar, [message("tools/list", number) for number in range(2000)])
        assert way.failed > 400
        assert good(answers) > 0.999
        lines = [line for line in await sidecar.records() if line.get("attempts")]
        assert len(lines) > 300
        assert 'openmcp_retries_total{reason="closed",server="server"}' in await sidecar.page("/metrics")


async def test_lists_succeed_where_one_of_two_endpoints_fails_a_fifth(server: Hostile, tmp_path: Path) -> None:
    async with (
        flaky(server.url) as way,
        gate(tmp_path, configuration(way.url, server.url, retries={})) as sidecar,
    ):
        answers = await asked(sidecar, [message("tools/list", number) for number in range(1000)])
        assert way.failed > 50
        assert good(answers) > 0.999


async def test_calls_succeed_where_connections_cannot_be_made(tmp_path: Path) -> None:
    """Of a TLS handshake that fails the server has seen nothing: any tool may be called again."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = {"ca": {"file": str(tmp_path / "ca.pem")}}
    async with hostile(closing, tls=context) as server, flaky(server.url) as way:
        config = configuration(way.url, tls=tls, retries=ALWAYS)
        async with gate(tmp_path, config) as sidecar:
            answers = await asked(sidecar, [call(identifier=number) for number in range(500)])
            assert way.failed > 80
            assert good(answers) == 1
            executed = Counter(each["id"] for each in server.calls("tools/call"))
            assert executed == dict.fromkeys(range(500), 1)


def unreliable(chance: random.Random, executed: "Counter[int]") -> Handler:
    """A server that leaves at any point of a call: before it does anything, or just before it would answer."""

    async def handler(request: Request, reply: Reply) -> None:
        fate = chance.random()
        if fate < 0.1:
            reply.close()
            return
        executed[request.json["id"]] += 1
        if fate < 0.2:
            reply.writer.transport.abort()
        elif fate < 0.25:
            await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
            reply.close()
        elif fate < 0.3:
            await reply.respond(status=503)
        else:
            await friendly(request, reply)

    return handler


async def test_no_tool_is_called_twice(tmp_path: Path) -> None:
    executed: Counter[int] = Counter()
    retries = ALWAYS | {"tools": ["allowed_search"]}
    async with (
        hostile(unreliable(random.Random(3), executed)) as one,
        hostile(unreliable(random.Random(4), executed)) as other,
        flaky(one.url) as way,
        gate(tmp_path, configuration(way.url, other.url, retries=retries)) as sidecar,
    ):
        answers = await asked(sidecar, [call(identifier=number) for number in range(2000)])
        assert max(executed.values()) == 1
        assert 0.5 < good(answers) < 0.9
        succeeded = {answer["id"] for answer in answers if "result" in answer}
        assert succeeded <= executed.keys()
        assert max(Counter(each["id"] for each in one.calls("tools/call") + other.calls("tools/call")).values()) == 1

        executed.clear()
        answers = await asked(sidecar, [call("allowed_search", number) for number in range(2000)])
        assert good(answers) > 0.999
        assert max(executed.values()) > 1


async def test_a_call_under_an_approval_is_sent_once(tmp_path: Path) -> None:
    """The grant is for one call, also of a tool that may be called twice otherwise."""

    async def leaves(request: Request, reply: Reply) -> None:
        reply.close()

    async with hostile(leaves) as server:
        config = guarded(server.url, approvals={"hold": HOLD})
        config["servers"][0]["retries"] = ALWAYS | {"tools": ["guarded", "allowed"]}
        async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
            waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
            human = approver(sidecar)
            await human.approve(await human.asked())
            assert (await waiting).code == -32603
            assert len(server.calls("tools/call")) == 1
            assert (await agent.ask(call())).code == -32603
            assert len(server.calls("tools/call")) == 1 + 11


async def test_a_session_survives_a_connection_that_fails(tmp_path: Path) -> None:
    async with (
        hostile() as server,
        hostile() as other,
        gate(tmp_path, configuration(server.url, other.url, retries=ALWAYS)) as sidecar,
        sidecar.connect() as agent,
    ):
        await initialize(agent)
        mine = server if server.requests else other
        fails = 2

        async def handler(request: Request, reply: Reply) -> None:
            nonlocal fails
            if fails:
                fails -= 1
                reply.close()
            else:
                await friendly(request, reply)

        mine.handler = handler
        assert "result" in (await agent.ask(message("tools/list"))).json
        assert len(mine.calls("tools/list")) == 3


@pytest.mark.parametrize(("headers", "sent"), [({}, 3), ({"retry_after": "5"}, 1)])
async def test_a_server_that_is_busy_is_asked_again_unless_it_says_when(
    tmp_path: Path, headers: dict[str, str], sent: int
) -> None:
    async def busy(request: Request, reply: Reply) -> None:
        await reply.respond(status=503, **headers)

    config = {"attempts": 2, "backoff": "1ms"}
    async with (
        hostile(busy) as server,
        gate(tmp_path, configuration(server.url, retries=config)) as sidecar,
        sidecar.connect() as agent,
    ):
        assert (await agent.ask(message("tools/list"))).code == -32603
        assert len(server.requests) == sent
        assert (await agent.ask(call())).code == -32603
        assert len(server.requests) == sent + 1


async def test_an_outage_is_not_made_worse(tmp_path: Path) -> None:
    """All attempts beyond the first are a fifth of the calls, and some."""

    async def down(request: Request, reply: Reply) -> None:
        reply.close()

    config = {"attempts": 10, "backoff": "1ms"}
    async with hostile(down) as server, gate(tmp_path, configuration(server.url, retries=config)) as sidecar:
        started = asyncio.get_running_loop().time()
        answers = await asked(sidecar, [message("tools/list", number) for number in range(500)])
        seconds = asyncio.get_running_loop().time() - started
        assert good(answers) == 0
        assert 500 + 100 <= len(server.requests) <= 500 + 100 + 20 + 10 * seconds


async def test_all_attempts_take_no_longer_than_one_may(tmp_path: Path, fast_clock: None) -> None:
    answered = 0

    async def late(request: Request, reply: Reply) -> None:
        nonlocal answered
        answered += 1
        if answered == 1:
            await asyncio.sleep(0.3)  # as much of the time as the first attempt takes
            reply.close()
        else:
            await reply.left()

    async with hostile(late) as server:
        config = configuration(server.url, timeouts={"request": "500ms"}, retries=ALWAYS)
        async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
            for _ in range(5):  # the machine may be busy
                answered, started = 0, asyncio.get_running_loop().time()
                answer = await agent.ask(message("tools/list"))
                took = asyncio.get_running_loop().time() - started
                assert answer.json["error"]["message"] == "the MCP server did not answer in time"
                assert took > 0.45
                if answered == 2 and took < 0.75:
                    break
        assert (answered, took < 0.75) == (2, True)

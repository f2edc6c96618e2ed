"""What programs say without an end, without a reader, or without saying whose it is."""

from __future__ import annotations

import json
import math
from contextlib import AsyncExitStack

import pytest

from openmcp.sidecar.bridge import conversation
from tests.bridge.conftest import Behind, talk, until
from tests.bridge.test_hostile import CLOSED, failed
from tests.bridge.test_sessions import said
from tests.support.gate import ask_modern, call, initialize, message, modern, modern_headers
from tests.support.raw import Answer


async def test_blank_lines_without_an_end_are_of_no_use(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        failed(await agent.ask(call("allowed_blank")), CLOSED)
        await behind.left(0)


async def test_questions_without_an_end_are_of_no_use_where_nobody_can_be_asked(behind: Behind) -> None:
    async with behind.gate("--modern") as sidecar, sidecar.connect() as agent:
        failed(await ask_modern(agent, call("allowed_questions")), CLOSED)
        await behind.left(0)


async def test_what_waits_for_a_stream_is_bounded_in_bytes(behind: Behind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "openmcp.bridge")
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        await agent.send(agent.request(call("allowed_hoard")))
        await agent.answer_head()
        agent.reset()  # nobody reads what it says from now on
        await until(lambda: any("hoarded" in line for line in caplog.messages))
        assert sum(map(len, talk(sidecar)._kept)) <= conversation.KEPT_BYTES


def told(answer: Answer) -> list[str]:
    """What a tool's answer is, message by message."""
    if "event-stream" not in (answer.header("content-type") or ""):
        return ["answer"]
    return [event.get("method", "answer") for event in answer.events]


async def test_what_may_be_another_agent_s_is_nobody_s(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = call("allowed_gossip")
    async with behind.gate("--modern") as sidecar, sidecar.connect() as alice, sidecar.connect("bob") as bob:
        assert told(await ask_modern(alice, wanted)) == ["notifications/message", "answer"]
        assert told(await ask_modern(alice, wanted)) == ["notifications/message", "answer"]
        assert told(await ask_modern(bob, wanted)) == ["answer"]
        assert told(await ask_modern(alice, wanted)) == ["answer"]
        monkeypatch.setattr(conversation, "DOUBT", 0.0)
        assert told(await ask_modern(bob, wanted)) == ["notifications/message", "answer"]


async def test_subscriptions_take_no_place_of_calls(behind: Behind) -> None:
    limits = {"limits": {"inFlight": 4}}
    listen = message("subscriptions/listen", notifications={"toolsListChanged": True})
    async with behind.gate("--modern", server=limits) as sidecar, AsyncExitStack() as stack:
        for _ in range(5):
            agent = await stack.enter_async_context(sidecar.connect())
            await agent.send(agent.request(modern(listen), **modern_headers(listen)))
            assert (await agent.answer_head())[0] == 200
        bob = await stack.enter_async_context(sidecar.connect("bob"))
        said(await ask_modern(bob, call("allowed_echo")))
        agent.reset()
        await until(lambda: talk(sidecar).busy <= 4)  # it is cancelled
        assert talk(sidecar)._subscriptions == 4


async def test_what_is_said_of_a_long_request_is_not_whose_is_next(behind: Behind) -> None:
    async with behind.gate("--modern") as sidecar, sidecar.connect("bob") as bob:
        async with sidecar.connect() as alice:
            await alice.send(
                alice.request(modern(call("allowed_stubborn")), **modern_headers(call("allowed_stubborn")))
            )
            await sidecar.recorded(event="request", name="allowed_stubborn")
            assert told(await ask_modern(bob, call("allowed_gossip"))) == ["answer"]
            talk(sidecar)._changed = -math.inf  # as if that were long ago
            alice.reset()
        await until(lambda: not talk(sidecar).busy)  # it is cancelled
        assert told(await ask_modern(bob, call("allowed_gossip"))) == ["answer"]


async def test_a_long_line_of_surrogates_and_depths_is_no_message(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        only = talk(sidecar)
        for line in (
            b'{"jsonrpc":"2.0","id":2,"result":{"a":"\\ud800"}}',
            b'{"jsonrpc":"2.0","id":2,"result":{"a":1e400}}',
            b'{"jsonrpc":"2.0","id":2,"result":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
            b'{"jsonrpc":"2.0","id":2,"result":{"a":' + b"9" * 100_000 + b"}}",
            b'[{"jsonrpc":"2.0","id":2,"result":{}}]',
            b'{"jsonrpc":"2.0","id":2.0,"result":{}}',
            b'{"jsonrpc":"2.0","id":true,"result":{}}',
            b'{"jsonrpc":"2.0","id":2,"result":{},"error":{"code":1,"message":""}}',
            b'{"jsonrpc":"2.0","id":"2","result":{}}',
            json.dumps({"jsonrpc": "2.0", "id": 2**53 + 1, "result": {}}).encode(),
        ):
            before = only._noise
            only.line(line)
            assert only._noise > before, line[:60]
        said(await agent.ask(call("allowed_echo")))

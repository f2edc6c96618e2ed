"""The end: what is under way finishes, streams end in good order, and the record is complete."""

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.app.test_reload import COMPLETED, admin, open_get, open_listen, streaming
from tests.support.gate import KEYS, PATIENCE, Gate, call, configuration, initialize
from tests.support.hostile import Hostile, Reply, Request, friendly
from tests.support.process import STOP_SECONDS, Sidecar
from tests.support.process import sidecar as process
from tests.support.raw import Connection, connect

DONE = {"content": [{"type": "text", "text": "done"}]}


@asynccontextmanager
async def running(server: Hostile) -> AsyncIterator[tuple[Sidecar, ExitStack]]:
    """The sidecar as a process of its own; leaving the stack ends it by SIGTERM and expects exit code 0."""
    config = configuration(server.url)
    del config["listen"]
    with ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, process(config)), stack


def ready(sidecar: Sidecar) -> tuple[int, Any]:
    """Ask /readyz of a process."""
    try:
        with urllib.request.urlopen(f"{sidecar.admin}/readyz", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


async def closed_to_new_ones(sidecar: Sidecar) -> None:
    """Expect a sidecar that drains: not ready, and no longer listening."""
    status, state = await asyncio.to_thread(ready, sidecar)
    assert (status, state["ready"], state["draining"]) == (503, False, True)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*sidecar.url.removeprefix("http://").split(":"))


def all_recorded(sidecar: Sidecar, count: int) -> None:
    """Expect the ends of so many exchanges in the record, all of them good, and of every one that began."""
    lines = sidecar.records()
    ended = {line["call"]: line["outcome"] for line in lines if "outcome" in line}
    assert {line["call"] for line in lines if line["event"] == "request"} <= ended.keys()
    assert (len(ended), set(ended.values())) == (count, {"ok"})


async def test_sigterm_lets_everything_end_well(server: Hostile) -> None:
    release = asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json.get("id") == "slow":
            await release.wait()
        await streaming(request, reply)

    server.handler = handler
    async with running(server) as (sidecar, stack):
        key = {"x_api_key": KEYS["alice"]}
        async with (
            connect(sidecar.url, **key) as caller,
            connect(sidecar.url, **key) as getter,
            connect(sidecar.url, **key) as listener,
            connect(sidecar.url, **key) as idle,
        ):
            assert (await idle.ask(call())).json["result"] == DONE
            await initialize(getter)
            await open_get(getter)
            await open_listen(listener)
            calling = asyncio.ensure_future(caller.ask(call(identifier="slow")))
            await server.received(5)
            sidecar.running.process.send_signal(signal.SIGTERM)
            assert (await getter.event(), await listener.event()) == (None, COMPLETED)
            assert await listener.event() is None
            assert (await idle.closed(), await getter.closed(), await listener.closed()) == (b"", b"", b"")
            await closed_to_new_ones(sidecar)
            release.set()
            answer = await calling
            assert (answer.json["result"], answer.header("connection")) == (DONE, "close")
        assert await asyncio.to_thread(sidecar.running.process.wait, STOP_SECONDS) == 0
        all_recorded(sidecar, 5)
        assert "Traceback" not in sidecar.running.printed()
        stack.pop_all()


async def test_sighup_reads_the_file_at_once(server: Hostile) -> None:
    async with running(server) as (sidecar, stack):
        file = sidecar.folder / "gateway.yaml"
        good = file.read_text()
        file.write_text(good.replace('"deny"', '"dney"'))
        sidecar.running.process.send_signal(signal.SIGHUP)
        state = await _state(sidecar, lambda state: state["configuration"]["refused"])
        assert "dney" in state["configuration"]["refused"]
        assert state["ready"] is True
        file.write_text(good.replace('"allowed*"', '"other*"'))
        sidecar.running.process.send_signal(signal.SIGHUP)
        await _state(sidecar, lambda state: state["configuration"]["refused"] is None)
        async with connect(sidecar.url, x_api_key=KEYS["alice"]) as agent:
            assert (await agent.ask(call())).json["result"]["isError"] is True
        assert "the last good one stays" in sidecar.running.printed()
        assert "the configuration was reloaded" in sidecar.running.printed()
        await asyncio.to_thread(stack.close)


async def _state(sidecar: Sidecar, wanted: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        while True:
            _, state = await asyncio.to_thread(ready, sidecar)
            if wanted(state):
                return state
            await asyncio.sleep(0.02)


async def test_what_does_not_end_is_cut_at_last(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    gone = asyncio.Event()

    async def hang(request: Request, reply: Reply) -> None:
        await reply.left()
        gone.set()

    server.handler = hang
    await agent.send(agent.request(call()))
    await server.received(1)
    await sidecar.app.stop(patience=0.2)
    assert await agent.closed() == b""
    await gone.wait()
    lines = sidecar.written()
    assert [line.get("outcome") for line in lines] == [None, "drained"], lines


async def test_a_stream_that_opens_meanwhile_ends_too(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    release = asyncio.Event()

    async def late(request: Request, reply: Reply) -> None:
        if request.method == "GET":
            await release.wait()
        await streaming(request, reply)

    server.handler = late
    await initialize(agent)
    await agent.send(agent.request(method="GET", accept="text/event-stream"))
    await server.received(2)
    stopping = asyncio.ensure_future(sidecar.app.stop(patience=10.0))
    async with asyncio.timeout(PATIENCE):
        while (await admin(sidecar, "/readyz"))[0] == 200:  # noqa: ASYNC110 - from outside there is no event
            await asyncio.sleep(0)
        release.set()
        assert (await agent.answer_head())[0] == 200
        assert len([message async for message in agent.events()]) <= 1
        await stopping


async def test_pipelined_requests_after_the_last_one_are_not_begun(
    sidecar: Gate, agent: Connection, server: Hostile
) -> None:
    release = asyncio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)

    server.handler = wait
    await agent.send(agent.request(call(identifier=1)) + agent.request(call(identifier=2)))
    await server.received(1)
    stopping = asyncio.ensure_future(sidecar.app.stop(patience=10.0))
    await asyncio.sleep(0)
    release.set()
    answer = await agent.answer()
    assert (answer.json["id"], answer.header("connection")) == (1, "close")
    assert await agent.closed() == b""
    await stopping
    assert len(server.requests) == 1

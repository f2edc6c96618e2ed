"""Stdio servers that crash, hang, print what they should not and leave children: nothing of them is left."""

import asyncio
import os
import sys
from pathlib import Path
from typing import cast

import pytest

from openmcp.config.model import Stdio
from openmcp.sidecar.bridge import conversation, process, stdio
from openmcp.sidecar.bridge.spawning import Launch, launch
from tests.bridge.conftest import PATIENCE, SERVER, Behind, talk, talks, until
from tests.bridge.test_sessions import said
from tests.support.gate import ask_modern, call, initialize
from tests.support.raw import Answer

QUICK = {"timeouts": {"request": "300ms"}}
"""For programs that do not answer at all. Others may take longer than that to start."""
IMPATIENT = {"timeouts": {"tools": {"allowed_hang": "300ms", "allowed_stubborn": "300ms"}}}


def failed(answer: Answer, why: str) -> None:
    """Expect an error that gives the class of the reason and no details of the server."""
    assert answer.status in (200, 502, 503, 504), answer
    assert answer.json["error"]["message"] == why


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give processes less time to end, so that the tests need not wait for it."""
    monkeypatch.setattr(process, "PATIENCE", 0.3)
    monkeypatch.setattr(process, "_CLOSING", 0.2)
    monkeypatch.setattr(conversation, "PROBE", 0.3)


CLOSED = "the MCP server closed the connection before it answered"
LATE = "the MCP server did not answer in time"
UNREACHED = "the MCP server cannot be reached"


@pytest.mark.parametrize("tool", ["allowed_crash", "allowed_flood", "allowed_endless"])
async def test_a_server_that_ends_or_floods_fails_its_call_and_its_session(
    behind: Behind, tool: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent, sidecar.connect("bob") as other:
        await initialize(agent)
        await initialize(other)
        failed(await agent.ask(call(tool)), CLOSED)
        assert (await agent.ask(call("allowed_echo"))).status == 404
        said(await other.ask(call("allowed_echo")))
        await behind.left(1)
        del agent.headers["mcp-session-id"]
        await initialize(agent)
        said(await agent.ask(call("allowed_echo")))
        words = {"allowed_crash": "SIGSEGV", "allowed_flood": "of no use", "allowed_endless": "a line of more than"}
        assert sum(words[tool] in line for line in caplog.messages) == 1


async def test_a_server_that_hangs_is_killed_once_a_call_shows_it(behind: Behind) -> None:
    async with behind.gate(server=IMPATIENT) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        failed(await agent.ask(call("allowed_hang")), LATE)
        await behind.left(0)
        assert (await agent.ask(call("allowed_echo"))).status == 404


async def test_a_server_that_is_slow_with_one_call_is_told_and_lives(
    behind: Behind, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "openmcp.bridge")
    monkeypatch.setattr(conversation, "PROBE", PATIENCE)
    async with behind.gate(server=IMPATIENT) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        failed(await agent.ask(call("allowed_stubborn")), LATE)
        await until(lambda: not talk(sidecar)._probe_until)  # it has said something
        said(await agent.ask(call("allowed_echo")))
        await until(lambda: any("cancelled" in line for line in caplog.messages))


async def test_garbage_is_passed_over_and_foreign_answers_with_it(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        assert said(await agent.ask(call("allowed_garbage", 3))) == "proper"
        said(await agent.ask(call("allowed_echo", 4)))


async def test_what_it_has_started_ends_with_a_server(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        children = [int(pid) for pid in said(await agent.ask(call("allowed_fork"))).split()]
        assert set(children) < set(await behind.left(4))  # one that begins has no environment for a moment
        await agent.ask(method="DELETE")
        await behind.left(0)


async def test_children_end_with_a_server_that_crashes(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        said(await agent.ask(call("allowed_fork")))
        failed(await agent.ask(call("allowed_crash")), CLOSED)
        await behind.left(0)


async def test_the_end_of_the_sidecar_is_that_of_servers_that_do_not_want_to(behind: Behind) -> None:
    async with behind.gate("--deaf") as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        said(await agent.ask(call("allowed_fork")))
        await agent.send(agent.request(call("allowed_stubborn")))
        await sidecar.recorded(event="request", name="allowed_stubborn")
        await behind.left(4)
    assert behind.processes() == []


async def test_a_flood_on_standard_error_holds_up_nobody_else(behind: Behind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "openmcp.bridge")
    async with behind.gate() as sidecar, sidecar.connect() as agent, sidecar.connect("bob") as other:
        await initialize(agent)
        await initialize(other)
        await agent.send(agent.request(call("allowed_grumble")))
        for number in range(20):
            said(await other.ask(call("allowed_echo", number)))
        assert said(await agent.answer()) == "said"
        logged = [line for line in caplog.messages if "ggg" in line]
        assert 0 < len(logged) < 8 * 1024
        assert any("more lines of its standard error" in line for line in caplog.messages)
        assert not any("\x1b" in line or "\n" in line for line in caplog.messages)


async def test_a_last_word_is_heard(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        assert said(await agent.ask(call("allowed_leave"))) == "farewell"
        await behind.left(0)


@pytest.fixture
def one_try(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot start is not started again within a test; the log tells of what did."""
    caplog.set_level("INFO", "openmcp.bridge")
    monkeypatch.setattr(stdio, "FIRST_PAUSE", 60.0)
    monkeypatch.setattr(stdio, "LONGEST_PAUSE", 60.0)


async def test_a_server_that_cannot_start_is_named_and_not_started_again_at_once(
    behind: Behind, caplog: pytest.LogCaptureFixture, one_try: None
) -> None:
    async with behind.gate("--fails") as sidecar, sidecar.connect() as agent:
        for why in (CLOSED, UNREACHED, UNREACHED):
            failed(await agent.ask(call("allowed_echo") | INITIALIZE), why)
        assert sum("has started" in line for line in caplog.messages) == 1
        await until(lambda: any("cannot find what is needed" in line for line in caplog.messages))
        assert "ended with exit status 1" in await sidecar.page("/readyz")


@pytest.mark.parametrize("modern", [False, True])
async def test_a_server_that_ends_before_it_is_asked_is_named(
    behind: Behind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_try: None, modern: bool
) -> None:
    """It has closed its output when we write the first request, and we have not heard yet that it has ended."""
    monkeypatch.setattr(process, "PATIENCE", PATIENCE)
    may, start = tmp_path / "may", process.Process.start
    os.mkfifo(may)

    async def until_it_is_silent(self: process.Process, launch: Launch) -> None:
        await start(self, launch)
        await until(lambda: self._silent)

    monkeypatch.setattr(process.Process, "start", until_it_is_silent)
    async with (
        behind.gate(command="sh", args=["-c", f'exec >&-; read word < "{may}"; exit 1']) as sidecar,
        sidecar.connect() as agent,
    ):
        asking = ask_modern(agent, call("allowed_echo")) if modern else agent.ask(INITIALIZE | ASKED)
        asked = asyncio.ensure_future(asking)
        await until(lambda: asked.done() or any(one.busy for one in talks(sidecar)))
        await asyncio.to_thread(may.write_text, "end\n")
        failed(await asked, CLOSED)
        assert "ended with exit status 1" in await sidecar.page("/readyz")
        failed(await agent.ask(INITIALIZE | ASKED), UNREACHED)


@pytest.mark.parametrize("modern", [False, True])
async def test_a_server_that_has_started_after_all_is_well(
    behind: Behind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modern: bool
) -> None:
    monkeypatch.setattr(stdio, "LONGEST_PAUSE", 0.0)
    fails_once = f'mkdir "{tmp_path}/tried" 2>/dev/null && exit 1; exec "$@"'
    command = [sys.executable, SERVER, *(["--modern"] if modern else [])]
    async with (
        behind.gate(command="sh", args=["-c", fails_once, "sh", *command]) as sidecar,
        sidecar.connect() as agent,
    ):
        ask = (lambda: ask_modern(agent, call("allowed_echo"))) if modern else (lambda: agent.ask(INITIALIZE | ASKED))
        failed(await ask(), CLOSED)
        assert "ended with exit status 1" in await sidecar.page("/readyz")
        assert "result" in (await ask()).json
        assert "ended with exit status 1" not in await sidecar.page("/readyz")


async def test_a_server_that_has_to_be_modern_may_take_its_time_to_start(
    behind: Behind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "PROBE", 0.1)
    may = tmp_path / "may"
    os.mkfifo(may)
    slow = ["-c", f'read word < "{may}"; exec "$@"', "sh", sys.executable, SERVER, "--modern"]
    async with behind.gate(command="sh", args=slow, share="server") as sidecar, sidecar.connect() as agent:
        asked = asyncio.ensure_future(ask_modern(agent, call("allowed_echo")))
        await behind.left(1)
        await asyncio.wait((asked,), timeout=1.0)  # nothing happens then: there is no event to wait for
        await asyncio.to_thread(may.write_text, "start\n")
        said(await asked)


async def test_nobody_waits_for_a_modern_server_again_that_does_not_answer(
    behind: Behind, caplog: pytest.LogCaptureFixture, one_try: None
) -> None:
    async with (
        behind.gate("--mute", server=QUICK, share="server") as sidecar,
        sidecar.connect() as agent,
        sidecar.connect("bob") as other,
    ):
        both = await asyncio.gather(*(ask_modern(one, call("allowed_echo")) for one in (agent, other)))
        assert sorted(answer.json["error"]["message"] for answer in both) == [UNREACHED, LATE]
        assert sum("has started" in line for line in caplog.messages) == 1
        assert "did not answer server/discover" in await sidecar.page("/readyz")


async def test_no_program_is_said_in_readyz_and_not_to_agents(behind: Behind) -> None:
    async with behind.gate(command="/no/such/program") as sidecar, sidecar.connect() as agent:
        failed(await agent.ask(call("allowed_echo") | INITIALIZE), UNREACHED)
        assert "no program /no/such/program" in await sidecar.page("/readyz")


async def test_a_folder_that_is_not_there_is_named_and_not_the_program(behind: Behind) -> None:
    async with behind.gate(cwd="/no/such/folder") as sidecar, sidecar.connect() as agent:
        failed(await agent.ask(call("allowed_echo") | INITIALIZE), UNREACHED)
        assert "stdio.cwd: there is no folder /no/such/folder" in await sidecar.page("/readyz")


async def test_a_server_that_never_answers_initialize_is_killed(behind: Behind) -> None:
    async with behind.gate("--mute", server=QUICK) as sidecar, sidecar.connect() as agent:
        failed(await agent.ask(call("allowed_echo") | INITIALIZE), LATE)
        await behind.left(0)
        assert "did not answer initialize" in await sidecar.page("/readyz")


async def test_a_shared_process_that_crashes_is_started_again(behind: Behind) -> None:
    async with behind.gate("--modern") as sidecar, sidecar.connect() as agent, sidecar.connect("bob") as other:
        first = said(await ask_modern(agent, call("allowed_echo")))
        waits = asyncio.ensure_future(ask_modern(other, call("allowed_stubborn")))
        failed(await ask_modern(agent, call("allowed_crash")), CLOSED)
        failed(await waits, CLOSED)
        assert said(await ask_modern(agent, call("allowed_echo"))) != first


async def test_a_reader_that_is_slow_holds_up_its_own_session_alone(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as slow, sidecar.connect("bob") as other:
        await initialize(slow)
        await initialize(other)
        await slow.send(slow.request(call("allowed_chatter")))
        await slow.answer_head()
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is both ways
        (endpoint,) = next(iter(sidecar.app.snapshot.routes.values())).upstream.endpoints
        assert isinstance(endpoint, stdio.StdioEndpoint)
        (pipe,) = (cast(asyncio.ReadTransport, one.process._pipe(1)) for one in endpoint._all if one.busy)
        async with asyncio.timeout(PATIENCE):
            while pipe.is_reading():  # noqa: ASYNC110  # nobody is told of that
                await asyncio.sleep(0.02)
        for number in range(10):
            said(await other.ask(call("allowed_echo", number)))
        async with asyncio.timeout(PATIENCE):
            slow.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
            while not pipe.is_reading():
                assert (await slow.event())["method"] == "notifications/message"


async def test_a_client_that_leaves_cancels_in_the_modern_era(behind: Behind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "openmcp.bridge")
    async with behind.gate("--modern") as sidecar, sidecar.connect() as other:
        async with sidecar.connect() as agent:
            wanted = call("allowed_stubborn")
            asked = asyncio.ensure_future(ask_modern(agent, wanted))
            await sidecar.recorded(event="request", method="tools/call")
            await behind.left(1)
            said(await ask_modern(other, call("allowed_echo")))
            asked.cancel()
            agent.reset()
        await until(lambda: any("cancelled" in line for line in caplog.messages))


ASKED = {"jsonrpc": "2.0", "id": 1}
INITIALIZE = {
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}


class Heard:
    """A reader of a process, that waits for its end."""

    def __init__(self) -> None:
        self.why = asyncio.get_running_loop().create_future()

    def line(self, data: bytes) -> None:
        raise AssertionError(data)

    def ended(self, why: str) -> None:
        self.why.set_result(why)


async def test_one_that_reads_no_more_is_written_to_before_we_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop closes the pipe some steps before it says so; uvloop then has none to write to."""
    heard, lost = Heard(), asyncio.Event()
    one = process.Process("one", 1024, heard, lambda logged, dropped: None)
    await one.start(launch(Stdio(command="sleep", args=("600",))))
    pipe = one._pipe(0)
    assert pipe is not None
    with monkeypatch.context() as late:
        late.setattr(one, "pipe_connection_lost", lambda fd, error: lost.set())
        pipe.close()
        await asyncio.wait_for(lost.wait(), PATIENCE)
        one.write(b"{}")
    assert not heard.why.done()
    one.kill("was of no use")
    assert await asyncio.wait_for(heard.why, PATIENCE) == "was of no use"
    gone = asyncio.Event()
    one.when_gone(gone.set)
    await asyncio.wait_for(gone.wait(), PATIENCE)

"""Memory of the sidecar as a process: what a stream costs, and that sessions cost nothing for good.

OPENMCP_SESSIONS=100000 OPENMCP_ROUNDS=20 play the long form; the figures are printed (pytest -s).
"""

import asyncio
import gc
import json
import os
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import cast

import msgspec
import pytest

from openmcp.sidecar import build
from tests.identity.following import until
from tests.support.gate import KEYS, LEGACY, configuration, gate
from tests.support.process import Sidecar
from tests.support.process import sidecar as process

STREAMS = 1000
SESSIONS = int(os.environ.get("OPENMCP_SESSIONS", "5000"))
ROUNDS = int(os.environ.get("OPENMCP_ROUNDS", "5"))
PER_STREAM = 24
"""KiB that an idle GET stream may cost: two connections, the flow, the relay."""
GROWTH = 2048
"""KiB by which the process may grow over what it has done before: the allocator's noise is below half of that."""
CLIENTS = 16
BODY = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
).encode()
RESULT = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "result": {"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}},
    }
).encode()


class Cheap(asyncio.Protocol):
    """A server that makes a session for every POST and holds a stream for every GET, as cheaply as can be."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST"):
            Cheap.made += 1
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: s%d\r\n" % Cheap.made
            self.transport.write(head + b"content-length: %d\r\n\r\n%b" % (len(RESULT), RESULT))
        elif b"text/event-stream" in data:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self.transport.write(head + b"4\r\n: x\n\r\n")
        else:
            self.transport.write(b"HTTP/1.1 405 X\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture(autouse=True)
def many_files() -> None:
    """A thousand streams are two thousand descriptors in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    if min(hard, 65536) < 3 * STREAMS:
        pytest.skip("the hard limit of open files (ulimit -Hn) is below 3000")


@pytest.fixture
async def running() -> AsyncIterator[Sidecar]:
    """A sidecar as a process in front of the cheap server."""
    listener = await asyncio.get_running_loop().create_server(Cheap, "127.0.0.1", 0, backlog=1024)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
    config = configuration(url, timeouts={"connect": "60s"})  # this process may be slow to accept a hundred at once
    del config["listen"]
    with ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, process(config))
        await asyncio.to_thread(stack.close)
    listener.close()


def rss(sidecar: Sidecar) -> int:
    """The resident memory of the process in KiB."""
    status = Path(f"/proc/{sidecar.running.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def head(method: str, sidecar: Sidecar, lines: str) -> bytes:
    """A request's head as alice sends it."""
    host = sidecar.url.removeprefix("http://")
    return f"{method} /server HTTP/1.1\r\nhost: {host}\r\nx-api-key: {KEYS['alice']}\r\n{lines}\r\n\r\n".encode()


@asynccontextmanager
async def opened(sidecar: Sidecar) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the sidecar."""
    reader, writer = await asyncio.open_connection(*sidecar.url.removeprefix("http://").split(":"))
    try:
        yield reader, writer
    finally:
        writer.close()


async def make_sessions(sidecar: Sidecar, count: int) -> list[str]:
    """Initialize so many sessions over a few connections; their ids."""
    lines = f"content-type: application/json\r\naccept: */*\r\ncontent-length: {len(BODY)}"
    request, ids = head("POST", sidecar, lines) + BODY, []

    async def client(share: int) -> None:
        async with opened(sidecar) as (reader, writer):
            for _ in range(share):
                writer.write(request)
                answer = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.split(": ", 1) for line in answer.split("\r\n")[1:-2])
                ids.append(headers["mcp-session-id"])
                await reader.readexactly(int(headers["content-length"]))

    await asyncio.gather(*(client(count // CLIENTS) for _ in range(CLIENTS)))
    return ids


async def open_streams(sidecar: Sidecar, stack: AsyncExitStack, session: str, count: int) -> None:
    """Open idle GET streams that live as long as the stack."""
    lines = f"accept: text/event-stream\r\nmcp-session-id: {session}\r\nmcp-protocol-version: {LEGACY}"

    async def one() -> None:
        reader, writer = await stack.enter_async_context(opened(sidecar))
        writer.write(head("GET", sidecar, lines))
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 "), (answer, sidecar.records()[-3:])

    for start in range(0, count, 100):
        await asyncio.gather(*(one() for _ in range(min(100, count - start))))


async def closed(sidecar: Sidecar) -> None:
    """Wait until the sidecar has let all streams go."""
    async with asyncio.timeout(20), opened(sidecar):
        admin = sidecar.admin.removeprefix("http://").split(":")
        while True:
            reader, writer = await asyncio.open_connection(*admin)
            writer.write(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            metrics = (await reader.read()).decode()
            writer.close()
            if 'openmcp_streams{kind="long-lived",server="server"} 0' in metrics:
                return
            await asyncio.sleep(0.05)


async def test_idle_streams_are_small_and_leave_nothing(running: Sidecar) -> None:
    (session, *_) = await make_sessions(running, CLIENTS)
    figures = [rss(running)]
    for _ in range(ROUNDS):
        async with AsyncExitStack() as stack:
            await open_streams(running, stack, session, STREAMS)
            figures.append(rss(running))
        await closed(running)
    first, *rounds = figures
    each = (rounds[0] - first) / STREAMS
    print(f"\n{STREAMS} idle streams: {each:.1f} KiB each; RSS {first} KiB, then {rounds} in as many rounds")
    assert each < PER_STREAM
    grown = [after - before for before, after in pairwise(rounds[2:])]  # the first ones shape the heap
    assert min(grown) < GROWTH // 2  # what is not given back would show in all; that nothing is left is seen below


class Here(msgspec.Struct):
    """A sidecar of this process, as far as streams are opened to it."""

    url: str


async def test_closed_streams_leave_no_object(tmp_path: Path) -> None:
    """What memory cannot tell from the shape of the heap: after streams have gone there is not one object more."""
    listener = await asyncio.get_running_loop().create_server(Cheap, "127.0.0.1", 0, backlog=1024)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
    async with gate(tmp_path, configuration(url)) as sidecar:
        here = cast(Sidecar, Here(sidecar.url))
        (session, *_) = await make_sessions(here, CLIENTS)
        counts = []
        for _ in range(4):
            async with AsyncExitStack() as stack:
                await open_streams(here, stack, session, 100)
            (upstream,) = build.upstreams(sidecar.app.snapshot).values()
            await until(lambda upstream=upstream: not (sidecar.app._listener.connections or upstream.in_use))
            gc.collect()
            counts.append(sum(str(type(one).__module__).startswith("openmcp.sidecar") for one in gc.get_objects()))
    listener.close()
    assert counts[1] > 0
    assert counts[1] == counts[2] == counts[3]


async def test_sessions_leave_memory_flat(running: Sidecar) -> None:
    await make_sessions(running, 6000)  # fills what is remembered of sessions: 4096 at most
    figures = [rss(running)]
    for _ in range(3):
        made = await make_sessions(running, SESSIONS)
        assert len(set(made)) == SESSIONS // CLIENTS * CLIENTS
        figures.append(rss(running))
    print(f"\nRSS {figures} KiB before, between and after three times {len(made)} sessions")
    assert min(after - before for before, after in pairwise(figures)) < GROWTH

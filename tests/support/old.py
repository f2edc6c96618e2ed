"""The transport of 2024-11-05 spoken by hand: an agent, and a server, that do what a test wants.

Shares no code with the sidecar.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.gate import LEGACY, Gate, message
from tests.support.hostile import PATIENCE, Reply, Request, initialized, tool
from tests.support.raw import Answer, Connection

ENDPOINT = b"event: endpoint\ndata: "


@dataclass
class OldAgent:
    """An agent with its stream, and the path that the stream named for its messages."""

    sidecar: Gate
    name: str
    stream: Connection
    path: str

    async def post(self, document: Any, agent: str | None = None, **headers: Any) -> Answer:
        """Send a message on a connection of its own."""
        async with self.sidecar.connect(agent or self.name, self.path) as connection:
            return await connection.ask(document, **headers)

    async def ask(self, document: dict[str, Any]) -> Any:
        """Send a request, which must be taken, and return the next message of the stream."""
        answer = await self.post(document)
        assert (answer.status, answer.body) == (202, b""), answer
        return await self.stream.event()

    async def initialize(self, version: str = LEGACY, **capabilities: Any) -> Any:
        """Begin the session."""
        client = {"name": "old", "version": "1"}
        asked = message("initialize", 0, protocolVersion=version, capabilities=capabilities, clientInfo=client)
        answer = await self.ask(asked)
        assert (await self.post(message("notifications/initialized", None))).status == 202
        return answer


@asynccontextmanager
async def old_agent(sidecar: Gate, name: str = "alice") -> AsyncIterator[OldAgent]:
    """Open the stream of an agent."""
    async with sidecar.connect(name) as connection:
        await connection.send(connection.request(b"", "GET", accept="text/event-stream"))
        status, headers = await connection.answer_head()
        assert (status, dict(headers)["content-type"]) == (200, "text/event-stream"), (status, headers)
        async with asyncio.timeout(PATIENCE):
            first = await connection._chunk()
        assert first.startswith(ENDPOINT), first
        yield OldAgent(sidecar, name, connection, first.removeprefix(ENDPOINT).removesuffix(b"\n\n").decode())


Handler = Callable[["OldServer", Request, Reply], Awaitable[None]]


@dataclass
class OldServer:
    """A handler for `hostile`: streams that it opens, and what it does with messages. `named` is the address that it
    names, with the number of the stream for {}."""

    named: str = "/messages?session={}"
    on_message: Handler | None = None
    streams: list[Reply] = field(default_factory=list)
    opened: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, request: Request, reply: Reply) -> None:
        """Handle one request."""
        if request.method == "GET":
            await reply.stream()
            number = len(self.streams)
            async with self.opened:
                self.streams.append(reply)
                self.opened.notify_all()
            if self.named:
                await reply.chunk(ENDPOINT + self.named.format(number).encode() + b"\n\n")
            await reply.reader.read()  # until the sidecar goes
            reply.gone.set()
        elif request.method == "OPTIONS":
            await reply.respond(status=405)
        elif self.on_message is not None:
            await self.on_message(self, request, reply)
        else:
            await self.serve(request, reply)

    def stream_of(self, request: Request) -> Reply:
        """Return the stream that a message belongs to."""
        return self.streams[int(request.path.rpartition("=")[2])]

    async def serve(self, request: Request, reply: Reply) -> None:
        """Take a message and answer it as a plain server would."""
        await reply.respond(b"Accepted", 202)
        document = request.json
        if "method" in document and "id" in document:
            await self.say(request, {"jsonrpc": "2.0", "id": document["id"], "result": plain(request)})

    async def say(self, request: Request, document: Any) -> None:
        """Say something on the stream that a message belongs to."""
        await self.stream_of(request).event(document)

    async def stream(self, number: int = 1) -> Reply:
        """Wait until so many streams are open, and return the last."""
        async with asyncio.timeout(PATIENCE), self.opened:
            await self.opened.wait_for(lambda: len(self.streams) >= number)
        return self.streams[number - 1]

    async def left(self, number: int = 1) -> None:
        """Wait until the sidecar leaves this stream."""
        stream = await self.stream(number)
        async with asyncio.timeout(PATIENCE):
            await stream.gone.wait()


def plain(request: Request) -> Any:
    """Return what a server with one tool says to a request."""
    match request.json["method"]:
        case "initialize":
            return initialized(request)
        case "tools/list":
            return {"tools": [tool("allowed"), tool("forbidden")]}
        case "tools/call":
            return {"content": [{"type": "text", "text": json.dumps(request.json["params"]["arguments"])}]}
    return {}

"""The agents of the demo: the client of the MCP SDK, with a key."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

PATIENCE: Final = 20.0
"""Seconds until an agent gives up on an answer."""


class Agent:
    """A connected client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def version(self) -> str:
        """The protocol revision that was agreed on."""
        return self._client.protocol_version

    async def tools(self) -> list[str]:
        """The names of the tools it is shown."""
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def call(self, tool: str, **arguments: str | int) -> "Answer":
        """Call a tool. An error of the protocol raises the SDK's MCPError."""
        return Answer.of(await self._client.call_tool(tool, arguments))

    async def watch(
        self, tool: str, heard: Callable[[float, str], None], patience: float = PATIENCE, **arguments: str | int
    ) -> "Answer":
        """Call a tool; `heard` gets each progress message as it comes: seconds since the call, and its text."""
        began = time.monotonic()

        async def progressed(progress: float, total: float | None, message: str | None) -> None:
            said = message or ""
            heard(time.monotonic() - began, f"{progress:g} of {total:g}: {said}" if total is not None else said)

        return Answer.of(await self._client.call_tool(tool, arguments, patience, progressed))


class Answer:
    """The answer to a call as the agent's model gets to read it."""

    def __init__(self, text: str, *, refused: bool) -> None:
        self.text = text
        self.refused = refused

    @classmethod
    def of(cls, result: CallToolResult) -> "Answer":
        """The text of a result."""
        texts = [item.text for item in result.content if isinstance(item, TextContent)]
        return cls("\n".join(texts), refused=bool(result.is_error))


@asynccontextmanager
async def connected(url: str, key: str | None = None, *, mode: str = "auto") -> AsyncIterator[Agent]:
    """Connect to an MCP server; `mode` is the SDK's: `auto` (the newest revision both know) or `legacy`."""
    headers = {"X-API-Key": key} if key is not None else {}
    async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE, trust_env=False) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=PATIENCE) as client:
            yield Agent(client)

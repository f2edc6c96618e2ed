"""An agent without a language model: it follows a plan, and changes it when a call is denied.

Needs: pip install 'mcp>=2.3,<3'. Run: python agent.py KEY [URL]
"""

import asyncio
import sys

import httpx2
from mcp import MCPError
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client


async def read(client: Client, uri: str) -> None:
    """Read a note, and tell what came of it."""
    try:
        result = await client.read_resource(uri)
    except MCPError as error:
        print(f"read {uri}: {error.message}")
    else:
        print(f"read {uri}: {result.contents[0].text}")


async def call(client: Client, tool: str, **arguments: str) -> bool:
    """Call a tool, tell what came of it, and return whether it worked."""
    result = await client.call_tool(tool, arguments)
    text = result.content[0].text.partition(" (decision ")[0]
    print(f"{tool} {arguments['path']}: {text}")
    return not result.is_error


async def work(key: str, url: str) -> None:
    """The plan."""
    async with (
        httpx2.AsyncClient(headers={"X-API-Key": key}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        tools = [tool.name for tool in (await client.list_tools()).tools]
        print(f"tools: {', '.join(tools) or 'none'}")
        await read(client, "note:///team/monday")
        await read(client, "note:///private/diary")
        if "write_note" in tools:
            await call(client, "write_note", path="team/wednesday", text="Water the plants.")
        if not await call(client, "delete_note", path="team/tuesday") and "archive_note" in tools:
            await call(client, "archive_note", path="team/tuesday")


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:15001/notes"))

"""An agent without a language model: it asks for one thing after the other, and prints what it gets.

Needs: pip install 'mcp>=2.3,<3'. Run: python agent.py KEY [URL]
"""

import asyncio
import sys

import httpx2
from mcp import MCPError
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client


async def call(client: Client, tool: str, **arguments: str) -> None:
    """Call a tool, and print what came of it."""
    result = await client.call_tool(tool, arguments)
    if result.structured_content is not None and "tickets" in result.structured_content:
        for ticket in result.structured_content["tickets"]:
            print(f"{tool}: {ticket['title']}, {ticket['customer']}, from {ticket['from']}, owner {ticket['owner']}")
        return
    print(f"{tool}: {result.content[0].text.partition(' (decision ')[0]}")


async def work(key: str, url: str) -> None:
    """The plan."""
    async with (
        httpx2.AsyncClient(headers={"X-API-Key": key}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        for tool in (await client.list_tools()).tools:
            print(f"tool {tool.name}: {tool.description}")
        await call(client, "search_tickets", text="charged")
        await call(client, "get_ticket_status", ticket_id="101")
        await call(client, "get_payment", ticket_id="102")
        await call(client, "get_ticket", ticket_id="101")
        await call(client, "delete_ticket", ticket_id="102")
        try:
            await client.read_resource("ticket://102/comments")
        except MCPError as error:
            print(f"read: {error.message}")


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:15001/zendesk"))

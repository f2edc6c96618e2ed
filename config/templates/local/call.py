"""A small MCP client to try the gateway with.

    python call.py URL                      the tools that this caller may use
    python call.py URL TOOL [ARGUMENTS]     call one of them, with arguments in JSON

Needs the MCP SDK (pip install "mcp>=2.3,<3"). $KEY, if set, is sent as `Authorization: Bearer`: an API key or a token.
For https, $SSL_CERT_FILE may name a file with the CA of the gateway's certificate.
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url: str, tool: str = "", arguments: str = "{}") -> None:
    headers = {"Authorization": f"Bearer {os.environ['KEY']}"} if os.environ.get("KEY") else {}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        if not tool:
            print(*(each.name for each in (await client.list_tools()).tools), sep="\n")
            return
        result = await client.call_tool(tool, json.loads(arguments))
        print(*(each.text for each in result.content if each.type == "text"), sep="\n")


def cause(error: BaseException) -> BaseException:
    """What went wrong, out of the groups that it comes in."""
    return cause(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except Exception as error:
        sys.exit(f"failed: {cause(error)}")

"""An agent without a language model and without a secret: its JWT-SVID, which SPIRE gave it, says who it is.

Needs: pip install 'mcp>=2.3,<3'. Run: TOKEN=... python agent.py [URL], or python agent.py around URL-OF-THE-SERVER
"""

import asyncio
import os
import ssl
import sys

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client


async def work(url: str, token: str) -> None:
    """Through the gateway."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        for name, arguments in (
            ("whoami", {}),
            ("get_ticket_status", {"ticket_id": "101"}),
            ("delete_ticket", {"ticket_id": "101"}),
        ):
            result = await client.call_tool(name, arguments)
            print(f"{name}: {result.content[0].text.partition(' (decision ')[0]}")


async def around(url: str) -> None:
    """Straight to the server, with nothing to show; TLS without a look at the server's certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with httpx2.AsyncClient(verify=context) as http:
        try:
            answer = await http.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        except httpx2.TransportError:
            print("around the gateway: the server closes the connection")
        else:
            print(f"around the gateway: HTTP {answer.status_code}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["around"]:
        asyncio.run(around(sys.argv[2]))
    else:
        asyncio.run(work(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:15001/tickets", os.environ["TOKEN"]))

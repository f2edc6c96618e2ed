"""An agent without a language model and without a secret: the sidecar of its pod knows who it is.

Needs: pip install 'mcp>=2.3,<3'. Run in the pod: python agent.py, or python agent.py around URL-OF-THE-SERVER
"""

import asyncio
import os
import ssl
import sys
from pathlib import Path

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

SOCKETS = Path("/run/spire/agent-sockets")


async def work(url: str) -> None:
    """Through the sidecar: its address is all that this agent is given."""
    async with Client(streamable_http_client(url)) as client:
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        for name, arguments in (
            ("whoami", {}),
            ("get_ticket_status", {"ticket_id": "101"}),
            ("delete_ticket", {"ticket_id": "101"}),
        ):
            result = await client.call_tool(name, arguments)
            print(f"{name}: {result.content[0].text.partition(' (decision ')[0]}")


async def around(url: str) -> None:
    """Straight to the server, with what this container has to show: nothing."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with httpx2.AsyncClient(verify=context) as http:
        try:
            answer = await http.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        except httpx2.TransportError:
            print("around the sidecar: the server closes the connection")
        else:
            print(f"around the sidecar: HTTP {answer.status_code}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["around"]:
        here = SOCKETS.exists()
        print("around the sidecar:", "the socket of SPIRE is here" if here else "no socket of SPIRE is here")
        asyncio.run(around(sys.argv[2]))
    else:
        asyncio.run(work(os.environ["OPENMCP_TICKETS_URL"]))

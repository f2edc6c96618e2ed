"""A small MCP server to try OpenMCP with: tickets that can be searched, read and deleted.

Needs the MCP SDK (pip install "mcp>=2.3,<3"). Serves http://127.0.0.1:9100/mcp, or another port: sample_server.py PORT
"""

import sys

from mcp.server import MCPServer

TICKETS = {
    "1": "Password reset mail does not arrive",
    "2": "Invoice shows the old address",
    "3": "Export to CSV drops the last row",
}

server = MCPServer("sample", instructions="Tickets of a support desk.")


@server.tool()
def search_tickets(text: str) -> list[str]:
    """The numbers and titles of all tickets whose title holds a text."""
    return [f"{number}: {title}" for number, title in TICKETS.items() if text.lower() in title.lower()]


@server.tool()
def get_ticket(number: str) -> str:
    """The title of one ticket."""
    return TICKETS.get(number, "no such ticket")


@server.tool()
def delete_ticket(number: str) -> str:
    """Delete a ticket for good. The policy of the sample does not let this through."""
    return "deleted" if TICKETS.pop(number, None) else "no such ticket"


if __name__ == "__main__":
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 9100)

"""An MCP server of a support desk, whose answers hold what should not leave it. Needs: pip install 'mcp>=2.3,<3'.

Run: python server.py [PORT] [HOST]
"""

import sys
from typing import Any

from mcp.server import MCPServer

TICKETS: dict[str, dict[str, Any]] = {
    "101": {
        "title": "Cannot log in",
        "customer": "CUST-00417733",
        "from": "jane@customer.example",
        "owner": "li@acme.example",
    },
    "102": {
        "title": "Charged twice",
        "customer": "CUST-00417801",
        "from": "omar@customer.example",
        "owner": "li@acme.example",
    },
}
COMMENTS = {
    "101": "Reset link sent.",
    "102": "Customer writes: it was the card 4111 1111 1111 1111, please refund.",
}

server = MCPServer("tickets", log_level="WARNING")


@server.tool()
def search_tickets(text: str) -> dict[str, Any]:
    """Tickets whose title holds a text."""
    found = [{"id": key, **ticket} for key, ticket in TICKETS.items() if text.lower() in ticket["title"].lower()]
    return {"tickets": found}


@server.tool()
def get_ticket_status(ticket_id: str) -> str:
    """Whether a ticket is open."""
    return "open" if ticket_id in TICKETS else "unknown"


@server.tool()
def get_payment(ticket_id: str) -> str:
    """What a customer wrote about a payment."""
    return COMMENTS[ticket_id]


@server.tool()
def get_ticket(ticket_id: str) -> str:
    """The whole text of a ticket."""
    return f"{TICKETS[ticket_id]['title']}: {COMMENTS[ticket_id]}"


@server.tool()
def delete_ticket(ticket_id: str) -> str:
    """Delete a ticket for good."""
    del TICKETS[ticket_id]
    return "deleted"


@server.resource("ticket://{ticket_id}/comments")
def comments(ticket_id: str) -> str:
    """The comments on a ticket."""
    return COMMENTS[ticket_id]


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9100
    server.run("streamable-http", host=sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1", port=port)

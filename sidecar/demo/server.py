"""The sample MCP server of the demo: the tickets of a support desk. Run: python -m openmcp.sidecar.demo.server PORT"""

import asyncio
import sys
from typing import Final

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from openmcp.sidecar.demo.setting import PAGE_SECONDS

TICKETS: Final = {
    "1": "Password reset mail does not arrive",
    "2": "Invoice shows the old address",
    "3": "Export to CSV drops the last row",
}

server = MCPServer("tickets", instructions="Tickets of a support desk.", log_level="WARNING")


@server.tool()
def search_tickets(text: str) -> str:
    """The numbers and titles of the tickets whose title holds a text."""
    return "\n".join(f"{number}: {title}" for number, title in TICKETS.items() if text.lower() in title.lower())


@server.tool()
def get_ticket(number: str) -> str:
    """The title of one ticket."""
    return TICKETS.get(number, "no such ticket")


@server.tool()
def get_customer(number: str) -> str:
    """Who opened a ticket, and how they can be reached."""
    return f"Ticket {number} is from Jane Doe, jane.doe@customer.example; li@acme.example looks after it."


@server.tool()
def refund(number: str, amount: int) -> str:
    """Pay a customer back."""
    return f"{amount} paid back for ticket {number}"


@server.tool()
async def export_tickets(context: Context) -> str:
    """Export all tickets, and report progress page by page."""
    for done in range(1, len(TICKETS) + 1):
        await asyncio.sleep(PAGE_SECONDS)
        await context.report_progress(done, len(TICKETS), f"page {done}")
    return f"{len(TICKETS)} tickets exported"


@server.tool()
def delete_ticket(number: str) -> str:
    """Delete a ticket for good."""
    return "deleted" if TICKETS.pop(number, None) else "no such ticket"


@server.tool()
def reset_password(user: str) -> str:
    """Give a user a new password."""
    return f"{user} has a new password"


if __name__ == "__main__":
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))

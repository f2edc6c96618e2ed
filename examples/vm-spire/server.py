"""An MCP server that speaks TLS with its own SVID and takes calls from one SPIFFE ID alone.

Needs: pip install openmcp 'mcp>=2.3,<3'. Run: SPIFFE_ENDPOINT_SOCKET=unix:///... python server.py PORT ID-OF-THE-CALLER
[ADDRESS, 127.0.0.1 unless it is given]
"""

import asyncio
import os
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from openmcp.identity.material import SvidChoice
from openmcp.identity.peer import certificate_of
from openmcp.identity.source import SvidSource
from openmcp.identity.tls import SpiffeTls

tickets = MCPServer("tickets", log_level="WARNING")


@tickets.tool(structured_output=False)
def whoami(context: Context) -> str:
    """Who the server takes the caller for."""
    return str(context.request_context.request.state.caller)


@tickets.tool()
def get_ticket_status(ticket_id: str) -> str:
    """Whether a ticket is open."""
    return "open" if ticket_id == "101" else "unknown"


@tickets.tool()
def delete_ticket(ticket_id: str) -> str:
    """Delete a ticket for good."""
    return f"{ticket_id} deleted"


def protocol(allowed: str) -> type[HttpToolsProtocol]:
    """uvicorn's, which closes the connections of everybody but one, and tells the tools who that is."""

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            certificate = certificate_of(transport.get_extra_info("ssl_object"))
            caller = str(certificate.spiffe_id) if certificate else "nobody"
            if caller != allowed:
                print(f"refused {caller}", flush=True)
                transport.abort()
                return
            self.app_state = {**self.app_state, "caller": caller}

    return Protocol


async def serve(port: int, allowed: str, address: str = "127.0.0.1") -> None:
    """Serve as soon as there is an SVID."""
    source = SvidSource(os.environ["SPIFFE_ENDPOINT_SOCKET"], SvidChoice())
    ready = asyncio.Event()
    source.subscribe(ready.set)
    source.start()
    await ready.wait()
    app = tickets.streamable_http_app(host=address)
    config = uvicorn.Config(app, host=address, port=port, http=protocol(allowed), log_level="warning")
    config.load()
    # Each handshake uses the SVID and the bundles of that moment: nothing has to be restarted when they are renewed.
    config.ssl = SpiffeTls(source).server_context(lambda why: print(f"refused a handshake: {why}", flush=True))
    listener = config.bind_socket()
    listener.listen()  # who comes from here on is served, or waits a moment
    print(f"serving as {source.own().id}", flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])
    await source.stop()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:4]))

"""An MCP server that keeps notes. Needs: pip install 'mcp>=2.3,<3'. Run: python server.py [PORT] [HOST]"""

import sys

from mcp.server import MCPServer

NOTES = {
    "team/monday": "Call the printer's shop.",
    "team/tuesday": "Write the minutes.",
    "private/diary": "Nobody's business.",
}
ARCHIVE: dict[str, str] = {}

server = MCPServer("notes", log_level="WARNING")


@server.resource("note:///{folder}/{name}")
def note(folder: str, name: str) -> str:
    """The text of a note."""
    return NOTES.get(f"{folder}/{name}", "no such note")


@server.tool()
def write_note(path: str, text: str) -> str:
    """Write a note; the path is folder/name."""
    NOTES[path] = text
    return f"{path} is written"


@server.tool()
def archive_note(path: str) -> str:
    """Put a note away."""
    ARCHIVE[path] = NOTES.pop(path)
    return f"{path} is in the archive"


@server.tool()
def delete_note(path: str) -> str:
    """Delete a note for good."""
    del NOTES[path]
    return f"{path} is gone"


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9100
    server.run("streamable-http", host=sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1", port=port)

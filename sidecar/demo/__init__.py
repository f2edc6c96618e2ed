"""`openmcp demo`: a sample MCP server, the sidecar and two agents on one machine, and what came of it.

Needs the extra `demo` (the MCP SDK and rich), which is imported only once it is known to be there.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

NEEDS: Final = {"mcp": 2, "httpx2": 2, "rich": 13}
"""The packages of the extra, and the major version that each must at least have."""
INSTALL: Final = "pip install 'openmcp[demo]'"


def missing() -> str | None:
    """Say what of the extra is missing or too old, and how to install it; None where all is there."""
    for name, least in NEEDS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            return f"the demo needs the package {name!r}, which is not installed: {INSTALL}"
        if int(found.partition(".")[0]) < least:
            return f"the demo needs {name} {least} or newer, and {found} is installed: {INSTALL}"
    return None


def run(*, wait: bool, auto: bool = True, port: int | None = None) -> int:
    """Play the story, and stay up after it where `wait`; the agents call `port`, by default a free one.

    `auto`: nobody is waited for who approves what the agent asks for.

    Returns the exit code: 0 all came out as told, 1 something did not, 3 something could not start or was stopped.
    """
    from openmcp.sidecar.demo.stage import perform  # after missing(): it imports the extra

    return perform(wait=wait, auto=auto, port=port)

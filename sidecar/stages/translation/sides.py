"""What both directions of translation need: posts to the server, and the bounds of what is remembered."""

from collections import OrderedDict
from typing import Final, Generic, TypeVar

from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.net.upstream import UpstreamResponse
from openmcp.sidecar.stages import forward
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.types import JsonObject, MessageId

MOST: Final = 4096
"""Sessions of which something is remembered here."""
ROUNDS: Final = 16
"""How often a server may ask about one call."""

T = TypeVar("T")


class Remembered(OrderedDict[str, T], Generic[T]):
    """Values by a name; beyond `MOST` the one that was unused for longest goes."""

    def seen(self, name: str) -> T | None:
        """The value, which is in use now."""
        value = self.get(name)
        if value is not None:
            self.move_to_end(name)
        return value

    def keep(self, name: str, value: T) -> T:
        """Remember it. Returns it."""
        self[name] = value
        if len(self) > MOST:
            self.popitem(last=False)
        return value


async def post(flow: Flow, method: str, lines: bytes, document: JsonObject) -> UpstreamResponse:
    """Post a message under these header lines, with the time and the repeats that its method has."""
    return await forward.dispatch(flow, method, lines, jsonrpc.encode(document))


def request(identifier: MessageId, method: str, params: JsonObject) -> JsonObject:
    """The document of a request."""
    return {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}

"""What both directions of translation need: posts to the server, and the bounds of what is remembered."""

from collections import OrderedDict
from typing import Final, Generic, TypeVar

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages import forward
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.types import JsonObject, MessageId

MOST: Final = 4096
"""Sessions of which something is remembered here."""
SHARE: Final = 256
"""Those of one agent that are not given up for others'."""
MOST_URIS: Final = 256
"""Resources of one subscription, or of one legacy session."""
LONGEST: Final = 256
"""Characters of the name of a tool of which something is remembered."""
ROUNDS: Final = 16
"""How often a server may ask about one call."""

T = TypeVar("T")


class OtherEra(UpstreamFailed):
    """The server refuses what is said in the era that it was known to have: nothing was executed."""


class Remembered(Generic[T]):
    """Values by a name, each somebody's. Beyond `MOST` the one that was unused for longest goes: of all, or of whoever
    has more than `SHARE`, so that nobody makes others' go."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, tuple[str, T]] = OrderedDict()
        self._counts: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        """Whether there is a value of this name."""
        return name in self._values

    def seen(self, name: str) -> T | None:
        """The value, which is in use now."""
        found = self._values.get(name)
        if found is None:
            return None
        self._values.move_to_end(name)
        return found[1]

    def keep(self, owner: str, name: str, value: T) -> T:
        """Remember it. Returns it."""
        self.lose(name)
        self._values[name] = owner, value
        self._counts[owner] = self._counts.get(owner, 0) + 1
        if len(self._values) > MOST:
            crowd = self._counts[owner] > SHARE
            self.lose(next(name for name, (whose, _) in self._values.items() if whose == owner or not crowd))
        return value

    def lose(self, name: str) -> T | None:
        """Forget it. Returns it."""
        owner, value = self._values.pop(name, ("", None))
        if value is not None:
            self._counts[owner] -= 1
            if not self._counts[owner]:
                del self._counts[owner]
        return value


async def post(flow: Flow, method: str, lines: bytes, document: JsonObject) -> UpstreamResponse:
    """Post a message under these header lines, with the time and the repeats that its method has."""
    return await forward.dispatch(flow, method, lines, jsonrpc.encode(document))


def request(identifier: MessageId, method: str, params: JsonObject) -> JsonObject:
    """The document of a request."""
    return {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}

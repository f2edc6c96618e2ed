"""Which era a server speaks, as its refusals show.

Source: 2026-07-28 basic/transports/streamable-http "Backward Compatibility". What a server refuses in these ways it has
not executed: it can be said in the words of the other era.
"""

from collections.abc import Callable
from typing import Final

from openmcp.sidecar.errors import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    UNSUPPORTED_VERSION,
    UpstreamFailed,
)
from openmcp.sidecar.mcp import era, translation
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages import forward
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.translation import kept, spoken
from openmcp.sidecar.stages.translation.sides import post, request
from openmcp.sidecar.types import Era, JsonObject

KNOWN_FOR: Final = 60.0
"""Seconds after which a server is asked again in the era of its agent: it may have been replaced by a newer one."""
_MODERN_CODES: Final = frozenset((METHOD_NOT_FOUND, INVALID_PARAMS, HEADER_MISMATCH, -32021, UNSUPPORTED_VERSION))
_NOT_FOR_LEGACY: Final = frozenset((HEADER_MISMATCH, UNSUPPORTED_VERSION))
_NOT_INITIALIZED: Final = frozenset((METHOD_NOT_FOUND, INVALID_PARAMS))


class Eras:
    """The only era of each server that has been seen to have one alone, by the server's name; `now` is in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._only: dict[str, tuple[Era, float]] = {}

    def only(self, server: str) -> Era | None:
        """Its only era; None where it may have both."""
        found, until = self._only.get(server, (None, 0.0))
        return found if until > self._now() else None

    def forget(self, server: str) -> None:
        """It has another one than was known."""
        self._only.pop(server, None)

    def learn(self, server: str, only: Era) -> None:
        """It has no other."""
        self._only[server] = (only, self._now() + KNOWN_FOR)


def refuses_legacy(method: str, response: UpstreamResponse) -> bool:
    """Whether this answer to a legacy message shows a server that may be modern alone."""
    if response.streaming or (response.status == 200 and method != "initialize"):
        return False
    code, data = _error(response)
    if code in _NOT_FOR_LEGACY:
        return not _names(data, era.LEGACY_VERSIONS)
    if method != "initialize":
        return False
    return code in _NOT_INITIALIZED or (response.status in (400, 404, 405) and code is None)


def refuses_modern(method: str, response: UpstreamResponse) -> bool:
    """Whether this answer to a modern message shows a server of the legacy era."""
    if response.streaming or (response.status == 200 and method != "server/discover"):
        return False
    code, data = _error(response)
    if code == UNSUPPORTED_VERSION:
        return _names(data, era.LEGACY_VERSIONS) and not _names(data, era.MODERN_VERSIONS)
    if method == "server/discover" and code == METHOD_NOT_FOUND:
        return True
    return response.status in (400, 404, 405, 406) and code not in _MODERN_CODES


def is_sure(response: UpstreamResponse) -> bool:
    """Whether a refusal says so itself, whatever the message was: it names the versions that there are."""
    code, data = _error(response)
    return code == UNSUPPORTED_VERSION and (_names(data, era.MODERN_VERSIONS) or _names(data, era.LEGACY_VERSIONS))


async def lacks_modern(flow: Flow) -> bool:
    """Ask a server for what each modern one answers: what refused an agent's message may have been about that alone,
    and no agent decides how others are served. Raises as `forward.send`."""
    lines = b"%b%bmcp-protocol-version: %b\r\nmcp-method: server/discover\r\n" % (
        forward.JSON_LINES,
        forward.trace_lines(flow),
        translation.NEWEST_MODERN.encode(),
    )
    params: JsonObject = {"_meta": {era.META_VERSION: translation.NEWEST_MODERN, era.META_CAPABILITIES: {}}}
    response = await post(flow, "server/discover", lines, request("era", "server/discover", params))
    response.close()
    return refuses_modern("server/discover", response)


async def lacks_legacy(flow: Flow) -> bool:
    """The same for the legacy era: begin a session, and end it."""
    try:
        begun = await kept.begin(flow, {})
    except UpstreamFailed as failure:
        if failure.kind == "protocol":
            return True
        raise
    await begun.end()
    return False


def _error(response: UpstreamResponse) -> tuple[object, object]:
    """Code and data of the error in an answer."""
    message = spoken.complete(response)
    error: JsonObject = (message.error if message is not None else None) or {}
    return error.get("code"), error.get("data")


def _names(data: object, versions: tuple[str, ...]) -> bool:
    supported = data.get("supported") if type(data) is dict else None
    return type(supported) is list and any(version in versions for version in supported)

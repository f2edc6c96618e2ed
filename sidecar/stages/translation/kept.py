"""Sessions with legacy servers that are kept for modern agents, who have none of their own.

Requests of one agent share a session as long as they say the same of their client (capabilities, name, log level).
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

from openmcp.sidecar.errors import Refused, UpstreamFailed
from openmcp.sidecar.mcp import era, jsonrpc, translation
from openmcp.sidecar.net.endpoint import Endpoint
from openmcp.sidecar.net.upstream import UpstreamResponse
from openmcp.sidecar.stages import forward, reply
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.sessions import checked_upstream_id
from openmcp.sidecar.stages.translation import spoken
from openmcp.sidecar.stages.translation.sides import post, request
from openmcp.sidecar.types import JsonObject

MOST: Final = 1024
"""Sessions that are kept; the one that was unused for longest goes."""
UNUSED: Final = 600.0
"""Seconds after which one that nobody uses is ended, as others begin."""


class Kept:
    """One session: where it is, what the server calls it (None: it has no ids) and said when it began. `last` is the
    last id that we gave to a request on it; `listened`: a subscription has its stream."""

    def __init__(self, endpoint: Endpoint, upstream_id: str | None, version: str, initialized: JsonObject) -> None:
        self.endpoint = endpoint
        self.initialized = initialized
        self.last = 0
        self.used = 0.0
        self.listened = False
        named = b"mcp-session-id: %b\r\n" % upstream_id.encode() if upstream_id is not None else b""
        self._lines = b"mcp-protocol-version: %b\r\n%b" % (version.encode(), named)
        self.named = upstream_id is not None

    @property
    def capabilities(self) -> object:
        """What the server offers."""
        return self.initialized.get("capabilities")

    def headers(self, flow: Flow, first: bytes = forward.JSON_LINES) -> bytes:
        """The header lines of a message on this session."""
        return first + forward.trace_lines(flow) + self._lines

    def is_dead(self, response: UpstreamResponse) -> bool:
        """Whether the server knows nothing of it any more, and has not read the message."""
        return self.named and not response.streaming and response.status != 200 and reply.session_is_dead(response)

    async def ask(self, flow: Flow, method: str, params: JsonObject) -> bool:
        """Make a request of our own; whether it was granted. Raises as `forward.send`."""
        self.last += 1
        response = await post(flow, method, self.headers(flow), request(self.last, method, params))
        answer = await spoken.final(response, flow.upstream.server.limits.response_bytes)
        return answer is not None and answer.result is not None

    async def tell(self, flow: Flow, document: JsonObject) -> None:
        """Send what has no answer. Raises as `forward.send`, and `UpstreamFailed` where the server does not take it."""
        flow.endpoint = self.endpoint
        response = await post(flow, "", self.headers(flow), document)
        response.close()
        if response.status >= 300:
            raise UpstreamFailed("status", f"HTTP {response.status}")

    async def end(self, flow: Flow) -> None:
        """Tell the server that it is over."""
        if self.named:
            flow.endpoint = self.endpoint
            patience = flow.upstream.call_patience
            lines = self.headers(flow, b"")
            (await forward.send(flow, b"DELETE", lines, b"", patience, repeatable=True)).close()


async def begin(flow: Flow, meta: JsonObject) -> Kept:
    """Initialize a session for a request with this `_meta`. Raises as `forward.send`, and `UpstreamFailed` (protocol)
    where the server does not do that."""
    lines = forward.JSON_LINES + forward.trace_lines(flow)
    document = request(0, "initialize", translation.initialize_params(meta))
    response = await post(flow, "initialize", lines, document)
    given = response.headers.get(b"mcp-session-id")
    answer = await spoken.final(response, flow.upstream.server.limits.response_bytes)
    result = answer.result if answer is not None else None
    if result is None or flow.endpoint is None:
        raise UpstreamFailed("protocol", "the server has neither era")
    version = result.get("protocolVersion")
    if version not in era.LEGACY_VERSIONS:
        raise UpstreamFailed("protocol", "the server chose a version that was not offered")
    kept = Kept(flow.endpoint, checked_upstream_id(given) if given is not None else None, str(version), result)
    await kept.tell(flow, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    level, offered = meta.get(translation.META_LEVEL), kept.capabilities
    if level in translation.LEVELS and type(offered) is dict and "logging" in offered:
        await kept.ask(flow, "logging/setLevel", {"level": level})
    return kept


class _Slot:
    """Where the session of some requests is, once the first of them has begun it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.kept: Kept | None = None
        self.flow: Flow | None = None


class Keeping:
    """All sessions that are kept; `now` is in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._slots: dict[str, _Slot] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def session(self, flow: Flow, meta: JsonObject) -> Kept:
        """The session for a request with this `_meta`; the flow is pinned to its endpoint. Raises as `begin`."""
        name = _name(flow, meta)
        slot = self._slots.pop(name, None) or _Slot()
        self._slots[name] = slot  # the ones used last are last
        async with slot.lock:
            kept = slot.kept
            if kept is None:
                self._make_room()
                kept = slot.kept = await begin(flow, meta)
                slot.flow = flow
        kept.used = self._now()
        flow.endpoint = kept.endpoint
        return kept

    def forget(self, flow: Flow, meta: JsonObject, kept: Kept) -> None:
        """It is of no use any more."""
        slot = self._slots.get(_name(flow, meta))
        if slot is not None and slot.kept is kept:
            slot.kept = None

    def _make_room(self) -> None:
        before = self._now() - UNUSED
        for name, slot in list(self._slots.items()):
            kept = slot.kept
            old = kept is not None and kept.used < before
            if not old and len(self._slots) <= MOST:
                return
            if kept is not None and slot.flow is not None and not kept.listened:
                del self._slots[name]
                self.aside(kept.end(slot.flow))

    def aside(self, work: Coroutine[Any, Any, object]) -> None:
        """Tell a server something that nobody waits for."""
        task = asyncio.create_task(_quietly(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _quietly(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except (UpstreamFailed, Refused):
        return  # it was a courtesy


def _name(flow: Flow, meta: JsonObject) -> str:
    """What requests have in common that share a session."""
    said = [flow.server, flow.agent, flow.identified_by, flow.endpoint.key if flow.endpoint is not None else ""]
    beside = [translation.initialize_params(meta), meta.get(translation.META_LEVEL)]
    return hashlib.blake2b(jsonrpc.encode([said, beside]), digest_size=16).hexdigest()

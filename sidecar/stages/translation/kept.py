"""Sessions with legacy servers that are kept for modern agents, who have none of their own.

Requests of one agent share a session as long as they say the same of their client (capabilities, name, log level).
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

from openmcp.sidecar.errors import Refused, UpstreamFailed
from openmcp.sidecar.mcp import era, jsonrpc, translation
from openmcp.sidecar.net.endpoint import Endpoint
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.values import Outgoing
from openmcp.sidecar.stages import forward, reply
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.resend import unreached
from openmcp.sidecar.stages.sessions import checked_upstream_id
from openmcp.sidecar.stages.translation import spoken
from openmcp.sidecar.stages.translation.sides import OtherEra, post, request
from openmcp.sidecar.types import JsonObject, Notification

MOST: Final = 1024
"""Sessions that are kept; the one that was unused for longest goes."""
MOST_OF_ONE: Final = 64
"""Those of one agent at one server: who says something else of its client each time makes its own go."""
UNUSED: Final = 600.0
"""Seconds after which one that nobody uses is ended, as others begin."""
INTRODUCTION: Final = 128 * 1024
"""Bytes that a server may say of itself as a session begins: they are kept with it."""
ASIDE: Final = 16
"""Messages on the side of one session that a server may take its time with; it is not told of more than these."""


class Kept:
    """One session: where it is, what the server calls it (None: it has no ids) and said when it began. `last` is the
    last id that we gave to a request on it; `busy`: how many calls on it are not over; `listened`: how many
    subscriptions it has, which share its stream (`hub`), and `followed` how many of them each resource."""

    def __init__(self, flow: Flow, endpoint: Endpoint, upstream_id: str | None, initialized: JsonObject) -> None:
        self.endpoint = endpoint
        self.busy = self._aside = 0
        self._patience = flow.upstream.call_patience
        self._limit = flow.upstream.server.limits.response_bytes
        self.initialized = initialized
        self.last = 0
        self.used = 0.0
        self.listened = 0
        self.hub: object = None
        self.opening = asyncio.Lock()
        self.followed: Counter[str] = Counter()
        named = b"mcp-session-id: %b\r\n" % upstream_id.encode() if upstream_id is not None else b""
        self._lines = b"mcp-protocol-version: %b\r\n%b" % (str(initialized["protocolVersion"]).encode(), named)
        self.named = upstream_id is not None

    @property
    def capabilities(self) -> object:
        """What the server offers."""
        return self.initialized.get("capabilities")

    def headers(self, flow: Flow, first: bytes = forward.JSON_LINES) -> bytes:
        """The header lines of a message on this session."""
        return first + forward.trace_lines(flow) + self._lines

    def is_dead(self, response: UpstreamResponse, sent: int) -> bool:
        """Whether the server knows nothing of it any more, and has not read the request of this id: whoever answers
        that one has."""
        if not self.named or response.streaming or response.status == 200 or not reply.session_is_dead(response):
            return False
        answer = spoken.complete(response)
        return answer is None or answer.id != sent

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

    async def cancel(self, sent: int) -> None:
        """Tell the server that nobody wants this answer any more."""
        cancelled = Notification("notifications/cancelled", {"requestId": sent, "reason": "the client is gone"})
        await self._say(b"POST", forward.JSON_LINES, jsonrpc.encode(jsonrpc.notification_document(cancelled)))

    async def answer(self, document: JsonObject) -> None:
        """Answer a question of the server."""
        await self._say(b"POST", forward.JSON_LINES, jsonrpc.encode(document))

    async def end(self) -> None:
        """Tell the server that it is over."""
        if self.named:
            await self._say(b"DELETE", b"", b"")

    async def _say(self, method: bytes, lines: bytes, body: bytes) -> None:
        """Outside of any exchange: what began the session is long over, and is not kept for this. Raises
        `UpstreamFailed`."""
        if self._aside >= ASIDE:
            raise UpstreamFailed("overloaded", f"{ASIDE} messages are under way", sent=False)
        outgoing = Outgoing(method, lines + self._lines, body, self._limit, method == b"DELETE")
        self._aside += 1
        try:
            (await self.endpoint.send(outgoing, self._patience)).close()
        finally:
            self._aside -= 1


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
        raise OtherEra("protocol", "the server has neither era")
    if len(jsonrpc.encode(result)) > INTRODUCTION:
        raise UpstreamFailed("too_large", f"the answer to initialize has more than {INTRODUCTION // 1024} KiB")
    version = result.get("protocolVersion")
    if version not in era.LEGACY_VERSIONS:
        raise UpstreamFailed("protocol", "the server chose a version that was not offered")
    kept = Kept(flow, flow.endpoint, checked_upstream_id(given) if given is not None else None, result)
    await kept.tell(flow, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    level, offered = meta.get(translation.META_LEVEL), kept.capabilities
    if level in translation.LEVELS and type(offered) is dict and "logging" in offered:
        await kept.ask(flow, "logging/setLevel", {"level": level})
    return kept


class _Slot:
    """Where the session of some requests of an agent at a server (`owner`) is, once the first of them has begun it;
    `users` are those that wait for that."""

    def __init__(self, owner: tuple[str, str]) -> None:
        self.owner = owner
        self.users = 0
        self.lock = asyncio.Lock()
        self.kept: Kept | None = None

    @property
    def idle(self) -> bool:
        """Whether it has a session, which nobody uses now."""
        return self.kept is not None and not self.kept.busy and not self.kept.listened


class Keeping:
    """All sessions that are kept; `now` is in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._slots: dict[str, _Slot] = {}
        self._background: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._slots)

    async def session(self, flow: Flow, meta: JsonObject) -> Kept:
        """The session for a request with this `_meta`; the flow is pinned to its endpoint. Raises as `begin`."""
        pinned = flow.endpoint
        kept = await self._in(_name(flow, meta), flow, meta)
        if pinned is not None and kept.endpoint is not pinned:
            flow.endpoint = pinned
            kept = await self._in(_name(flow, meta, pinned.key), flow, meta)
        kept.used = self._now()
        flow.endpoint = kept.endpoint
        return kept

    async def _in(self, name: str, flow: Flow, meta: JsonObject) -> Kept:
        slot = self._slots.pop(name, None) or _Slot((flow.server, flow.agent))
        self._slots[name] = slot  # the ones used last are last
        slot.users += 1
        try:
            async with slot.lock:
                self._leave(slot, flow.upstream.endpoints)
                kept = slot.kept
                if kept is None:
                    self._make_room(slot.owner)
                    kept = slot.kept = await begin(flow, meta)
        finally:
            slot.users -= 1
            self._tidy(name, slot)
        return kept

    def _leave(self, slot: _Slot, endpoints: tuple[Endpoint, ...]) -> None:
        """The configuration may have other endpoints for this server now."""
        kept = slot.kept
        if kept is not None and kept.endpoint not in endpoints:
            if slot.idle:
                self.aside(kept.end())
            slot.kept = None

    def failed(self, kept: Kept, failure: UpstreamFailed) -> None:
        """Where its endpoint got nothing, a session elsewhere may be of more use; not where it has too much to do."""
        if unreached(failure) and failure.kind != "overloaded":
            self.forget(kept)

    def forget(self, kept: Kept) -> None:
        """It is of no use any more."""
        for name, slot in self._slots.items():
            if slot.kept is kept:
                slot.kept = None
                self._tidy(name, slot)
                return

    def hold(self, kept: Kept) -> None:
        """A call on it begins; `release` has to follow."""
        kept.busy += 1

    def release(self, kept: Kept) -> None:
        """Such a call is over."""
        kept.busy -= 1
        kept.used = self._now()

    def _tidy(self, name: str, slot: _Slot) -> None:
        """Nothing is kept of a session that did not begin, or is gone."""
        if slot.kept is None and not slot.users and self._slots.get(name) is slot:
            del self._slots[name]

    def _make_room(self, owner: tuple[str, str]) -> None:
        """For another of this owner's."""
        before = self._now() - UNUSED
        idle = [(name, slot) for name, slot in self._slots.items() if slot.idle]
        gone = [name for name, slot in idle if slot.kept is not None and slot.kept.used < before]
        own = [name for name, slot in idle if slot.owner == owner and name not in gone]
        if sum(slot.owner == owner for slot in self._slots.values()) > MOST_OF_ONE and not gone:
            gone = own[:1]
        if len(self._slots) > MOST and not gone:
            gone = [name for name, _ in idle[:1]]
        for name in gone:
            kept = self._slots.pop(name).kept
            if kept is not None:
                self.aside(kept.end())

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


def _name(flow: Flow, meta: JsonObject, endpoint: str = "") -> str:
    """What requests have in common that share a session; `endpoint` is where it has to be, if another is elsewhere."""
    said = [flow.server, flow.agent, flow.identified_by, endpoint]
    beside = [translation.initialize_params(meta), meta.get(translation.META_LEVEL)]
    return hashlib.blake2b(jsonrpc.encode([said, beside]), digest_size=16).hexdigest()

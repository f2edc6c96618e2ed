"""JSON-RPC over one channel: answers find their requests, and all else that is said there finds a stream.

A process has one channel for everything, and so has a session of HTTP+SSE. What comes over it is sorted here into what
an HTTP server would have answered: each request gets a response or a stream of its own, under ids and progress tokens
that we make, so that neither two clients of a process nor a client that uses an id twice can get what is another's.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, Generic, Protocol, TypeVar

from openmcp.config.model import Limits
from openmcp.sidecar.bridge.grumbling import visible
from openmcp.sidecar.bridge.process import Reader
from openmcp.sidecar.bridge.stream import Stream
from openmcp.sidecar.errors import METHOD_NOT_FOUND, Malformed, UpstreamFailed
from openmcp.sidecar.mcp import answers, era, jsonrpc
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.values import Patience
from openmcp.sidecar.types import JsonObject, Message, MessageId, Notification, Request, Response

KEPT: Final = 64
"""Messages that wait for the session's stream to be opened."""
KEPT_BYTES: Final = 1024 * 1024
DOUBT: Final = 60.0
"""Seconds for which what a shared process says may still be about a request of the agent before."""
NOISE: Final = 20_000
"""How much of its output may be of no use, in lines and KiB, before a process is ended."""
_UNHEARD: Final = 0.1
"""How much a proper notification counts that nobody hears: servers may be talkative."""
_GIVEN_UP: Final = 1024
"""Requests that were given up and may be answered all the same."""
PROBE: Final = 5.0
"""Seconds within which a process has to show that it is alive, after it let a request run out of time in silence."""
_FORGIVEN: Final = 8.0
"""How much noise each sweep forgives: some servers print what they do."""
_CANCELLED: Final = "notifications/cancelled"
_PROGRESS: Final = "notifications/progress"
_LISTEN: Final = "subscriptions/listen"
_log = logging.getLogger("openmcp.bridge")


class Peer(Protocol):
    """Who is at the other end, called `name`; `noun` is what it is."""

    name: str
    noun: str

    def write(self, data: bytes) -> None:
        """Send it one message. Raises `UpstreamFailed` where it takes no more."""

    def reply(self, data: bytes) -> None:
        """The same for our own answer to what it asked."""

    def pause(self) -> None:
        """Read no more of what it says."""

    def resume(self) -> None:
        """Read on."""

    def kill(self, why: str) -> None:
        """End it at once, and say so to the reader."""

    def sweep(self, now: float) -> None:
        """Called four times a second."""


P = TypeVar("P", bound=Peer)


class Conversation(Generic[P]):
    """What is said with one process of a server (or one session), which `make` makes. `shared`: it is that of all
    agents, of the modern era; else of one session. `why` says why it is over; `used` is when it was last of use, by the
    loop's time; `spoke`: it has given a proper answer."""

    def __init__(
        self, make: Callable[[Reader], P], limits: Limits, on_end: "Callable[[Conversation[P]], None]", *, shared: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.shared = shared
        self._in_flight = limits.in_flight
        self._on_end = on_end
        self._open: dict[MessageId, Stream] = {}
        self._listener: Stream | None = None
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._given_up: dict[MessageId, bool] = {}
        self._last = self._subscriptions = 0
        self._noise = 0.0
        self._probe_until = 0.0
        self._agent: str | None = None
        self._changed = -inf
        self.process = make(self)
        self.why = ""
        self.spoke = False
        self.used = self.heard = self._loop.time()

    @property
    def busy(self) -> int:
        """Requests under way."""
        return len(self._open)

    @property
    def idle_since(self) -> float | None:
        """When it was last of use; None while it is."""
        return None if self._open or self._listener is not None else self.used

    # towards the process

    async def request(self, message: Request, patience: Patience, agent: str | None) -> UpstreamResponse:
        """Send a request of this agent (None: our own) and wait for the answer: whole, or the begin of a stream. Raises
        `UpstreamFailed`."""
        if agent is not None and agent != self._agent:
            self._changed = self._loop.time() if self._agent is not None else -inf
            self._agent = agent
        stream = self.ask(message, patience)
        stream.agent = agent
        try:
            return await stream.head
        except asyncio.CancelledError:
            self.left(stream)
            raise

    def ask(self, message: Request, patience: Patience) -> Stream:
        """The same, without waiting."""
        if self.why:
            raise UpstreamFailed("closed", f"{self.process.noun} {self.why}", sent=False)
        under_way = len(self._open) - self._subscriptions  # which have places of their own (`net.pool.Upstream`)
        if under_way >= self._in_flight and message.method != _LISTEN:
            raise UpstreamFailed("overloaded", f"{under_way} calls are under way", sent=False)
        self._last += 1
        now = self.used = self._loop.time()
        stream = Stream(self, self._last, message, patience, now)
        document = jsonrpc.request_document(message) | {"id": self._last}
        if stream.token is not None:
            meta = era.meta_of(message.params) | {"progressToken": self._last}
            document["params"] = message.params | {"_meta": meta}
        self.process.write(jsonrpc.encode(document))
        self._open[self._last] = stream
        self._subscriptions += message.method == _LISTEN
        return stream

    def undelivered(self, stream: Stream, failure: UpstreamFailed) -> None:
        """A request did not arrive."""
        if self._open.pop(stream.id, None) is not None:
            self._over(stream)
            stream.fail(failure)

    def _over(self, stream: Stream) -> None:
        """A request is no longer under way. What is still said of it is not the next agent's."""
        if stream.request is not None and stream.request.method == _LISTEN:
            self._subscriptions -= 1
        elif stream.agent is not None and stream.agent != self._agent:
            self._changed = self._loop.time()

    def notify(self, message: Notification | Response) -> None:
        """Send what has no answer. A cancellation of a request that is not under way goes nowhere; in a shared process
        it never does: its sender is not known to be whose request it names."""
        self.used = self._loop.time()
        if isinstance(message, Notification) and message.method == _CANCELLED:
            stream = None if self.shared else self._named(message.params.get("requestId"))
            if stream is None:
                return
            message = Notification(_CANCELLED, message.params | {"requestId": stream.id})
        self.process.write(jsonrpc.encode(jsonrpc.document_of(message)))

    def listen(self, patience: Patience) -> UpstreamResponse:
        """The stream of what belongs to no request; it takes the place of one that is open."""
        if self._listener is not None:
            self._listener.finish()
        stream = Stream(self, None, None, patience, self._loop.time())
        self._listener = stream
        stream.begin()
        while self._kept:
            stream.deliver(self._kept.popleft())
        self._kept_bytes = 0
        return stream.response

    def _named(self, identifier: object) -> Stream | None:
        for stream in self._open.values():
            request = stream.request
            if request is not None and type(identifier) is type(request.id) and identifier == request.id:
                return stream
        return None

    # what a stream says of itself

    def left(self, stream: Stream) -> None:
        """Nobody reads this stream any more. That cancels a modern request; a legacy one goes on (basic/transports)."""
        self.used = self._loop.time()
        if stream is self._listener:
            self._listener = None
        elif stream.id in self._open:
            stream.deserted = True
            if self.shared:
                self._cancel(stream, "the client has gone")

    def read_on(self) -> None:
        """A stream has room again."""
        if not any(stream.full for stream in self._streams()):
            self.process.resume()

    def crowded(self, stream: Stream) -> None:
        """A stream has too much to be read: a session waits for that; in a shared process nobody does."""
        if not self.shared:
            self.process.pause()

    def _streams(self) -> list[Stream]:
        return [*self._open.values(), *([self._listener] if self._listener is not None else [])]

    def _cancel(self, stream: Stream, reason: str) -> None:
        del self._open[stream.id]
        self._over(stream)
        self._given_up[stream.id] = True
        if len(self._given_up) > _GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]
        request = stream.request
        if request is None or request.method == "initialize" or self.why:
            return
        try:
            cancelled = Notification(_CANCELLED, {"requestId": stream.id, "reason": reason})
            self.process.write(jsonrpc.encode(jsonrpc.document_of(cancelled)))
        except UpstreamFailed:
            _log.debug("%s: a cancellation could not be sent", self.process.name)

    # from the process

    def line(self, data: bytes) -> None:
        """See `process.Reader`."""
        if self.why:
            return
        self.heard = self._loop.time()
        self._probe_until = 0.0
        if not data.strip():
            self._useless(data)
            return
        try:
            message = jsonrpc.classify(jsonrpc.decode_lenient(data))
        except Malformed:
            if self._noise < NOISE / 100:
                _log.warning("%s wrote what is no message of MCP: %s", self.process.name, visible(data[:200]))
            self._useless(data)
            return
        if not self._passed(message):
            self._useless(data, _UNHEARD if isinstance(message, Notification) else 1.0)

    def _useless(self, data: bytes, weight: float = 1.0) -> None:
        self._noise += weight * (1 + len(data) / 1024)
        if self._noise > NOISE:
            self.process.kill("wrote too much that is of no use")

    def _passed(self, message: Message) -> bool:
        if isinstance(message, Response):
            return self._answered(message)
        if isinstance(message, Request):
            return self._asked(message)
        return self._told(message)

    def _answered(self, message: Response) -> bool:
        identifier = message.id if type(message.id) is int else 0
        stream = self._open.pop(identifier, None)
        if stream is None:
            return self._given_up.pop(identifier, False)
        self.spoke = True
        self.used = self.heard
        self._over(stream)
        stream.answer(message)
        return True

    def _asked(self, message: Request) -> bool:
        """The process asks: a sign of life we give by ourselves, the rest is for the session's client."""
        if message.method == "ping":
            self._reply(jsonrpc.response_document(Response(message.id, {}, None)))
            return False
        if self.shared:
            self._reply(answers.error(message.id, METHOD_NOT_FOUND, "servers do not ask in this revision"))
            return False
        return self._route(message)

    def _reply(self, document: JsonObject) -> None:
        try:
            self.process.reply(jsonrpc.encode(document))
        except UpstreamFailed as failure:
            self.process.kill(f"does not read: {failure.detail}")

    def _told(self, message: Notification) -> bool:
        if message.method == _PROGRESS:
            token = message.params.get("progressToken")
            stream = self._open.get(token) if type(token) is int else None
            if stream is None or stream.token is None:
                return False
            return self._deliver(stream, message, {"progressToken": stream.token})
        return self._told_one(message) if self.shared else self._route(message)

    def _told_one(self, message: Notification) -> bool:
        """In a shared process a notification has to say whose it is: a subscription's by its id; one about a request
        only where a single one is under way."""
        meta = era.meta_of(message.params)
        inner = meta.get(era.META_SUBSCRIPTION)
        if inner is not None:
            stream = self._open.get(inner) if type(inner) is int else None
            if stream is None or stream.request is None or stream.request.method != _LISTEN:
                return False
            return self._deliver(stream, message, {"_meta": meta | {era.META_SUBSCRIPTION: stream.request.id}})
        asking = [stream for stream in self._open.values() if stream.request and stream.request.method != _LISTEN]
        certain = len(asking) == 1 and self._loop.time() - self._changed >= DOUBT
        return certain and self._deliver(asking[0], message, {})

    def _deliver(self, stream: Stream, message: Notification, members: JsonObject) -> bool:
        if stream.deserted:
            return False
        if stream.full and self.shared:
            if stream.request is not None and stream.request.method == _LISTEN:
                self._cancel(stream, "its client does not read")
                stream.fail(UpstreamFailed("overloaded", "the client does not read the stream"))
            return False
        params = message.params | members
        stream.deliver(jsonrpc.encode(jsonrpc.document_of(Notification(message.method, params))))
        return True

    def _route(self, message: Request | Notification) -> bool:
        """Say something on a session's streams: that of the one request under way, else the session's own, else that of
        the last request; or keep it until there is one."""
        data = jsonrpc.encode(jsonrpc.document_of(message))
        asking = [one for one in self._open.values() if not one.deserted and one.speaks]
        stream = asking[0] if len(asking) == 1 else self._listener or (asking[-1] if asking else None)
        if stream is not None:
            stream.deliver(data)
            return True
        self._kept.append(data)
        self._kept_bytes += len(data)
        lost = False
        while len(self._kept) > KEPT or self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft())
            lost = True
        return not lost

    def ended(self, why: str) -> None:
        """See `process.Reader`: whoever waits hears of it."""
        self.why = why
        waiting = self._streams()
        self._open.clear()
        self._listener = None
        for stream in waiting:
            stream.fail(UpstreamFailed("closed", f"{self.process.noun} {why}"))
        self._on_end(self)

    def sweep(self, now: float) -> None:
        """Enforce time limits; `now` is the loop's time."""
        self._noise = max(0.0, self._noise - _FORGIVEN)
        for stream in self._streams():
            over = stream.overdue(now)
            if over and stream is self._listener:
                stream.finish()
            elif over:
                self._give_up(stream, over, now)
        if self._probe_until and now > self._probe_until:
            self.process.kill("hangs: it answers nothing")
        self.process.sweep(now)

    def _give_up(self, stream: Stream, why: str, now: float) -> None:
        if stream.id not in self._open:
            return
        self._cancel(stream, why)
        stream.fail(UpstreamFailed("timeout", why))
        if stream.request is not None and stream.request.method == "initialize":
            self.process.kill(f"did not answer initialize: {why}")
        elif self.heard < stream.started and not self._probe_until and not any(one.full for one in self._streams()):
            self._probe(now)

    def _probe(self, now: float) -> None:
        """Find out whether a silent process is slow or hangs: any word of it will do."""
        self._last += 1
        self._probe_until = now + PROBE
        self._given_up[self._last] = True
        probe = discovery(self._last) if self.shared else Request(self._last, "ping", {})
        self._reply(jsonrpc.request_document(probe))


def discovery(identifier: MessageId) -> Request:
    """A `server/discover` of ours."""
    client = {"name": "openmcp", "version": "1"}
    meta = {
        era.META_VERSION: era.MODERN_VERSIONS[0],
        era.META_CAPABILITIES: {},
        "io.modelcontextprotocol/clientInfo": client,
    }
    return Request(identifier, "server/discover", {"_meta": meta})

"""Agents of 2024-11-05, whose transport is HTTP+SSE: all that they are told comes on one stream, which names the
address that their messages go to.

Source: 2024-11-05 basic/transports, "HTTP with SSE". Each message becomes an exchange of Streamable HTTP, which goes
the way of all messages: its caller is identified, it is judged, limited, inspected and recorded. What is answered to it
goes onto the stream. So does what the session's own stream says, which is opened for the agent; when its stream ends,
so does the session.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from openmcp.sidecar.errors import (
    INVALID_REQUEST,
    SESSION_NOT_FOUND,
    Malformed,
    MethodNotAllowed,
    Refused,
    UpstreamFailed,
)
from openmcp.sidecar.mcp import era, jsonrpc, sse
from openmcp.sidecar.mcp import headers as rules
from openmcp.sidecar.mcp.values import Event
from openmcp.sidecar.net.shares import Shares
from openmcp.sidecar.ports import Exchange, HttpRequest
from openmcp.sidecar.stages.connections import may_connect
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.relays import Relays
from openmcp.sidecar.stages.sessions import session_not_found
from openmcp.sidecar.stages.snapshot import Route
from openmcp.sidecar.stages.streams import HEADERS
from openmcp.sidecar.types import MODERN

Handle = Callable[[Exchange], Awaitable[None]]

MAX_STREAMS: Final = 4096
"""Streams that may be open at once, of all servers; each is a connection."""
UNDER_WAY: Final = 64
"""Messages of one stream that may be under way at once."""
WAITING: Final = 256 * 1024
"""Bytes that may wait for the agent before those who write wait as well, and its messages are not taken."""
BEGIN: Final = 60.0
"""Seconds within which a stream has to begin a session."""
AGAIN: Final = 1.0
"""Seconds before a session's own stream, which ended, is opened again."""
_NAMES_NO_STREAM: Final = (b"mcp-session-id", b"mcp-protocol-version", b"last-event-id")
"""Headers of which clients of Streamable HTTP send at least one with a GET, once they have a session."""
_ACCEPT: Final = b"application/json, text/event-stream"


def begins(request: HttpRequest) -> bool:
    """Whether a GET is that of an agent of 2024-11-05, which asks for a stream of its own."""
    return request.method == "GET" and not any(name in request.headers for name in _NAMES_NO_STREAM)


class Older:
    """The streams of old agents; `streams` has those that take messages, by the path of their address."""

    def __init__(self, handle: Handle, relays: Relays) -> None:
        self.streams: dict[str, OldStream] = {}
        self._open: set[OldStream] = set()
        self._shares = Shares(MAX_STREAMS, "streams are open")
        self._handle = handle
        self._relays = relays
        self._ending: set[asyncio.Task[None]] = set()

    async def serve(self, flow: Flow) -> None:
        """Carry one stream to its end. Raises `Refused`, and `UpstreamFailed` where there are too many."""
        if not rules.accepts(flow.request.headers, b"text/event-stream"):
            raise Refused(406, INVALID_REQUEST, "Accept must cover text/event-stream", reason="accept")
        if not may_connect(flow):
            raise MethodNotAllowed("this agent may not use this server", "POST")
        with self._shares.place(flow.agent):
            await self._carry(flow)

    async def _carry(self, flow: Flow) -> None:
        flow.streamed("get")
        stream = OldStream(flow, self._handle, self._closed)
        self.streams[stream.path] = stream
        self._open.add(stream)
        self._relays.open.add(stream)
        if self._relays.draining:
            stream.stop()
        try:
            await stream.run()
        finally:
            self._closed(stream)
            self._open.discard(stream)
            self._relays.open.discard(stream)
            for task in stream.abandon(end=not self._relays.draining):
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    def route(self, path: str) -> Route | None:
        """Which server messages to this path are for."""
        stream = self.streams.get(path)
        return stream.flow.route if stream is not None else None

    def sweep(self, now: float) -> None:
        """End streams that begin no session, and open those of sessions again; `now` is the loop's time."""
        for stream in tuple(self._open):
            stream.sweep(now)

    def _closed(self, stream: "OldStream") -> None:
        self.streams.pop(stream.path, None)


class OldStream:
    """One stream, and the session that is had over it: `flow` is that of the GET. `path` is where its messages go.

    To `Relays` it is a stream that ends only when somebody ends it. Once `stop` was called it takes no more messages,
    and ends when those under way are answered.
    """

    idle = True

    def __init__(self, flow: Flow, handle: Handle, on_stop: "Callable[[OldStream], None]") -> None:
        self._loop = asyncio.get_running_loop()
        self.flow = flow
        self.until = float("inf")
        self.review_at = 0.0
        self.path = f"{flow.request.path.rstrip('/')}/messages/{secrets.token_urlsafe(24)}"
        self.sessions: list[bytes] = []
        self._handle = handle
        self._on_stop = on_stop
        self._began = self._loop.time()
        self._queue: deque[tuple[bytes, ...]] = deque()
        self._waiting = 0
        self._wake: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None
        self._again = float("inf")

    async def run(self) -> None:
        """Write what there is to be said, until the stream is stopped or the agent goes."""
        exchange = self.flow.exchange
        exchange.start_stream(HEADERS, sse.KEEP_ALIVE)
        self.flow.status = 200
        exchange.write(sse.encode(Event(self.path.encode(), name=b"endpoint")))
        await exchange.drain()
        while True:
            while self._queue:
                pieces = self._queue.popleft()
                if len(pieces) == 1:
                    exchange.write(pieces[0])
                    await exchange.drain()
                else:
                    await exchange.write_large(pieces)
                size = sum(map(len, pieces))
                self._waiting -= size
                self.flow.bytes_out += size
                if self._waiting < WAITING:
                    self._room.set()
            if self._stopping and not self._under_way:
                break
            self._wake = self._loop.create_future()
            await self._wake
        exchange.finish()

    def stop(self) -> None:
        """See `stages.streams.Relay`."""
        self._stopping = True
        self._on_stop(self)
        self._woken()

    def announce_lists(self) -> None:
        """See `stages.streams.Relay`: the session's own stream tells."""

    def say(self, *pieces: bytes) -> None:
        """Put something onto the stream, which has nothing in between."""
        size = sum(map(len, pieces))
        if size:
            self._queue.append(pieces)
            self._waiting += size
            if self._waiting >= WAITING:
                self._room.clear()
            self._woken()

    async def room(self) -> None:
        """Wait while the agent is slow to read."""
        await self._room.wait()

    async def take(self, exchange: Exchange) -> None:
        """Take one message: 202 as soon as it is on its way, else why it is not. What is answered to a request always
        comes on the stream, for clients take another status for a broken transport."""
        await self._room.wait()
        letter = Letter(self._request(exchange.request), self)
        task = self._loop.create_task(self._carry(letter))
        self._under_way.add(task)
        task.add_done_callback(self._answered)
        await asyncio.sleep(0)  # its first step: what is refused without asking anybody is refused now
        exchange.respond(*(letter.refusal or (202, b"", b"")))

    def admit(self, flow: Flow) -> bool:
        """Whether a message is that of the stream's own agent. Raises `Refused` where the stream takes no more, and
        `UpstreamFailed` where it has too many."""
        own = self.flow
        if (flow.agent, flow.identified_by, flow.server) != (own.agent, own.identified_by, own.server):
            return False
        if self._stopping:
            raise session_not_found()
        if len(self._under_way) > UNDER_WAY:
            raise UpstreamFailed("overloaded", f"{UNDER_WAY} messages are under way", sent=False)
        return True

    def begun(self, session: bytes) -> None:
        """The server has begun a session."""
        self.sessions.append(session)

    def listen(self) -> None:
        """Open the session's own stream, if there is one that is not open yet."""
        if self.sessions and self._listening is None and not self._stopping:
            self._open_stream()

    def abandon(self, *, end: bool) -> Iterable[asyncio.Task[None]]:
        """The agent has gone: give up what is under way; the tasks that do that, and, where it shall, `end` the
        sessions."""
        self._stopping = True
        self._room.set()
        tasks = [task for task in (*self._under_way, self._listening) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if end:
            tasks += [self._loop.create_task(self._end(session, tuple(tasks))) for session in self.sessions]
        return tasks

    def sweep(self, now: float) -> None:
        """See `Older.sweep`."""
        if not self.sessions and now - self._began > BEGIN and not self._under_way:
            self.stop()
        if now >= self._again and not self._stopping:
            self._open_stream()

    def _open_stream(self) -> None:
        self._again = float("inf")
        letter = Letter(self._beside("GET", self.sessions[0]), self)
        self._listening = self._loop.create_task(self._listen(letter))

    async def _listen(self, letter: "Letter") -> None:
        await self._handle(letter)
        if letter.streamed:
            self._again = self._loop.time() + AGAIN

    async def _carry(self, letter: "Letter") -> None:
        await self._handle(letter)
        await letter.drain()

    async def _end(self, session: bytes, before: Sequence[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)
        await self._handle(Letter(self._beside("DELETE", session), self))

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._woken()

    def _woken(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _request(self, given: HttpRequest) -> HttpRequest:
        """A POST as a client of Streamable HTTP would send it on this session."""
        named = {name: value for name, value in given.headers.items() if name not in (b"mcp-session-id", b"accept")}
        named[b"accept"] = _ACCEPT
        if self.sessions:
            named[b"mcp-session-id"] = self.sessions[0]
        path = self.flow.request.path
        return HttpRequest("POST", path, named, given.repeated - {b"accept"}, given.body, given.peer)

    def _beside(self, method: str, session: bytes) -> HttpRequest:
        """A GET or DELETE of this session, by the proof that the agent gave with its GET."""
        given = self.flow.request
        named = given.headers | {b"mcp-session-id": session, b"accept": _ACCEPT}
        return HttpRequest(method, given.path, named, given.repeated - {b"accept"}, b"", given.peer)


class Letter:
    """The exchange of one message of an old agent: what answers it goes onto its stream.

    `refusal` is what answers no request: it is told in HTTP, while that can be. `streamed`: a stream was begun.
    """

    def __init__(self, request: HttpRequest, stream: OldStream) -> None:
        self.request = request
        self.refusal: tuple[int, bytes, bytes] | None = None
        self.streamed = False
        self._stream = stream
        self._foreign = False

    def admit(self, flow: Flow) -> None:
        """Let nobody but the agent of the stream use its address; raises `Refused` (404), or as the stream does."""
        if self.request.method == "POST" and not self._stream.admit(flow):
            self._foreign = True
            raise session_not_found()
        flow.older = True

    # ports.Exchange

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self._begun(headers)
        over = False
        if self.request.method != "POST":
            over = status == 404
        elif status >= 400:
            over = self._refuse(status, headers, body)
        elif body:
            self._stream.say(sse.encode_message(body))
        else:
            self._stream.listen()
        if over:  # the session is: the agent connects anew
            self._stream.stop()

    async def respond_large(self, status: int, headers: bytes, pieces: Sequence[bytes]) -> None:
        self._begun(headers)
        self._stream.say(b"event: message\ndata: ", *pieces, b"\n\n")
        await self._stream.room()

    def start_stream(self, headers: bytes, keep_alive: bytes) -> None:
        self.streamed = True
        self._begun(headers)

    def write(self, data: bytes) -> None:
        self._stream.say(data)

    async def write_large(self, pieces: Iterable[bytes]) -> None:
        self._stream.say(*pieces)
        await self._stream.room()

    def flush(self) -> None:
        """It leaves by itself."""

    async def drain(self) -> None:
        await self._stream.room()

    def finish(self) -> None:
        """The agent's stream goes on."""

    def abort(self) -> None:
        self._stream.flow.exchange.abort()

    def _begun(self, lines: bytes) -> None:
        for line in lines.split(b"\r\n"):
            if line.startswith(b"mcp-session-id: "):
                self._stream.begun(line.partition(b": ")[2])

    def _refuse(self, status: int, headers: bytes, body: bytes) -> bool:
        """Whether the session is over. A refusal without an id answers no request."""
        try:
            document = jsonrpc.decode_lenient(body)
        except Malformed:
            document = {}
        if document.get("id") is not None:
            self._stream.say(sse.encode_message(body))
        else:
            self.refusal = (status, headers, body)
        return not self._foreign and status == 404 and document.get("error", {}).get("code") == SESSION_NOT_FOUND


def check_era(flow: Flow) -> None:
    """This transport ended long before the modern era; raises `Refused` (400), which names the versions."""
    if flow.era is MODERN:
        raise era.unsupported(era.MODERN_VERSIONS[0], era.LEGACY_VERSIONS)

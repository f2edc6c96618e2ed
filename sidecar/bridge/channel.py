"""One session with a server of HTTP+SSE: a stream that it says everything on, and an address that messages go to.

Source: 2024-11-05 basic/transports, "HTTP with SSE".
"""

import asyncio
import string
from math import inf
from typing import Final, Protocol
from urllib.parse import SplitResult, urljoin, urlsplit

from openmcp.sidecar.bridge.process import Reader
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.mcp import sse
from openmcp.sidecar.mcp.values import Event, LargeEvent
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.values import Outgoing, Patience

MAX_ADDRESS: Final = 2048
"""Characters of the address for messages."""
ODD: Final = 10_000
"""Events of no use before a server is left; each sweep forgives some."""
FORGIVEN: Final = 8
REPLIES: Final = 16
"""Answers of our own to a session's questions that may be under way at once."""
_LISTEN: Final = b"accept: text/event-stream\r\ncache-control: no-store\r\n"
_POST: Final = b"content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
_ANSWER: Final = 64 * 1024
"""Bytes of the answer to a POST, which says nothing: the message comes on the stream."""
_PORTS: Final = {"http": 80, "https": 443}
_VISIBLE: Final = frozenset(string.printable) - frozenset(string.whitespace)


class Sender(Protocol):
    """What requests go out through (`net.pool.HttpEndpoint`)."""

    async def send(self, request: Outgoing, patience: Patience) -> UpstreamResponse:
        """See `net.endpoint.Endpoint`."""


class Misnamed(Exception):
    """The address that the server names for messages is not one to send to."""


class Gone(UpstreamFailed):
    """The server no longer has the session, and has not taken the message."""


class Channel:
    """The server's end of a session (see `bridge.conversation.Peer`), called `name`, that talks to `reader`. A
    message of it has at most `limit` bytes. `beside`: header lines for what is written next; `posting`: how that goes.
    """

    noun = "the session"

    def __init__(self, name: str, url: str, http: Sender, limit: int, reader: Reader) -> None:
        self._loop = asyncio.get_running_loop()
        self.name = name
        self.why = ""
        self.beside = b""
        self.posting: asyncio.Future[None] | None = None
        self._url = url
        self._http = http
        self._limit = limit
        self._reader = reader
        self._target = b""
        self._named: asyncio.Future[None] = self._loop.create_future()
        self._room = asyncio.Event()
        self._room.set()
        self._odd = self._replies = 0
        self._patience = Patience(0.0, 0.0, 0.0)
        self._response: UpstreamResponse | None = None
        self._reading: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def start(self, lines: bytes, patience: Patience) -> None:
        """Open the stream, with these header lines besides our own, and wait until the server has said where messages
        go. Raises `UpstreamFailed`; nothing that was to be sent then was."""
        self._patience = patience
        request = Outgoing(b"GET", _LISTEN + lines, b"", _ANSWER, repeatable=True)
        try:
            async with asyncio.timeout(patience.head):
                response = await self._http.send(request, Patience(patience.head, inf, inf, endless=True))
                if not response.streaming:
                    response.close()
                    raise UpstreamFailed("status", f"HTTP {response.status} instead of a stream", sent=False)
                self._response = response
                self._reading = self._loop.create_task(self._read(response))
                await self._named
        except TimeoutError:
            raise UpstreamFailed("timeout", f"no address for messages in {patience.head:g} s", sent=False) from None

    async def _read(self, response: UpstreamResponse) -> None:
        parser = sse.Parser(self._limit)
        why = "was ended by the server"
        try:
            while not self.why and (chunk := await response.chunk()):
                for event in parser.feed(chunk):
                    self._take(event)
                await self._room.wait()
        except UpstreamFailed as failure:
            why = f"broke off: {failure.detail}"
        except (sse.EventTooLarge, Misnamed) as error:
            why = f"was ended: {error}"
        finally:
            self.kill(why)

    def _take(self, event: Event | LargeEvent) -> None:
        if isinstance(event, LargeEvent):
            event = sse.event(b"".join(event.pieces)) or Event(b"")
        if event.name == b"endpoint":
            if self._named.done():
                raise Misnamed("the server named a second address for messages")
            self._target = target(self._url, event.data)
            self._named.set_result(None)
        elif not self._named.done():
            raise Misnamed("the server spoke before it named an address for messages")
        elif event.name == b"message" and event.data:
            self._reader.line(event.data)
        elif event.data:
            self._odd += 1
            if self._odd > ODD:
                raise Misnamed("the server sent too many events of no use")

    # bridge.conversation.Peer

    def write(self, data: bytes) -> None:
        """Post one message. How that ends is in `posting`."""
        if self.why:
            raise UpstreamFailed("closed", f"the session {self.why}", sent=False)
        task = self._loop.create_task(self._post(data, self.beside))
        self.posting = task
        self._under_way.add(task)
        task.add_done_callback(self._posted)

    def reply(self, data: bytes) -> None:
        """Post an answer of ours. A server that asks without end and takes no answer would have us open connections."""
        if self._replies >= REPLIES:
            raise UpstreamFailed("overloaded", f"{REPLIES} answers are under way", sent=False)
        self.write(data)
        assert self.posting is not None
        self._replies += 1
        self.posting.add_done_callback(self._replied)

    def _replied(self, task: asyncio.Future[None]) -> None:
        self._replies -= 1

    async def _post(self, data: bytes, beside: bytes) -> None:
        request = Outgoing(b"POST", _POST + beside, data, _ANSWER, repeatable=False, target=self._target)
        response = await self._http.send(request, self._patience)
        response.close()
        if response.status in (404, 410):
            raise Gone("status", f"HTTP {response.status}")
        if not 200 <= response.status < 300:
            raise UpstreamFailed("status", f"HTTP {response.status}")

    def _posted(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever wants to know asks; nobody asks after a sign of life

    def pause(self) -> None:
        """Read no more of the stream."""
        self._room.clear()

    def resume(self) -> None:
        """Read on."""
        self._room.set()

    def kill(self, why: str) -> None:
        """End the session: the stream is closed, which the server sees."""
        if self.why:
            return
        self.why = why
        self._room.set()
        if not self._named.done():
            self._named.set_exception(UpstreamFailed("protocol", f"the session {why}", sent=False))
            self._named.exception()  # it may be that nobody waits
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()
        if self._response is not None:
            self._response.close()
        self._reader.ended(why)

    def sweep(self, now: float) -> None:
        """See `bridge.conversation.Peer`."""
        self._odd = max(0, self._odd - FORGIVEN)


def target(url: str, named: bytes) -> bytes:
    """Path and query of the address for messages that the server at `url` names. Raises `Misnamed` unless it is of the
    same origin (2024-11-05 does not ask for that; whoever writes the event would say where our credential goes)."""
    try:
        text = named.decode("ascii")
        resolved = urlsplit(urljoin(url, text))
        same = _origin(resolved) == _origin(urlsplit(url))
    except ValueError:
        raise Misnamed("the server's address for messages is not a URL") from None
    if len(text) > MAX_ADDRESS or not text or "\\" in text or not _VISIBLE.issuperset(text):
        raise Misnamed("the server's address for messages is not a URL")
    if not same or "@" in resolved.netloc:
        raise Misnamed("the server's address for messages is of another origin than the server")
    path = resolved.path or "/"
    return f"{path}?{resolved.query}".encode() if resolved.query else path.encode()


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)

"""The answer to one request to an MCP server: whole, or a stream that is read with back-pressure."""

from collections import deque
from typing import Final

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.handover import Handover, Turn, turn
from openmcp.sidecar.net.values import Carrier

STREAM_BUFFER: Final = 128 * 1024
"""Bytes of a stream that wait for us before the server is no longer read."""


class UpstreamResponse:
    """The answer to one request, complete unless it is `streaming` (SSE), then `chunk` gives it bit by bit.

    A large body is in `pieces`, any other one in `body`. `stopped`: we have ended the stream.
    """

    __slots__ = (
        "_buffered",
        "_chunks",
        "_connection",
        "_ended",
        "_failure",
        "_turn",
        "_unwanted",
        "_waiter",
        "body",
        "headers",
        "pieces",
        "status",
        "stopped",
        "streaming",
    )

    def __init__(self, connection: Carrier) -> None:
        self.status = 0
        self.streaming = False
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.pieces: tuple[bytes, ...] = ()
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._ended = False
        self.stopped = False
        self._unwanted = False
        self._failure: UpstreamFailed | None = None
        self._turn: Turn | None = None
        self._waiter: Handover[None] | None = None

    @property
    def unwanted(self) -> bool:
        """Whether nobody reads this answer any more."""
        return self._unwanted

    @property
    def media_type(self) -> bytes:
        """The media type without parameters, in lower case."""
        value = self.headers.get(b"content-type", b"")
        if value == b"application/json":
            return value
        return value.partition(b";")[0].strip().lower()

    async def chunk(self) -> bytes:
        """The next bytes of the stream; empty at its proper end. Raises `UpstreamFailed` where it broke off."""
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self._ended or self.stopped:
                return b""
            found = self._turn
            if found is None:
                found = self._turn = turn()
            waiter = self._waiter = Handover(found)
            await waiter
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        self._connection.resume()
        return data

    def close(self) -> None:
        """Stop reading; a stream that has not ended is cut, which the server sees."""
        self._connection.release(self, complete=self._ended)

    def finish(self) -> None:
        """Nothing more is wanted of a stream that should end by itself now: its rest is thrown away, the connection
        kept. A server that goes on all the same is cut."""
        if self._ended:
            self.close()
        else:
            self._unwanted = True
            self._connection.expect_end()

    def stop(self) -> None:
        """Make `chunk` return as if the stream had ended; called from another task than the reader's."""
        self.stopped = True
        self._wake()

    def take(self, data: bytes) -> bool:
        """Add bytes; False when enough is waiting."""
        enough = self.hold(data)
        self._wake()
        return enough

    def hold(self, data: bytes) -> bool:
        """The same without telling the reader, which `tell` does."""
        if self._unwanted:
            return True
        self._chunks.append(data)
        self._buffered += len(data)
        return self._buffered < STREAM_BUFFER

    def tell(self) -> None:
        """Have the reader go on at once, for the end of a callback of the loop."""
        waiter = self._waiter
        if waiter is not None and self._chunks:
            self._waiter = None
            waiter.give(None)

    def end(self, failure: UpstreamFailed | None) -> None:
        """The stream is over (called by the connection)."""
        self._ended = failure is None
        self._failure = failure
        if self._unwanted:
            self.close()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.give_soon(None)

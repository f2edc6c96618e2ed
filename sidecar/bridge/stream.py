"""What one request of a client gets from a process, in the form in which the pipeline takes it from an HTTP server."""

import asyncio
from typing import Final, Protocol

from openmcp.sidecar.errors import HEADER_MISMATCH, METHOD_NOT_FOUND, UNSUPPORTED_VERSION, UpstreamFailed
from openmcp.sidecar.mcp import era, jsonrpc, sse
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.upstream import EVENT_STREAM, LARGE
from openmcp.sidecar.net.values import Patience
from openmcp.sidecar.types import MessageId, Request, Response

JSON: Final = {b"content-type": b"application/json"}


_STATUSES: Final = {HEADER_MISMATCH: 400, -32021: 400, UNSUPPORTED_VERSION: 400, METHOD_NOT_FOUND: 404}
"""The statuses of errors in the modern era (basic/transports/streamable-http); others have 200, as legacy."""


class Channel(Protocol):
    """Who carries streams; `shared`: to clients of the modern era."""

    shared: bool

    def left(self, stream: "Stream") -> None:
        """Nobody reads it any more."""

    def read_on(self) -> None:
        """There is room again."""

    def crowded(self, stream: "Stream") -> None:
        """There is no more room."""


class Stream:
    """The answer to `request` (None: a session's own stream) of `agent`, which the process knows as `id`.

    `head` is what the pipeline waits for first. `token` is the client's progress token. `deserted`: nobody reads it,
    though the request is under way; `full`: more waits to be read than should; `failed`: the answer is an error.
    """

    def __init__(
        self, channel: Channel, identifier: MessageId | None, request: Request | None, patience: Patience, now: float
    ) -> None:
        self.id: MessageId = identifier if identifier is not None else ""
        self.request = request
        self.agent: str | None = None
        token = era.meta_of(request.params).get("progressToken") if request is not None else None
        self.token: MessageId | None = token if jsonrpc.valid_id(token) else None
        self.response = UpstreamResponse(self)
        self.head: asyncio.Future[UpstreamResponse] = asyncio.get_running_loop().create_future()
        self.deserted = self.full = self.failed = False
        self.started = self._last = now
        self._channel = channel
        self._patience = patience
        self._over = False

    @property
    def speaks(self) -> bool:
        """Whether anything but its answer can go to the client: of an initialize it does not know the session yet."""
        return self.request is not None and self.request.method != "initialize"

    def begin(self) -> None:
        """It is a stream, not one answer."""
        if not self.head.done():
            self.response.status = 200
            self.response.streaming = True
            self.response.headers = {b"content-type": EVENT_STREAM}
            self.head.set_result(self.response)

    def deliver(self, data: bytes) -> None:
        """One message before the answer, or without one."""
        self.begin()
        self._last = asyncio.get_running_loop().time()
        if not self.response.take(sse.encode_message(data)) and not self.full:
            self.full = True
            self._channel.crowded(self)

    def answer(self, message: Response) -> None:
        """The response of the process."""
        if self.deserted:
            return
        self._over = True
        self.failed = message.error is not None
        identifier = self.request.id if self.request is not None else None
        data = jsonrpc.encode(jsonrpc.response_document(Response(identifier, message.result, message.error)))
        if self.head.done():
            self.response.take(sse.encode_message(data))
            self.response.end(None)
            return
        code = message.error["code"] if message.error is not None and self._channel.shared else 0
        self.response.status = _STATUSES.get(code, 200)
        self.response.headers = dict(JSON)
        if len(data) > LARGE:
            self.response.pieces = (data,)
        else:
            self.response.body = data
        self.response.end(None)
        self.head.set_result(self.response)

    def finish(self) -> None:
        """End a session's own stream in good order."""
        self._over = True
        self._channel.left(self)
        self.response.end(None)

    def fail(self, failure: UpstreamFailed) -> None:
        """There will be no answer."""
        self._over = True
        if not self.head.done():
            self.head.set_exception(failure)
        else:
            self.response.end(failure)

    def overdue(self, now: float) -> str:
        """Which time limit is over; empty where none is."""
        if not self.head.done() or self.deserted:
            passed = now - self.started > self._patience.head
            return f"no answer in {self._patience.head:g} s" if passed else ""
        if now - self.started > self._patience.total:
            return f"the stream lasted longer than {self._patience.total:g} s"
        silent = not self.full and now - self._last > self._patience.idle
        return f"the stream was silent for {self._patience.idle:g} s" if silent else ""

    # net.values.Carrier

    def release(self, response: UpstreamResponse, *, complete: bool) -> None:
        """The pipeline is done with it."""
        if not self._over:
            self._over = True
            self._channel.left(self)
        self.resume()

    def resume(self) -> None:
        """What waited was read."""
        if self.full:
            self.full = False
            self._channel.read_on()

    def expect_end(self) -> None:
        """The answer has been passed on: nothing comes after it."""

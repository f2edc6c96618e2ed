"""JSON-RPC batches, which revision 2025-03-26 alone has: each message goes its own way, judged and recorded by itself.

Source: 2025-03-26 basic/transports "Sending Messages to the Server". A batch with requests is answered by a stream, on
which the answers come as they are ready; one of notifications and responses by 202.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from openmcp.sidecar.errors import INVALID_REQUEST, Malformed
from openmcp.sidecar.mcp import jsonrpc, sse
from openmcp.sidecar.ports import Exchange, HttpRequest
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.streams import HEADERS
from openmcp.sidecar.types import JsonObject

VERSION: Final = "2025-03-26"
MAX_MESSAGES: Final = 50


class Part:
    """The exchange of one message of a batch: what answers it goes onto the stream of the whole, if there is one."""

    def __init__(self, request: HttpRequest, stream: Exchange | None) -> None:
        self.request = request
        self._stream = stream

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """See `ports.Exchange`: here an event, without status and headers."""
        if body:
            self.write(sse.encode_message(body))
            self.flush()

    async def respond_large(self, status: int, headers: bytes, pieces: Sequence[bytes]) -> None:
        """See `ports.Exchange`."""
        await self.write_large((sse.encode_message(b"".join(pieces)),))

    def start_stream(self, headers: bytes, keep_alive: bytes) -> None:
        """The stream is there."""

    async def write_large(self, pieces: Iterable[bytes]) -> None:
        """See `ports.Exchange`. In one piece: the other parts write as well."""
        self.write(b"".join(pieces))
        await self.drain()

    def write(self, data: bytes) -> None:
        """See `ports.Exchange`."""
        if self._stream is not None:
            self._stream.write(data)

    def flush(self) -> None:
        """See `ports.Exchange`."""
        if self._stream is not None:
            self._stream.flush()

    async def drain(self) -> None:
        """See `ports.Exchange`."""
        if self._stream is not None:
            await self._stream.drain()

    def finish(self) -> None:
        """This part is answered; the stream goes on."""
        self.flush()

    def abort(self) -> None:
        """See `ports.Exchange`: it is the same connection."""
        if self._stream is not None:
            self._stream.abort()


def is_batch(body: bytes) -> bool:
    """Whether a body looks like a batch: an array."""
    return body.lstrip()[:1] == b"["


async def serve(flow: Flow, handle: Callable[[Exchange], Awaitable[None]]) -> None:
    """Handle each message of the flow's batch; raises `Malformed` for what is not one, or not in such a session."""
    members = _members(flow)
    asks = any("method" in member and "id" in member for member in members)
    flow.streamed("batch")
    if asks:
        flow.status = 200
        flow.exchange.start_stream(HEADERS, sse.KEEP_ALIVE)
        flow.exchange.flush()
    stream = flow.exchange if asks else None
    whole = flow.request
    async with asyncio.TaskGroup() as group:
        for member in members:
            body = jsonrpc.encode(member)
            request = HttpRequest(whole.method, whole.path, whole.headers, whole.repeated, body, whole.peer)
            group.create_task(_one(handle, Part(request, stream if _is_answered(member) else None)))
    if asks:
        flow.exchange.finish()
    else:
        flow.status = 202
        flow.exchange.respond(202, b"", b"")


async def _one(handle: Callable[[Exchange], Awaitable[None]], part: Part) -> None:
    await handle(part)


def _is_answered(member: JsonObject) -> bool:
    """Whether a member gets an answer: neither a notification nor a response does, be it refused (JSON-RPC 2.0, 6)."""
    return "id" in member if "method" in member else not ("result" in member or "error" in member)


def _members(flow: Flow) -> list[JsonObject]:
    declared = flow.request.headers.get(b"mcp-protocol-version", VERSION.encode())
    if flow.session is None or flow.session.version != VERSION or declared != VERSION.encode():
        raise Malformed(INVALID_REQUEST, "the body must be one JSON-RPC message: a JSON object")
    members: Any = jsonrpc.read(flow.request.body)[0]
    if type(members) is not list or not 0 < len(members) <= MAX_MESSAGES:
        raise Malformed(INVALID_REQUEST, f"a batch has 1 to {MAX_MESSAGES} messages")
    for member in members:
        if type(member) is not dict or member.get("method") == "initialize":
            raise Malformed(INVALID_REQUEST, "a batch has JSON-RPC messages other than initialize")
    ids = [jsonrpc.encode({"id": member["id"]}) for member in members if "method" in member and "id" in member]
    if len(set(ids)) != len(ids):
        raise Malformed(INVALID_REQUEST, "two requests of the batch have the same id")
    return members

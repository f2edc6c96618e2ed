"""Answers that are made here, in the form in which servers give theirs; and what servers answer, read."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Final

from openmcp.sidecar.errors import Malformed, Refused, UpstreamFailed
from openmcp.sidecar.mcp import jsonrpc, sse
from openmcp.sidecar.mcp.values import Event, LargeEvent
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.upstream import EVENT_STREAM, LARGE
from openmcp.sidecar.types import JsonObject, Message, MessageId, Response

_JSON: Final = b"application/json"
_log = logging.getLogger("openmcp.pipeline")


class _Nobody:
    """A complete answer of our own: there is nothing to let go of."""

    def release(self, response: UpstreamResponse, *, complete: bool) -> None:
        """See `Carrier`."""

    def resume(self) -> None:
        """See `Carrier`."""

    def expect_end(self) -> None:
        """See `Carrier`."""


def status_alone(status: int) -> UpstreamResponse:
    """An answer without a body."""
    response = UpstreamResponse(_Nobody())
    response.status = status
    response.end(None)
    return response


def answered(message: Response, status: int = 200) -> UpstreamResponse:
    """A complete answer."""
    response = status_alone(status)
    response.headers = {b"content-type": _JSON}
    body = jsonrpc.encode(jsonrpc.response_document(message))
    if len(body) > LARGE:
        response.pieces = (body,)
    else:
        response.body = body
    return response


def result(identifier: MessageId, found: JsonObject) -> UpstreamResponse:
    """The same for a result."""
    return answered(Response(identifier, found, None))


def error(identifier: MessageId, code: int, message: str, status: int = 200) -> UpstreamResponse:
    """The same for an error."""
    return answered(Response(identifier, None, {"code": code, "message": message}), status)


class Spoken:
    """An answer that is a stream of the messages that a generator gives. The generator is closed when the pipeline is
    done with the answer."""

    def __init__(self, said: AsyncGenerator[Message, None]) -> None:
        self.response = UpstreamResponse(self)
        self.response.status = 200
        self.response.streaming = True
        self.response.headers = {b"content-type": EVENT_STREAM}
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._run(said))

    async def _run(self, said: AsyncGenerator[Message, None]) -> None:
        failure: UpstreamFailed | None = None
        try:
            async for message in said:
                self._room.clear()
                data = jsonrpc.encode(jsonrpc.document_of(message))
                if not self.response.take(sse.encode_message(data)):
                    await self._room.wait()
        except UpstreamFailed as caught:
            failure = caught
        except Refused as refusal:
            failure = UpstreamFailed("status", refusal.message)
        except Exception:
            _log.exception("a translated stream failed")
            failure = UpstreamFailed("protocol", "the stream could not be translated")
        finally:
            await said.aclose()
        self.response.end(failure)

    def cut(self, failure: UpstreamFailed) -> None:
        """End it with this failure, at once."""
        self._cancel()
        self.response.end(failure)

    def _cancel(self) -> None:
        """Not before it has begun: a generator that has not has nothing to do when it is closed, and what it would
        have let go of is kept."""
        asyncio.get_running_loop().call_soon(self._task.cancel)

    # net.upstream.Carrier

    def release(self, response: UpstreamResponse, *, complete: bool) -> None:
        """The pipeline is done with it."""
        if not complete:
            self._cancel()

    def resume(self) -> None:
        """What waited was read."""
        self._room.set()

    def expect_end(self) -> None:
        """The answer was passed on; the generator ends by itself."""


async def messages(response: UpstreamResponse, limit: int) -> AsyncGenerator[Message, None]:
    """The messages of a server's stream; nothing is read after a response. What is none is left out. Raises
    `UpstreamFailed`. `limit` is in bytes, of one event."""
    parser = sse.Parser(limit)
    answer = False
    try:
        while not answer and (chunk := await response.chunk()):
            for found in parser.feed(chunk):
                message = _message(found)
                if message is None:
                    continue
                answer = isinstance(message, Response)
                yield message
                if answer:
                    return
    except sse.EventTooLarge as failure:
        raise UpstreamFailed("too_large", str(failure)) from None
    finally:
        if answer:
            response.finish()
        else:
            response.close()


def _message(found: Event | LargeEvent) -> Message | None:
    event = sse.event(b"".join(found.pieces)) if isinstance(found, LargeEvent) else found
    if event is None or event.name != b"message" or not event.data:
        return None
    try:
        return jsonrpc.parse_reply(event.data)
    except Malformed:
        return None


def complete(response: UpstreamResponse) -> Response | None:
    """The response in a complete answer; None where there is none."""
    if response.streaming or response.media_type != _JSON:
        return None
    try:
        message = jsonrpc.parse_reply(b"".join(response.pieces) if response.pieces else response.body)
    except Malformed:
        return None
    return message if isinstance(message, Response) else None


async def final(response: UpstreamResponse, limit: int) -> Response | None:
    """The response in an answer of either form; what comes before it is left out. Raises `UpstreamFailed`."""
    if not response.streaming:
        response.close()
        return complete(response)
    said = messages(response, limit)
    try:
        async for message in said:
            if isinstance(message, Response):
                return message
    finally:
        await said.aclose()
    return None

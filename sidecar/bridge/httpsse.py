"""A server that speaks the transport of 2024-11-05 alone, HTTP+SSE: it looks like an endpoint with Streamable HTTP.

Each session has a stream of its own at the server, which begins and ends with it; the server's answers come over it.
"""

import asyncio
import logging
import secrets
from math import inf
from typing import Final

import msgspec

from openmcp.config.model import Server
from openmcp.sidecar.bridge.channel import Channel, Gone
from openmcp.sidecar.bridge.conversation import Conversation
from openmcp.sidecar.bridge.process import Reader
from openmcp.sidecar.bridge.replies import header, refusal, status, unsupported
from openmcp.sidecar.bridge.stream import Stream
from openmcp.sidecar.errors import INVALID_REQUEST, SESSION_NOT_FOUND, UpstreamFailed
from openmcp.sidecar.mcp import era, jsonrpc
from openmcp.sidecar.net.pool import HttpEndpoint
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.shares import Shares
from openmcp.sidecar.net.values import Outgoing, Patience
from openmcp.sidecar.types import Message, Request

MAX_SESSIONS: Final = 4096
"""Sessions with one endpoint: each has a connection."""
Dialogue = Conversation[Channel]
_PASSED_ON: Final = (b"traceparent", b"tracestate")
_MODERN: Final = frozenset(version.encode() for version in era.MODERN_VERSIONS)
_log = logging.getLogger("openmcp.bridge")


class SseEndpoint:
    """One address of a server, reached over `http`. Implements `net.endpoint.Endpoint`."""

    def __init__(self, server: Server, http: HttpEndpoint) -> None:
        self.url = http.url
        self.key = http.key
        self.healthy = True
        self.failures = 0
        self.unwell = ""
        self._http = http
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[str, Dialogue] = {}
        self._all: dict[Dialogue, tuple[str, bool]] = {}  # with whose it is, and whether it counts as that
        self._shares = Shares(MAX_SESSIONS, "sessions are open")
        self._retired = False

    @property
    def problem(self) -> str:
        """What is wrong; else empty."""
        return self._http.problem or self.unwell

    @property
    def idle(self) -> int:
        """Pooled connections without a request."""
        return self._http.idle

    @property
    def active(self) -> int:
        """Sessions, and messages that are on their way."""
        return self._http.active

    async def send(self, request: Outgoing, patience: Patience) -> UpstreamResponse:
        """See `net.endpoint.Endpoint`."""
        session = header(request.headers, b"mcp-session-id")
        conversation = self._sessions.get(session.decode("latin-1")) if session is not None else None
        if session is not None and conversation is None:
            return refusal(404, None, SESSION_NOT_FOUND, "Session not found")
        if request.method != b"POST":
            return await self._beside(request.method, conversation, patience)
        message = jsonrpc.classify(jsonrpc.decode_lenient(request.body))
        lines = _passed_on(request.headers)
        if conversation is not None:
            return await self._pass(conversation, message, lines, patience)
        identifier = message.id if isinstance(message, Request) else None
        if header(request.headers, b"mcp-protocol-version") in _MODERN:
            return unsupported(identifier, era.LEGACY_VERSIONS)
        if not isinstance(message, Request) or message.method != "initialize":
            return refusal(400, identifier, INVALID_REQUEST, "a session is needed: initialize first")
        return await self._begin(message, request.agent, lines, patience)

    async def exchange(self, request: Outgoing, lines: bytes, patience: Patience) -> UpstreamResponse:
        """A health check, by a method that has no effect: some servers answer each GET by a new session."""
        return await self._http.exchange(msgspec.structs.replace(request, method=b"OPTIONS"), lines, patience)

    def review(self) -> None:
        """See `net.endpoint.Endpoint`: streams over a connection that is given up end, and sessions with them."""
        self._http.review()

    def retire(self) -> None:
        """Take no more; sessions end when their requests are done."""
        self._retired = True
        self._http.retire()
        self._end_unused(inf)

    def close(self) -> None:
        """End all sessions now."""
        self._retired = True
        for one in tuple(self._all):
            one.process.kill("was ended: the gateway stops")
        self._http.close()

    async def closed(self) -> None:
        """Wait until nothing is left of any session."""
        await self._http.closed()

    def sweep(self, now: float) -> None:
        """Enforce time limits, and end what was not used for long."""
        self._http.sweep(now)
        for one in tuple(self._all):
            one.sweep(now)
        self._end_unused(now)

    def _end_unused(self, now: float) -> None:
        unused = self._server.timeouts.stream
        for one in tuple(self._all):
            since = one.idle_since
            if self._retired and not one.busy:
                one.process.kill("was ended: the configuration has another server now")
            elif since is not None and now - since > unused:
                one.process.kill(f"was ended: not used for {unused:g} s")

    async def _beside(self, method: bytes, conversation: Dialogue | None, patience: Patience) -> UpstreamResponse:
        """GET and DELETE, which sessions alone have."""
        if conversation is None:
            return refusal(405, None, INVALID_REQUEST, "there is no session")
        if method == b"GET":
            return conversation.listen(patience)
        conversation.process.kill("was ended by its client")
        return status(200)

    async def _begin(self, message: Request, agent: str, lines: bytes, patience: Patience) -> UpstreamResponse:
        """A new session, which ends at once where the server does not want it."""
        if self._retired:
            raise UpstreamFailed("connect", "the gateway has another server now", sent=False)
        counted = self._shares.take(agent)
        conversation = Conversation(self._channel, self._server.limits, self._ended, shared=False)
        self._all[conversation] = agent, counted
        begun = False
        try:
            await conversation.process.start(lines, patience)
            stream = self._ask(conversation, message, lines, patience)
            response = await stream.head
            begun = not stream.failed and not conversation.why
        finally:
            if not begun:
                conversation.process.kill("did not begin")
        if not begun:
            response.status = 400
            return response
        token = secrets.token_urlsafe(24)
        self._sessions[token] = conversation
        response.headers[b"mcp-session-id"] = token.encode()
        return response

    def _channel(self, reader: Reader) -> Channel:
        limit = self._server.limits.response_bytes
        return Channel(f"server {self._server.name}", self.url, self._http, limit, reader)

    async def _pass(
        self, conversation: Dialogue, message: Message, lines: bytes, patience: Patience
    ) -> UpstreamResponse:
        channel = conversation.process
        if isinstance(message, Request):
            stream = self._ask(conversation, message, lines, patience)
            try:
                return await stream.head
            except asyncio.CancelledError:
                conversation.left(stream)
                raise
            except Gone:
                return refusal(404, None, SESSION_NOT_FOUND, "Session not found")
        channel.beside, channel.posting = lines, None
        conversation.notify(message)
        try:
            if channel.posting is not None:
                await asyncio.shield(channel.posting)
        except Gone as gone:
            channel.kill(f"is not known to the server any more: {gone.detail}")
            return refusal(404, None, SESSION_NOT_FOUND, "Session not found")
        return status(202)

    def _ask(self, conversation: Dialogue, message: Request, lines: bytes, patience: Patience) -> Stream:
        """Post a request; where that fails, so does its stream."""
        channel = conversation.process
        channel.beside, channel.posting = lines, None
        stream = conversation.ask(message, patience)
        assert channel.posting is not None

        def posted(sent: asyncio.Future[None]) -> None:
            failure = sent.exception() if not sent.cancelled() else None
            if isinstance(failure, UpstreamFailed):
                conversation.undelivered(stream, failure)
            if isinstance(failure, Gone):
                channel.kill(f"is not known to the server any more: {failure.detail}")

        channel.posting.add_done_callback(posted)
        return stream

    def _ended(self, conversation: Dialogue) -> None:
        agent, counted = self._all.pop(conversation)
        self._shares.give_back(agent, counted=counted)
        for token in [token for token, one in self._sessions.items() if one is conversation]:
            del self._sessions[token]
        _log.info("server %s: a session %s", self._server.name, conversation.why)


def _passed_on(lines: bytes) -> bytes:
    """The header lines that go on to the server: the trace. Sessions and versions are of the other transport."""
    found = ((name, header(lines, name)) for name in _PASSED_ON)
    return b"".join(b"%b: %b\r\n" % (name, value) for name, value in found if value is not None)

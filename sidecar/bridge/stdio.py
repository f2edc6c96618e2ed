"""A server that is a program on this machine: it looks like one endpoint of a server with Streamable HTTP.

A legacy session has a process of its own, which begins and ends with it. The modern era has no sessions: one process
serves all agents. Processes start when they are needed.
"""

import asyncio
import functools
import logging
import secrets
from collections.abc import Coroutine
from math import inf
from typing import Final, Protocol

from openmcp.config.model import Server, Stdio
from openmcp.sidecar.bridge.conversation import Conversation, discovery
from openmcp.sidecar.bridge.process import Process, Reader, Reason
from openmcp.sidecar.bridge.replies import header, refusal, status, unsupported
from openmcp.sidecar.bridge.spawning import launch
from openmcp.sidecar.concealing import conceal
from openmcp.sidecar.errors import INVALID_REQUEST, SESSION_NOT_FOUND, UNSUPPORTED_VERSION, UpstreamFailed
from openmcp.sidecar.mcp import era, jsonrpc
from openmcp.sidecar.net.pool import endpoint_key
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.values import Outgoing, Patience
from openmcp.sidecar.types import Message, Notification, Request, Response

PROBE: Final = 10.0
"""Seconds a server has to say that it is of the modern era."""
PROBE_AGAIN: Final = 60.0
"""Seconds for which one that did not say so is taken for one of the legacy era."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
"""Seconds without another attempt after a process ended before it had answered anything; doubled each time. An agent
can make a server end that is badly written, so it is no longer than others can put up with."""
_LAST: Final = 8.0
"""Seconds that we wait for the end of all processes when we end ourselves."""
_LOOK: Final = 0.02
"""Seconds between two looks at processes that are ending with us."""
Dialogue = Conversation[Process]
_log = logging.getLogger("openmcp.bridge")


class Counts(Protocol):
    """Who is told what happens, for the metrics: `telemetry.metrics.Metrics` says what."""

    def connect(self, server: str, endpoint: str, result: str) -> None: ...
    def process_started(self, server: str, result: str) -> None: ...
    def process_ended(self, server: str, reason: str) -> None: ...
    def process_gone(self, server: str) -> None: ...
    def process_grumbled(self, server: str, logged: int, dropped: int) -> None: ...


class StdioEndpoint:
    """The processes of one server. Implements `net.endpoint.Endpoint`."""

    def __init__(self, server: Server, stdio: Stdio, counts: Counts) -> None:
        self.url = f"stdio:{stdio.command}"  # without arguments, which may hold what is nobody's business
        self.key = endpoint_key(f"stdio:{server.name}")
        self.healthy = True
        self.failures = 0
        self.unwell = ""
        self._server = server
        self._stdio = stdio
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        conceal()  # programs run as the user that we are
        self._sessions: dict[str, Dialogue] = {}
        self._all: dict[Dialogue, str | None] = {}  # with the agent whose session it is
        self._shared: Dialogue | None = None
        self._sharing = asyncio.Lock()
        self._legacy_until = inf if stdio.share == "session" else 0.0
        self._fault = ""
        self._faults = 0
        self._not_before = 0.0
        self._retired = False

    @property
    def problem(self) -> str:
        """What is wrong; else empty."""
        return self._fault or self.unwell

    @property
    def idle(self) -> int:
        """Processes without a request."""
        return sum(1 for one in self._all if not one.busy and not one.why)

    @property
    def active(self) -> int:
        """Requests under way, and processes that are ending."""
        return sum(one.busy or bool(one.why) for one in self._all)

    async def send(self, request: Outgoing, patience: Patience) -> UpstreamResponse:
        """See `net.endpoint.Endpoint`."""
        session = header(request.headers, b"mcp-session-id")
        conversation = self._sessions.get(session.decode("latin-1")) if session is not None else None
        if session is not None and conversation is None:
            return refusal(404, None, SESSION_NOT_FOUND, "Session not found")
        if request.method != b"POST":
            return self._beside(request.method, conversation, patience)
        message = jsonrpc.classify(jsonrpc.decode_lenient(request.body))
        if conversation is not None:
            return await _pass(conversation, message, patience, request.agent)
        return await self._without_session(message, request, patience)

    async def exchange(self, request: Outgoing, lines: bytes, patience: Patience) -> UpstreamResponse:
        """A sign of life, which needs no process: a server is well as long as its processes start."""
        if self._fault:
            raise UpstreamFailed("connect", self._fault, sent=False)
        return refusal(404, None, SESSION_NOT_FOUND, "Session not found")

    def review(self) -> None:
        """Nobody's certificate is of interest here."""

    def retire(self) -> None:
        """Take no more; processes end when their requests are done."""
        self._retired = True
        self._end_unused(inf)

    def close(self) -> None:
        """Have all processes end now."""
        self._retired = True
        for one in tuple(self._all):
            one.process.end("was ended: the gateway stops", Reason.STOPPED)

    async def closed(self) -> None:
        """Wait until nothing is left of any process; of one that cannot be killed, for no longer than `_LAST`."""
        until = self._loop.time() + _LAST
        while self._all and self._loop.time() < until:
            for one in tuple(self._all):
                one.process.sweep(self._loop.time())
            await asyncio.sleep(_LOOK)

    def sweep(self, now: float) -> None:
        """Enforce time limits, go on with what is ending, and end what was not used for long."""
        for one in tuple(self._all):
            one.sweep(now)
        self._end_unused(now)

    def _end_unused(self, now: float) -> None:
        for one in tuple(self._all):
            since = one.idle_since
            if self._retired and not one.busy:
                one.process.end("was ended: the configuration has another server now", Reason.CONFIGURATION)
            elif since is not None and not one.why and now - since > self._stdio.idle:
                one.process.end(f"was ended: not used for {self._stdio.idle:g} s", Reason.IDLE)

    def _beside(self, method: bytes, conversation: Dialogue | None, patience: Patience) -> UpstreamResponse:
        """GET and DELETE, which sessions alone have."""
        if conversation is None:
            return refusal(405, None, INVALID_REQUEST, "there is no session")
        if method == b"GET":
            return conversation.listen(patience)
        conversation.process.end("was ended with its session", Reason.SESSION)
        return status(200)

    async def _without_session(self, message: Message, request: Outgoing, patience: Patience) -> UpstreamResponse:
        modern = header(request.headers, b"mcp-protocol-version") in _MODERN
        identifier = message.id if isinstance(message, Request) else None
        if modern:
            if self._loop.time() < self._legacy_until:
                return unsupported(identifier, era.LEGACY_VERSIONS)
            conversation = await self._modern()
            if conversation is None:
                return unsupported(identifier, era.LEGACY_VERSIONS)
            return await _pass(conversation, message, patience, request.agent)
        if not isinstance(message, Request) or message.method != "initialize":
            return refusal(400, identifier, INVALID_REQUEST, "a session is needed: initialize first")
        if self._stdio.share == "server":
            return unsupported(identifier, era.MODERN_VERSIONS)
        return await self._begin(message, patience, request.agent)

    async def _begin(self, message: Request, patience: Patience, agent: str) -> UpstreamResponse:
        """A new session in a new process, which ends at once where the server does not want it."""
        conversation = await self._start(agent)
        begun = False
        try:
            stream = conversation.ask(message, patience)
            response = await stream.head
            begun = not stream.failed
        finally:
            if not begun:
                conversation.process.end("did not begin a session", Reason.SESSION)
        if not begun:
            response.status = 400
            return response
        self._works()
        token = secrets.token_urlsafe(24)
        self._sessions[token] = conversation
        response.headers[b"mcp-session-id"] = token.encode()
        return response

    async def _modern(self) -> Dialogue | None:
        """The process of all modern agents, started where there is none; None where the server is of the other era."""
        async with self._sharing:
            if self._shared is not None and not self._shared.why:
                return self._shared
            if self._loop.time() < self._legacy_until:
                return None
            conversation = await self._start(None)
            modern = None
            try:
                modern = await self._is_modern(conversation)
            finally:
                if not modern:
                    why = "did not answer server/discover" if modern is None else "is no server of the modern era"
                    conversation.process.end(f"was ended: it {why}", Reason.SESSION)
            if modern:
                self._works()
            self._shared = conversation if modern else None
            return self._shared

    async def _is_modern(self, conversation: Dialogue) -> bool:
        """Ask a server of which era it is (2026-07-28 basic/transports/stdio, "Backward Compatibility"). One that has
        to be modern may take its time to start."""
        sure = self._stdio.share == "server"
        seconds = self._server.timeouts.request if sure else PROBE
        patience = Patience(seconds, seconds, seconds)
        try:
            response = await conversation.request(discovery("openmcp"), patience, None)
        except UpstreamFailed as failure:
            if failure.kind != "timeout":
                raise
            if sure:
                self._failed("a process did not answer server/discover")  # whoever waits is not to wait for another one
                raise
            self._legacy_until = self._loop.time() + PROBE_AGAIN
            return False
        document = jsonrpc.decode_lenient(b"".join(response.pieces) or response.body)
        if "error" in document and document["error"]["code"] != UNSUPPORTED_VERSION:
            self._legacy_until = inf
            return False
        return True

    async def _start(self, agent: str | None) -> Dialogue:
        """A process for a session of this agent, or for all agents."""
        self._check_room(agent)
        name = self._server.name
        conversation = Conversation(self._process, self._server.limits, self._ended, shared=agent is None)
        self._all[conversation] = agent
        try:
            await conversation.process.start(launch(self._stdio))
        except BaseException as error:
            del self._all[conversation]
            if isinstance(error, UpstreamFailed):
                self._counts.process_started(name, "failed")
                self._failed(error.detail)
            raise
        self._counts.connect(name, self.url, "ok")
        self._counts.process_started(name, "ok")
        _log.info("%s has started", conversation.process.name)
        return conversation

    def _process(self, reader: Reader) -> Process:
        name = self._server.name
        count = functools.partial(self._counts.process_grumbled, name)
        return Process(f"server {name}", self._server.limits.response_bytes, reader, count)

    def _check_room(self, agent: str | None) -> None:
        if self._retired:
            raise UpstreamFailed("connect", "the gateway has another server now", sent=False)
        if self._loop.time() < self._not_before:
            raise UpstreamFailed("connect", f"{self._fault}; it is started again in a while", sent=False)
        if len(self._all) >= self._stdio.processes:
            raise UpstreamFailed("overloaded", f"{self._stdio.processes} processes are running", sent=False)
        own = sum(one == agent for one in self._all.values()) if agent is not None else 0
        if own >= self._stdio.per_agent:
            raise UpstreamFailed("overloaded", f"{own} processes are running for this agent", sent=False)

    def _failed(self, why: str) -> None:
        """A process could not be started, or ended before it was of any use."""
        self._counts.connect(self._server.name, self.url, "refused")
        pause = min(FIRST_PAUSE * 2 ** min(self._faults, 16), LONGEST_PAUSE)
        self._faults += 1
        self._not_before = self._loop.time() + pause
        if why != self._fault:
            self._fault = why
            _log.warning("server %s cannot be used: %s", self._server.name, why)

    def _works(self) -> None:
        """A process has answered."""
        self._fault, self._faults = "", 0

    def _ended(self, conversation: Dialogue) -> None:
        process, why = conversation.process, conversation.why
        self._counts.process_ended(self._server.name, process.reason)
        for token in [token for token, one in self._sessions.items() if one is conversation]:
            del self._sessions[token]
        if self._shared is conversation:
            self._shared = None
        _log.log(logging.INFO if process.asked else logging.WARNING, "%s %s", process.name, why)
        if conversation.spoke:
            self._works()
        elif not process.asked:
            self._failed(f"the process {why}")
        process.when_gone(lambda: self._gone(conversation))

    def _gone(self, conversation: Dialogue) -> None:
        if conversation in self._all:  # else it ended while it was being started, and was not counted
            del self._all[conversation]
            self._counts.process_gone(self._server.name)


_MODERN: Final = frozenset(version.encode() for version in era.MODERN_VERSIONS)


def _pass(
    conversation: Dialogue, message: Message, patience: Patience, agent: str
) -> Coroutine[None, None, UpstreamResponse]:
    if isinstance(message, Request):
        return conversation.request(message, patience, agent)
    return _tell(conversation, message)


async def _tell(conversation: Dialogue, message: Notification | Response) -> UpstreamResponse:
    conversation.notify(message)
    return status(202)

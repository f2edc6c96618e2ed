"""Calls that are held while a human decides: kept alive, told of progress, and let go.

A held call answers plainly where it is decided on soon. A client that gave a progress token hears of progress, since
that extends its patience; for others a stream is begun after a while, whose keep-alives hold the connection.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from openmcp.sidecar.approvals.service import Pending
from openmcp.sidecar.mcp import era, jsonrpc, sse
from openmcp.sidecar.ports import Exchange
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.record import Recorder
from openmcp.sidecar.stages.streams import HEADERS
from openmcp.sidecar.types import JsonObject, MessageId, Notification

MOST: Final = 2048
MOST_PER_AGENT: Final = 256
"""Calls held at a time; further ones are answered as pending at once."""
MOST_BYTES: Final = 8 * 1024 * 1024
"""Bytes of the requests of one agent that are held, if it is more than one: decoded they take several times that."""

QUIET: Final = 10.0
"""Seconds in which a held call sends nothing, where the client has not asked for progress."""
FIRST_PROGRESS: Final = 1.0
PROGRESS: Final = 5.0
"""Seconds until progress is told of, and between two times."""
STEP: Final = 1e-6
"""What each of these adds to the progress: the server's own, which comes later, has to be more than ours."""

CANCELLED: Final = "cancelled"
DRAINING: Final = "draining"


class Begun:
    """The answering side of an exchange whose stream has begun: every answer is an event on it."""

    def __init__(self, exchange: Exchange) -> None:
        self.request = exchange.request
        self._stream = exchange

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """See `ports.Exchange`: here an event, without status and headers."""
        if body:
            self.write(sse.encode_message(body))
        self.finish()

    async def respond_large(self, status: int, headers: bytes, pieces: Sequence[bytes]) -> None:
        """See `ports.Exchange`."""
        head, tail = sse.encode_message(b"\0").split(b"\0")
        await self.write_large((head, *pieces, tail))
        self.finish()

    def start_stream(self, headers: bytes, keep_alive: bytes) -> None:
        """The stream is there."""

    def write(self, data: bytes) -> None:
        """See `ports.Exchange`."""
        self._stream.write(data)

    async def write_large(self, pieces: Iterable[bytes]) -> None:
        """See `ports.Exchange`."""
        await self._stream.write_large(pieces)

    def flush(self) -> None:
        """See `ports.Exchange`."""
        self._stream.flush()

    async def drain(self) -> None:
        """See `ports.Exchange`."""
        await self._stream.drain()

    def finish(self) -> None:
        """See `ports.Exchange`."""
        self._stream.finish()

    def abort(self) -> None:
        """See `ports.Exchange`."""
        self._stream.abort()


class Held:
    """One held call. `note` is what progress says, `pending` what it waits for; `ended` why it was let go, empty while
    it was not."""

    __slots__ = ("_begun", "_next", "_scope", "_token", "ended", "flow", "note", "pending")

    def __init__(self, flow: Flow, now: float) -> None:
        self.flow = flow
        self.note = ""
        self.ended = ""
        self.pending: Pending | None = None
        self._token = progress_token(flow)
        self._begun = False
        self._next = now + (QUIET if self._token is None else FIRST_PROGRESS)
        self._scope = asyncio.timeout(None)

    @property
    def scope(self) -> asyncio.Timeout:
        """What the holding runs in: it raises `TimeoutError` when the call is let go."""
        return self._scope

    def end(self, why: str) -> None:
        """Let it go, at once."""
        if not self.ended:
            self.ended = why
            self._scope.reschedule(0)

    def sweep(self, now: float, recorder: Recorder) -> None:
        """Say that it is still being waited for, where it is time to."""
        if now < self._next or self.ended:
            return
        if not self._begun:
            self._begin()
        if self._token is None:
            self._next = float("inf")  # the connection sends keep-alives from now on
            return
        self._next = now + PROGRESS
        self._tell(self._token, recorder)

    def _begin(self) -> None:
        flow = self.flow
        self._begun = True
        flow.stream = "post"
        flow.exchange.start_stream(HEADERS, sse.KEEP_ALIVE)
        flow.exchange.flush()
        flow.exchange = Begun(flow.exchange)

    def _tell(self, token: MessageId, recorder: Recorder) -> None:
        flow = self.flow
        flow.progress += STEP
        params: JsonObject = {"progressToken": token, "progress": flow.progress, "message": self.note}
        told = Notification("notifications/progress", params)
        document = jsonrpc.document_of(told)
        data = jsonrpc.encode(document)
        recorder.streamed(flow, told, document, len(data))
        flow.exchange.write(sse.encode_message(data))
        flow.exchange.flush()


class Holding:
    """All calls that are held."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._held: set[Held] = set()
        self._per_agent: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._stopping = False

    def __len__(self) -> int:
        return len(self._held)

    @contextmanager
    def hold(self, flow: Flow, now: float) -> Iterator[Held]:
        """Hold a call within this context; `now` is the loop's time."""
        held = Held(flow, now)
        agent = flow.agent
        self._held.add(held)
        self._per_agent[agent] = self._per_agent.get(agent, 0) + 1
        self._bytes[agent] = self._bytes.get(agent, 0) + flow.bytes_in
        try:
            yield held
        finally:
            self._held.discard(held)
            left, size = self._per_agent.pop(agent) - 1, self._bytes.pop(agent) - flow.bytes_in
            if left:
                self._per_agent[agent], self._bytes[agent] = left, size

    def has_room(self, flow: Flow) -> bool:
        """Whether this call may wait beside those of its agent that do."""
        held = self._per_agent.get(flow.agent, 0)
        size = self._bytes.get(flow.agent, 0) + flow.bytes_in
        fits = not held or (held < MOST_PER_AGENT and size <= MOST_BYTES)
        return not self._stopping and len(self._held) < MOST and fits

    def counts(self) -> dict[str, int]:
        """How many calls are held, by server."""
        counts: dict[str, int] = {}
        for held in self._held:
            counts[held.flow.server] = counts.get(held.flow.server, 0) + 1
        return counts

    def cancel(self, flow: Flow, identifier: object) -> bool:
        """Void the held call of this id in the session of `flow`; False where there is none, or more than one.

        Without a session two clients of one agent may use the same id: then nobody's call is voided.
        """
        found = [held for held in self._held if _is_of(held.flow, flow, identifier)]
        if len(found) != 1:
            return False
        found[0].end(CANCELLED)
        return True

    def release(self) -> None:
        """Let all calls go, and hold no more, because the sidecar stops."""
        self._stopping = True
        for held in self._held:
            held.end(DRAINING)

    def sweep(self, now: float) -> None:
        """Keep them alive; `now` is the loop's time."""
        for held in tuple(self._held):
            held.sweep(now, self._recorder)


def progress_token(flow: Flow) -> MessageId | None:
    """The token under which the client of a call wants to hear of progress."""
    assert flow.call is not None
    token = era.meta_of(flow.call.message.params).get("progressToken")
    return token if jsonrpc.valid_id(token) else None


def _is_of(held: Flow, flow: Flow, identifier: object) -> bool:
    same = (held.agent, held.server, held.session_ref, held.era) == (
        flow.agent,
        flow.server,
        flow.session_ref,
        flow.era,
    )
    return same and type(held.message_id) is type(identifier) and held.message_id == identifier

"""The streams that are open, and what is told to servers on the side."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from openmcp.identity.peer import PeerCertificate
from openmcp.sidecar.errors import Refused, UpstreamFailed
from openmcp.sidecar.mcp import answers
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.shares import Shares
from openmcp.sidecar.stages import admit, forward
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.record import Recorder
from openmcp.sidecar.stages.requests import backward
from openmcp.sidecar.stages.results import Results
from openmcp.sidecar.stages.sessions import Sessions
from openmcp.sidecar.stages.snapshot import Snapshot
from openmcp.sidecar.stages.streams import Relay
from openmcp.sidecar.types import JsonObject, Request

REVIEW: Final = 10.0
"""Seconds after which it is asked again who has a stream: keys and bundles may have been withdrawn."""
MAX_STREAMS: Final = 8192
"""Streams without an end, of all servers: fewer than there may be connections, so that there are some for calls."""
REJECTIONS: Final = 64
"""Questions of one server that are being rejected at once; it has to wait in vain for an answer to further ones. Each
rejection is a request, so that a server which asks without end and takes none would have us open connections so."""
_log = logging.getLogger("openmcp.pipeline")


class Open(Protocol):
    """A stream that is open (`streams.Relay`)."""

    flow: Flow
    until: float
    review_at: float

    @property
    def idle(self) -> bool:
        """Whether it ends only when somebody ends it."""

    def stop(self) -> None:
        """End it in good order."""

    def announce_lists(self) -> None:
        """Tell the agent that its lists may have changed."""


class Relays:
    """Runs relays; `open` are those under way. While `draining`, streams that do not end by themselves are ended.

    `current` gives the configuration in force.
    """

    def __init__(
        self, sessions: Sessions, results: Results, recorder: Recorder, current: Callable[[], Snapshot]
    ) -> None:
        self.open: set[Open] = set()
        self._current = current
        self._still_trusted: Callable[[PeerCertificate], bool] | None = None
        self.draining = False
        self.background: set[asyncio.Task[None]] = set()
        self._rejecting: Counter[str] = Counter()  # by server
        self.shares = Shares(MAX_STREAMS, "streams are open at all servers")
        self._sessions = sessions
        self._results = results
        self._recorder = recorder

    async def carry(self, flow: Flow, response: UpstreamResponse, lines: bytes = b"") -> None:
        """Relay a server's stream to its end; `lines` are header lines of the answer.

        Raises `UpstreamFailed` where there are too many.
        """
        relay = Relay(flow, self._sessions, self._results, self._recorder, self._reject)
        idle, counted = relay.idle, False
        if idle:
            try:
                counted = self.shares.take(flow.agent)
            except UpstreamFailed:
                response.close()
                raise
        flow.streamed(_stream_kind(flow))
        self.open.add(relay)
        if self.draining and relay.idle:
            relay.stop()
        try:
            await relay.run(response, lines)
        finally:
            self.open.discard(relay)
            if idle:
                self.shares.give_back(flow.agent, counted=counted)

    def sweep(self, now: float) -> None:
        """End the streams that would never end by themselves once the proof of who has them does, by the clock; `now`
        is the loop's time."""
        clock = time.time()
        for relay in tuple(self.open):
            if not relay.idle:
                continue
            if now >= relay.review_at:
                relay.review_at = now + REVIEW
                relay.until = self._until(relay.flow)
            if relay.until <= clock:
                relay.stop()

    def review(self, still_trusted: Callable[[PeerCertificate], bool]) -> None:
        """End the streams that would never end by themselves to agents whose CA is no longer trusted; so are those that
        open after this."""
        self._still_trusted = still_trusted
        for relay in tuple(self.open):
            if relay.idle and not self.trusted(relay.flow):
                relay.stop()

    def trusted(self, flow: Flow) -> bool:
        """Whether the CA that vouches for the agent's certificate, if it has shown one, still does."""
        still_trusted = self._still_trusted
        certificate = flow.request.peer.certificate
        return still_trusted is None or certificate is None or still_trusted(certificate)

    def _until(self, flow: Flow) -> float:
        """When the stream of this flow ends at the latest, in Unix seconds. It may have been asked for under another
        configuration and other CAs, before a server that took its time."""
        current = self._current()
        if flow.snapshot is not current:
            if not admit.remains(current, flow):
                return 0.0
            flow.snapshot = current
        return flow.until() if self.trusted(flow) else 0.0

    def _reject(self, flow: Flow, request: Request, code: int, message: str) -> None:
        """Answer a server's request in the agent's place, so that the server does not wait for it."""
        if self._rejecting[flow.server] >= REJECTIONS:
            return
        self._rejecting[flow.server] += 1
        task = asyncio.create_task(self._send_rejection(flow, answers.error(request.id, code, message)))
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def _send_rejection(self, flow: Flow, document: JsonObject) -> None:
        try:
            (await backward(flow, document)).close()
        except (UpstreamFailed, Refused) as error:
            _log.info("call %s: a server request could not be rejected: %s", flow.id, error)
        finally:
            self._rejecting[flow.server] -= 1


def _stream_kind(flow: Flow) -> str:
    """How the record and the metrics call the stream of this exchange."""
    if flow.request.method == "GET":
        return "get"
    return "listen" if flow.method == forward.LISTEN else "post"

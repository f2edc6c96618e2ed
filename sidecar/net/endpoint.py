"""What the pipeline needs of one place where an MCP server is: implemented over HTTP by `pool.HttpEndpoint`, and by the
adapters of `openmcp.sidecar.bridge`. The contract is written down in docs/adapters.md."""

from collections.abc import Coroutine
from typing import Protocol

from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.values import Outgoing, Patience


class Endpoint(Protocol):
    """One place where a server is. `key` names it in sessions, `url` in metrics, logs and /readyz; `healthy`,
    `failures` and `unwell` are what health checks found (`net.health` writes them)."""

    url: str
    key: str
    healthy: bool
    failures: int
    unwell: str

    @property
    def problem(self) -> str:
        """What is wrong with it, in words for operators; else empty."""

    @property
    def idle(self) -> int:
        """Connections (or processes) without a request."""

    @property
    def active(self) -> int:
        """Requests under way."""

    def send(self, request: Outgoing, patience: Patience) -> Coroutine[None, None, UpstreamResponse]:
        """Send one request and wait for the answer: whole, or the begin of a stream, which the caller has to close.

        Raises `UpstreamFailed`, with `sent` False only where it is certain that the server got nothing. When it is
        cancelled, nobody wants the answer any more.
        """

    def exchange(self, request: Outgoing, lines: bytes, patience: Patience) -> Coroutine[None, None, UpstreamResponse]:
        """The same for a health check, without a credential: these header lines besides its own."""

    def review(self) -> None:
        """Whom we trust, or who we are, has changed."""

    def retire(self) -> None:
        """The configuration no longer has this server: end what is idle now, and the rest when it is done."""

    def close(self) -> None:
        """End everything at once."""

    async def closed(self) -> None:
        """Wait, after `close`, until nothing is left."""

    def sweep(self, now: float) -> None:
        """Called four times a second: enforce time limits; `now` is the loop's time."""

"""The seams between the story of a message and what moves bytes: small protocols, so that tests can stand in."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from openmcp.identity.peer import UNKNOWN, Peer


class HttpRequest(msgspec.Struct, frozen=True):
    """One HTTP request as it arrived, complete. `path` has no query; header names are lower case.

    `headers` holds the first value of each name, `repeated` the names that stood more than once. `peer` is who is at
    the other end of the connection.
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    repeated: frozenset[bytes]
    body: bytes
    peer: Peer = UNKNOWN


class Exchange(Protocol):
    """The answering side of one HTTP request: either `respond` once, or `start_stream`, writes and `finish`.

    When the client goes away the task that handles the exchange is cancelled.
    """

    request: HttpRequest

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Send a complete answer; `headers` are ready header lines, each ended by CRLF."""

    async def respond_large(self, status: int, headers: bytes, pieces: Sequence[bytes]) -> None:
        """As `respond` with a large body in pieces: waits while the client is slow, and lets others come in between."""

    def start_stream(self, headers: bytes, keep_alive: bytes) -> None:
        """Begin a 200 answer of unknown length; `keep_alive` is sent whenever the stream was silent for a while."""

    def write(self, data: bytes) -> None:
        """Add bytes to the stream; they leave with the next `flush`, `drain` or `finish`."""

    async def write_large(self, pieces: Iterable[bytes]) -> None:
        """Add a large message to the stream, with nothing in between, and send it as `respond_large` does."""

    def flush(self) -> None:
        """Send what was written."""

    async def drain(self) -> None:
        """Send what was written, and wait while the client is slow to read."""

    def finish(self) -> None:
        """End the stream properly."""

    def abort(self) -> None:
        """Cut the connection, so that the client cannot take the answer for complete."""

"""What is asked of a connection to a server, and how long it may take; what a client's connection waits for."""

from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

import msgspec

from openmcp.identity.peer import Peer

if TYPE_CHECKING:
    from openmcp.sidecar.net.response import UpstreamResponse


class State(Enum):
    """What a client's connection is waiting for."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    BUSY = auto()
    CLOSING = auto()


class Client(Protocol):
    """What a listener does with a connection, whatever protocol its client speaks."""

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""

    @property
    def waiting(self) -> bool:
        """Whether no request is being served."""

    def close_when_idle(self) -> None:
        """Drain: take no more requests, and close when those under way are answered."""

    def end(self) -> None:
        """Serve no further request; those under way end by themselves."""

    def abort(self) -> None:
        """Cut it."""

    def sweep(self, now: float) -> int:
        """Enforce its deadlines; `now` is the loop's time. How many bytes it keeps of bodies that nobody has taken."""


class Carrier(Protocol):
    """What an answer comes over."""

    def release(self, response: "UpstreamResponse", *, complete: bool) -> None:
        """The answer is done with; not `complete`: its rest is not wanted."""

    def resume(self) -> None:
        """What was waiting has been read."""

    def expect_end(self) -> None:
        """The rest of the answer is not wanted, but it should end by itself now; `UpstreamResponse.end` says when."""


class Patience(msgspec.Struct, frozen=True):
    """How long to wait for a server, in seconds: for the head or the whole JSON answer, between two pieces of a
    stream, and for a stream in all. `endless`: what is asked for is a stream that does not end by itself."""

    head: float
    idle: float
    total: float
    endless: bool = False

    def after(self, gone: float) -> "Patience":
        """What is left of it when so many seconds have gone."""
        return msgspec.structs.replace(self, head=max(0.0, self.head - gone), total=max(0.0, self.total - gone))


class Terms(msgspec.Struct, frozen=True):
    """How long a call of a tool may take, and whether it may be sent twice."""

    patience: Patience
    repeatable: bool


class Outgoing(msgspec.Struct, frozen=True):
    """One request: `headers` are ready lines, `limit` the bytes allowed for the body of an answer that is no stream.

    `repeatable`: sending it twice has no other effect than sending it once. `target`: path and query, where they are
    not those of the endpoint. `agent` is for counting what each of them takes, and says nothing of what it may.
    """

    method: bytes
    headers: bytes
    body: bytes
    limit: int
    repeatable: bool
    target: bytes = b""
    agent: str = ""

"""What is asked of a connection to a server, and how long it may take; what a client's connection waits for."""

from enum import Enum, auto
from typing import Protocol

import msgspec

from openmcp.identity.peer import Peer


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

    def close_when_idle(self) -> None:
        """Drain: take no more requests, and close when those under way are answered."""

    def end(self) -> None:
        """Serve no further request; those under way end by themselves."""

    def abort(self) -> None:
        """Cut it."""

    def sweep(self, now: float) -> None:
        """Enforce its deadlines; `now` is the loop's time."""


class Patience(msgspec.Struct, frozen=True):
    """How long to wait for a server, in seconds: for the head or the whole JSON answer, between two pieces of a
    stream, and for a stream in all. `endless`: what is asked for is a stream that does not end by itself."""

    head: float
    idle: float
    total: float
    endless: bool = False


class Outgoing(msgspec.Struct, frozen=True):
    """One request: `headers` are ready lines, `limit` the bytes allowed for the body of an answer that is no stream.

    `repeatable`: sending it twice has no other effect than sending it once.
    """

    method: bytes
    headers: bytes
    body: bytes
    limit: int
    repeatable: bool

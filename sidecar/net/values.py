"""What is asked of a connection to a server, and how long it may take; what a client's connection waits for."""

from enum import Enum, auto

import msgspec


class State(Enum):
    """What a client's connection is waiting for."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    BUSY = auto()
    CLOSING = auto()


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

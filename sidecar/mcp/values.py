"""What the protocol's parsers make: an SSE event, a client's call."""

import msgspec

from openmcp.sidecar.types import Era, Notification, Request, Subject


class Event(msgspec.Struct, frozen=True):
    """One dispatched event. `id` and `retry` (milliseconds) are None where the event had no such field."""

    data: bytes
    name: bytes = b"message"
    id: bytes | None = None
    retry: int | None = None


class LargeEvent(msgspec.Struct, frozen=True):
    """One event as it came, in pieces: its lines are ended by LF and not interpreted yet."""

    pieces: tuple[bytes, ...]


class Call(msgspec.Struct, frozen=True):
    """A client's message with what policy and transport need to know of it, read from the body once.

    `name` is the tool, prompt or URI it names, or empty; all `subjects` must be allowed. `beside` is what goes to the
    server beside the message, in a header.
    """

    message: Request | Notification
    era: Era
    version: str
    name: str
    subjects: tuple[Subject, ...]
    beside: str = ""

    @property
    def method(self) -> str:
        """The JSON-RPC method."""
        return self.message.method

"""Server-Sent Events: a complete parser, and a writer with one canonical form.

Source: WHATWG HTML "Server-sent events", sections 9.2.5 and 9.2.6. Lines end in LF, CRLF or CR, a leading
BOM is dropped, several `data` lines are joined by LF, an event that the stream's end cuts off is dropped.
"""

from typing import Final

from openmcp.sidecar.mcp.values import Event, LargeEvent

LARGE: Final = 256 * 1024
"""Bytes from which on an event is not interpreted here, and its pieces are not joined."""
_BOM: Final = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """An event exceeds the parser's limit; the stream cannot be read on."""


class Parser:
    """Incremental parser of one stream: `feed` bytes as they come, get the events they complete.

    `max_event` bounds the bytes of one unfinished event; beyond it `EventTooLarge` is raised.
    """

    __slots__ = ("_buffer", "_carriage_return", "_held", "_held_bytes", "_max_event", "_scanned", "_started")

    def __init__(self, max_event: int) -> None:
        self._buffer = bytearray()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._max_event = max_event
        self._scanned = 0
        self._started = False
        self._carriage_return = False

    def feed(self, chunk: bytes) -> list[Event | LargeEvent]:
        """Take the next bytes of the stream; the events that are complete now, in order."""
        if not chunk:
            return []
        self._buffer += self._normalised(chunk)
        if not self._started and not self._start():
            return []
        events: list[Event | LargeEvent] = []
        if not self._held or self._end_held(events):
            for block in self._complete_blocks():
                found = event(block) if len(block) <= LARGE else LargeEvent((block,))
                if found is not None:
                    events.append(found)
        if self._held_bytes + len(self._buffer) > self._max_event:
            raise EventTooLarge(f"an SSE event is larger than {self._max_event} bytes")
        if len(self._buffer) > LARGE:
            self._hold()
        return events

    def _hold(self) -> None:
        """Set aside what is there of a large event. A line end at the end stays: the next one may end the event."""
        size = len(self._buffer) - (1 if self._buffer.endswith(b"\n") else 0)
        self._held.append(bytes(self._buffer[:size]))
        del self._buffer[:size]
        self._held_bytes += size
        self._scanned = 0

    def _end_held(self, events: list[Event | LargeEvent]) -> bool:
        """Look for the end of the event that is set aside; False while there is none."""
        end = self._buffer.find(b"\n\n", max(0, self._scanned - 1))
        if end < 0:
            self._scanned = len(self._buffer)
            return False
        events.append(LargeEvent((*self._held, bytes(self._buffer[:end]))))
        del self._buffer[: end + 2]
        self._held, self._held_bytes, self._scanned = [], 0, 0
        return True

    def _normalised(self, chunk: bytes) -> bytes:
        """Turn CR and CRLF into LF, also where CRLF is split over two chunks."""
        if self._carriage_return:
            self._carriage_return = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._carriage_return = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _start(self) -> bool:
        """Drop a BOM at the beginning; False while it cannot be told yet."""
        if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
            return False
        if self._buffer.startswith(_BOM):
            del self._buffer[: len(_BOM)]
        self._started = True
        return True

    def _complete_blocks(self) -> list[bytes]:
        if self._buffer[:1] == b"\n":  # blank lines between events
            stripped = self._buffer.lstrip(b"\n")
            self._buffer, self._scanned = stripped, 0
        end = self._buffer.rfind(b"\n\n", max(0, self._scanned - 1))
        if end < 0:
            self._scanned = len(self._buffer)
            return []
        complete = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._scanned = 0
        return complete.split(b"\n\n")


def event(block: bytes) -> Event | None:
    """Interpret the lines of one event (ended by LF); None where nothing is dispatched (comments alone)."""
    data: list[bytes] = []
    name, identifier, retry = b"message", None, None
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value or b"message"
        elif field == b"id" and b"\0" not in value:
            identifier = value
        elif field == b"retry" and value.isdigit() and len(value) <= 9:
            retry = int(value)
    if not data and identifier is None and retry is None:
        return None
    return Event(b"\n".join(data), name, identifier, retry)


def encode(event: Event) -> bytes:
    """The canonical form of an event. `data` must hold no line break (a JSON serialisation has none)."""
    lines = []
    if event.id is not None:
        lines.append(b"id: %b\n" % event.id)
    if event.retry is not None:
        lines.append(b"retry: %d\n" % event.retry)
    lines.append(b"event: %b\ndata: %b\n\n" % (event.name, event.data))
    return b"".join(lines)


def encode_message(data: bytes) -> bytes:
    """The canonical form of an event that carries one JSON-RPC message and nothing else."""
    return b"event: message\ndata: %b\n\n" % data


KEEP_ALIVE: Final = b": keep-alive\n\n"

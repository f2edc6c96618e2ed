"""The wire of HTTP/2 (RFC 9113): the door to h2, which keeps the state of a connection and its streams."""

from collections.abc import Iterable
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event
from h2.settings import SettingCodes, Settings
from hpack.table import HeaderTable
from hyperframe.frame import Frame, GoAwayFrame

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_STREAMS: Final = 100
"""Requests under way on one connection; further ones are refused, and may be sent again."""
STREAM_WINDOW: Final = 64 * 1024
"""Bytes of a request's body that may come unasked."""
CONNECTION_WINDOW: Final = 8 * 1024 * 1024
MAX_FRAME: Final = 16 * 1024
"""Bytes of a frame, ours and theirs; the least that the protocol allows as limit."""
MAX_LIST: Final = 64 * 1024
"""Bytes of a header section as HPACK counts them (RFC 7541, 4.1): more ends the connection."""

NO_ERROR: Final = int(ErrorCodes.NO_ERROR)
PROTOCOL_ERROR: Final = int(ErrorCodes.PROTOCOL_ERROR)
INTERNAL_ERROR: Final = int(ErrorCodes.INTERNAL_ERROR)
REFUSED_STREAM: Final = int(ErrorCodes.REFUSED_STREAM)
CONTINUE: Final = ((b":status", b"100"),)
_STATUSES: Final = {status: b"%d" % status for status in range(100, 600)}
CANCEL: Final = int(ErrorCodes.CANCEL)
ENHANCE_YOUR_CALM: Final = int(ErrorCodes.ENHANCE_YOUR_CALM)
ANY_STREAM: Final = 2**31 - 1

_CONFIGURATION: Final = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_inbound_headers=False,  # `fields` does, so that a malformed request ends its stream alone
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class Machine(H2Connection):
    """The server's end of a connection, with our limits and an encoder without memory."""

    MAX_CLOSED_STREAMS = 500  # of 65,536, which took some megabytes of each connection

    def __init__(self) -> None:
        super().__init__(_CONFIGURATION)
        self.encoder: Any = Encoder()
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_LIST,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
            },
        )
        self.decoder.max_header_list_size = MAX_LIST
        self.initiate_connection()
        self.increment_flow_control_window(CONNECTION_WINDOW - self.inbound_flow_control_window)

    @property
    def open_inbound_streams(self) -> int:
        """What h2 compares with the limit, to end the connection: too many streams are refused by us, one by one."""
        return min(super().open_inbound_streams, MAX_STREAMS - 1)

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        """Tell it, and go on: h2 would hold the connection for closed, and lose the answers that are under way."""
        event = ConnectionTerminated()
        event.error_code = int(frame.error_code)
        return [], [event]

    @property
    def waiting(self) -> int:
        """Bytes that are to be sent."""
        return len(self._data_to_send)


class Encoder:
    """HPACK (RFC 7541) without a dynamic table: nothing is kept for a client, whatever table it asks for.

    Stands in the place of hpack's encoder in h2, which calls `encode` and sets `header_table_size`.
    """

    header_table_size = 0

    def __init__(self) -> None:
        self._first = b"\x20"  # our table has no room (6.3): said once, since nothing else ever changes it

    def encode(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """A header section; names are lower case."""
        parts = [self._first]
        self._first = b""
        for name, value in headers:
            known = _STATIC.get((name, value))
            if known is None:
                known = b"%b%b%b" % (_NAMES.get(name) or _new_name(name), _integer(len(value), 0x7F), value)
            parts.append(known)
        return b"".join(parts)


def fields_of(status: int, date: bytes, headers: bytes, length: int | None) -> list[tuple[bytes, bytes]]:
    """The fields of an answer out of ready lines of HTTP/1.1; `length` is that of its body, where it is known."""
    fields = [(b":status", _STATUSES.get(status) or b"%d" % status), (b"date", date[6:-2])]
    for line in headers.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b": ")
            fields.append((name, value))
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    return fields


def goaway(last: int, code: int) -> bytes:
    """A GOAWAY frame: streams up to `last` are worked on."""
    return b"\0\0\x08\x07\0\0\0\0\0%b%b" % (last.to_bytes(4), code.to_bytes(4))


def _integer(value: int, most: int, first: int = 0) -> bytes:
    """An integer behind the bits `first` (RFC 7541, 5.1); `most` is the largest that fits into the prefix."""
    if value < most:
        return bytes((first | value,))
    rest = value - most
    out = bytearray((first | most,))
    while rest >= 128:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _new_name(name: bytes) -> bytes:
    return b"\0%b%b" % (_integer(len(name), 0x7F), name)


_STATIC: Final = {
    field: _integer(number, 0x7F, 0x80) for number, field in reversed([*enumerate(HeaderTable.STATIC_TABLE, 1)])
}
"""Whole fields of the static table, by their index (6.1)."""
_NAMES: Final = {
    field[0]: _integer(number, 0x0F) for number, field in reversed([*enumerate(HeaderTable.STATIC_TABLE, 1)])
}
"""Names of the static table, for a literal that is not indexed (6.2.2)."""

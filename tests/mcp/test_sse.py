"""Server-Sent Events: streams as they come, and the one form in which they go on."""

import pytest

from openmcp.sidecar.mcp import sse
from openmcp.sidecar.mcp.values import Event, LargeEvent

STREAMS: dict[str, tuple[bytes, list[Event]]] = {
    "one event": (b"data: a\n\n", [Event(b"a")]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [Event(b"a"), Event(b"b")]),
    "CR alone": (b"data: a\r\rdata: b\r\r", [Event(b"a"), Event(b"b")]),
    "mixed line ends": (b"data: a\r\ndata: b\rdata: c\n\r\n", [Event(b"a\nb\nc")]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
    "a second mark is part of a name": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event(b"a")]),
    "several data lines": (b"data: {\ndata: }\n\n", [Event(b"{\n}")]),
    "no space after the colon": (b"data:a\n\n", [Event(b"a")]),
    "one space of two": (b"data:  a\n\n", [Event(b" a")]),
    "no colon": (b"data\n\n", [Event(b"")]),
    "empty data lines": (b"data\ndata\n\n", [Event(b"\n")]),
    "all fields": (b"id: 7\nevent: x\nretry: 10\ndata: a\n\n", [Event(b"a", b"x", b"7", 10)]),
    "the last of each field": (b"event: x\nevent: y\nid: 1\nid: 2\ndata: a\n\n", [Event(b"a", b"y", b"2")]),
    "an empty event name": (b"event:\ndata: a\n\n", [Event(b"a")]),
    "an empty id": (b"id\ndata: a\n\n", [Event(b"a", id=b"")]),
    "an id with NUL": (b"id: a\0b\ndata: a\n\n", [Event(b"a")]),
    "retry that is no number": (b"retry: 1s\ndata: a\n\n", [Event(b"a")]),
    "retry of other digits": ("retry: ١\ndata: a\n\n".encode(), [Event(b"a")]),
    "retry too long": (b"retry: 1000000000\ndata: a\n\n", [Event(b"a")]),
    "comments": (b": hello\n\n:\n\ndata: a\n: within\n\n", [Event(b"a")]),
    "unknown fields": (b"dota: x\nDATA: x\n data: x\ndata: a\n\n", [Event(b"a")]),
    "priming without data": (b"id: 1\nretry: 5\n\n", [Event(b"", id=b"1", retry=5)]),
    "blank lines between": (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [Event(b"a"), Event(b"b")]),
    "cut off": (b"data: a\n\ndata: b\n", [Event(b"a")]),
    "only an event name": (b"event: x\n\n", []),
    "nothing": (b"", []),
}


@pytest.mark.parametrize(("stream", "events"), STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_is_read_whole_and_byte_by_byte(stream: bytes, events: list[Event]) -> None:
    assert sse.Parser(1000).feed(stream) == events
    parser = sse.Parser(1000)
    assert [event for byte in stream for event in parser.feed(bytes([byte]))] == events


def test_an_event_comes_out_as_soon_as_it_is_complete() -> None:
    parser = sse.Parser(1000)
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\n\r") == [Event(b"a")], "not only when the next byte shows whether LF follows"
    assert parser.feed(b"\ndata: b\n\n") == [Event(b"b")]


def test_an_event_without_end_stops_at_the_limit() -> None:
    parser = sse.Parser(100)
    parser.feed(b"data: " + b"x" * 90)
    with pytest.raises(sse.EventTooLarge, match="larger than 100 bytes"):
        parser.feed(b"x" * 10)
    many = sse.Parser(100)
    for _ in range(1000):
        assert many.feed(b"data: " + b"x" * 90 + b"\n\n") == [Event(b"x" * 90)]


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (Event(b"{}"), b"event: message\ndata: {}\n\n"),
        (Event(b"{}", id=b"1", retry=5), b"id: 1\nretry: 5\nevent: message\ndata: {}\n\n"),
        (Event(b"", id=b""), b"id: \nevent: message\ndata: \n\n"),
    ],
)
def test_the_written_form(event: Event, written: bytes) -> None:
    assert sse.encode(event) == written
    assert sse.Parser(1000).feed(written) == [event]


def test_a_message_has_the_same_form_and_a_keep_alive_none() -> None:
    assert sse.encode_message(b"{}") == sse.encode(Event(b"{}"))
    assert sse.Parser(1000).feed(sse.KEEP_ALIVE * 3) == []


@pytest.mark.parametrize("ending", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])
@pytest.mark.parametrize("behind", range(-3, 4))
def test_a_large_event_is_not_interpreted_here(ending: bytes, behind: int) -> None:
    """It is handed on in pieces, wherever it was cut on its way; events around it are as ever."""
    large = b"id: 7\ndata: " + b"x" * sse.LARGE
    stream = b"data: a\n\n" + large + ending + b"\ndata: b\n\n"
    cut = len(b"data: a\n\n" + large) + behind
    parser = sse.Parser(2 * sse.LARGE)
    before, event, after = [found for part in (stream[:cut], stream[cut:]) for found in parser.feed(part)]
    assert (before, after) == (Event(b"a"), Event(b"b"))
    assert isinstance(event, LargeEvent)
    assert b"".join(event.pieces).rstrip(b"\n") == large


def test_a_large_event_is_bounded() -> None:
    parser = sse.Parser(2 * sse.LARGE)
    parser.feed(b"data: " + b"x" * sse.LARGE)
    with pytest.raises(sse.EventTooLarge):
        parser.feed(b"x" * sse.LARGE)

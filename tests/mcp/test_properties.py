"""The codecs under everything hypothesis can think of: what comes out is what went in, or the codec's own error."""

import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openmcp.sidecar.errors import Malformed, Refused
from openmcp.sidecar.mcp import headers, jsonrpc, sse
from openmcp.sidecar.mcp.uris import canonical_uri
from openmcp.sidecar.types import Message, Notification, Request, Response
from tests.fuzz.targets import Reference, parsed
from tests.fuzz.targets import messages as check_message

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
ids = st.integers(-jsonrpc.SAFE_INTEGER, jsonrpc.SAFE_INTEGER) | texts
names = st.text("abcdefghijklmnopqrstuvwxyz_/", min_size=1, max_size=10)
params = st.dictionaries(names.filter(lambda name: name != "_meta"), values, max_size=4)
errors = st.builds(lambda code, message: {"code": code, "message": message}, st.integers(), texts)
messages = st.one_of(
    st.builds(Request, ids, texts.filter(bool), params),
    st.builds(Notification, texts.filter(bool), params),
    st.builds(Response, ids, st.dictionaries(texts, values, max_size=4), st.none()),
    st.builds(Response, ids | st.none(), st.none(), errors),
)


@given(messages)
def test_a_message_survives_the_round_trip(message: Message) -> None:
    body = jsonrpc.encode(jsonrpc.document_of(message))
    assert jsonrpc.parse(body) == message
    assert jsonrpc.parse_reply(body) == message
    assert "\n" not in body.decode(), "an SSE event holds it in one line"


@given(messages, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_any_writing_of_a_message_means_the_same(message: Message, ascii_only: bool, indent: Any) -> None:
    """Escapes, blanks and line ends of the sender do not matter: what is forwarded is our own serialisation."""
    document = jsonrpc.document_of(message)
    written = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    assert jsonrpc.parse(written) == message
    assert jsonrpc.encode(jsonrpc.document_of(jsonrpc.parse(written))) == jsonrpc.encode(document)


@given(st.binary(max_size=200))
def test_garbage_is_malformed(body: bytes) -> None:
    check_message(body)


@given(texts)
def test_garbage_text_is_malformed(text: str) -> None:
    check_message(text.encode())


@given(messages, st.integers(0, 10_000), st.integers(0, 10_000), st.binary(max_size=6))
@example(Request(1, "m", {"x": 1}), 43, 1, b"1e999")
def test_a_damaged_message_is_malformed_or_another_message(message: Message, at: int, cut: int, put: bytes) -> None:
    body = jsonrpc.encode(jsonrpc.document_of(message))
    start = at % (len(body) + 1)
    check_message(body[:start] + put + body[start + cut % 4 :])


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "1e308", "123456789012345678901234567890", "-0", "1E400", "1e-400"]
)
def test_a_number_is_forwarded_as_it_was_judged(number: str) -> None:
    check_message(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"x":%b}}' % number.encode())


@given(st.recursive(values, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=3))
def test_any_json_that_is_no_message_is_malformed(value: Any) -> None:
    check_message(json.dumps(value).encode())


@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [60, 70, 1_000, 100_000])
def test_depth_is_bounded(bracket: bytes, depth: int) -> None:
    close = b"]" if bracket == b"[" else b"}"
    inner = bracket * depth + b"1" + close * depth
    body = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"x":%b}}' % inner
    if depth < jsonrpc.MAX_DEPTH - 2:
        check_message(body)
        jsonrpc.parse(body)
    else:
        for parse in (jsonrpc.parse, jsonrpc.parse_reply):
            with pytest.raises(Malformed):
                parse(body)


# Server-Sent Events


lines = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=12)
plain_events = st.builds(
    sse.Event,
    lines.map(str.encode),
    st.just(b"message"),
    st.none() | lines.map(str.encode),
    st.none() | st.integers(0, 999_999_999),
)


@given(st.lists(plain_events, max_size=5), st.data())
def test_events_survive_the_round_trip_in_any_pieces(events: list[sse.Event], data: st.DataObject) -> None:
    stream = b"".join(map(sse.encode, events))
    parser = sse.Parser(1 << 20)
    parsed: list[sse.Event] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        parsed += parser.feed(stream[:size])
        stream = stream[size:]
    assert parsed == events


tokens = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b"data", b"data:", b"data: ", b"id:", b"event:", b"retry:", b":", b" ", b"x", b"{}", b"1"]
    + [b"\xef\xbb\xbf", b"\xef", b"\xbb\xbf", b"\0", b"\xff", b"message", b"\n\n"]
)
streams = st.lists(tokens | st.binary(max_size=3), max_size=25).map(b"".join)


@given(streams)
@example(b"data: a\r\rdata: b\r\n\r\ndata: c\n\n")
@example(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n")
@example(b"\xef\xbb\n\ndata: a\n\n")
@example(b"\r\n\r\n\n\r\rdata: a\r\n\n")
def test_any_stream_is_read_as_the_standard_says_whole_and_split_at_every_byte(stream: bytes) -> None:
    expected = Reference(stream).events
    assert parsed([stream]) == expected
    for cut in range(len(stream) + 1):
        assert parsed([stream[:cut], stream[cut:]]) == expected, cut
    assert parsed([bytes([byte]) for byte in stream]) == expected


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 50))
def test_an_endless_event_stops_at_the_limit(chunks: list[bytes], limit: int) -> None:
    parser = sse.Parser(limit)
    try:
        for chunk in chunks:
            parser.feed(chunk)
            assert len(parser._buffer) <= limit + 3
    except sse.EventTooLarge:
        pass


# Header values and URIs


@given(texts)
def test_a_header_value_survives_the_round_trip(text: str) -> None:
    value = headers.encode_value(text)
    assert headers.decode_value(value) == text
    assert value.decode("ascii").isprintable()


@given(st.binary(max_size=30))
def test_a_garbage_header_value_decodes_or_is_none(value: bytes) -> None:
    text = headers.decode_value(value)
    assert text is None or isinstance(text, str)
    headers.accepts({b"accept": value}, b"application/json")
    with suppress(Refused):
        headers.check_content({b"content-type": value})


parts = ["file:", "//", "/", "..", ".", "%2e", "%2E", "%2f", "%", "a", "HOST", ":", "?", "#", "@", "[", "é"]
uris = st.lists(st.sampled_from(parts), max_size=10).map("".join)


@settings(max_examples=300)
@given(uris | texts)
def test_a_canonical_uri_stays_as_it_is(uri: str) -> None:
    try:
        canonical = canonical_uri(uri)
    except Refused:
        return
    assert canonical_uri(canonical) == canonical
    parts = urlsplit(canonical)
    if parts.scheme:
        assert not {".", ".."} & set(parts.path.split("/")), "no dot segment is left"

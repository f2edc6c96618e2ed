"""The header rules: what stands once, what agrees with the body, what is accepted, what passes on."""

import base64

import pytest

from openmcp.sidecar.errors import Refused
from openmcp.sidecar.mcp import headers
from openmcp.sidecar.types import JsonObject, Notification, Request


def encoded(text: str) -> bytes:
    return b"=?base64?" + base64.b64encode(text.encode()) + b"?="


REPEATED = {
    b"mcp-name": 400,
    b"mcp-method": 400,
    b"mcp-protocol-version": 400,
    b"mcp-session-id": 400,
    b"mcp-param-region": 400,
    b"last-event-id": 400,
    b"authorization": 400,
    b"x-api-key": 400,
    b"content-type": 400,
    b"content-encoding": 400,
    b"host": 400,
    b"origin": 400,
    b"traceparent": 400,
    b"accept": None,
    b"cookie": None,
    b"tracestate": None,
    b"x-forwarded-for": None,
}


@pytest.mark.parametrize(("name", "status"), REPEATED.items())
def test_a_header_that_decides_something_stands_once(name: bytes, status: int | None) -> None:
    if status is None:
        headers.refuse_repeated(frozenset((name, b"via")))
        return
    with pytest.raises(Refused) as caught:
        headers.refuse_repeated(frozenset((b"via", name)))
    assert (caught.value.status, caught.value.code, caught.value.reason) == (status, -32020, "header_mismatch")


@pytest.mark.parametrize(
    ("given", "good"),
    [
        ({b"content-type": b"application/json"}, True),
        ({b"content-type": b"application/json; charset=utf-8"}, True),
        ({b"content-type": b'application/json;charset="UTF-8"'}, True),
        ({b"content-type": b"application/json", b"content-encoding": b"identity"}, True),
        ({}, False),
        ({b"content-type": b""}, False),
        ({b"content-type": b"text/plain"}, False),
        ({b"content-type": b"text/json"}, False),
        ({b"content-type": b"application/jsonp"}, False),
        ({b"content-type": b"application/json-rpc"}, False),
        ({b"content-type": b"application/json+x"}, False),
        ({b"content-type": b"application/json, text/plain"}, False),
        ({b"content-type": b"text/plain, application/json"}, False),
        ({b"content-type": b"Application/json; x"}, False),
        ({b"content-type": b"application/json; charset=utf-16"}, False),
        ({b"content-type": b"application/json; charset=utf-7; charset=utf-8"}, False),
        ({b"content-type": b"multipart/form-data; boundary=application/json"}, False),
        ({b"content-type": b"application/json", b"content-encoding": b"gzip"}, False),
        ({b"content-type": b"application/json", b"content-encoding": b"br"}, False),
        ({b"content-type": b"application/json", b"content-encoding": b"identity, gzip"}, False),
        ({b"content-type": b"application/json", b"content-encoding": b""}, False),
    ],
)
def test_the_body_is_uncoded_json(given: dict[bytes, bytes], good: bool) -> None:
    if good:
        headers.check_content(given)
        return
    with pytest.raises(Refused) as caught:
        headers.check_content(given)
    assert (caught.value.status, caught.value.code) == (415, -32600)


@pytest.mark.parametrize(
    ("accept", "covers"),
    [
        (None, True),
        (b"application/json, text/event-stream", True),
        (b"text/event-stream,application/json", True),
        (b"Application/JSON, Text/Event-Stream", True),
        (b"*/*", True),
        (b"application/*, text/*", True),
        (b"application/json;q=0.9, text/event-stream;q=0.1, */*;q=0", True),
        (b"application/json ; charset=utf-8 , text/event-stream", True),
        (b"", False),
        (b"application/json", False),
        (b"text/event-stream", False),
        (b"application/*, text/plain", False),
        (b"application/json, text/event-stream;q=0", False),
        (b"application/json, text/event-stream; q=0.000", False),
        (b"application/json, text/event-streams", False),
        (b"application/json text/event-stream", False),
        (b"x" * 5000 + b", application/json, text/event-stream", True),
        (b"x" * 5000, False),
    ],
)
def test_accept_covers_both_forms_of_an_answer(accept: bytes | None, covers: bool) -> None:
    given = {} if accept is None else {b"accept": accept}
    for _ in range(2):  # the second time it is remembered
        assert headers.accepts(given, b"application/json", b"text/event-stream") is covers


CALL = Request(1, "tools/call", {"name": "get_weather"})
READ = Request(1, "resources/read", {"uri": "file:///ä"})
TASK = Request(1, "tasks/get", {"taskId": "t1"})
ODD = Request(1, "prompts/get", {"name": "=?base64?eA==?="})


@pytest.mark.parametrize(
    ("message", "method", "name", "good"),
    [
        (CALL, b"tools/call", b"get_weather", True),
        (CALL, b"tools/call", encoded("get_weather"), True),
        (READ, b"resources/read", encoded("file:///ä"), True),
        (TASK, b"tasks/get", b"t1", True),
        (TASK, b"tasks/get", None, True),
        (ODD, b"prompts/get", encoded("=?base64?eA==?="), True),
        (Request(1, "tools/list", {}), b"tools/list", None, True),
        (Request(1, "tools/list", {"name": "x"}), b"tools/list", b"y", True),
        (Notification("notifications/cancelled", {}), None, None, True),
        # absent
        (CALL, None, b"get_weather", False),
        (CALL, b"tools/call", None, False),
        (READ, b"resources/read", None, False),
        # different
        (CALL, b"tools/list", b"get_weather", False),
        (CALL, b"Tools/Call", b"get_weather", False),
        (CALL, b"tools/call", b"delete_all", False),
        (CALL, b"tools/call", b"Get_Weather", False),
        (CALL, b"tools/call", b"", False),
        (CALL, b"tools/call", encoded("delete_all"), False),
        (CALL, encoded("tools/call"), b"get_weather", False),  # the encoded form is for names alone
        (TASK, b"tasks/get", b"t2", False),
        (ODD, b"prompts/get", b"=?base64?eA==?=", False),
        # malformed
        (CALL, b"tools/call", b"=?base64?Z2V0X3dlYXRoZXI?=", False),
        (CALL, b"tools/call", b"=?base64?Z2V0X3dlYXRoZXI=\n?=", False),
        (CALL, b"tools/call", b"=?BASE64?Z2V0X3dlYXRoZXI=?=", False),
        (CALL, b"tools/call", b"=?base64?/w==?=", False),
        (READ, b"resources/read", "file:///ä".encode(), False),
        (READ, b"resources/read", "file:///ä".encode("latin-1"), False),
        # a name of another type never equals a text
        (Request(1, "tools/call", {"name": 1}), b"tools/call", b"1", False),
        (Request(1, "tools/call", {"name": ["x"]}), b"tools/call", b"x", False),
    ],
)
def test_the_mirrored_headers_say_what_the_body_says(
    message: Request | Notification, method: bytes | None, name: bytes | None, good: bool
) -> None:
    given = {key: value for key, value in ((b"mcp-method", method), (b"mcp-name", name)) if value is not None}
    if good:
        headers.check_mirrored(message, given)
        return
    with pytest.raises(Refused) as caught:
        headers.check_mirrored(message, given)
    assert (caught.value.status, caught.value.code) == (400, -32020)


@pytest.mark.parametrize("params", [{}, {"name": None}])
def test_a_missing_name_is_left_to_those_who_read_the_body(params: JsonObject) -> None:
    headers.check_mirrored(Request(1, "tools/call", params), {b"mcp-method": b"tools/call", b"mcp-name": b"x"})


@pytest.mark.parametrize(
    ("value", "version"),
    [
        (None, None),
        (b"2025-11-25", "2025-11-25"),
        (b"", ""),
        (b"=?base64?MjAyNi0wNy0yOA==?=", "=?base64?MjAyNi0wNy0yOA==?="),
        (b"=?base64?%%?=", "=?base64?%%?="),
        (b"\xff", "\xff"),
    ],
)
def test_a_malformed_version_is_not_an_absent_one(value: bytes | None, version: str | None) -> None:
    """It must not become the 2025-03-26 of those who send no header."""
    assert headers.protocol_version({} if value is None else {b"mcp-protocol-version": value}) == version


SPECIFIED = {
    "us-west1": b"us-west1",
    "Hello, 世界": b"=?base64?SGVsbG8sIOS4lueVjA==?=",
    " padded ": b"=?base64?IHBhZGRlZCA=?=",
    "line1\nline2": b"=?base64?bGluZTEKbGluZTI=?=",
    "=?base64?literal?=": b"=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=",
    "two words": b"two words",
    "": b"",
}
"""The examples of 2026-07-28 "Value Encoding", and more."""


@pytest.mark.parametrize(("text", "value"), SPECIFIED.items())
def test_a_name_goes_out_as_the_specification_says(text: str, value: bytes) -> None:
    for _ in range(2):
        assert headers.encode_value(text) == value
    assert headers.decode_value(value) == text


def test_no_name_can_break_a_header_line() -> None:
    for name in ("a\r\nmcp-session-id: x", "a\0b", "a\tb", "\x7f", "a" * 500 + "\r\n"):
        assert headers.encode_value(name).startswith(b"=?base64?")


def test_parameters_pass_as_they_came_and_nothing_else_does() -> None:
    given = {
        b"mcp-param-region": b"us-west1",
        b"mcp-param-greeting": encoded("Hello, 世界"),
        b"mcp-parameter": b"x",
        b"mcp-name": b"x",
        b"authorization": b"Bearer secret",
        b"cookie": b"secret",
    }
    assert headers.parameter_lines(given, {"region": "us-west1", "text": "Hello, 世界"}) == (
        b"mcp-param-region: us-west1\r\nmcp-param-greeting: " + encoded("Hello, 世界") + b"\r\n"
    )
    assert headers.parameter_lines({}, None) == b""


ARGUMENTS = {"text": "x", "deep": {"deeper": {"number": 42}}, "yes": True, "whole": 7.0, "list": ["y"], "half": 0.5}


@pytest.mark.parametrize("value", [b"x", b"42", b"42.0", b"42.000", b"true", b"7", b"7.0", encoded("x")])
def test_a_parameter_says_what_an_argument_says(value: bytes) -> None:
    assert headers.parameter_lines({b"mcp-param-a": value}, ARGUMENTS) == b"mcp-param-a: %b\r\n" % value


@pytest.mark.parametrize("value", [b"", b"X", b"text", b"y", b"43", b"42.1", b"x42.0", b"True", b"1", b"0.5", b"false"])
@pytest.mark.parametrize("arguments", [ARGUMENTS, None, ["X"]])
def test_a_parameter_that_no_argument_says_is_refused(value: bytes, arguments: object) -> None:
    with pytest.raises(Refused) as caught:
        headers.parameter_lines({b"mcp-param-a": value}, arguments)
    assert (caught.value.status, caught.value.code) == (400, -32020)


@pytest.mark.parametrize("value", [b"=?base64?%%%?=", b"=?base64?/w==?=", b"caf\xe9"])
def test_a_malformed_parameter_is_refused(value: bytes) -> None:
    with pytest.raises(Refused) as caught:
        headers.parameter_lines({b"mcp-param-region": value}, {"region": "x"})
    assert (caught.value.status, caught.value.code) == (400, -32020)

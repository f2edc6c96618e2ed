"""The strict codec: what is one message, and everything that is not."""

import pytest

from openmcp.sidecar.errors import INVALID_REQUEST, PARSE_ERROR, Malformed
from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.types import Message, Notification, Request, Response

ENVELOPE = '{"jsonrpc":"2.0",%s}'


def body(rest: str) -> bytes:
    return (ENVELOPE % rest).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ('"id":1,"method":"ping"', Request(1, "ping", {})),
        ('"id":"1","method":"ping","params":{}', Request("1", "ping", {})),
        ('"id":"","method":"ping"', Request("", "ping", {})),
        ('"id":0,"method":"ping"', Request(0, "ping", {})),
        ('"id":-9007199254740991,"method":"ping"', Request(-(2**53) + 1, "ping", {})),
        ('"id":9007199254740991,"method":"ping"', Request(2**53 - 1, "ping", {})),
        ('"method":"notifications/initialized"', Notification("notifications/initialized", {})),
        ('"method":"n","params":{"a":[1]}', Notification("n", {"a": [1]})),
        ('"id":1,"result":{}', Response(1, {}, None)),
        (
            '"id":"a","error":{"code":0,"message":"","data":1}',
            Response("a", None, {"code": 0, "message": "", "data": 1}),
        ),
        ('"error":{"code":-1,"message":"m"}', Response(None, None, {"code": -1, "message": "m"})),
        ('"id":null,"error":{"code":-1,"message":"m"}', Response(None, None, {"code": -1, "message": "m"})),
        ('"id":1,"method":"tools\\/c\\u0061ll","params":{"n\\u0061me":"x"}', Request(1, "tools/call", {"name": "x"})),
        ('"id":1,"method":"m","params":{"__proto__":{"a":1}}', Request(1, "m", {"__proto__": {"a": 1}})),
        ('"id":1,"method":"m","params":{"arguments":{"a":1,"A":2}}', Request(1, "m", {"arguments": {"a": 1, "A": 2}})),
    ],
)
def test_a_message_is_read(rest: str, message: Message) -> None:
    for parse in (jsonrpc.parse, jsonrpc.parse_reply):
        parsed = parse(body(rest))
        assert parsed == message
        if not isinstance(parsed, Notification):
            assert type(parsed.id) is type(getattr(message, "id", None)), "an id keeps its type"


NOT_JSON = {
    "nothing": b"",
    "blanks": b"  ",
    "a byte order mark": b"\xef\xbb\xbf" + body('"id":1,"method":"m"'),
    "UTF-16": body('"id":1,"method":"m"').decode().encode("utf-16"),
    "UTF-16 without a mark": body('"id":1,"method":"m"').decode().encode("utf-16-le"),
    "UTF-32": body('"id":1,"method":"m"').decode().encode("utf-32-be"),
    "bad UTF-8": body('"id":1,"method":"\xff"').replace(b"\xc3\xbf", b"\xff"),
    "an overlong form": body('"id":1,"method":"X"').replace(b"X", b"\xc1\x81"),
    "a surrogate in UTF-8": body('"id":1,"method":"\ud800"'),
    "a lone surrogate": body('"id":1,"method":"\\ud800"'),
    "a lone low surrogate": body('"id":1,"method":"m","params":{"\\udc00":1}'),
    "two documents": body('"id":1,"method":"m"') * 2,
    "a trailing NUL": body('"id":1,"method":"m"') + b"\0",
    "a trailing comma": body('"id":1,"method":"m",'),
    "a comment": body('"id":1,"method":"m"/**/'),
    "single quotes": body('\'id\':1,"method":"m"'),
    "NaN": body('"id":1,"method":"m","params":{"a":NaN}'),
    "Infinity": body('"id":1,"method":"m","params":{"a":-Infinity}'),
    "a leading zero": body('"id":01,"method":"m"'),
    "a raw line break in a string": body('"id":1,"method":"m\n"'),
    "hexadecimal": body('"id":0x1,"method":"m"'),
    "JSON with padding": b"callback(" + body('"id":1,"method":"m"') + b")",
    "a prefix against hijacking": b")]}'\n" + body('"id":1,"method":"m"'),
}


@pytest.mark.parametrize("raw", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_json_in_utf8_is_a_parse_error(raw: bytes) -> None:
    for parse in (jsonrpc.parse, jsonrpc.parse_reply):
        with pytest.raises(Malformed) as caught:
            parse(raw)
        assert (caught.value.status, caught.value.code) == (400, PARSE_ERROR)


NOT_A_MESSAGE = {
    "a batch": b'[{"jsonrpc":"2.0","id":1,"method":"tools/call"}]',
    "an empty batch": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "no version": b'{"id":1,"method":"m"}',
    "another version": b'{"jsonrpc":"1.0","id":1,"method":"m"}',
    "a number as version": b'{"jsonrpc":2.0,"id":1,"method":"m"}',
    "an empty object": b"{}",
    "id null": body('"id":null,"method":"m"'),
    "id float": body('"id":1.0,"method":"m"'),
    "id true": body('"id":true,"method":"m"'),
    "id object": body('"id":{},"method":"m"'),
    "id unsafe": body('"id":9007199254740992,"method":"m"'),
    "id negative unsafe": body('"id":-9007199254740992,"method":"m"'),
    "id beyond 64 bits": body('"id":18446744073709551616,"method":"m"'),
    "id endless": body('"id":"%s","method":"m"' % ("a" * 1025)),
    "method missing": body('"id":1'),
    "method empty": body('"id":1,"method":""'),
    "method a number": body('"id":1,"method":1'),
    "method null": body('"id":1,"method":null'),
    "method and result": body('"id":1,"method":"m","result":{}'),
    "method and error": body('"id":1,"method":"m","error":{"code":1,"message":""}'),
    "params an array": body('"id":1,"method":"m","params":[]'),
    "params null": body('"id":1,"method":"m","params":null'),
    "_meta a list": body('"id":1,"method":"m","params":{"_meta":[]}'),
    "result and error": body('"id":1,"result":{},"error":{"code":1,"message":""}'),
    "result and error null": body('"id":1,"result":{},"error":null'),
    "result a list": body('"id":1,"result":[]'),
    "result null": body('"id":1,"result":null'),
    "result without id": body('"result":{}'),
    "result with id null": body('"id":null,"result":{}'),
    "result with id float": body('"id":1.0,"result":{}'),
    "error without code": body('"id":1,"error":{"message":""}'),
    "error code true": body('"id":1,"error":{"code":true,"message":""}'),
    "error code a string": body('"id":1,"error":{"code":"1","message":""}'),
    "error without message": body('"id":1,"error":{"code":1}'),
    "params beside a result": body('"id":1,"result":{},"params":{}'),
    "an unknown member": body('"id":1,"method":"m","extra":1'),
    "Method": body('"id":1,"method":"m","Method":"x"'),
    "a long s in params": body('"id":1,"method":"m","param\u017f":{}'),
    "a NUL after a member": body('"id":1,"method":"m","method\\u0000":"x"'),
    "Name beside name": body('"id":1,"method":"m","params":{"name":"a","Name":"b"}'),
    "a long s in a key of params": body('"id":1,"method":"m","params":{"arguments":{},"argument\u017f":{}}'),
    "a Kelvin sign in a key of _meta": body('"id":1,"method":"m","params":{"_meta":{"k":1,"\u212a":2}}'),
    "a NUL in a key of params": body('"id":1,"method":"m","params":{"name\\u0000":"b"}'),
    "a zero-width space in a key of params": body('"id":1,"method":"m","params":{"name\u200b":"b"}'),
    "_META beside _meta": body('"id":1,"method":"m","params":{"_meta":{},"_META":{}}'),
}


@pytest.mark.parametrize("raw", NOT_A_MESSAGE.values(), ids=NOT_A_MESSAGE.keys())
def test_what_is_not_one_message_is_an_invalid_request(raw: bytes) -> None:
    for parse in (jsonrpc.parse, jsonrpc.parse_reply):
        with pytest.raises(Malformed) as caught:
            parse(raw)
        assert (caught.value.status, caught.value.code) == (400, INVALID_REQUEST)


@pytest.mark.parametrize(
    "rest",
    [
        '"id":1,"id":2,"method":"m"',
        '"id":1,"method":"allowed","method":"denied"',
        '"id":1,"method":"allowed","m\\u0065thod":"denied"',
        '"id":1,"method":"m","params":{"name":"a","name":"b"}',
        '"id":1,"method":"m","params":{"name":"a","name":"a"}',
        '"id":1,"method":"m","params":{"_meta":{"k":1,"k":2}}',
        '"id":1,"method":"m","params":{"arguments":{"deep":[{"k":1,"k":2}]}}',
    ],
)
def test_a_client_repeats_no_key_and_of_a_servers_the_last_is_taken_and_alone_passed_on(rest: str) -> None:
    with pytest.raises(Malformed) as caught:
        jsonrpc.parse(body(rest))
    assert caught.value.code == INVALID_REQUEST
    document, canonical = jsonrpc.read_lenient(body(rest))
    assert not canonical, "what came is never passed on as it is"
    assert jsonrpc.read(jsonrpc.encode(document)) == (document, True)


@pytest.mark.parametrize(
    "number",
    [
        "0",
        "-1",
        "9007199254740993",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        f"1{0:0300}",
    ],
)
def test_integers_of_any_size_keep_their_value(number: str) -> None:
    raw = body(f'"id":1,"method":"m","params":{{"x":{number}}}')
    for parse in (jsonrpc.parse, jsonrpc.parse_reply):
        message = parse(raw)
        assert message == Request(1, "m", {"x": int(number)})
        assert jsonrpc.encode(jsonrpc.document_of(message)) == raw


@pytest.mark.parametrize("digits", [309, 5000])
def test_an_integer_beyond_what_other_parsers_hold_is_malformed(digits: int) -> None:
    raw = body('"id":1,"method":"m","params":{"x":%s}' % ("9" * digits))
    for parse in (jsonrpc.parse, jsonrpc.parse_reply):
        with pytest.raises(Malformed):
            parse(raw)


def nested(depth: int) -> bytes:
    """A message of this depth: the envelope is one, `params` another."""
    opened, closed = "[" * (depth - 2), "]" * (depth - 2)
    return body(f'"id":1,"method":"m","params":{{"x":{opened}1{closed}}}')


def test_depth_is_counted_from_the_envelope() -> None:
    assert isinstance(jsonrpc.parse(nested(jsonrpc.MAX_DEPTH)), Request)
    with pytest.raises(Malformed, match="nested deeper than 64"):
        jsonrpc.parse(nested(jsonrpc.MAX_DEPTH + 1))


def test_brackets_in_strings_and_wide_documents_are_not_depth() -> None:
    assert isinstance(jsonrpc.parse(body('"id":1,"method":"m","params":{"x":"%s"}' % ("[{" * 500))), Request)
    assert isinstance(jsonrpc.parse(body('"id":1,"method":"m","params":{"x":[%s{}]}' % ("{}," * 500))), Request)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ('"id":1,"method":"m","params":{"x":"é/"}', True),
        ('"method":"m","id":1', True),
        ('"id": 1,"method":"m"', False),
        ('"id":1,"method":"m","params":{"x":"\\u00e9"}', False),
        ('"id":1,"method":"m","params":{"x":1.0}', True),
        ('"id":1,"method":"m","params":{"x":1.00}', False),
        ('"id":1,"method":"m","params":{"x":1e2}', False),
        ('"id":1,"method":"m","params":{"x":-0}', False),
        ('"id":1,"method":"m","params":{"x":18446744073709551616}', False),
        ('"id":1,"method":"m","params":{"x":1,"x":1}', False),
    ],
)
def test_only_our_own_form_counts_as_canonical(written: str, canonical: bool) -> None:
    assert jsonrpc.read_lenient(body(written))[1] is canonical
    if '"x":1,"x"' not in written:
        assert jsonrpc.read(body(written))[1] is canonical


@pytest.mark.parametrize(
    ("document", "identifier"),
    [
        ({"id": 1, "method": []}, 1),
        ({"id": "a"}, "a"),
        ({"id": 1.0}, None),
        ({"id": None}, None),
        ({"id": True}, None),
        ({"id": 2**53}, None),
        ([{"id": 1}], None),
        ("id", None),
    ],
)
def test_the_id_to_echo_is_a_valid_one_or_none(document: object, identifier: object) -> None:
    found = jsonrpc.message_id(document)
    assert found == identifier
    assert type(found) is type(identifier)


def test_remembered_sets_of_keys_change_no_verdict() -> None:
    """The check of keys is remembered: a good set seen before says nothing of a bad one, in whatever order."""
    good = Request(1, "m", {"name": "a", "arguments": {}})
    for _ in range(3):
        assert jsonrpc.parse(body('"id":1,"method":"m","params":{"name":"a","arguments":{}}')) == good
        with pytest.raises(Malformed, match="letter case"):
            jsonrpc.parse(body('"id":1,"method":"m","params":{"name":"a","NAME":{}}'))
        long_key = "k" * 300
        with pytest.raises(Malformed, match="letter case"):
            jsonrpc.parse(body(f'"id":1,"method":"m","params":{{"{long_key}":1,"{long_key.upper()}":2}}'))


def test_a_key_that_poses_as_one_that_is_judged_is_refused_in_params_alone() -> None:
    for _ in range(2):
        jsonrpc.parse(body('"id":1,"method":"m","params":{"name":"a","_meta":{"Arguments":{}}}'))
        with pytest.raises(Malformed, match="differs from arguments in letter case alone"):
            jsonrpc.parse(body('"id":1,"method":"m","params":{"Arguments":{}}'))
        for posing, meant in (("Cursor", "cursor"), ("TASK", "task"), ("taskID", "taskId")):
            with pytest.raises(Malformed, match=f"differs from {meant} in letter case alone"):
                jsonrpc.parse(body(f'"id":1,"method":"m","params":{{"{posing}":""}}'))


def test_few_and_short_sets_of_keys_are_remembered() -> None:
    for number in range(3 * jsonrpc._REMEMBERED_SETS):
        jsonrpc.parse(body(f'"id":1,"method":"m","params":{{"key{number}":1}}'))
        assert len(jsonrpc._good_keys) <= jsonrpc._REMEMBERED_SETS
    jsonrpc._good_keys.clear()
    jsonrpc.parse(body(f'"id":1,"method":"m","params":{{"{"k" * 1000}":1}}'))
    assert not jsonrpc._good_keys

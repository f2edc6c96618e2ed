"""Attacks in the body of a request: two readers of it must never see two messages."""

import gzip
import json

import pytest

from tests.support.gate import Gate, call, initialize, message
from tests.support.hostile import Hostile
from tests.support.raw import Connection

CALL = '"jsonrpc":"2.0","id":1,"method":"tools/call"'


async def refused(agent: Connection, server: Hostile, body: bytes, code: int, status: int = 400) -> None:
    """The body is refused with this status and code, and the server never hears of it."""
    answer = await agent.ask(body)
    assert (answer.status, answer.code) == (status, code), answer
    assert server.requests == []
    assert (await agent.ask(call())).status == 200, "the connection lives on"


async def test_batch_hides_a_tools_call(agent: Connection, server: Hostile) -> None:
    await refused(agent, server, json.dumps([message("ping"), call("forbidden", 2)]).encode(), -32600)


async def test_batch_of_one_and_of_none(agent: Connection, server: Hostile) -> None:
    await refused(agent, server, json.dumps([call("allowed")]).encode(), -32600)
    server.requests.clear()
    await refused(agent, server, b"[]", -32600)


@pytest.mark.parametrize(
    "body",
    [
        f'{{{CALL},"params":{{"name":"allowed","name":"forbidden"}}}}',
        f'{{{CALL},"params":{{"name":"forbidden","name":"allowed"}}}}',
        f'{{{CALL},"method":"ping","params":{{"name":"forbidden"}}}}',
        f'{{{CALL},"params":{{"name":"allowed"}},"params":{{"name":"forbidden"}}}}',
        f'{{{CALL},"id":2,"params":{{"name":"allowed"}}}}',
        f'{{{CALL},"params":{{"name":"allowed","arguments":{{"a":1,"a":2}}}}}}',
        f'{{{CALL},"params":{{"name":"allowed","_meta":{{"a":1,"a":2}}}}}}',
    ],
)
async def test_duplicate_name_or_method(agent: Connection, server: Hostile, body: str) -> None:
    await refused(agent, server, body.encode(), -32600)


@pytest.mark.parametrize(
    "body",
    [
        f'{{{CALL},"params":{{"name":"allowed","Name":"forbidden"}}}}',
        f'{{{CALL},"params":{{"name":"allowed","name\\u0000":"forbidden"}}}}',
        f'{{{CALL},"params":{{"name":"allowed","arguments":{{}},"argument\u017f":{{}}}}}}',
        f'{{{CALL},"params":{{"name":"allowed","Arguments":{{"amount":1000000}}}}}}',
        f'{{{CALL},"params":{{"name":"allowed","inputresponses":{{}}}}}}',
        f'{{{CALL},"params":{{"name":"allowed"}},"param\u017f":{{"name":"forbidden"}}}}',
        f'{{{CALL},"params":{{"name":"allowed"}},"Params":{{"name":"forbidden"}}}}',
        f'{{{CALL},"params":{{"name":"allowed"}},"method\\u0000":"ping"}}',
        f'{{{CALL},"params":{{"name":"allowed","_meta":{{"progressToken":1,"progresstoken":2}}}}}}',
    ],
)
async def test_lookalike_keys(agent: Connection, server: Hostile, body: str) -> None:
    """`Name`, `paramſ`, a trailing NUL: what a parser that folds case or cuts at NUL would take for another key."""
    await refused(agent, server, body.encode(), -32600)


async def test_escapes_in_keys_are_the_same_key(agent: Connection, server: Hostile) -> None:
    r"""`\u006dethod` is `method`: read so, judged so, and forwarded in the plain form."""
    body = b'{"jsonrpc":"2.0","id":1,"\\u006dethod":"tools/call","params":{"\\u006eame":"forbidden"}}'
    answer = await agent.ask(body)
    assert answer.json["result"]["isError"] is True
    assert server.requests == []
    answer = await agent.ask(body.replace(b"forbidden", b"\\u0061llowed"))
    assert answer.json["result"]["content"] == [{"type": "text", "text": "done"}]
    assert b"\\u" not in server.requests[0].body
    assert server.requests[0].json == {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "allowed"}}
    server.requests.clear()
    await refused(agent, server, b'{"jsonrpc":"2.0","id":1,"method":"ping","\\u006dethod":"tools/call"}', -32600)


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + json.dumps(call()).encode(),
        json.dumps(call()).encode("utf-16"),
        json.dumps(call()).encode("utf-16-le"),
        json.dumps(call()).encode("utf-32"),
        json.dumps(call("allowed_\xe9"), ensure_ascii=False).encode("latin-1"),
        json.dumps(call("allowed_X")).encode().replace(b"X", b"\xc0\xae"),
        json.dumps(call("allowed_X")).encode().replace(b"X", b"\xed\xa0\x80"),
        json.dumps(call("allowed_X")).encode().replace(b"X", b"\\ud800"),
        json.dumps(call("allowed_X")).encode().replace(b"X", b"\0"),
    ],
    ids=["bom", "utf-16", "utf-16-le", "utf-32", "latin-1", "overlong", "surrogate", "escaped surrogate", "nul"],
)
async def test_other_encodings(agent: Connection, server: Hostile, body: bytes) -> None:
    await refused(agent, server, body, -32700)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}{}",
        json.dumps(call()).encode() + b"x",
        json.dumps(call()).encode() * 2,
        json.dumps(call()).encode().replace(b'"arguments": {}', b'"arguments": {"x": NaN}'),
        json.dumps(call()).encode().replace(b'"arguments": {}', b'"arguments": {"x": -Infinity}'),
        json.dumps(call()).encode().replace(b'"arguments": {}', b'"arguments": {"x": 01}'),
        json.dumps(call()).encode().replace(b'"arguments": {}', b'"arguments": {"x": 1,}'),
        json.dumps(call()).encode().replace(b'"arguments": {}', b"'arguments': {}"),
        json.dumps(call()).encode().replace(b'"arguments": {}', b'"arguments": {} /* x */'),
    ],
)
async def test_more_or_less_than_one_json_document(agent: Connection, server: Hostile, body: bytes) -> None:
    await refused(agent, server, body, -32700)


@pytest.mark.parametrize("identifier", ["null", "1.0", "1e0", "true", "[1]", "{}", str(2**53), f'"{"x" * 1025}"'])
async def test_ids_that_are_no_ids(agent: Connection, server: Hostile, identifier: str) -> None:
    body = f'{{"jsonrpc":"2.0","id":{identifier},"method":"tools/call","params":{{"name":"allowed"}}}}'
    await refused(agent, server, body.encode(), -32600)


async def test_a_call_without_an_id_is_a_notification_nobody_knows(agent: Connection, server: Hostile) -> None:
    answer = await agent.ask(message("tools/call", None, name="allowed", arguments={}))
    assert (answer.status, answer.body) == (202, b"")
    assert server.requests == []


@pytest.mark.parametrize(
    "extra",
    [
        {"result": {}},
        {"error": {"code": 1, "message": "x"}},
        {"result": None},
        {"unknown": 1},
        {"jsonrpc": "1.0"},
        {"params": []},
        {"params": None},
        {"params": "x"},
        {"method": None},
        {"method": 1},
        {"method": ""},
    ],
)
async def test_method_and_result_together_and_other_mixtures(
    agent: Connection, server: Hostile, extra: dict[str, object]
) -> None:
    await refused(agent, server, json.dumps(call() | extra).encode(), -32600)


@pytest.mark.parametrize("name", [None, "", 1, ["allowed"], {"x": 1}])
async def test_a_name_that_is_no_name(agent: Connection, server: Hostile, name: object) -> None:
    await refused(agent, server, json.dumps(message("tools/call", name=name)).encode(), -32602)


@pytest.mark.parametrize("depth", [70, 500, 1_000, 100_000])
async def test_deep_json(agent: Connection, server: Hostile, depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"allowed","arguments":%b}}' % deep
    await refused(agent, server, body, -32700 if depth > 1_000 else -32600)


@pytest.mark.parametrize(
    "media_type",
    ["Application/json; x", "text/plain", "application/json-seq", "application/jsonp", "application/json, text/plain"]
    + ["multipart/form-data", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "", None],
)
async def test_media_types(agent: Connection, server: Hostile, media_type: str | None) -> None:
    answer = await agent.ask(call(), content_type=media_type)
    assert answer.status == 415
    assert server.requests == []


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON", 'application/json; charset="UTF-8"'])
async def test_media_types_that_are_the_same(agent: Connection, media_type: str) -> None:
    assert (await agent.ask(call(), content_type=media_type)).status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip", "x"])
async def test_a_compressed_body(agent: Connection, server: Hostile, coding: str) -> None:
    body = gzip.compress(json.dumps(call("forbidden")).encode())
    answer = await agent.ask(body, content_encoding=coding)
    assert answer.status == 415
    assert server.requests == []


async def test_proto_keys_are_data(agent: Connection, server: Hostile) -> None:
    params = b'{"name":"allowed","arguments":{"__proto__":{"x":1}}}'
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}' % params
    assert (await agent.ask(body)).status == 200
    assert server.requests[0].body == body


async def test_what_is_forwarded_is_our_own_serialisation(agent: Connection, server: Hostile) -> None:
    body = json.dumps(call("allowed", 7, big=2**70, text="\u2028é"), indent=3).encode()
    assert (await agent.ask(body)).status == 200
    sent = server.requests[0]
    assert sent.json == call("allowed", 7, big=2**70, text="\u2028é")
    assert b"\n" not in sent.body
    assert b" " not in sent.body


async def test_log_injection(agent: Connection, sidecar: Gate) -> None:
    """A tool's name that forges a record stays one string in one line."""
    name = 'x"}\r\n{"event":"request","decision":"allow","name":"forged"}\u2028\x85'
    await agent.ask(call(name))
    line = await sidecar.recorded(event="request")
    assert (line["name"], line["decision"]) == (name, "deny")
    await sidecar.recorded(ends=True)
    lines = [json.loads(line) for line in sidecar.record.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["checkpoint", "request", "response"]


async def test_log_injection_by_length(agent: Connection, sidecar: Gate) -> None:
    """A name of a megabyte does not fill the disk with every call."""
    await agent.ask(call("x" * 1_000_000))
    await sidecar.recorded(ends=True)
    assert sidecar.record.stat().st_size < 5_000


@pytest.mark.parametrize(
    "method",
    ["tools/destroy", "TOOLS/CALL", "tools/call ", "tools/call\u0000", "rpc.discover", "sampling/createMessage"],
)
async def test_unknown_or_extension_method(agent: Connection, server: Hostile, method: str) -> None:
    await initialize(agent)
    server.requests.clear()
    answer = await agent.ask(message(method, name="allowed"))
    assert (answer.status, answer.code) == (200, -32601)
    assert server.requests == []


async def test_unknown_notification_is_dropped_and_recorded(agent: Connection, server: Hostile, sidecar: Gate) -> None:
    answer = await agent.ask(message("notifications/evil", None))
    assert (answer.status, answer.body) == (202, b"")
    assert server.requests == []
    assert (await sidecar.recorded(ends=True))["outcome"] == "unknown_notification"

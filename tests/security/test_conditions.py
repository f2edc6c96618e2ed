"""Arguments in disguise: what a condition cannot judge with certainty opens nothing and closes what it may close."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import Gate, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly
from tests.support.raw import Answer, Connection

POLICY: dict[str, Any] = {
    "name": "conditions",
    "servers": ["server"],
    "requests": [
        {
            "name": "small",
            "tools": ["pay"],
            "when": [
                {"path": "$.amount", "op": "lte", "value": 100},
                {"path": "$.to", "op": "glob", "value": "acme-*"},
            ],
            "action": "allow",
        },
        {"name": "all", "tools": ["transfer", "fetch"], "action": "allow"},
        {
            "name": "big",
            "tools": ["transfer"],
            "when": [{"path": "$.amount", "op": "gt", "value": 100}],
            "action": "deny",
        },
        {
            "name": "closed",
            "tools": ["transfer"],
            "when": [{"path": "$.account", "op": "in", "value": [102, 103]}],
            "action": "deny",
        },
        {
            "name": "forced",
            "tools": ["transfer"],
            "when": [{"path": "$.force", "op": "eq", "value": True}],
            "action": "deny",
        },
        {
            "name": "internal",
            "tools": ["fetch"],
            "when": [{"path": "$.address", "op": "cidr", "value": ["10.0.0.0/8", "127.0.0.0/8", "::1/128"]}],
            "action": "deny",
        },
        {
            "name": "files",
            "resources": ["file:///*"],
            "when": [{"path": "$.uri", "op": "glob", "value": "file:///public/*"}],
            "action": "allow",
        },
        {
            "name": "not-hidden",
            "resources": ["note:///*"],
            "when": [{"path": "$.uri", "op": "notIn", "value": ["note:///hidden"]}],
            "action": "allow",
        },
        {
            "name": "prompts",
            "prompts": ["greet"],
            "when": [{"path": "$.name", "op": "matches", "value": "[a-z]+"}],
            "action": "allow",
        },
    ],
}


@pytest.fixture
async def sidecar(server: Hostile, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar whose rules have conditions."""
    async with gate(tmp_path, {**configuration(server.url), "policies": [POLICY]}) as running:
        yield running


def passed(answer: Answer, server: Hostile) -> bool:
    """Whether a call went through; what was denied has not been heard of by the server."""
    document = answer.json
    refused = answer.status != 200 or "error" in document or document["result"].get("isError") is True
    assert bool(server.requests) is not refused, document
    server.requests.clear()
    return not refused


def raw_call(tool: str, arguments: str) -> bytes:
    """A tools/call whose arguments are these characters."""
    params = f'{{"name":"{tool}","arguments":{arguments}}}'
    return f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}'.encode()


CONFUSED = [
    '"50"',
    '"5e1"',
    "true",
    "false",
    "null",
    "[50]",
    "[]",
    '{"$numberInt":"50"}',
    "{}",
    '""',
    "100.00000000000001",
    "101",
    "1e3",
    "1E+3",
    "1000000000000000000000000",
    "9" * 400,
    "1e308",
]


@pytest.mark.parametrize("amount", CONFUSED)
async def test_type_confusion(agent: Connection, server: Hostile, amount: str) -> None:
    """Whatever is no number, or one beyond the bound: not allowed where that is asked, denied where the other is."""
    assert not passed(await agent.ask(raw_call("pay", f'{{"amount":{amount},"to":"acme-1"}}')), server)
    assert not passed(await agent.ask(raw_call("transfer", f'{{"amount":{amount}}}')), server)


@pytest.mark.parametrize("account", ["102", "102.0", '"102"', '"102.0"', '" 102"', '"0x66"', '"1.02e2"', '"0102"'])
async def test_a_denied_number_in_another_type(agent: Connection, server: Hostile, account: str) -> None:
    """Servers that convert arguments read a number in each of these."""
    assert not passed(await agent.ask(raw_call("transfer", f'{{"amount":1,"account":{account}}}')), server)
    assert passed(await agent.ask(raw_call("transfer", '{"amount":1,"account":"1021"}')), server)


@pytest.mark.parametrize("force", ["true", '"true"', '"yes"', "1", '"1"', '"false"', '"x"'])
async def test_a_denied_boolean_in_another_type(agent: Connection, server: Hostile, force: str) -> None:
    assert not passed(await agent.ask(raw_call("transfer", f'{{"amount":1,"force":{force}}}')), server)
    assert passed(await agent.ask(raw_call("transfer", '{"amount":1,"force":false}')), server)


@pytest.mark.parametrize("amount", ["50", "5e1", "50.0", "5E+1", "0.5e2", "-0", "0", "-1e3", "100", "100.0", "1e2"])
async def test_number_and_exponent_forms(agent: Connection, server: Hostile, amount: str) -> None:
    """A number is the same however it is written, and the server gets the number that was judged."""
    answer = await agent.ask(raw_call("pay", f'{{"amount":{amount},"to":"acme-1"}}'))
    assert answer.json["result"]["content"][0]["text"] == "done"
    assert server.requests[0].json["params"]["arguments"]["amount"] == json.loads(amount)
    server.requests.clear()
    assert passed(await agent.ask(raw_call("transfer", f'{{"amount":{amount}}}')), server)


LOOKALIKES = [
    '{"amount":1,"amount":1000%s}',
    '{"amount":1000,"amount":1%s}',
    '{"amount":1,"\\u0061mount":1000%s}',
    '{"amount":1,"Amount":1000%s}',
    '{"Amount":1000%s}',
    '{"AMOUNT":1000,"amount":1%s}',
    '{"amount":1,"amount\\u0000":1000%s}',
    '{"amount\\u0000":1000%s}',
]


@pytest.mark.parametrize("arguments", LOOKALIKES)
async def test_duplicate_keys(agent: Connection, server: Hostile, arguments: str) -> None:
    """Two readers may take different values for the one that a condition is about: neither rule is sure of any."""
    assert not passed(await agent.ask(raw_call("pay", arguments % ',"to":"acme-1"')), server)
    assert not passed(await agent.ask(raw_call("transfer", arguments % "")), server)


async def test_keys_that_no_condition_is_about(agent: Connection, server: Hostile) -> None:
    document = call("pay", amount=1, to="acme-1", Headers={"Accept": 1, "accept": 2}, X=1, x=2)
    assert passed(await agent.ask(document), server)


@pytest.mark.parametrize("arguments", ["[]", '"x"', "1", "null", "true", '[{"amount":1}]'])
async def test_arguments_that_are_no_object(agent: Connection, server: Hostile, arguments: str) -> None:
    assert not passed(await agent.ask(raw_call("pay", arguments)), server)
    if arguments != "null":  # which is the same as none
        assert not passed(await agent.ask(raw_call("transfer", arguments)), server)


async def test_absent_arguments(agent: Connection, server: Hostile) -> None:
    assert not passed(await agent.ask(message("tools/call", 1, name="pay")), server)
    assert not passed(await agent.ask(call("pay", to="acme-1")), server)


@pytest.mark.parametrize("to", ["ACME-1", "xacme-1", "\u200bacme-1", "acme\u20101", ["acme-1"], {"x": "acme-1"}, None])
async def test_a_text_that_is_not_quite_it(agent: Connection, server: Hostile, to: Any) -> None:
    assert not passed(await agent.ask(call("pay", amount=1, to=to)), server)


@pytest.mark.parametrize("name", ["abc\n", "abc\nx", "\nabc", "ABC", "abc ", "", "abc\0", "\u0430bc", 1, ["abc"]])
async def test_matches_is_about_the_whole_text(agent: Connection, server: Hostile, name: Any) -> None:
    assert not passed(await agent.ask(message("prompts/get", 1, name="greet", arguments={"name": name})), server)


ADDRESSES = [
    "127.0.0.1",
    "10.1.2.3",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "0:0:0:0:0:ffff:10.0.0.1",
    "::1",
    "0::1",
    "0x7f.1",
    "2130706433",
    "127.1",
    "0177.0.0.1",
    "localhost",
    "127.0.0.1:80",
    "127.0.0.1 ",
    "fe80::1%127.0.0.1",
    2130706433,
    ["8.8.8.8", "127.0.0.1"],
]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_address_in_another_form(agent: Connection, server: Hostile, address: Any) -> None:
    """What is no address in its plain form might be one to the server: the denial holds."""
    assert not passed(await agent.ask(call("fetch", address=address)), server)
    assert passed(await agent.ask(call("fetch", address="8.8.8.8")), server)


URIS = [
    "file:///public/../secret",
    "file:///public/%2e%2e/secret",
    "file:///secret",
    "FILE:///public/../secret",
    "file://localhost/secret",
    "note:///hidden",
    "note:///x/../hidden",
    "note:///h%69dden",
    "NOTE:///hidden",
    "note:///./hidden",
]


@pytest.mark.parametrize("uri", URIS)
async def test_uri_in_two_forms(agent: Connection, server: Hostile, uri: str) -> None:
    """A condition on `$.uri` looks at the URI as it is written and at what it comes to."""
    for method in ("resources/read", "resources/subscribe"):
        assert not passed(await agent.ask(message(method, 1, uri=uri)), server)
    reference = {"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "x", "value": ""}}
    assert not passed(await agent.ask(message("completion/complete", 1, **reference)), server)


async def test_uris_that_are_allowed(agent: Connection, server: Hostile) -> None:
    for uri in ("file:///public/x", "file:///public/x/../y", "note:///shown"):
        assert passed(await agent.ask(message("resources/read", 1, uri=uri)), server)


async def test_a_stream_is_resumed_without_its_arguments(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """Its call was judged; taking it up again takes no more than that such calls are not denied altogether by now."""

    async def breaks_off(request: Request, reply: Reply) -> None:
        if request.method == "GET" and request.header("accept") == "text/event-stream":
            await reply.stream()
            await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}, id="second")
            await reply.end()
        elif request.method == "POST" and request.json.get("method") == "tools/call":
            await reply.stream()
            await reply.chunk(b"id: first\ndata:\n\n")
            await reply.end()
        else:
            await friendly(request, reply)

    server.handler = breaks_off
    await initialize(agent)
    answer = await agent.ask(call("pay", amount=1, to="acme-1"))
    token = next(line[4:] for line in answer.body.decode().split("\n") if line.startswith("id: "))
    assert (await agent.ask(b"", "GET", last_event_id=token)).events[0]["result"] == {"content": []}
    denying = {**POLICY, "requests": [*POLICY["requests"], {"name": "off", "tools": ["pay"], "action": "deny"}]}
    sidecar.reload({**configuration(server.url), "policies": [denying]})
    server.requests.clear()
    assert (await agent.ask(b"", "GET", last_event_id=token)).status == 404
    assert server.requests == []


async def test_completion_enumerates_denied_arguments(agent: Connection, server: Hostile) -> None:
    """No value is proposed that could not be asked for, and none is completed that is denied itself."""
    values = ["abc", "ABC", "a b", 1, "xyz", "abc\n", None]

    async def completing(request: Request, reply: Reply) -> None:
        await reply.result({"completion": {"values": values, "total": 7, "hasMore": False}})

    server.handler = completing
    reference = {"type": "ref/prompt", "name": "greet"}
    for typed, expected in (("a", ["abc", "xyz"]), ("", None), ("A", None), ("a ", None)):
        answer = await agent.ask(
            message("completion/complete", ref=reference, argument={"name": "name", "value": typed})
        )
        if expected is None:
            assert answer.code == 40300, typed
        else:
            assert answer.json["result"]["completion"] == {"values": expected, "hasMore": False}
    assert len(server.requests) == 1
    context = {"arguments": {"name": "ABC"}}
    other = {"name": "other", "value": ""}
    assert (
        await agent.ask(message("completion/complete", ref=reference, argument=other, context=context))
    ).code == 40300
    assert len(server.requests) == 1

"""Attacks in the headers of MCP: they must say what the body says, once, and go no further than they must."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import (
    KEYS,
    LEGACY,
    MODERN,
    Gate,
    ask_modern,
    call,
    configuration,
    gate,
    initialize,
    message,
    modern,
    modern_headers,
)
from tests.support.hostile import Hostile, Reply, Request
from tests.support.raw import Answer, Connection, connect


def coded(text: str) -> str:
    """The base64 form of a header's value."""
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


async def ask(agent: Connection, document: dict[str, Any], **changed: str | list[str] | None) -> Answer:
    """Send a modern request with some of its headers changed."""
    return await agent.ask(modern(document), **{**modern_headers(document), **changed})


async def test_the_unchanged_request_passes(agent: Connection, server: Hostile) -> None:
    """So that the refusals below are for what was changed."""
    assert (await ask(agent, call())).status == 200
    assert (await ask(agent, call(), mcp_name=coded("allowed"))).status == 200
    assert server.requests[1].header("mcp-name") == "allowed", "made anew"


MISMATCHES = {
    "another name": {"mcp_name": "allowed_too"},
    "another case": {"mcp_name": "Allowed"},
    "a denied name": {"mcp_name": "forbidden"},
    "base64 of another name": {"mcp_name": coded("forbidden")},
    "base64 of nothing": {"mcp_name": "=?base64??="},
    "bad base64": {"mcp_name": "=?base64?!?="},
    "base64 that is no UTF-8": {"mcp_name": "=?base64?/w==?="},
    "unclosed base64": {"mcp_name": coded("allowed")[:-2]},
    "no name": {"mcp_name": None},
    "another method": {"mcp_method": "tools/list"},
    "no method": {"mcp_method": None},
    "no version": {"mcp_protocol_version": None},
    "a legacy version": {"mcp_protocol_version": LEGACY},
    "an unknown version": {"mcp_protocol_version": "2027-01-01"},
    "bytes beyond ASCII": {"mcp_name": "allowed\udcff"},
    "bad base64 in a parameter": {"mcp_param_x": "=?base64?!?="},
    "bytes beyond ASCII in a parameter": {"mcp_param_x": "\udcff"},
}


@pytest.mark.parametrize("changed", MISMATCHES.values(), ids=MISMATCHES)
async def test_header_and_body_mismatch(agent: Connection, server: Hostile, changed: dict[str, str | None]) -> None:
    answer = await ask(agent, call(), **changed)
    assert (answer.status, answer.code) == (400, -32020)
    assert server.requests == []


async def test_a_denied_name_under_an_allowed_header(agent: Connection, server: Hostile) -> None:
    """Policy reads the body; the header that a router in front of us read must not say something else."""
    answer = await ask(agent, call("forbidden"), mcp_name="allowed")
    assert (answer.status, answer.code) == (400, -32020)
    answer = await ask(agent, call("forbidden"))
    assert answer.json["result"]["isError"] is True
    assert server.requests == []


REPEATED = {
    "mcp_name": ["allowed", "forbidden"],
    "mcp_method": ["tools/call", "tools/call"],
    "mcp_protocol_version": [MODERN, LEGACY],
    "mcp_session_id": ["a", "b"],
    "content_type": ["application/json", "application/json"],
    "content_encoding": ["identity", "identity"],
    "x_api_key": [KEYS["alice"], KEYS["bob"]],
    "authorization": ["Bearer a", "Bearer b"],
    "last_event_id": ["a", "b"],
    "mcp_param_region": ["eu", "us"],
    "traceparent": ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] * 2,
}


@pytest.mark.parametrize("name", REPEATED)
async def test_repeated_headers(agent: Connection, server: Hostile, name: str) -> None:
    agent.headers.pop("x-api-key") if name == "x_api_key" else None
    answer = await ask(agent, call(), **{name: REPEATED[name]})
    assert (answer.status, answer.code) == (400, -32020)
    assert server.requests == []


async def test_repeated_origin(agent: Connection, server: Hostile) -> None:
    assert (await ask(agent, call(), origin=["http://evil.example", "http://127.0.0.1"])).status == 403
    assert server.requests == []


async def test_repeated_headers_in_other_letters(agent: Connection, server: Hostile) -> None:
    for name in ("forbidden", "allowed"):
        agent.headers["MCP-NAME"] = name
        assert (await ask(agent, call())).code == -32020
    assert server.requests == []


async def test_legacy_header_with_modern_body(agent: Connection, server: Hostile) -> None:
    for version in (LEGACY, None):
        for others in ({}, modern_headers(call())):
            answer = await agent.ask(modern(call()), **{**others, "mcp_protocol_version": version})
            assert (answer.status, answer.code) == (400, -32020)
    assert server.requests == []


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"io.modelcontextprotocol/protocolVersion": MODERN},
        {"io.modelcontextprotocol/clientCapabilities": {}},
        {"io.modelcontextprotocol/protocolVersion": 1, "io.modelcontextprotocol/clientCapabilities": {}},
        {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": []},
    ],
)
async def test_modern_header_with_legacy_body(agent: Connection, server: Hostile, meta: dict[str, Any]) -> None:
    document = call()
    document["params"]["_meta"] = meta
    answer = await agent.ask(document, **modern_headers(document))
    assert (answer.status, answer.code) == (400, -32602)
    assert server.requests == []


@pytest.mark.parametrize("version", ["2027-01-01", "2024-10-07", "2025-11-25 x", "", "=?base64?MjAyNS0xMS0yNQ=?="])
async def test_unknown_version(agent: Connection, server: Hostile, version: str) -> None:
    answer = await agent.ask(call(), mcp_protocol_version=version)
    assert (answer.status, answer.code) == (400, -32022)
    assert LEGACY in answer.json["error"]["data"]["supported"]
    assert server.requests == []


async def test_unknown_modern_version(agent: Connection, server: Hostile) -> None:
    document = call()
    answer = await agent.ask(
        modern(document, "2099-01-01"), **{**modern_headers(document), "mcp_protocol_version": "2099-01-01"}
    )
    assert (answer.status, answer.code) == (400, -32022)
    assert server.requests == []


async def test_forced_downgrade(agent: Connection, server: Hostile) -> None:
    """A server that refuses a modern request is not asked again in an older, weaker form on our own account."""

    async def refuses(request: Request, reply: Reply) -> None:
        await reply.respond(status=400)

    server.handler = refuses
    answer = await ask_modern(agent, call())
    assert (answer.status, answer.code) == (400, -32022), "the agent decides, by a clear error"
    assert [request.header("mcp-protocol-version") for request in server.requests] == [MODERN]


async def test_a_session_id_on_a_modern_request_goes_nowhere(agent: Connection, server: Hostile) -> None:
    await initialize(agent)
    server.requests.clear()
    document = call()
    assert (await agent.ask(modern(document), **modern_headers(document))).status == 200
    assert (await agent.ask(modern(document), **{**modern_headers(document), "mcp_session_id": "any"})).status == 200
    assert [request.header("mcp-session-id") for request in server.requests] == [None, None]


async def test_crlf_in_mcp_param(agent: Connection, server: Hostile) -> None:
    """A parameter goes on as one header line with the very same value, its coded form never decoded into the head."""
    region = "eu\r\nmcp-name: forbidden\r\n\r\n"
    assert (await ask(agent, call(region=region), mcp_param_region=coded(region))).status == 200
    sent = server.requests[0]
    assert sent.header("mcp-param-region") == coded(region)
    assert sent.header("mcp-name") == "allowed"


@pytest.mark.parametrize("value", ["secret", coded("secret"), "us", "", "1"])
async def test_exfiltration_by_mcp_param(agent: Connection, server: Hostile, value: str) -> None:
    """What no argument says, and policy has therefore not seen, is not told to the server in a header either."""
    answer = await ask(agent, call(region="eu", sure=True), mcp_param_region=value)
    assert (answer.status, answer.code) == (400, -32020)
    answer = await ask(agent, message("tools/list"), mcp_param_region=value)
    assert (answer.status, answer.code) == (400, -32020)
    assert server.requests == []


async def test_crlf_in_a_name(agent: Connection, server: Hostile) -> None:
    name = "allowed\r\nx-evil: 1\r\n\r\nPOST /mcp HTTP/1.1"
    assert (await ask(agent, call(name), mcp_name=coded(name))).status == 200
    sent = server.requests[0]
    assert sent.header("mcp-name") == coded(name)
    assert sent.header("x-evil") is None
    assert len(server.requests) == 1


async def test_token_pass_through(agent: Connection, server: Hostile) -> None:
    """Nothing that the agent holds or says about itself reaches the server, but what MCP has there."""
    secrets = {
        "authorization": f"Bearer {KEYS['alice']}",
        "cookie": "a=b",
        "proxy_authorization": "Basic x",
        "forwarded": "for=1.2.3.4",
        "x_forwarded_for": "1.2.3.4",
        "x_forwarded_client_cert": "By=x",
        "x_original_url": "/admin",
        "baggage": "secret=1",
        "referer": "http://x",
        "user_agent": "agent",
        "connection": "keep-alive, mcp-name",
    }
    assert (await ask(agent, call(), **secrets)).status == 200
    sent = dict(server.requests[0].headers)
    assert sorted(sent) == sorted(
        ["host", "user-agent", "content-type", "accept", "content-length"]
        + ["mcp-protocol-version", "mcp-method", "mcp-name", "traceparent"]
    )
    assert sent["user-agent"] == "openmcp"
    for secret in (*secrets.values(), KEYS["alice"]):
        assert secret.encode() not in server.requests[0].body


async def test_exfiltration_by_baggage(agent: Connection, server: Hostile) -> None:
    document = call()
    document["params"]["_meta"] = {"baggage": "secret=1", "traceparent": "x", "tracestate": "a=1", "other": 1}
    assert (await ask_modern(agent, document)).status == 200
    meta = server.requests[0].json["params"]["_meta"]
    assert "baggage" not in meta
    assert "tracestate" not in meta, "a state without a valid parent"
    assert meta["other"] == 1
    assert meta["traceparent"] == server.requests[0].header("traceparent")


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None, "0af7651916cd43dd8448eb211c80319c"),
        (None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "0af7651916cd43dd8448eb211c80319c"),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", None, None),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None, None),
    ],
)
async def test_trace_context(
    agent: Connection, server: Hostile, sidecar: Gate, header: str | None, body: str | None, expected: str | None
) -> None:
    """A valid parent is continued with a span of ours, anything else begins a new trace; the record names it."""
    document = call()
    if body is not None:
        document["params"]["_meta"] = {"traceparent": body}
    assert (await ask(agent, document, traceparent=header)).status == 200
    sent = server.requests[0].header("traceparent")
    assert sent is not None
    trace = sent.split("-")[1]
    assert (trace == expected) == (expected is not None)
    assert "b7ad6b7169203331" not in sent
    assert (await sidecar.recorded(event="request"))["trace"] == trace


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example:{port}", "127.0.0.1@evil"]
    + [
        "evil.example#127.0.0.1",
        "127.0.0.1/",
        "127.0.0.1?evil.example",
        "evil@127.0.0.1",
        "0x7f.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
        "",
    ],
)
async def test_dns_rebinding(sidecar: Gate, server: Hostile, host: str) -> None:
    """A page whose name was made to resolve to us: its name is in Host, and is none of ours."""
    port = sidecar.app.mcp_address[1]
    async with sidecar.connect() as agent:
        answer = await agent.ask(call(), host=host.format(port=port))
        assert answer.status in (403, 400)
    assert server.requests == []


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1.evil.example", "file://"])
async def test_foreign_origin(agent: Connection, server: Hostile, origin: str) -> None:
    assert (await agent.ask(call(), origin=origin)).status == 403
    assert server.requests == []


async def test_foreign_origin_on_other_methods(agent: Connection, server: Hostile) -> None:
    for method in ("GET", "DELETE", "OPTIONS"):
        answer = await agent.ask(b"", method, origin="http://evil.example")
        assert answer.status == 403
        assert answer.header("access-control-allow-origin") is None
    assert server.requests == []


async def test_an_allowed_origin(server: Hostile, tmp_path: Path) -> None:
    config = configuration(server.url)
    config["listen"]["allowedOrigins"] = ["https://app.example"]
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        assert (await agent.ask(call(), origin="https://app.example")).status == 200
        assert (await agent.ask(call(), origin="https://app.example:444")).status == 403


@pytest.mark.parametrize("key", [None, "", "wrong", KEYS["alice"] + "x", KEYS["alice"][:-1], KEYS["alice"].upper()])
async def test_an_unknown_caller(sidecar: Gate, server: Hostile, key: str | None) -> None:
    async with connect(sidecar.url) as agent:
        for method in ("POST", "GET", "DELETE"):
            answer = await agent.ask(call() if method == "POST" else b"", method, x_api_key=key)
            assert answer.status == 401
            assert (answer.header("www-authenticate") or "").startswith("Bearer")
    assert server.requests == []


@pytest.mark.parametrize(
    "accept", ["application/json", "text/event-stream", "text/*", "application/json, text/event-stream;q=0", "x"]
)
async def test_an_agent_that_cannot_read_the_answer(agent: Connection, server: Hostile, accept: str) -> None:
    assert (await agent.ask(call(), accept=accept)).status == 406
    assert server.requests == []


@pytest.mark.parametrize(
    "path", ["/", "/server/", "/server/x", "/SERVER", "/%73erver", "//server", "/server%00", "/./server"]
)
async def test_other_paths(agent: Connection, server: Hostile, path: str) -> None:
    """A path is a server's, byte for byte, or nobody's; the query says nothing."""
    agent.path = path
    assert (await agent.ask(call())).status == 404
    assert server.requests == []
    agent.path = "/server?x=y"
    assert (await agent.ask(call())).status == 200
    assert server.requests[0].path == "/mcp"


async def test_logging_level_is_a_message_like_any_other(agent: Connection, server: Hostile) -> None:
    await initialize(agent)
    assert (await agent.ask(message("logging/setLevel", 5, level="debug"))).status == 200
    assert server.calls("logging/setLevel")[0]["params"] == {"level": "debug"}

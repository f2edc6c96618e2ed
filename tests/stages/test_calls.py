"""One message through the pipeline: what is refused before policy, what denied by it, and what the agent is told."""

import asyncio
from typing import Any

import pytest

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.mcp.answers import DECISION_KEY
from openmcp.sidecar.stages import completions
from tests.policy.rules import allow, deny, policy
from tests.stages.scene import (
    MODERN,
    Agent,
    Json,
    Sent,
    always,
    event,
    failure,
    legacy,
    notification,
    reply,
    request,
    response,
    scene,
    stream,
)


async def test_a_permitted_call_reaches_the_server_and_its_answer_the_agent() -> None:
    async with scene(allow(tools=["good"])) as it:
        answer = await it.agent.call("good", 7, arguments={"a": 1})
        assert (answer.status, answer.json["id"]) == (200, 7)
        assert answer.result == {"content": [{"type": "text", "text": "done"}]}
        [sent] = it.sent
        assert sent.json == request("tools/call", 7, name="good", arguments={"a": 1})
        [asked] = it.recorded("request")
        assert {
            key: asked[key] for key in ("agent", "server", "method", "name", "id", "decision", "policy", "rule")
        } == {
            "agent": "key:bot",
            "server": "tools",
            "method": "tools/call",
            "name": "good",
            "id": 7,
            "decision": "allow",
            "policy": "p",
            "rule": "allow",
        }
        assert (it.ended["status"], it.ended["outcome"], it.ended["call"]) == (200, "ok", asked["call"])


async def test_of_the_agents_headers_only_those_of_the_protocol_go_on() -> None:
    async with scene(allow()) as it:
        await it.agent.send(
            request("tools/call", name="good"),
            authorization="Basic c2VjcmV0",
            cookie="a=b",
            baggage="k=v",
            forwarded="for=1.2.3.4",
            x_anything="x",
            mcp_name="forged",
        )
        assert it.sent[0].headers == {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "traceparent": it.sent[0].headers["traceparent"],
            "mcp-protocol-version": "2025-11-25",
        }


async def test_a_modern_call_carries_headers_made_from_its_body() -> None:
    async with scene(allow()) as it:
        body, headers = it.agent.modern_request("resources/read", uri="file:///ä")
        body["params"] |= {"": "not a name", "arguments": {"region": "eu"}}
        headers |= {"mcp_name": "=?base64?ZmlsZTovLy/DpA==?=", "mcp_param_region": "eu", "mcp_session_id": "x"}
        assert (await it.agent.send(body, **headers)).status == 200
        headers = dict(it.sent[0].headers)
        headers.pop("traceparent")
        assert headers == {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": "resources/read",
            "mcp-name": "=?base64?ZmlsZTovLy/DpA==?=",
            "mcp-param-region": "eu",
        }
        listing, headers = it.agent.modern_request("tools/list")
        listing["params"][""] = "not a name"
        it.server = always(lambda: reply(response({"tools": []})))
        await it.agent.send(listing, **headers)
        assert "mcp-name" not in it.sent[1].headers


# Refused before policy is asked

CALL = request("tools/call", name="good")


@pytest.mark.parametrize(
    ("body", "method", "headers", "code"),
    [
        (b"{", "POST", {}, (400, -32700)),
        ([CALL], "POST", {}, (400, -32600)),
        (CALL, "POST", {"content_type": "text/plain"}, (415, -32600)),
        (CALL, "POST", {"content_encoding": "gzip"}, (415, -32600)),
        (CALL, "POST", {"accept": "application/json"}, (406, -32600)),
        (CALL, "POST", {"host": "evil.example"}, (403, 40300)),
        (CALL, "POST", {"host": None}, (403, 40300)),
        (CALL, "POST", {"origin": "http://evil.example"}, (403, 40300)),
        (CALL, "POST", {"origin": "null"}, (403, 40300)),
        (CALL, "POST", {"x_api_key": None}, (401, 40100)),
        (CALL, "POST", {"x_api_key": "wrong"}, (401, 40100)),
        (CALL, "POST", {"mcp_session_id": "stolen"}, (404, 40400)),
        (CALL, "POST", {"mcp_protocol_version": "1999-01-01"}, (400, -32022)),
        (CALL, "POST", {"mcp_protocol_version": "=?base64?MjAyNS0xMS0yNQ==?="}, (400, -32022)),
        (CALL, "POST", {"mcp_protocol_version": "\xff"}, (400, -32022)),
        (CALL, "POST", {"mcp_protocol_version": MODERN}, (400, -32602)),
        (request("tools/call"), "POST", {}, (400, -32602)),
        (request("tools/destroy"), "POST", {}, (200, -32601)),
        (request("server/discover"), "POST", {}, (200, -32601)),
        (request("completion/complete", ref={"type": []}), "POST", {}, (400, -32602)),
        (response(), "POST", {}, (400, -32600)),
        (response(), "POST", {"mcp_protocol_version": MODERN}, (400, -32600)),
        (b"", "PUT", {}, (405, -32600)),
        (b"", "OPTIONS", {}, (405, -32600)),
        (b"", "GET", {"accept": "application/json"}, (406, -32600)),
        (b"", "GET", {"mcp_protocol_version": MODERN}, (405, -32600)),
        (b"", "DELETE", {"mcp_protocol_version": MODERN}, (405, -32600)),
        (b"", "GET", {"mcp_protocol_version": "1999-01-01"}, (400, -32022)),
        (b"", "GET", {"mcp_protocol_version": "\xff"}, (400, -32022)),
        (b"", "DELETE", {}, (400, -32600)),
    ],
)
async def test_what_is_not_a_proper_message_never_reaches_the_server(
    body: Any, method: str, headers: Json, code: tuple[int, int]
) -> None:
    async with scene(allow()) as it:
        answer = await it.agent.send(body, method, **headers)
        assert answer.code == code
        assert it.sent == []
        assert [(line["event"], line["status"]) for line in it.audit.lines] == [("refused", answer.status)]
        if code[0] == 401:
            assert answer.headers["www-authenticate"] == 'Bearer realm="openmcp"'


@pytest.mark.parametrize("name", ["mcp-name", "mcp-session-id", "mcp-protocol-version", "x-api-key", "last-event-id"])
async def test_a_deciding_header_that_stands_twice_is_refused(name: str) -> None:
    async with scene(allow()) as it:
        assert (await it.agent.send(CALL, repeated=[name])).code == (400, -32020)
        assert it.sent == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"mcp_method": "tools/list"}, (400, -32020)),
        ({"mcp_method": None}, (400, -32020)),
        ({"mcp_name": "other"}, (400, -32020)),
        ({"mcp_name": None}, (400, -32020)),
        ({"mcp_protocol_version": "2025-11-25"}, (400, -32020)),
        ({"mcp_protocol_version": None}, (400, -32020)),
        ({"mcp_param_x": "=?base64?%?="}, (400, -32020)),
    ],
)
async def test_header_and_body_of_a_modern_call_agree(changes: Json, code: tuple[int, int]) -> None:
    async with scene(allow()) as it:
        body, headers = it.agent.modern_request("tools/call", name="good")
        assert (await it.agent.send(body, **{**headers, **changes})).code == code
        assert it.sent == []


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "x/y"])
async def test_a_method_of_the_other_era_is_unknown_with_404(method: str) -> None:
    async with scene(allow()) as it:
        answer = await it.agent.modern(method, 7)
        assert (answer.code, answer.json["id"]) == ((404, -32601), 7)


async def test_unknown_notifications_are_dropped_and_recorded() -> None:
    async with scene(allow()) as it:
        answer = await it.agent.send(notification("surprise"))
        assert (answer.status, answer.body) == (202, b"")
        assert it.sent == []
        assert it.ended["outcome"] == "unknown_notification"


async def test_nothing_is_let_through_that_cannot_be_recorded() -> None:
    async with scene(allow()) as it:
        it.audit.refuse()
        assert (await it.agent.call("good")).code == (503, -32603)
        assert it.sent == []


# Denied by policy


async def test_a_denied_call_is_told_to_the_model() -> None:
    async with scene(allow(tools=["*"]), deny(tools=["delete_*"], message="destructive tools are off")) as it:
        answer = await it.agent.call("delete_all", "a")
        call = it.recorded("request")[0]["call"]
        assert (answer.status, answer.json) == (
            200,
            {
                "jsonrpc": "2.0",
                "id": "a",
                "result": {
                    "content": [{"type": "text", "text": f"Denied: destructive tools are off (decision {call})"}],
                    "isError": True,
                    "_meta": {DECISION_KEY: call},
                },
            },
        )
        assert it.sent == []
        line = it.recorded("request")[0]
        assert (line["decision"], line["rule"], line["reason"]) == ("deny", "deny", "destructive tools are off")
        assert it.ended["outcome"] == "denied"


async def test_what_is_not_allowed_and_what_does_not_exist_answer_alike() -> None:
    async with scene(allow(tools=["good"])) as it:
        answers = [await it.agent.call(name) for name in ("exists", "does_not")]
        texts = [answer.result["content"][0]["text"].partition(" (decision")[0] for answer in answers]
        assert texts == ["Denied: no policy allows this"] * 2
        read = await it.agent.ask("resources/read", uri="x://y")
        assert (read.code, read.json["error"]["message"]) == ((200, 40300), "Denied: no policy allows this")
        modern = await it.agent.modern("tools/call", name="exists")
        assert modern.result["resultType"] == "complete"
        assert it.sent == []


async def test_an_agent_without_any_allow_may_not_even_connect() -> None:
    async with scene(policy(allow(), agents=["key:bot"], servers=["tools"])) as it:
        assert (await it.agent.initialize()).status == 200
        for answer in (
            await it.eve.initialize(),
            await it.eve.ask("ping"),
            await it.eve.ask("tools/list"),
            await it.eve.modern("server/discover"),
        ):
            assert answer.code == (200, 40300)
        assert (await it.eve.send(method="GET")).code == (405, -32600)
        assert (await it.eve.send(notification("initialized"))).status == 202
        assert len(it.sent) == 1


# What the server's answer becomes


async def answered(answer: Any, agent_asks: str = "tools/call", modern: bool = False, session: bool = False) -> Any:
    """The agent's answer where the server gives this one."""
    async with scene(allow()) as it:
        if session:
            await it.agent.initialize()
        it.server = always(lambda: answer() if callable(answer) else answer)
        params = {"name": "good"} if agent_asks == "tools/call" else {}
        got = await (it.agent.modern if modern else it.agent.ask)(agent_asks, **params)
        assert got.finished
        return got


BODY = b'{"error":"no","secret":"token"}'


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 429, 500, 502, 503])
async def test_challenges_redirects_and_failures_of_the_server_stay_behind(status: int, modern: bool) -> None:
    got = await answered(
        lambda: reply(
            BODY, status, www_authenticate="Bearer resource_metadata=x", location="http://elsewhere/", set_cookie="a=b"
        ),
        modern=modern,
    )
    assert got.code == (200, -32603)
    assert got.headers == {"content-type": "application/json"}
    assert b"secret" not in got.body
    assert b"elsewhere" not in got.body


@pytest.mark.parametrize("status", [401, 403])
async def test_also_where_they_carry_a_proper_error(status: int) -> None:
    assert (await answered(lambda: reply(failure(-32001), status))).code == (200, -32603)
    assert (await answered(lambda: reply(failure(-32022), status), modern=True)).code == (200, -32603)


WRONG = {
    "another id": lambda: reply(response(identifier=2)),
    '"1" for 1': lambda: reply(response(identifier="1")),
    "1.0 for 1": lambda: reply(b'{"jsonrpc":"2.0","id":1.0,"result":{}}'),
    "true for 1": lambda: reply(b'{"jsonrpc":"2.0","id":true,"result":{}}'),
    "no id": lambda: reply(b'{"jsonrpc":"2.0","result":{}}'),
    "a request": lambda: reply(request("ping")),
    "a batch": lambda: reply([response()]),
    "result and error": lambda: reply(response() | failure(-1)),
    "padding": lambda: reply(b'x({"jsonrpc":"2.0","id":1,"result":{}})'),
    "another media type": lambda: reply(response(), content_type="application/jsonp"),
    "two media types": lambda: reply(response(), content_type="application/json,text/html"),
    "nothing": lambda: reply(),
    "accepted": lambda: reply(status=202),
    "HTML": lambda: reply(b"<html>", content_type="text/html"),
    "a stream with another status": lambda: reply(b"data: x\n\n", 201, content_type="text/event-stream"),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
async def test_what_is_not_the_response_to_this_request_becomes_an_error(answer: Any) -> None:
    got = await answered(answer)
    assert got.code == (200, -32603)
    assert (got.json["id"], got.json["error"]["message"][:14]) == (1, "the MCP server")


@pytest.mark.parametrize(
    ("answer", "code", "modern"),
    [
        (lambda: reply(failure(-32602)), (200, -32602), False),
        (lambda: reply(failure(-32602), 400), (400, -32602), False),
        (lambda: reply(failure(-32601), 404), (404, -32601), True),
        (lambda: reply(failure(-32021), 400), (400, -32021), True),
        (lambda: reply(failure(-32603), 500), (200, -32603), False),
        (lambda: reply(failure(-32700, None), 400), (400, -32700), False),
    ],
)
async def test_the_servers_own_errors_pass(answer: Any, code: tuple[int, int], modern: bool) -> None:
    got = await answered(answer, modern=modern)
    assert got.code == code
    assert got.json["id"] == 1, "also where the server knew no id"
    assert got.json["error"]["message"] == "m"


async def test_a_canonical_answer_passes_as_it_is_and_any_other_is_written_anew() -> None:
    canonical = b'{"result":{"content":[],"x":[1.5,"\xc3\xa9"]},"id":1,"jsonrpc":"2.0"}'
    assert (await answered(lambda: reply(canonical))).body == canonical
    loose = b'{"jsonrpc": "2.0", "id": 1, "result": {"a": 1, "a": 2, "b": "\\u00e9"}}'
    assert (await answered(lambda: reply(loose))).body == '{"jsonrpc":"2.0","id":1,"result":{"a":2,"b":"é"}}'.encode()
    big = b'{"jsonrpc":"2.0","id":1,"result":{"x":12345678901234567890123}}'
    assert (await answered(lambda: reply(big))).body == big


# A server of the other era, a session that is gone


@pytest.mark.parametrize(
    "answer",
    [
        lambda: reply(b"Bad Request", 400, content_type="text/plain"),
        lambda: reply(failure(-32000), 400),
        lambda: reply(failure(-32600, None), 400),
        lambda: reply(b"", 404),
        lambda: reply(b"", 405),
        lambda: reply(b"", 406),
    ],
)
async def test_a_modern_agent_learns_that_a_server_is_legacy(answer: Any) -> None:
    got = await answered(answer, "server/discover", modern=True)
    assert got.code == (400, -32022)
    assert got.json["error"]["data"] == {"supported": ["2025-11-25", "2025-06-18", "2025-03-26"], "requested": MODERN}


@pytest.mark.parametrize(
    ("answer", "supported"),
    [
        (lambda: reply(failure(-32022, supported=["2026-07-28", 7]), 400), ["2026-07-28"]),
        (lambda: reply(failure(-32022, supported=[]), 400), ["2026-07-28"]),
        (lambda: reply(failure(-32022, supported="x"), 400), ["2026-07-28"]),
        (lambda: reply(failure(-32602), 400), ["2026-07-28"]),
        (lambda: reply(failure(-32020, None), 400), ["2026-07-28"]),
    ],
)
async def test_a_legacy_agent_learns_that_a_server_is_modern(answer: Any, supported: list[str]) -> None:
    got = await answered(answer, "initialize")
    assert got.code == (200, -32022)
    assert got.json["error"]["data"] == {"supported": supported, "requested": "initialize"}


@pytest.mark.parametrize(
    ("answer", "dead"),
    [
        (lambda: reply(b"", 404), True),
        (lambda: reply(failure(-32001, message="Session not found"), 404), True),
        (lambda: reply(b"No valid session ID provided", 400, content_type="text/plain"), True),
        (lambda: reply(failure(-32000, None, "Bad Request: No valid Session ID"), 400), True),
        (lambda: reply(failure(-32602), 400), False),
    ],
)
async def test_a_session_that_the_server_lost_is_404(answer: Any, dead: bool) -> None:
    got = await answered(answer, session=True)
    assert got.code == ((404, 40400) if dead else (400, -32602))
    assert (await answered(answer)).status != 404 or not dead or answer().status == 404, "only where there is a session"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda: reply(status=202), 202),
        (lambda: reply(b"{}", 200), 202),
        (lambda: reply(status=404), 404),
        (lambda: reply(b"unknown session", 400), 404),
        (lambda: reply(b"bad", 400), 502),
        (lambda: reply(status=401), 502),
        (lambda: reply(status=307, location="http://elsewhere/"), 502),
    ],
)
async def test_a_notification_is_accepted_without_a_body_or_fails(answer: Any, status: int) -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        it.server = always(answer)
        got = await it.agent.send(notification("cancelled", requestId=1))
        assert (got.status, got.body == b"") == (status, status == 202)


async def test_failures_on_the_way_tell_their_class() -> None:
    for kind, status, code in (("connect", 200, -32603), ("timeout", 200, -32603), ("overloaded", 429, 42900)):

        def fail(sent: Sent, kind: str = kind) -> Any:
            raise UpstreamFailed(kind, "10.1.2.3:99 secret", sent=False)

        async with scene(allow()) as it:
            it.server = fail
            got = await it.agent.call("good")
            assert got.code == (status, code)
            assert b"secret" not in got.body
            assert ("retry-after" in got.headers) is (status == 429)
            assert it.ended["outcome"] == kind


async def test_calls_beyond_the_cap_are_turned_away() -> None:
    async with scene(allow(), in_flight=1) as it:
        asked, release = asyncio.Event(), asyncio.Event()

        async def slow(sent: Sent) -> Any:
            asked.set()
            await release.wait()
            return legacy(sent)

        it.server = slow
        first = asyncio.create_task(it.agent.call("good"))
        await asyncio.wait_for(asked.wait(), 20)
        assert (await it.agent.call("good")).code == (429, 42900)
        release.set()
        assert (await first).status == 200


async def test_an_error_of_our_own_is_500_and_within_a_stream_cuts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(allow()) as it:

        def broken(*_: object) -> Any:
            raise RuntimeError("secret")

        monkeypatch.setattr(completions, "permitted", broken)
        asked = {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "x", "value": ""}}
        got = await it.agent.ask("completion/complete", **asked)
        assert got.code == (500, -32603)
        assert b"secret" not in got.body
        it.server = always(lambda: stream(response()))
        got = await it.agent.ask("completion/complete", **asked)
        assert (got.status, got.aborted, got.finished) == (200, True, False)


# Endpoints


async def test_a_call_is_sent_twice_only_where_nothing_was_received_or_nothing_happens() -> None:
    for method, kind, sent_before, tries in (
        ("tools/call", "connect", False, 2),
        ("tools/call", "closed", True, 1),
        ("tools/call", "timeout", True, 1),
        ("tools/list", "closed", True, 2),
        ("tools/list", "timeout", True, 1),
    ):

        def fail(one: Sent, kind: str = kind, sent_before: bool = sent_before) -> Any:
            raise UpstreamFailed(kind, "", sent=sent_before)

        async with scene(allow(), endpoints=2) as it:
            it.server = fail
            assert (await it.agent.ask(method, name="good")).code == (200, -32603)
            assert len({one.endpoint for one in it.sent}) == len(it.sent) == tries, (method, kind)


async def test_a_session_stays_on_its_endpoint_and_dies_with_it() -> None:
    async with scene(allow(), endpoints=2) as it:
        await it.agent.initialize()
        home = it.sent[0].endpoint
        for _ in range(5):
            await it.agent.call("good")
        assert {one.endpoint for one in it.sent} == {home}
        assert {one.headers.get("mcp-session-id") for one in it.sent[1:]} == {"upstream-1"}

        def gone(one: Sent) -> Any:
            raise UpstreamFailed("connect", "refused", sent=False)

        it.server = gone
        assert (await it.agent.call("good")).code == (404, 40400)
        assert it.sent[-1].endpoint == home, "nobody else was asked"


async def test_one_endpoint_that_is_down_is_no_reason_to_initialise_anew() -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()

        def down(one: Sent) -> Any:
            raise UpstreamFailed("connect", "refused", sent=False)

        it.server = down
        assert (await it.agent.call("good")).code == (200, -32603)


# Sessions


async def test_a_session_is_ours_to_the_agent_and_the_servers_own_to_the_server() -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        assert it.agent.session is not None
        assert "upstream" not in it.agent.session
        await it.agent.call("good")
        assert it.sent[1].headers["mcp-session-id"] == "upstream-1"
        assert {line.get("session") for line in it.audit.lines[1:]} == {it.audit.lines[1]["session"]}
        assert it.agent.session not in str(it.audit.lines)


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_another_agents_session_is_none(method: str) -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        it.eve.session = it.agent.session
        answer = await it.eve.send(CALL if method == "POST" else b"", method)
        assert answer.code == (404, 40400)
        assert len(it.sent) == 1


async def test_a_session_ends_with_delete() -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        answer = await it.agent.send(method="DELETE")
        assert (answer.status, answer.body) == (200, b"")
        assert (it.sent[1].method, it.sent[1].headers["mcp-session-id"]) == ("DELETE", "upstream-1")
        it.server = always(lambda: reply(status=405))
        assert (await it.agent.send(method="DELETE")).status == 405


@pytest.mark.parametrize(
    ("method", "headers", "served"),
    [
        ("PUT", {}, "POST, GET, DELETE"),
        ("GET", {"mcp_protocol_version": MODERN}, "POST"),
        ("DELETE", {"mcp_protocol_version": MODERN}, "POST"),
        ("GET", {}, "POST, DELETE"),
        ("DELETE", {}, "POST, GET"),
    ],
)
async def test_a_method_that_is_not_served_is_told_which_are(method: str, headers: Json, served: str) -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        it.server = always(lambda: reply(status=405))
        answer = await it.agent.send(method=method, **headers)
        assert (answer.status, answer.headers["allow"]) == (405, served)


async def test_an_initialize_that_fails_or_has_no_session_begins_none() -> None:
    async with scene(allow()) as it:
        it.server = always(lambda: reply(failure(-32602)))
        assert (await it.agent.initialize()).status == 200
        assert it.agent.session is None
        it.server = always(lambda: reply(response({"protocolVersion": "2025-11-25"})))
        assert (await it.agent.initialize()).result == {"protocolVersion": "2025-11-25"}
        assert it.agent.session is None
        it.server = always(lambda: reply(response({}), mcp_session_id="caf\xe9"))
        assert (await it.agent.initialize()).code == (200, -32603)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_initialize_over_a_stream_begins_a_session_too(streamed: bool) -> None:
    async with scene(allow()) as it:
        answer = response({"protocolVersion": "2025-06-18"})
        it.server = always(lambda: (stream if streamed else reply)(answer, mcp_session_id="up-9"))
        got = await it.agent.initialize()
        assert it.agent.session is not None
        assert (got.messages if streamed else [got.json]) == [answer]
        it.server = legacy
        await it.agent.call("good")
        assert it.sent[1].headers["mcp-session-id"] == "up-9"


async def test_modern_requests_have_no_session() -> None:
    async with scene(allow()) as it:
        it.server = always(lambda: reply(response(), mcp_session_id="minted"))
        body, headers = it.agent.modern_request("tools/call", name="good")
        answer = await it.agent.send(body, **headers, mcp_session_id="whatever", last_event_id="x")
        assert (answer.status, answer.headers) == (200, {"content-type": "application/json"})
        assert {"mcp-session-id", "last-event-id"}.isdisjoint(it.sent[0].headers)


# Traces

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def traced(it: Any) -> tuple[str, str | None, Json]:
    """Header, state and metadata that the server got last."""
    sent = it.sent[-1]
    meta = {key: value for key, value in sent.json["params"].get("_meta", {}).items() if "/" not in key}
    return sent.headers["traceparent"], sent.headers.get("tracestate"), meta


async def ask(agent: Agent, modern: bool, meta: Json, **headers: str) -> None:
    if modern:
        body, more = agent.modern_request("tools/call", name="good", _meta=meta)
        await agent.send(body, **more, **headers)
    else:
        await agent.send(request("tools/call", name="good", **({"_meta": meta} if meta else {})), **headers)


@pytest.mark.parametrize("modern", [False, True])
async def test_a_trace_goes_on_in_the_header_and_where_it_was_in_the_metadata(modern: bool) -> None:
    async with scene(allow()) as it:
        await ask(it.agent, modern, {}, traceparent=PARENT, tracestate="v=1")
        header, state, meta = traced(it)
        assert (header[:36], state) == (f"00-{TRACE}-", "v=1")
        assert header != PARENT, "a span of our own"
        assert meta == ({"traceparent": header, "tracestate": "v=1"} if modern else {})

        await ask(it.agent, modern, {"traceparent": PARENT, "tracestate": "v=2", "baggage": "k=v", "progressToken": 1})
        header, state, meta = traced(it)
        assert (header[:36], state) == (f"00-{TRACE}-", "v=2")
        assert meta == {"traceparent": header, "tracestate": "v=2", "progressToken": 1}
        assert it.recorded("request")[-1]["trace"] == TRACE


@pytest.mark.parametrize("modern", [False, True])
async def test_what_is_no_trace_begins_a_new_one_and_baggage_goes_no_further(modern: bool) -> None:
    async with scene(allow()) as it:
        for wrong in ("x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", 7, [PARENT]):
            await ask(it.agent, modern, {"traceparent": wrong, "tracestate": "v=1", "baggage": "k=v"})
            header, state, meta = traced(it)
            assert header.startswith("00-0000000000")
            assert (state, meta) == (None, {"traceparent": header})
        await ask(it.agent, modern, {"baggage": "k=v"}, baggage="k=v", tracestate="v=1")
        header, state, meta = traced(it)
        assert (state, "baggage" in meta, "baggage" in it.sent[-1].headers) == (None, False, False)


async def test_a_header_comes_before_the_metadata() -> None:
    async with scene(allow()) as it:
        other = PARENT.replace("0af7", "1111")
        await ask(it.agent, True, {"traceparent": other}, traceparent=PARENT)
        header, _, meta = traced(it)
        assert header[:36] == f"00-{TRACE}-"
        assert meta == {"traceparent": header}


async def test_the_agent_going_away_ends_the_call_and_is_recorded() -> None:
    async with scene(allow()) as it:
        it.server = always(lambda: stream(event(None, "1"), open_end=True))
        answer = it.agent.begin(CALL)
        task = asyncio.create_task(it.pipeline(answer))
        await asyncio.wait_for(answer.begun.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert it.ended["outcome"] == "client_gone"
        assert it.pipeline.relays.open == set()


async def test_what_a_rule_looks_for_does_not_leave_in_an_answer_to_the_server() -> None:
    leaks = deny(name="leaks", patterns=[r"CUST-[0-9]{8}"], message="customer numbers stay here")
    async with scene(allow(tools=["good"]), leaks) as it:
        await it.agent.initialize(elicitation={})
        asked = request("elicitation/create", 5, message="?", requestedSchema={})
        it.server = always(lambda: stream(asked, asked, response(identifier=2)))
        first, _, _ = (await it.agent.call("good", 2)).messages
        it.server = always(lambda: reply(status=202))
        accepted = {"action": "accept", "content": {"n": "CUST-12345678"}}
        answer = {"jsonrpc": "2.0", "id": first["id"], "result": accepted}
        assert (await it.agent.send(answer)).status == 202
        error = {"code": 40300, "message": "Denied: customer numbers stay here"}
        assert it.sent[-1].json == {"jsonrpc": "2.0", "id": 5, "error": error}
        [line] = it.recorded("client-response")
        assert (line["decision"], line["rule"]) == ("deny", "leaks")
        assert it.ended["outcome"] == "denied"

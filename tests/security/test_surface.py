"""Attacks on what policy sees: hidden tools, lists, URIs in disguise, tokens that a stateless client carries."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import (
    MODERN,
    PATIENCE,
    POLICY,
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
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile, tool
from tests.support.raw import Answer, Connection


def results(*given: dict[str, Any]) -> Any:
    """A handler that answers with these results, one after the other, the last again and again."""
    left = list(given)

    async def handler(request: Request, reply: Reply) -> None:
        if request.method != "POST" or "id" not in request.json:
            await friendly(request, reply)
        else:
            await reply.result(left.pop(0) if len(left) > 1 else left[0])

    return handler


def denied(answer: Answer) -> str:
    """The text of a denial, without the part that is another each time."""
    document = answer.json
    assert answer.status == 200
    if "result" in document:
        assert document["result"]["isError"] is True
        return str(document["result"]["content"][0]["text"]).split("(decision")[0]
    assert document["error"]["code"] == 40300, document
    return str(document["error"]["message"])


@pytest.mark.parametrize(
    "name", ["forbidden", "hidden", "no such tool", "ALLOWED", "allowed "[::-1], "allowe", "\u0430llowed"]
)
async def test_call_of_a_hidden_tool(agent: Connection, server: Hostile, name: str) -> None:
    denied(await agent.ask(call(name)))
    denied(await ask_modern(agent, call(name))) if name.isascii() and name.strip() == name else None
    assert server.requests == []


async def test_what_does_not_exist_and_what_is_not_allowed_answer_alike(agent: Connection, server: Hostile) -> None:
    assert denied(await agent.ask(call("exists"))) == denied(await agent.ask(call("does-not")))
    assert server.requests == []


async def test_the_same_tool_name_on_two_upstreams(server: Hostile, tmp_path: Path) -> None:
    """A policy for one server says nothing about another's tool of the same name."""
    async with hostile() as second:
        config = configuration(server.url)
        config["servers"].append({"name": "second", "endpoints": [second.url]})
        config["policies"] = [{**POLICY, "servers": ["server"]}]
        async with gate(tmp_path, config) as sidecar:
            async with sidecar.connect() as agent:
                assert "result" in (await agent.ask(call())).json
            async with sidecar.connect(path="/second") as agent:
                denied(await agent.ask(call()))
        assert second.requests == []


async def test_an_allow_does_not_lift_a_deny(server: Hostile, tmp_path: Path) -> None:
    """Whatever the order, and whoever wrote them: deny goes before allow."""
    config = configuration(server.url)
    everything = {"name": "all", "action": "allow"}
    for requests in ([everything, POLICY["requests"][0]], [POLICY["requests"][0], everything]):
        config["policies"] = [{**POLICY, "requests": requests}]
        folder = tmp_path / requests[0]["name"]
        folder.mkdir()
        async with gate(folder, config) as sidecar, sidecar.connect() as agent:
            denied(await agent.ask(call("forbidden")))
            assert "result" in (await agent.ask(call("anything"))).json
    assert len(server.requests) == 2


# Lists


@pytest.mark.parametrize("page", [0, 1, 5])
async def test_filtered_item_on_page_n(agent: Connection, server: Hostile, page: int) -> None:
    """Every page is filtered, in its order, and an emptied one still leads to the next."""

    async def paged(request: Request, reply: Reply) -> None:
        cursor = request.json["params"].get("cursor", "0")
        number = int(cursor)
        tools = (
            [tool("forbidden"), tool("hidden")]
            if number != page
            else [tool("hidden"), tool("allowed"), tool("forbidden")]
        )
        await reply.result({"tools": tools, "nextCursor": str(number + 1)} if number < 6 else {"tools": tools})

    server.handler = paged
    params: dict[str, Any] = {}
    pages = []
    while True:
        result = (await agent.ask(message("tools/list", 1, **params))).json["result"]
        pages.append([one["name"] for one in result["tools"]])
        if "nextCursor" not in result:
            break
        params = {"cursor": result["nextCursor"]}
    assert pages == [["allowed"] if number == page else [] for number in range(7)]


LISTS: dict[str, tuple[str, list[Any]]] = {
    "tools/list": (
        "tools",
        [tool("forbidden"), tool("Allowed"), "x", {}, {"name": 1}, {"name": None}, {"title": "allowed"}],
    ),
    "prompts/list": ("prompts", [{"name": "forbidden"}, {"name": "x"}, {}]),
    "resources/list": (
        "resources",
        [
            {"uri": "file:///secret", "name": "a"},
            {"uri": "file:///public/../secret"},
            {"uri": "file:///public/%2e%2e/x"},
        ]
        + [{"uri": "FILE:///public/x\n"}, {"uri": 1}, {"name": "file:///public/x"}],
    ),
    "resources/templates/list": ("resourceTemplates", [{"uriTemplate": "file:///{path}"}, {"uriTemplate": "x"}, {}]),
}


@pytest.mark.parametrize("method", LISTS)
async def test_lists_show_what_a_call_would_be_let_through_for(agent: Connection, server: Hostile, method: str) -> None:
    member, hidden = LISTS[method]
    server.handler = results({member: hidden})
    assert (await agent.ask(message(method))).json["result"][member] == []


@pytest.mark.parametrize("tools", [None, {}, "x", 1, {"0": tool("forbidden")}])
async def test_a_list_that_is_none(agent: Connection, server: Hostile, tools: Any) -> None:
    server.handler = results({"tools": tools})
    assert (await agent.ask(message("tools/list"))).code == -32603


async def test_public_cached_list(agent: Connection, server: Hostile) -> None:
    """A list that was filtered for one agent must not be kept for another, nor long."""
    server.handler = results(
        {"tools": [tool("forbidden")], "cacheScope": "public", "ttlMs": 10**9, "resultType": "complete"},
        {"tools": [], "cacheScope": "public", "ttlMs": "for ever"},
        {"tools": [], "ttlMs": -5},
        {"tools": []},
    )
    kept = [(await ask_modern(agent, message("tools/list"))).json["result"] for _ in range(4)]
    assert [(one["cacheScope"], one["ttlMs"]) for one in kept] == [("private", 60_000), ("private", 0)] + [
        ("private", 0)
    ] * 2


async def test_stale_list_after_revoke(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """After a policy is withdrawn: the next list and call know it, and a listening client is told."""
    release = asyncio.Event()

    async def listening(request: Request, reply: Reply) -> None:
        if request.method == "GET":
            await reply.stream()
            await release.wait()
            await reply.end()
        else:
            await friendly(request, reply)

    server.handler = listening
    await initialize(agent)
    headers = {name.replace("-", "_"): value for name, value in agent.headers.items() if name.startswith("mcp-")}
    async with sidecar.connect(**headers) as listener:
        await listener.send(listener.request(b"", "GET"))
        assert (await listener.answer_head())[0] == 200
        before = (await agent.ask(message("tools/list"))).json["result"]["tools"]
        assert [one["name"] for one in before] == ["allowed"]
        config = configuration(server.url)
        config["policies"] = [{**POLICY, "requests": [rule for rule in POLICY["requests"] if rule["name"] != "tools"]}]
        sidecar.reload(config)
        assert {(await listener.event())["method"] for _ in range(3)} >= {"notifications/tools/list_changed"}
        assert (await agent.ask(message("tools/list"))).json["result"]["tools"] == []
        denied(await agent.ask(call()))
        release.set()


async def test_a_cursor_of_another_agent_or_list(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    server.handler = results({"tools": [], "prompts": [], "nextCursor": "upstream-cursor"})
    cursor = (await agent.ask(message("tools/list"))).json["result"]["nextCursor"]
    assert "upstream-cursor" not in cursor
    assert (await agent.ask(message("tools/list", 1, cursor=cursor))).status == 200
    assert server.requests[-1].json["params"]["cursor"] == "upstream-cursor"
    server.requests.clear()
    async with sidecar.connect("bob") as bob:
        for one, method, foreign in (
            (bob, "tools/list", cursor),
            (agent, "prompts/list", cursor),
            (agent, "tools/list", "upstream-cursor"),
            (agent, "tools/list", cursor[:-1]),
            (agent, "tools/list", 1),
            (agent, "tools/list", ""),
        ):
            assert (await one.ask(message(method, 1, cursor=foreign))).code == -32602, foreign
    assert server.requests == []


# URIs


DISGUISED = [
    "file:///secret",
    "file:///public/../secret",
    "file:///public/%2e%2e/secret",
    "file:///public/%2E%2E/secret",
    "file:///public/.%2e/secret",
    "file:///public/./../secret",
    "file:///public/x/../../secret",
    "file:///public/..",
    "file:///public\\..\\secret",
    "file:///public/..\\secret",
    "file:///public/\t/../secret",
    "file:///public/\n",
    "file:///public/x y",
    "file://evil/public/x",
    "file:/public/x",
    "FILE:///secret",
    "file:///PUBLIC/x",
    "file:///publicx",
    "file:///public",
    "http://file:///public/x",
    "//public/x",
    "/public/x",
    "",
    "file:///public/x#/../../secret",
    "file:///public/x?/../../secret",
    "file:///public/x?%2e%2e%2fsecret",
]


@pytest.mark.parametrize("uri", DISGUISED)
@pytest.mark.parametrize("method", ["resources/read", "resources/subscribe", "resources/unsubscribe"])
async def test_disguised_uris(agent: Connection, server: Hostile, method: str, uri: str) -> None:
    """`file:///a/../b`, `%2e`: whatever a server might resolve to another resource is judged as that one too."""
    answer = await agent.ask(message(method, 1, uri=uri))
    assert answer.code in (40300, -32602)
    assert server.requests == []


async def test_plain_uris(agent: Connection, server: Hostile) -> None:
    for uri in ("file:///public/x", "file:///public/x/y%20z", "file:///public/a..b", "file:///public/x/../y"):
        assert "result" in (await agent.ask(message("resources/read", 1, uri=uri))).json, uri
        assert server.requests[-1].json["params"]["uri"] == uri


@pytest.mark.parametrize(
    "wanted", [["file:///secret"], ["file:///public/x", "file:///public/../secret"], [""], [1], "x", {}]
)
async def test_listen_to_a_denied_uri(agent: Connection, server: Hostile, wanted: Any) -> None:
    answer = await ask_modern(
        agent, message("subscriptions/listen", 1, notifications={"resourceSubscriptions": wanted})
    )
    assert answer.code in (40300, -32602)
    assert server.requests == []


@pytest.mark.parametrize(
    "reference",
    [
        {"type": "ref/prompt", "name": "forbidden"},
        {"type": "ref/prompt", "name": "hidden"},
        {"type": "ref/resource", "uri": "file:///secret/{path}"},
        {"type": "ref/resource", "uri": "file:///public/../{path}"},
        {"type": "ref/tool", "name": "allowed"},
        {"type": ["ref/prompt"], "name": "allowed"},
        {"type": "ref/prompt"},
        {"name": "allowed"},
        "allowed",
        None,
    ],
)
async def test_completion_enumerates_denied_arguments(agent: Connection, server: Hostile, reference: Any) -> None:
    answer = await agent.ask(message("completion/complete", 1, ref=reference, argument={"name": "x", "value": ""}))
    assert answer.code in (40300, -32602)
    assert server.requests == []


async def test_completion_of_what_is_allowed(agent: Connection, server: Hostile) -> None:
    async def proposing(request: Request, reply: Reply) -> None:
        await reply.result({"completion": {"values": ["x"]}})

    server.handler = proposing
    argument = {"name": "x", "value": ""}
    reference = {"type": "ref/prompt", "name": "allowed"}
    answer = await agent.ask(message("completion/complete", 1, ref=reference, argument=argument))
    assert answer.json["result"] == {"completion": {"values": ["x"]}}


# Results of 2026-07-28


ASKS = {
    "resultType": "input_required",
    "inputRequests": {"q": {"method": "elicitation/create", "params": {"message": "?"}}},
}


async def ask_input(agent: Connection, document: dict[str, Any], **params: Any) -> Answer:
    """A modern request of a client that answers elicitations."""
    merged = {**document, "params": {**document["params"], **params}}
    return await ask_modern(agent, merged, elicitation={})


async def test_mrtr_retry_with_changed_arguments(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """The state belongs to one agent, one method, one name and one set of arguments; our token says so."""
    server.handler = results({**ASKS, "requestState": "upstream-state"})
    first = await ask_input(agent, call("allowed", 1, amount=1))
    state = first.json["result"]["requestState"]
    assert "upstream-state" not in state
    server.handler = friendly
    server.requests.clear()
    answered = {"inputResponses": {"q": {"action": "accept"}}}
    async with sidecar.connect("bob") as bob:
        for one, document, token in (
            (agent, call("allowed", 2, amount=1_000_000), state),
            (agent, call("allowed_too", 2, amount=1), state),
            (agent, message("prompts/get", 2, name="allowed", arguments={"amount": 1}), state),
            (bob, call("allowed", 2, amount=1), state),
            (agent, call("allowed", 2, amount=1), state[:-2]),
            (agent, call("allowed", 2, amount=1), "upstream-state"),
            (agent, call("allowed", 2, amount=1), 1),
            (agent, call("allowed", 2, amount=1), {}),
        ):
            refused = await ask_input(one, document, requestState=token, **answered)
            assert refused.code == -32602, token
        denied(await ask_input(agent, call("forbidden", 2, amount=1), requestState=state, **answered))
    assert server.requests == []
    retried = await ask_input(agent, call("allowed", 2, amount=1), requestState=state, **answered)
    assert retried.json["result"]["content"][0]["text"] == "done"
    sent = server.requests[0].json["params"]
    assert (sent["requestState"], sent["inputResponses"]) == ("upstream-state", answered["inputResponses"])


async def test_an_expired_state(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    server.handler = results({**ASKS, "requestState": "upstream-state"})
    state = (await ask_input(agent, call())).json["result"]["requestState"]
    server.handler = friendly
    requests = sidecar.app._pipeline._requests
    requests._now = lambda: time.time() + 3_500
    assert (await ask_input(agent, call(), requestState=state)).code is None
    server.requests.clear()
    requests._now = lambda: time.time() + 3_601
    assert (await ask_input(agent, call(), requestState=state)).code == -32602
    assert server.requests == []


@pytest.mark.parametrize(
    "asked",
    [
        {"dev.openmcp/approval": {"method": "elicitation/create", "params": {"message": "?"}}},
        {"dev.openmcp/x": {"method": "elicitation/create", "params": {}}, "q": {"method": "elicitation/create"}},
        {"q": {"method": "sampling/createMessage", "params": {}}},
        {"q": {"method": "elicitation/create", "params": {"mode": "url", "url": "http://evil"}}},
        {"q": {"method": "tools/call", "params": {"name": "x"}}},
        {"q": {"method": ["elicitation/create"]}},
        {"q": {"method": {}}},
        {"q": {"method": "elicitation/create", "params": []}},
        {"q": {}},
        {"q": None},
        {"q": "elicitation/create"},
        [],
        "x",
        None,
        {},
    ],
)
async def test_upstream_uses_our_input_request_keys(agent: Connection, server: Hostile, asked: Any) -> None:
    """Questions under our name, of unknown kinds, or that the client did not offer to answer are never put."""
    server.handler = results({"resultType": "input_required", "inputRequests": asked})
    answer = await ask_input(agent, call())
    assert (answer.status, answer.code) == (200, -32603)


@pytest.mark.parametrize("kind", ["x", "", 1, [], "Complete", "task", "input_required "])
async def test_unknown_result_type(agent: Connection, server: Hostile, kind: Any) -> None:
    server.handler = results({"resultType": kind, "content": [{"type": "text", "text": "secret"}]})
    answer = await ask_modern(agent, call())
    assert answer.code == -32603
    assert b"secret" not in answer.body


async def test_input_required_where_it_has_no_place(agent: Connection, server: Hostile) -> None:
    server.handler = results({**ASKS, "requestState": "x", "tools": []})
    assert (await ask_input(agent, message("tools/list"))).code == -32603


async def test_a_missing_result_type_is_complete(agent: Connection, server: Hostile) -> None:
    server.handler = results({"content": []})
    assert (await ask_modern(agent, call())).json["result"]["resultType"] == "complete"


async def test_server_discover_is_truthful(agent: Connection, server: Hostile) -> None:
    """A server cannot make the agent speak a revision that we do not check."""
    server.handler = results(
        {"supportedVersions": ["2026-07-28", "2099-01-01", 1, None, "2024-11-05"], "capabilities": {}}
    )
    result = (await ask_modern(agent, message("server/discover"))).json["result"]
    assert result["supportedVersions"] == ["2026-07-28"]


# Tasks


async def test_foreign_task_id(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    server.handler = results({"task": {"taskId": "t-1", "status": "working"}})
    await agent.ask(call())
    server.handler = friendly
    server.requests.clear()
    async with sidecar.connect("bob") as bob:
        for method in ("tasks/get", "tasks/result", "tasks/cancel"):
            for one, identifier in (
                (bob, "t-1"),
                (agent, "t-2"),
                (agent, ""),
                (agent, 1),
                (agent, None),
                (agent, ["t-1"]),
            ):
                assert (await one.ask(message(method, 1, taskId=identifier))).code == -32602, (method, identifier)
            assert server.requests == []
            assert "result" in (await agent.ask(message(method, 1, taskId="t-1"))).json
            server.requests.clear()
        server.handler = results({"tasks": [{"taskId": "t-1"}, {"taskId": "t-2"}, {"taskId": ["t-1"]}, "x", {}]})
        assert (await bob.ask(message("tasks/list"))).json["result"]["tasks"] == []
        assert (await agent.ask(message("tasks/list"))).json["result"]["tasks"] == [{"taskId": "t-1"}]


async def test_cancellation_of_anothers_request(sidecar: Gate, server: Hostile) -> None:
    """2026-07-28: the end of its stream cancels a request. At the server the ids of all agents meet."""
    held, free = asyncio.Event(), asyncio.Event()

    async def works(request: Request, reply: Reply) -> None:
        if request.json["method"] == "tools/call":
            held.set()
            await free.wait()
        await reply.result({"content": [], "resultType": "complete"})

    server.handler = works
    async with sidecar.connect("alice") as alice, sidecar.connect("bob") as bob, asyncio.timeout(PATIENCE):
        under_way = asyncio.create_task(ask_modern(alice, call()))
        await held.wait()
        cancelled = message("notifications/cancelled", None, requestId=1)
        assert (await bob.ask(modern(cancelled), **modern_headers(cancelled))).status == 202
        assert (await bob.ask(cancelled, mcp_protocol_version=MODERN)).status == 202
        free.set()
        assert "result" in (await under_way).json
    assert [request.json["method"] for request in server.requests] == ["tools/call"]


async def test_a_task_cannot_be_taken_over(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """A server that announces the same task to another agent does not make it that agent's."""
    server.handler = results({"task": {"taskId": "t-1", "status": "working"}})
    await agent.ask(call())
    async with sidecar.connect("bob") as bob:
        await bob.ask(call())
        assert (await bob.ask(message("tasks/get", 1, taskId="t-1"))).code == -32602
        assert "result" in (await agent.ask(message("tasks/get", 1, taskId="t-1"))).json


# The record


async def test_log_write_failure(server: Hostile, tmp_path: Path) -> None:
    """A record that cannot be written: nothing goes through, whatever it is, until it can be."""
    config = configuration(server.url)
    folder = tmp_path / "missing"
    config["telemetry"] = {"audit": {"output": {"file": str(folder / "audit.jsonl")}}}
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        for body, method in (
            (call(), "POST"),
            (message("notifications/initialized", None), "POST"),
            (b"", "GET"),
            (b"", "DELETE"),
        ):
            assert (await agent.ask(body, method)).status == 503
        assert server.requests == []
        folder.mkdir()
        assert await asyncio.to_thread(sidecar.app.audit.flush, 10), "the writer tries again by itself"
        assert (await agent.ask(call())).status == 200
        lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
        outcomes = [line["outcome"] for line in lines if "outcome" in line]
        assert outcomes[:4] == ["record"] * 4, "the refusals are on record as well"


async def test_log_write_failure_with_a_configuration_that_lets_pass(server: Hostile, tmp_path: Path) -> None:
    config = configuration(server.url)
    config["telemetry"] = {"audit": {"output": {"file": "/dev/full"}, "onFailure": "allow"}}
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        for _ in range(5):
            assert (await agent.ask(call())).status == 200


async def test_every_way_out_leaves_a_record(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    await agent.ask(call())
    await agent.ask(call("forbidden"))
    await agent.ask(b"[")
    await agent.ask(message("evil/method"))
    await agent.ask(call(), host="evil")
    await agent.ask(call(), x_api_key="wrong")
    server.handler = results({"tools": 1})
    await agent.ask(message("tools/list", 77))
    await sidecar.recorded(ends=True, id=77)
    lines = [line for line in await sidecar.records() if "latency" in line]
    assert [line["outcome"] for line in lines] == [
        "ok",
        "denied",
        "malformed",
        "unknown_method",
        "host",
        "not_identified",
        "protocol",
    ]
    assert all(line["latency"]["total_us"] >= 0 for line in lines)

"""An agent that was talked into it tells a hostile server what it should not, by every way a message has."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import (
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
from tests.support.hostile import Hostile
from tests.support.raw import Answer, Connection

CARD = "4111 1111 1111 1111"
RULE = {"name": "no-cards", "detect": ["credit_card"], "patterns": ["CUST-[0-9]{8}"], "action": "deny"}


@pytest.fixture
async def sidecar(server: Hostile, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar that lets no card number and no customer's number out."""
    config = configuration(server.url)
    config["policies"] = [{**POLICY, "requests": [RULE, *POLICY["requests"]]}]
    async with gate(tmp_path, config) as running:
        yield running


def kept(answer: Answer, server: Hostile, secret: str = CARD) -> None:
    """The message was denied, and nothing of it has reached the server."""
    assert answer.status in (200, 202, 400), answer
    if answer.body:
        document = answer.json
        assert "error" in document or document["result"]["isError"] is True, document
    heard = [*server.requests]
    assert not [one for one in heard if secret.encode() in one.body or secret in str(one.headers)]
    assert heard == []


def with_meta(**meta: Any) -> dict[str, Any]:
    return {**call(), "params": {**call()["params"], "_meta": meta}}


def nested(value: Any) -> dict[str, Any]:
    return call(deep=[{"x": [{"y": value}]}])


PLACES: dict[str, dict[str, Any]] = {
    "an argument": call(text=f"pay with {CARD}"),
    "deep in the arguments": nested(CARD),
    "a key": call(**{CARD: 1}),
    "a number": call(card=4111111111111111),
    "the tool's name": call(f"allowed {CARD}"),
    "meta": with_meta(note=CARD),
    "a key of meta": with_meta(**{CARD: 1}),
    "progressToken": with_meta(progressToken=CARD),
    "progressToken as a number": with_meta(progressToken=4111111111111111),
    "traceparent": with_meta(traceparent=CARD),
    "tracestate": with_meta(tracestate=f"a={CARD}"),
    "baggage": with_meta(baggage=CARD),
    "the id": call("allowed", CARD),
    "a pattern": call(text="it is CUST-00417733."),
    "an unknown member": {**call(), "params": {**call()["params"], "note": CARD}},
    "a prompt's argument": message("prompts/get", 1, name="allowed", arguments={"x": CARD}),
    "a URI": message("resources/read", 1, uri=f"file:///public/{CARD.replace(' ', '-')}"),
    "an escaped URI": message("resources/read", 1, uri=f"file:///public/{CARD.replace(' ', '%20')}"),
    "a completion": message(
        "completion/complete", 1, ref={"type": "ref/prompt", "name": "allowed"}, argument={"name": "x", "value": CARD}
    ),
    "a cursor": message("tools/list", 1, cursor=CARD),
    "the log level": message("logging/setLevel", 1, level=CARD),
    "a task's id": message("tasks/get", 1, taskId=CARD),
    "the reason of a cancellation": message("notifications/cancelled", None, requestId=9, reason=CARD),
    "the message of progress": message("notifications/progress", None, progressToken=1, progress=1, message=CARD),
    "the client's name": message(
        "initialize", 1, protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": CARD, "version": "1"}
    ),
}


@pytest.mark.parametrize("document", PLACES.values(), ids=PLACES)
async def test_exfiltration_via_meta_progress_token_and_all_else(
    agent: Connection, server: Hostile, document: dict[str, Any]
) -> None:
    kept(await agent.ask(document), server)


FORMS = {
    "JSON escapes": "".join(f"\\u{ord(char):04x}" for char in CARD),
    "full width": CARD.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)}),
    "zero width": "\u200b".join(CARD),
    "soft hyphens": "\u00ad".join(CARD),
    "dashes": CARD.replace(" ", "-"),
    "together": CARD.replace(" ", ""),
    "wide blanks": CARD.replace(" ", "\u2003"),
    "among digits of others": f"1, 2, {CARD}, 3",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_exfiltration_in_another_form(agent: Connection, server: Hostile, form: str) -> None:
    body = json.dumps(call(text="@"), ensure_ascii=False).replace("@", form).encode()
    kept(await agent.ask(body), server)


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage", "mcp-param-x", "user-agent", "cookie"])
async def test_exfiltration_by_a_header(agent: Connection, server: Hostile, name: str) -> None:
    """What the headers of an agent say reaches no server but where policy has seen it in the body."""
    state = f"a={CARD}" if name == "tracestate" else CARD
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"traceparent": parent, **modern_headers(call()), name.replace("-", "_"): state}
    await agent.ask(modern(call()), **headers)
    for request in server.requests:
        assert CARD not in str(request.headers)
        assert CARD.encode() not in request.body


async def test_what_holds_no_secret_passes(agent: Connection, server: Hostile) -> None:
    for document in (call(text="4111 1111 1111 1112", id="CUST-0041"), with_meta(progressToken="t", note="x")):
        assert "result" in (await agent.ask(document)).json
        assert "result" in (await ask_modern(agent, document)).json
    assert len(server.requests) == 4


async def test_exfiltration_in_an_answer_to_an_elicitation(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """The server asks for it, the agent answers: a rule of requests holds for answers as well."""
    from tests.security.test_sessions import ELICITATION, Asking, begin, headers_of

    server.handler = asking = Asking(ELICITATION)
    await initialize(agent, elicitation={})
    await begin(agent)
    question = await agent.event()
    async with sidecar.connect(**headers_of(agent)) as second:
        for content in ({"card": CARD}, {CARD: 1}, {"x": [{"y": "CUST-00417733"}]}):
            answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": content}}
            await second.ask(answer)
    asking.finished.set()
    while (event := await agent.event()).get("id") != 1:
        assert event
    assert not [one for one in server.requests if CARD.encode() in one.body or b"CUST-0" in one.body]


async def test_exfiltration_in_an_input_response(agent: Connection, server: Hostile) -> None:
    document = {**call(), "params": {**call()["params"], "inputResponses": {"q": {"content": {"card": CARD}}}}}
    kept(await ask_modern(agent, document, elicitation={}), server)


async def test_base64_of_a_secret(agent: Connection, server: Hostile) -> None:
    """Encodings of a secret that is an argument of its own; a cipher nobody can look into."""
    kept(await agent.ask(call(blob=base64.b64encode(f"the card is {CARD}".encode()).decode())), server)


async def test_exfiltration_by_the_trace_state_of_other_methods(agent: Connection, server: Hostile) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await initialize(agent)
    server.requests.clear()
    for method in ("GET", "DELETE"):
        answer = await agent.ask(b"", method, traceparent=parent, tracestate=f"a={CARD}")
        assert answer.status == 405
    assert server.requests == []
    assert (await agent.ask(b"", "DELETE", traceparent=parent, tracestate="a=4")).status == 200
    assert server.requests[0].header("tracestate") == "a=4"

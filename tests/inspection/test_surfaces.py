"""A corpus of planted values in every place of every message, in every spelling: none comes through."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.detection.planted import CARD, PLANTED, PRIVATE_KEY
from tests.detection.test_encodings import PACKED, SPELLED
from tests.inspection.responses import CALLED, block, inspector, redact, saying
from tests.policy.rules import allow
from tests.stages.scene import Json, Scene, notification, reply, request, response, scene, stream

Place = Callable[[str], Json]


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def packed(value: str, charset: str = "utf-8") -> str:
    return base64.b64encode(value.encode(charset)).decode()


def resource(**members: str) -> Json:
    return {"content": [{"type": "resource", "resource": {"uri": "a:b", **members}}]}


def media(kind: str, value: str) -> Json:
    return {"content": [{"type": kind, "mimeType": "a/b", "data": packed(value)}]}


def twins(value: str, **style: Any) -> Json:
    return {"content": [text(json.dumps({"a": value}, **style))], "structuredContent": {"a": value}}


RESULTS: dict[str, tuple[str, Json, Place]] = {
    name: (method, params, place)
    for method, params, places in (
        ("tools/call", {"name": "a"}, {
            "text": lambda value: {"content": [text(value)]},
            "text among others": lambda value: {"content": [text("a. "), text(f"see {value} there"), text(" b")]},
            "annotations": lambda value: {"content": [text("") | {"annotations": {"x": value}}]},
            "an item's _meta": lambda value: {"content": [text("") | {"_meta": {"x": [value]}}]},
            "resource text": lambda value: resource(text=value),
            "resource blob": lambda value: resource(blob=packed(value)),
            "blob in UTF-16": lambda value: resource(blob=packed(value, "utf-16")),
            "image that is text": lambda value: media("image", value),
            "audio that is text": lambda value: media("audio", value),
            "link": lambda value: {"content": [{"type": "resource_link", "uri": "a:b", "name": "a", "title": value}]},
            "link's name": lambda value: {"content": [{"type": "resource_link", "uri": "a:b", "name": value}]},
            "structured": lambda value: {"content": [], "structuredContent": {"a": [{"b": value}]}},
            "structured key": lambda value: {"content": [], "structuredContent": {value: 1}},
            "structured twin": twins,
            "structured twin in Unicode": lambda value: twins(value, ensure_ascii=False, indent=2),
            "_meta": lambda value: {"content": [], "_meta": {"x/y": {"z": value}}},
            "error result": lambda value: {"content": [text(value)], "isError": True},
            "unknown member": lambda value: {"content": [], "more": {"x": value}},
            "unknown item": lambda value: {"content": [{"type": "new", "body": value}]},
            "type of an item": lambda value: {"content": [{"type": value}]},
            "task": lambda value: {"content": [], "task": {"taskId": "t", "statusMessage": value}},
        }),
        ("resources/read", {"uri": "a:b"}, {
            "contents": lambda value: {"contents": [{"uri": "a:b", "text": value}]},
            "contents blob": lambda value: {"contents": [{"uri": "a:b", "blob": packed(value)}]},
        }),
        ("prompts/get", {"name": "a"}, {
            "prompt": lambda value: {"messages": [{"role": "user", "content": text(value)}]},
            "prompt description": lambda value: {"description": value, "messages": []},
        }),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "a"}, "argument": {"name": "x", "value": ""}}, {
            "completion": lambda value: {"completion": {"values": ["a", value]}},
        }),
        ("tools/list", {}, {
            "tool description": lambda value: {"tools": [{"name": "a", "description": value}]},
            "tool name": lambda value: {"tools": [{"name": value}]},
            "tool schema": lambda value: {
                "tools": [{"name": "a", "inputSchema": {"properties": {"x": {"description": value}}}}]
            },
            "tool schema's words": lambda value: {"tools": [{"name": "a", "inputSchema": {"enum": [value]}}]},
            "tool annotations": lambda value: {"tools": [{"name": "a", "annotations": {"title": value}}]},
        }),
        ("prompts/list", {}, {
            "prompt's argument": lambda value: {"prompts": [{"name": "a", "arguments": [{"description": value}]}]},
        }),
        ("resources/list", {}, {
            "resource description": lambda value: {"resources": [{"uri": "a:b", "name": "", "description": value}]},
        }),
        ("resources/templates/list", {}, {
            "template title": lambda value: {"resourceTemplates": [{"uriTemplate": "a:{b}", "title": value}]},
        }),
        ("server/discover", {}, {
            "instructions": lambda value: {"supportedVersions": [], "instructions": value},
            "server's name": lambda value: {"supportedVersions": [], "serverInfo": {"name": value}},
        }),
    )
    for name, place in places.items()
}  # fmt: skip
MODERN_ALONE = ("instructions", "server's name")

ERRORS: dict[str, Place] = {
    "message": lambda value: {"code": 1, "message": value},
    "data": lambda value: {"code": 1, "message": "", "data": {"trace": [value]}},
    "data as a text": lambda value: {"code": 1, "message": "", "data": value},
    "data's key": lambda value: {"code": 1, "message": "", "data": {value: 1}},
}

NOTIFICATIONS: dict[str, Place] = {
    "log": lambda value: notification("message", level="info", data=value),
    "log data": lambda value: notification("message", level="info", data={"a": [value]}),
    "logger": lambda value: notification("message", level="info", logger=value, data=""),
    "level": lambda value: notification("message", level=value, data=""),
    "progress": lambda value: notification("progress", progressToken="t", progress=1, message=value),
    "_meta": lambda value: notification("message", data="", _meta={"a": value}),
}

QUESTIONS: dict[str, tuple[str, Place]] = {
    "elicitation": ("elicitation/create", lambda value: {"message": value, "requestedSchema": {}}),
    "elicitation's schema": (
        "elicitation/create",
        lambda value: {"message": "", "requestedSchema": {"properties": {"a": {"title": value}}}},
    ),
    "elicitation's URL": ("elicitation/create", lambda value: {"message": "", "mode": "url", "url": f"https://a/{value}"}),
    "sampling": ("sampling/createMessage", lambda value: {"messages": [{"role": "user", "content": text(value)}]}),
    "system prompt": ("sampling/createMessage", lambda value: {"messages": [], "systemPrompt": value}),
    "sampling's metadata": ("sampling/createMessage", lambda value: {"messages": [], "metadata": {"a": value}}),
}  # fmt: skip

EVERYWHERE: dict[str, Place] = (
    {name: place for name, (_, _, place) in RESULTS.items()}
    | {f"error {name}": place for name, place in ERRORS.items()}
    | {f"note {name}": lambda value, place=place: place(value)["params"] for name, place in NOTIFICATIONS.items()}
    | {name: place for name, (_, place) in QUESTIONS.items()}
)
DETECT = tuple(PLANTED)


def leaks(value: str, said: bytes | str | Json) -> bool:
    """Whether something that was said has the value in it, in any of the plain ways to read it."""
    whole = said if isinstance(said, str) else said.decode() if isinstance(said, bytes) else json.dumps(said)
    forms = (
        value,
        json.dumps(value)[1:-1],
        packed(value),
        packed(value, "utf-16"),
        json.dumps(json.dumps(value))[3:-3],
    )
    return any(form in whole for form in forms)


# By itself: every place, every value, every spelling


@pytest.mark.parametrize("place", EVERYWHERE)
def test_every_value_is_caught_in_every_place(place: str) -> None:
    redacting, blocking = inspector(redact(detect=DETECT)), inspector(block(detect=DETECT))
    for what, value in PLANTED.items():
        document = EVERYWHERE[place](value)
        examined = redacting.examine(CALLED, document)
        assert what in {found.what for found in examined.findings}, what
        assert examined.blocked is not None or not leaks(value, examined.document), what
        assert examined.blocked is not None or redacting.examine(CALLED, examined.document).findings == ()
        assert blocking.examine(CALLED, document).blocked is not None
        assert not leaks(value, blocking.redacted(CALLED, document).document)


@pytest.mark.parametrize("place", EVERYWHERE)
def test_every_spelling_is_caught_in_every_place(place: str) -> None:
    blocking = inspector(block(detect=["credit_card"]))
    for name, spelled in (*SPELLED.items(), *PACKED.items()):
        value = spelled(f"a card of theirs: {CARD}.")
        assert blocking.examine(CALLED, EVERYWHERE[place](value)).blocked is not None, name


@pytest.mark.parametrize("what", PLANTED)
def test_a_value_is_caught_wherever_it_is_split(what: str) -> None:
    value = PLANTED[what]
    redacting = inspector(redact(detect=[what]))
    for cut in range(1, len(value)):
        for parts in ((value[:cut], value[cut:]), (value[: cut // 2], value[cut // 2 : cut], value[cut:])):
            document = {"content": [text(part) for part in parts]}
            examined = redacting.examine(CALLED, document)
            assert examined.findings, parts
            left = "".join(one["text"] for one in examined.document["content"])
            assert value not in left
            assert "[redacted:" in left


def test_no_part_of_a_split_key_is_left() -> None:
    redacting = inspector(redact(detect=["private_key"]))
    for cut in range(1, len(PRIVATE_KEY)):
        document = {"content": [text(PRIVATE_KEY[:cut]), text(PRIVATE_KEY[cut:])]}
        left = "".join(one["text"] for one in redacting.examine(CALLED, document).document["content"])
        assert not any(PRIVATE_KEY[start : start + 40] in left for start in range(len(PRIVATE_KEY) - 40)), cut


# Through the pipeline


def ruled(it: Scene, member: Json, streamed: bool) -> None:
    def answer(sent: Any) -> Any:
        document = {"jsonrpc": "2.0", "id": sent.json["id"]} | member
        return stream(document) if streamed else reply(document)

    it.server = answer


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
@pytest.mark.parametrize("action", [redact, block])
async def test_no_result_brings_any_value(streamed: bool, modern: bool, action: Any) -> None:
    async with scene(allow(), saying(action(detect=DETECT))) as it:
        for name, (method, params, place) in RESULTS.items():
            if name in MODERN_ALONE and not modern:
                continue
            for what, value in PLANTED.items():
                ruled(it, {"result": place(value) | {"resultType": "complete"}}, streamed)
                answer = await (it.agent.modern if modern else it.agent.ask)(method, 1, **params)
                assert answer.status == 200
                assert not leaks(value, answer.body), (name, what)
                assert not leaks(value, {"lines": it.audit.lines}), (name, what)
                assert "findings" in it.audit.lines[-2] or "findings" in it.audit.lines[-1], (name, what)
                it.audit.lines.clear()


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
async def test_no_error_brings_any_value(streamed: bool, modern: bool) -> None:
    async with scene(allow(), saying(redact(detect=DETECT))) as it:
        for name, place in ERRORS.items():
            for what, value in PLANTED.items():
                ruled(it, {"error": place(value)}, streamed)
                answer = await (it.agent.modern if modern else it.agent.ask)("tools/call", 1, name="a")
                assert answer.status == 200
                assert not leaks(value, answer.body), (name, what)


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
async def test_no_notification_brings_any_value(modern: bool) -> None:
    async with scene(allow(), saying(redact(detect=DETECT))) as it:
        for name, place in NOTIFICATIONS.items():
            for what, value in PLANTED.items():
                it.server = lambda sent, place=place, value=value: stream(place(value), response({"content": []}))  # type: ignore[misc]  # bound now
                ask = it.agent.modern if modern else it.agent.ask
                answer = await ask("tools/call", 1, name="a", _meta={"progressToken": "t"})
                assert answer.messages[-1]["id"] == 1
                assert not leaks(value, answer.body), (name, what)


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
async def test_no_question_brings_any_value(modern: bool) -> None:
    offered = {"elicitation": {"url": {}, "form": {}}, "sampling": {}}
    async with scene(allow(), saying(redact(detect=DETECT))) as it:
        if not modern:
            await it.agent.initialize(**offered)
        for name, (method, place) in QUESTIONS.items():
            for what, value in PLANTED.items():
                asked = {"method": method, "params": place(value)}
                if modern:
                    ruled(it, {"result": {"resultType": "input_required", "inputRequests": {"a": asked}}}, False)
                    answer = await it.agent.modern("tools/call", 1, offered, name="a")
                else:
                    question = request(method, 7, **asked["params"])
                    it.server = lambda sent, question=question: (  # type: ignore[misc]  # bound now
                        stream(question, response()) if "method" in sent.json else reply(status=202)
                    )
                    answer = await it.agent.call("a")
                assert answer.status == 200
                assert not leaks(value, answer.body), (name, what)
        await it.background()

"""What the record keeps of messages: what passed, redacted, bounded, and nothing by which anybody could act."""

import hashlib
import hmac
import json
from typing import Any

import pytest

from openmcp.config.model import Action, Condition, Operator, Policy, RequestRule, ResponseAction, ResponseRule
from openmcp.sidecar.inspection.effects import MAX_FINDINGS
from openmcp.sidecar.stages.payloads import MAX_BYTES, Payloads
from tests.policy.rules import allow
from tests.stages.scene import Json, Scene, failure, notification, reply, request, response, scene, stream

KEY = b"k" * 32
MAIL = "anna@corp.example"
CARD = "4111 1111 1111 1111"


def keeping(it: Scene) -> Scene:
    it.pipeline._recorder._payloads = Payloads(KEY)
    return it


def guarded(*rules: ResponseRule, name: str = "guard") -> Policy:
    return Policy(name=name, servers=("*",), responses=rules)


REDACT = ResponseRule(name="mail", detect=("email",), action=ResponseAction.REDACT)
BLOCK = ResponseRule(name="card", detect=("credit_card",), action=ResponseAction.BLOCK)


def text(*texts: str) -> Json:
    return {"content": [{"type": "text", "text": one} for one in texts]}


def hashed(removed: str) -> str:
    return hmac.digest(KEY, removed.encode(), "sha256").hex()


async def test_nothing_of_messages_is_kept_unless_it_is_wanted() -> None:
    async with scene(allow()) as it:
        await it.agent.call("t", arguments={"a": "argument"})
        assert all(line.keys().isdisjoint(("params", "result", "error")) for line in it.audit.lines)
        assert "argument" not in json.dumps(it.audit.lines)


async def test_what_passed_is_kept() -> None:
    async with scene(allow()) as it:
        keeping(it)
        answer = await it.agent.call("t", arguments={"a": [1, 2.5, None], "big": 2**70})
        asked, answered = it.audit.lines
        assert asked["params"] == {"name": "t", "arguments": {"a": [1, 2.5, None], "big": 2**70}}
        assert answered["result"] == answer.result
        it.server = lambda sent: reply(failure(-32000, data={"why": "so"}))
        answer = await it.agent.call("t")
        assert it.ended["error"] == answer.json["error"]
        await it.agent.send(notification("initialized"))
        assert it.recorded("notification")[0]["params"] == {}
        assert it.ended.keys().isdisjoint(("params", "result", "error", "clipped"))


async def test_what_was_denied_and_what_was_refused_is_kept_too() -> None:
    async with scene(allow(tools=["t"])) as it:
        keeping(it)
        answer = await it.agent.call("other", arguments={"a": 1})
        assert it.recorded("request")[0]["params"] == {"name": "other", "arguments": {"a": 1}}
        assert it.ended["result"] == answer.result
        answer = await it.agent.send(b"{")
        assert (it.ended["event"], it.ended["error"]) == ("refused", answer.json["error"])


async def test_what_is_redacted_is_not_in_the_record_but_its_hash_is() -> None:
    async with scene(allow(), guarded(REDACT)) as it:
        keeping(it)
        it.server = lambda sent: reply(response(text(f"mail {MAIL} and again {MAIL}"), sent.json["id"]))
        answer = await it.agent.call("t", arguments={"to": MAIL})
        asked, answered = it.audit.lines
        assert it.sent[0].json["params"]["arguments"] == {"to": MAIL}, "the server gets what was said"
        assert asked["params"]["arguments"] == {"to": "[redacted:email]"}
        assert asked["removed"] == [{"path": "$.arguments.to", "what": "email", "hmac": hashed(MAIL)}]
        assert answered["result"] == answer.result == text("mail [redacted:email] and again [redacted:email]")
        assert [one["hmac"] for one in answered["removed"]] == [hashed(MAIL)] * 2
        (finding,) = answered["findings"]
        assert finding == finding | {"policy": "guard", "rule": "mail", "action": "redact", "what": "email", "count": 2}
        assert MAIL not in json.dumps(it.audit.lines)


async def test_what_is_redacted_is_not_in_the_names_of_the_record_either() -> None:
    async with scene(allow(), guarded(REDACT)) as it:
        keeping(it)
        await it.agent.initialize()
        it.server = lambda sent: stream(
            notification("message", level="info", data="x"), response({"contents": []}, sent.json["id"])
        )
        await it.agent.send(request("resources/read", uri=f"crm:///customers/{MAIL}"))
        await it.agent.send(
            request(
                "completion/complete",
                ref={"type": "ref/resource", "name": "x", "uri": f"crm:///{MAIL}"},
                argument={"name": "a", "value": "b"},
            )
        )
        assert {line["name"] for line in it.audit.lines if "name" in line} == {
            "crm:///customers/[redacted:email]",
            "crm:///[redacted:email]",
        }
        assert it.sent[-2].json["params"]["uri"] == f"crm:///customers/{MAIL}", "the server gets what was said"
        await it.agent.call(f"tool-{it.agent.session}")
        assert it.ended["name"] == "tool-[credential]"
        record = json.dumps(it.audit.lines)
        assert it.agent.session is not None
        assert MAIL not in record
        assert it.agent.session not in record


async def test_what_is_blocked_is_nowhere_in_the_record() -> None:
    async with scene(allow(), guarded(BLOCK)) as it:
        keeping(it)
        it.server = lambda sent: reply(response(text(f"card {CARD}"), sent.json["id"]))
        answer = await it.agent.call("t", arguments={"card": CARD})
        asked, answered = it.audit.lines
        assert asked["params"]["arguments"] == {"card": "[redacted:credit_card]"}
        assert answered["result"] == answer.result
        assert answered["findings"][0]["action"] == "block"
        assert CARD not in json.dumps(it.audit.lines)


async def test_the_ids_of_a_session_are_not_in_the_record() -> None:
    async with scene(allow()) as it:
        keeping(it)
        await it.agent.initialize()
        assert it.agent.session is not None
        said = {"a": f"it is {it.agent.session}!", it.agent.session: ["upstream-1"], "quoted": 'x"y\\z'}
        await it.agent.call("t", arguments=said)
        line = it.recorded("request")[-1]
        assert line["params"]["arguments"] == {
            "a": "it is [credential]!",
            "[credential]": ["[credential]"],
            "quoted": 'x"y\\z',
        }
        assert line["removed"] == [{"path": "$", "what": "credential"}]
        assert it.agent.session not in json.dumps(it.audit.lines)


async def test_what_we_sealed_is_kept_by_its_fingerprint() -> None:
    async with scene(allow()) as it:
        keeping(it)
        it.server = lambda sent: reply(response({"tools": [], "nextCursor": "upstream"}, sent.json["id"]))
        cursor = (await it.agent.ask("tools/list")).result["nextCursor"]
        name = hashlib.sha256(cursor.encode()).hexdigest()[:16]
        assert it.ended["result"]["nextCursor"] == f"[sealed {name}]"
        await it.agent.ask("tools/list", cursor=cursor)
        assert it.recorded("request")[-1]["params"] == {"cursor": f"[sealed {name}]"}
        assert cursor not in json.dumps(it.audit.lines)


async def test_a_token_that_is_not_ours_is_refused_and_the_request_recorded() -> None:
    async with scene(allow()) as it:
        keeping(it)
        await it.agent.ask("tools/list", cursor="forged")
        asked, answered = it.audit.lines
        assert (asked["event"], answered["outcome"]) == ("request", "foreign_token")
        assert "forged" not in json.dumps(asked)


async def test_a_long_message_is_clipped() -> None:
    async with scene(allow()) as it:
        keeping(it)
        long = {"name": "t", "arguments": {"a": "é" * MAX_BYTES}}
        await it.agent.ask("tools/call", **long)
        line = it.recorded("request")[0]
        whole = json.dumps(long, separators=(",", ":"), ensure_ascii=False).encode()
        assert "params" not in line
        assert line["clipped"] == {
            "member": "params",
            "bytes": len(whole),
            "sha256": hashlib.sha256(whole).hexdigest(),
            "begins": whole[:4096].decode("utf-8", "ignore"),
        }
        just = {"name": "t", "arguments": {"a": "x" * (MAX_BYTES - 33)}}
        assert len(json.dumps(just, separators=(",", ":"))) == MAX_BYTES
        await it.agent.ask("tools/call", **just)
        assert it.recorded("request")[1]["params"] == just


async def test_so_many_removed_texts_are_listed() -> None:
    async with scene(allow(), guarded(REDACT)) as it:
        keeping(it)
        await it.agent.call("t", arguments={"to": [f"user{n}@corp.example" for n in range(300)]})
        line = it.recorded("request")[0]
        assert len(line["removed"]) == MAX_FINDINGS
        assert "user" not in json.dumps(it.audit.lines)


async def test_messages_of_a_stream_and_answers_to_the_server() -> None:
    async with scene(allow(), guarded(REDACT)) as it:
        keeping(it)
        await it.agent.initialize(elicitation={})
        it.server = lambda sent: stream(
            notification("message", level="info", data=f"from {MAIL}"),
            request("elicitation/create", 9, message="Who?", requestedSchema={"type": "object", "properties": {}}),
            notification("cancelled", requestId=9, reason="late"),
            response(text("done")),
        )
        answer = await it.agent.call("t")
        told, late = it.recorded("notification")
        assert told["params"] == {"level": "info", "data": "from [redacted:email]"}
        assert (told["removed"][0]["hmac"], told["findings"][0]["rule"]) == (hashed(MAIL), "mail")
        assert "id" not in told
        (question,) = it.recorded("server-request")
        assert (question["id"], question["params"]["message"]) == (9, "Who?")
        assert late["params"] == {"requestId": 9, "reason": "late"}, "by the server's id"
        (done,) = [line for line in it.recorded("response") if line.get("stream")]
        assert done["result"] == text("done")
        assert it.ended["event"] == "stream-end"
        assert it.ended.keys().isdisjoint(("result", "clipped", "findings"))
        ours = answer.messages[1]["id"]
        assert ours not in json.dumps(it.audit.lines)
        it.server = lambda sent: reply(status=202)
        said = {"jsonrpc": "2.0", "id": ours, "result": {"action": "accept", "content": {"mail": MAIL}}}
        assert (await it.agent.send(said)).status == 202
        (back,) = it.recorded("client-response")
        assert (back["id"], back["result"]["content"]) == (9, {"mail": "[redacted:email]"})
        assert ours not in json.dumps(it.audit.lines)


async def test_an_error_of_our_own_ends_a_stream_in_the_record_too() -> None:
    async with scene(allow()) as it:
        keeping(it)
        it.server = lambda sent: stream(notification("message", level="info", data="x"), broken=True)
        answer = await it.agent.call("t")
        (line,) = it.recorded("response")
        assert line["error"] == answer.messages[-1]["error"]
        assert (line["stream"], line["outcome"], line["bytes_out"]) == (
            "post",
            "closed",
            len(json.dumps(answer.messages[-1], separators=(",", ":"))),
        )


async def test_what_a_shadow_rule_finds_is_told_and_not_as_removed() -> None:
    async with scene(allow(), Policy(name="new", servers=("*",), mode="shadow", responses=(REDACT,))) as it:
        keeping(it)
        it.server = lambda sent: reply(response(text(f"mail {MAIL}"), sent.json["id"]))
        await it.agent.call("t")
        assert it.ended["findings"][0]["shadow"] is True
        assert "removed" not in it.ended


WHEN = (Condition(path="$.n", op=Operator.EQ, value=1),)


@pytest.mark.parametrize(
    ("policies", "fields"),
    [
        ([], {}),
        (
            [RequestRule(name="b", action=Action.ALLOW, when=WHEN)],
            {
                "matched": [
                    {"policy": "p", "rule": "allow", "action": "allow"},
                    {"policy": "more", "rule": "b", "action": "allow"},
                ]
            },
        ),
    ],
)
async def test_all_rules_that_hold_are_in_the_line(policies: list[RequestRule], fields: dict[str, Any]) -> None:
    more = [Policy(name="more", servers=("*",), requests=tuple(policies))] if policies else []
    async with scene(allow(name="allow"), *more) as it:
        await it.agent.call("t", arguments={"n": 1})
        line = it.recorded("request")[0]
        found = sorted(line.get("matched", []), key=str)
        assert found == sorted(fields.get("matched", []), key=str)


async def test_what_a_shadow_policy_would_have_done_is_in_the_line() -> None:
    shadow = Policy(
        name="new", servers=("*",), mode="shadow", requests=(RequestRule(name="no", action=Action.DENY, tools=("t",)),)
    )
    async with scene(allow(), shadow) as it:
        await it.agent.call("t")
        line = it.recorded("request")[0]
        assert line["decision"] == "allow"
        assert line["shadow"] == {"decision": "deny", "policy": "new", "rule": "no", "action": "deny", "shadow": True}

"""Lines of a record become entries and messages; what they hold never reaches a terminal."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openmcp.sidecar.cli import main
from openmcp.sidecar.commands.common import printable
from openmcp.sidecar.telemetry.records import fingerprint
from openmcp.sidecar.telemetry.replay import Selection, entries, entry, session_of

Json = dict[str, Any]


def line(event: str, at: str = "09:30:00.000000", *, to_agent: bool = False, **members: Any) -> Json:
    direction = "server-to-agent" if to_agent else "agent-to-server"
    return {
        "time": f"2026-07-28T{at}Z",
        "event": event,
        "direction": direction,
        "agent": "key:bot",
        "server": "s",
        **members,
    }


def recorded(folder: Path, *lines: Json | bytes) -> Path:
    path = folder / "audit.jsonl"
    texts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines]
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return path


def openmcp(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (line("request", id=1, method="m", params={"a": 1}), "request", {"id": 1, "method": "m", "params": {"a": 1}}),
        (line("request", id=1, method="m", params={}), "request", {"id": 1, "method": "m"}),
        (line("notification", method="m", to_agent=True), "notification", {"method": "m"}),
        (line("server-request", id="q", method="m", to_agent=True), "request", {"id": "q", "method": "m"}),
        (line("client-response", id="q", result={}), "response", {"id": "q", "result": {}}),
        (line("response", id=1, error={"code": 1}, to_agent=True), "response", {"id": 1, "error": {"code": 1}}),
        (line("response", id=1, to_agent=True, clipped={"bytes": 9}), "response", {"id": 1}),
        (line("response", status=202, to_agent=True), "end", None),
        (line("stream-end", id=1, to_agent=True), "end", None),
        (line("refused", status=400, error={"code": 1}), "refused", {"id": None, "error": {"code": 1}}),
        (line("refused", status=400), "refused", None),
        (line("dropped", reason="x", to_agent=True), "dropped", None),
        (line("reload", outcome="ok"), "other", None),
    ],
)
def test_what_a_line_is(given: Json, kind: str, message: Json | None) -> None:
    made = entry(given)
    assert made.kind == kind
    assert made.message == (None if message is None else {"jsonrpc": "2.0", **message})
    assert made.said == any(member in given for member in ("params", "result", "error"))


def test_what_is_wanted(tmp_path: Path) -> None:
    token = "the-id-that-the-client-had"
    ours, other = fingerprint(token), "0123456789abcdef"
    path = recorded(
        tmp_path,
        line("request", "09:00:00.000000", method="initialize", id=0, call="c0"),
        line("request", "09:00:00.000001", method="initialize", id=0, call="c1"),
        line("response", "09:00:01.000000", to_agent=True, id=0, call="c0", session=ours, method="initialize"),
        line("checkpoint", "09:00:01.100000"),
        b'{"torn',
        line("response", "09:00:02.000000", to_agent=True, id=0, call="c1", session=other, method="initialize"),
        line("request", "09:00:03.000000", method="tools/call", name="t", id=1, call="c2", session=ours),
        {"time": "2026-07-28T09:00:03.500000Z", "event": "gap", "dropped": 2},
        line("request", "09:00:04.000000", method="tools/call", name="t", id=1, call="c3", session=other, server="z"),
    )

    def calls(**wanted: str) -> list[str]:
        return [one.get("call") or one.get("event") for one in entries([path], Selection(**wanted))]

    assert calls() == ["c0", "c1", "c0", "c1", "c2", "gap", "c3"]
    assert calls(session=session_of(token)) == calls(session=session_of(ours)) == ["c0", "c0", "c2", "gap"]
    assert calls(server="z") == ["gap", "c3"]
    assert calls(agent="key:nobody") == ["gap"]
    assert calls(since="2026-07-28T09:00:02.000000Z", until="2026-07-28T09:00:04.000000Z") == ["c1", "c2", "gap"]
    code, said, wrong = openmcp(
        "replay", "--audit", path, "--since", "2026-07-28T11:00:03+02:00", "--server", "s", "--json"
    )
    assert (code, wrong) == (0, "")
    assert [json.loads(one).get("call") for one in said.splitlines()] == ["c2", None]
    assert openmcp("replay", "--audit", path, "--since", "soon")[0] == 2
    assert openmcp("replay", "--audit", tmp_path / "none")[0] == 3
    assert openmcp("replay", "--audit", recorded(tmp_path))[2] == "nothing in the record is about that\n"


def test_nothing_of_a_record_acts_on_a_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202eevil\u2028\r\n\x08\ud800"
    assert printable(evil).isprintable()
    assert printable("naïve ✓") == "naïve ✓"
    fields = ("agent", "server", "method", "name", "session", "decision", "policy", "rule", "outcome", "reason", "time")
    hostile = {field: evil for field in fields} | {"id": evil, "params": {evil: evil}, "removed": [{"what": evil}]}
    path = recorded(
        tmp_path,
        *[
            line(event, to_agent=way) | hostile
            for event in ("request", "response", "dropped", "reload")
            for way in (0, 1)
        ],
        line("response", to_agent=True) | hostile | {"result": [evil], "findings": [{"what": evil, "count": evil}]},
        line("gap", dropped=evil),
        line("response", to_agent=True) | {"clipped": {"bytes": evil}},
    )
    code, said, _ = openmcp("replay", "--audit", path)
    assert code == 0
    assert len(said.splitlines()) > 10
    assert all(one.isprintable() for one in said.split("\n")), said
    code, said, _ = openmcp("replay", "--audit", path, "--json")
    assert code == 0
    assert all(one.isprintable() for one in said.split("\n")), said


def test_lines_of_other_shapes_do_no_harm(tmp_path: Path) -> None:
    odd: list[Any] = [None, 1, [], {}, "x", True, 2**80]
    members = (
        "id",
        "params",
        "result",
        "error",
        "shadow",
        "latency",
        "clipped",
        "removed",
        "findings",
        "reason",
        "name",
    )
    path = recorded(
        tmp_path,
        b"[]",
        b"\xff",
        b"[" * 100_000,
        {"event": 1},
        {"event": "request"},
        *[line(event, **{member: value}) for event in ("request", "response") for member in members for value in odd],
    )
    for options in ((), ("--json",)):
        code, said, _ = openmcp("replay", "--audit", path, *options)
        assert code == 0, said
        assert said


CONFIGURATION: Json = {
    "apiVersion": "openmcp.dev/v1alpha1",
    "identity": {"agents": [{"type": "none"}]},
    "servers": [{"name": "s", "endpoints": ["http://127.0.0.1:1/mcp"]}],
    "policies": [
        {
            "name": "p",
            "servers": ["s"],
            "requests": [
                {
                    "name": "small",
                    "tools": ["pay"],
                    "when": [{"path": "$.n", "op": "lt", "value": 10}],
                    "action": "allow",
                },
                {"name": "free", "tools": ["free"], "prompts": ["*"], "action": "allow"},
            ],
        }
    ],
}


@pytest.mark.parametrize(
    ("given", "now"),
    [
        ({"name": "pay", "params": {"name": "pay", "arguments": {"n": 1}}}, "allow"),
        ({"name": "pay", "params": {"name": "pay", "arguments": {"n": 11}}}, "deny"),
        ({"name": "pay"}, "depends: it depends on what the message says, and that is not in the record"),
        (
            {"name": "pay", "clipped": {}},
            "depends: it depends on what the message says, and that is not whole in the record",
        ),
        (
            {"name": "pay", "params": {"name": "pay", "arguments": {"n": "[redacted:x]"}}, "removed": [{}]},
            "depends: it depends on what the message says, and some of that was removed from the record",
        ),
        ({"name": "free"}, "allow"),
        ({"name": "other"}, "deny"),
        (
            {"name": "[redacted:email]", "params": {"name": "[redacted:email]"}, "removed": [{}]},
            "depends: it depends on what the message says, and some of that was removed from the record",
        ),
        ({"name": "free", "server": "gone"}, "deny: the configuration has no such server"),
        (
            {"method": "completion/complete", "name": "x"},
            "depends: it depends on what the message says, and that is not",
        ),
        ({"method": "resources/read", "name": "file:///x"}, "deny"),
        ({"method": "tools/list"}, "allow"),
        ({"method": "subscriptions/listen"}, "depends"),
        ({"method": "tools/call", "params": {}}, "depends: the message in the record is none that could be sent"),
    ],
)
def test_what_is_decided_again(tmp_path: Path, given: Json, now: str) -> None:
    """The record says that a human was asked, so that every answer is another one and is shown."""
    path = recorded(
        tmp_path,
        line(
            "request",
            id=1,
            era="legacy",
            protocol_version="2025-11-25",
            identified_by="none",
            decision="requireApproval",
        )
        | {"method": "tools/call"}
        | given,
    )
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(CONFIGURATION))
    code, said, wrong = openmcp("replay", "--audit", path, "--decide", file, "--json")
    (told,) = [json.loads(one) for one in said.splitlines()]
    decision, _, reason = now.partition(": ")
    assert code == 1
    assert told["now"]["decision"] == decision
    assert told["now"]["reason"].startswith(reason)
    assert wrong.startswith("1 decisions: 0 the same, ")


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("servers: 1")
    code, _, wrong = openmcp("replay", "--audit", recorded(tmp_path), "--decide", tmp_path / "gateway.yaml")
    assert code == 2
    assert "--decide: " in wrong


def test_an_agent_that_nobody_is_is_not_looked_for(tmp_path: Path) -> None:
    path = recorded(tmp_path, line("request", id=1, method="m"))
    code, said, wrong = openmcp("replay", "--audit", path, "--agent", "spiffe:/prod/x")
    assert (code, said) == (2, "")
    assert "no caller is named 'spiffe:/prod/x' (does not begin with spiffe://)" in " ".join(wrong.split())

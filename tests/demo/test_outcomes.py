"""What `openmcp demo` says where something is not as it should be, and how it reads the record."""

import json
import socket
import time
from importlib.metadata import PackageNotFoundError
from string import Template
from types import SimpleNamespace

import pytest

from openmcp.sidecar import demo
from openmcp.sidecar.demo import setting, story
from openmcp.sidecar.demo.agent import Answer
from openmcp.sidecar.demo.record import Record, Row
from openmcp.sidecar.demo.screen import Screen, printable
from openmcp.sidecar.demo.story import Story


def change(monkeypatch, old, new):
    """Changes the configuration that the demo writes."""
    assert old in setting.CONFIGURATION.template
    monkeypatch.setattr(setting, "CONFIGURATION", Template(setting.CONFIGURATION.template.replace(old, new)))


def test_a_denied_call_that_passes_is_said_and_exits_with_1(monkeypatch, capsys):
    change(monkeypatch, "action: deny", "action: allow")
    assert demo.run(wait=False) == 1
    told = capsys.readouterr().out
    surprises = [line for line in told.splitlines() if line.startswith("✗ ")]
    assert [line.partition(":")[0] for line in surprises] == [
        "✗ it sees the tools it may call, and no others",
        "✗ the agent's model gets to read why, and can do something else",
        "✗ the server never saw the call",
        "✗ each message came when the server sent it, not at the end",  # a page less: the ticket was deleted
        "✗ its own policy holds for it",
        "✗ who called what, and what was decided",
        "✗ 6 of these did not come out as told",
    ]
    assert "All of it came out as told." not in told


@pytest.mark.parametrize(
    ("pages", "end", "good"),
    [((0.3, 0.6, 0.9), 0.91, True), ((3.3, 3.6, 3.9), 3.91, True), ((0.9, 0.9, 0.9), 0.91, False)],
    ids=["as they come", "a machine that stalls", "at the end"],
)
async def test_progress_that_comes_at_the_end_is_told_from_a_machine_that_is_slow(
    monkeypatch, capsys, pages, end, good
):
    clock = [0.0]
    monkeypatch.setattr(story, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))

    class Exporting:
        async def watch(self, tool, heard):
            for page in pages:
                heard(page, f"{tool}: a page")
            clock[0] = end
            return Answer("exported", refused=False)

    played = Story(Screen(), None, None, None)
    await played._streams(Exporting(), None)
    assert played.surprises == (not good)
    assert ("✓ each message came when the server sent it" in capsys.readouterr().out) is good


def test_a_sidecar_that_does_not_start_is_explained(monkeypatch, capsys):
    change(monkeypatch, "policies:", "polices:")
    assert demo.run(wait=False) == 3
    told = capsys.readouterr().err
    assert told.startswith("openmcp demo: sidecar ended with exit code 1\n")
    assert 'unknown key "polices" (did you mean "policies"?)' in told


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert demo.run(wait=False, port=port) == 3
    told = capsys.readouterr().err
    assert told == (
        f"openmcp demo: port {port} of 127.0.0.1 cannot be had: Address already in use (--port takes another)\n"
    )


def test_the_port_that_is_asked_for(tmp_path):
    (port, *_) = setting._ports(None)
    made = setting.prepare(tmp_path, port)
    assert made.url == f"http://127.0.0.1:{port}/tickets"
    assert len({made.mcp_port, made.admin_port, made.server_port, made.console_port}) == 4


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({"mcp": "2.3.0", "httpx2": "2.10", "rich": "15.0"}, None),
        (
            {"httpx2": "2.10", "rich": "15.0"},
            "the demo needs the package 'mcp', which is not installed: pip install 'openmcp[demo]'",
        ),
        (
            {"mcp": "1.9.4", "httpx2": "2.10", "rich": "15.0"},
            "the demo needs mcp 2 or newer, and 1.9.4 is installed: pip install 'openmcp[demo]'",
        ),
    ],
)
def test_what_of_the_extra_is_missing(monkeypatch, versions, told):
    def version(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(demo, "version", version)
    assert demo.missing() == told


TIME = {"time": "2026-07-28T09:30:00.500000Z"}
BEGAN = 1785231000.5
CALL = {
    **TIME, "event": "request", "call": "c", "agent": "key:a", "era": "modern", "method": "tools/call",
    "name": "t", "decision": "deny", "policy": "", "rule": "",
}  # fmt: skip
PROGRESS = {**TIME, "event": "notification", "call": "c", "method": "notifications/progress"}
ANSWER = {**TIME, "event": "response", "call": "c", "status": 200, "latency": {"total_us": 1500}}
STREAMED = {**CALL, "call": "s", "decision": "allow", "rule": "r"}
PART = {**TIME, "event": "response", "call": "s", "stream": "post", "outcome": "ok"}
END = {**TIME, "event": "stream-end", "call": "s", "status": 200, "latency": {"total_us": 2500}}
REFUSED = {**TIME, "event": "response", "call": "d", "agent": "", "method": "", "status": 401, "outcome": "bad_key"}
TAKEN = {**TIME, "event": "reload", "outcome": "ok", "reason": "0123456789abcdef"}
KEPT = {**TIME, "event": "reload", "outcome": "error", "reason": "line 1: bad"}


def test_the_record_is_read_as_it_grows(tmp_path):
    file = tmp_path / "audit.jsonl"
    record = Record(file)
    assert list(record.more()) == []  # there is none yet
    whole = "".join(
        json.dumps(line) + "\n" for line in (CALL, PROGRESS, ANSWER, STREAMED, PART, END, REFUSED, TAKEN, KEPT)
    )
    middle = whole.index("latency")
    file.write_text(whole[:middle])
    assert list(record.more()) == []
    file.write_text(whole)
    assert list(record.more()) == [
        Row(BEGAN, "a", "modern", "tools/call t", "deny", "(no rule)", 1.5, ["notifications/progress"]),
        Row(BEGAN, "a", "modern", "tools/call t", "allow", "r", 2.5),
        Row(BEGAN, "", "", "HTTP 401", "", "bad_key"),
        Row(BEGAN, "", "", "reload", "ok", ""),
        Row(BEGAN, "", "", "reload line 1: bad", "error", ""),
    ]
    assert list(record.more()) == []
    assert len(record.lines) == 9


def test_names_in_the_record_cannot_act_on_the_terminal():
    assert printable("a\x1b[2Jb\u202ec\n") == "a\\u001b[2Jb\\u202ec\n"

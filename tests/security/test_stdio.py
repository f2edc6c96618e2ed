"""Attacks by way of a stdio server: what is one message of an agent is one line there."""

import json
import sys
from pathlib import Path

from tests.support.gate import Gate, call, configuration, gate, initialize
from tests.support.process import ROOT

SMUGGLED = '{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"forbidden_echo","arguments":{}}}'
SERVER = str(ROOT / "tests" / "fixtures" / "stdio_server.py")


async def test_stdio_newline_injection(tmp_path: Path) -> None:
    config = configuration()
    del config["servers"][0]["endpoints"]
    config["servers"][0]["stdio"] = {"command": sys.executable, "args": [SERVER]}
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        text = f"x\n{SMUGGLED}\r{SMUGGLED}\u2028{SMUGGLED}\u0085"
        for separator in ("\n", "\r\n"):  # also such white space as JSON allows between its tokens
            pretty = json.dumps(call("allowed_echo", text=text), indent=1).replace("\n", separator).encode()
            answer = await agent.ask(pretty)
            assert answer.json["result"]["content"][0]["text"].startswith(text)
        await _two_calls(sidecar)


async def _two_calls(sidecar: Gate) -> None:
    calls = [line for line in await sidecar.records() if line["event"] == "request" and line.get("name")]
    assert [line["name"] for line in calls] == ["allowed_echo", "allowed_echo"]

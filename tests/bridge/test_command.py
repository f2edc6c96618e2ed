"""`openmcp bridge` as a user runs it."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.bridge.conftest import SERVER, Behind
from tests.support.process import OPENMCP, running

_SERVING = re.compile(r"on (http://127\.0\.0\.1:\d+), admin")
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


def post(url: str, document: Any, **headers: str) -> tuple[Any, str]:
    """Return the answer and the session's id."""
    given = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, json.dumps(document).encode(), given)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read()), answer.headers["mcp-session-id"]


UNPRIVILEGED = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program without the capabilities that root has outside of containers (PR_CAPBSET_DROP)."""


@pytest.mark.skipif(sys.platform != "linux", reason="no other system has /proc")
def test_a_program_cannot_read_the_sidecar_that_runs_it() -> None:
    """By /proc, as a program of the same user, without privileges."""
    secret = secrets.token_hex()  # another run on this machine has another
    command = [sys.executable, "-c", UNPRIVILEGED, OPENMCP, "bridge", "--port", "0", "--", sys.executable, SERVER]
    with running("openmcp bridge", command, {"SECRET_OF_THE_GATEWAY": secret}) as process:
        url = process.wait_for(lambda: (found := _SERVING.search(process.printed())) and found[1]) + "/mcp"
        _, session = post(url, INITIALIZE)
        for tool, arguments in (("allowed_large", {"bytes": 300_000}), ("allowed_spy", {"secret": secret})):
            wanted = {
                "jsonrpc": "2.0",
                "id": 2,
                "method": "tools/call",
                "params": {"name": tool, "arguments": arguments},
            }
            answer, _ = post(url, wanted, mcp_session_id=session)
        assert json.loads(answer["result"]["content"][0]["text"]) == []


def test_a_program_is_served_with_the_environment_that_was_named(tmp_path: Path, behind: Behind) -> None:
    run = behind.config()["servers"][0]["stdio"]["env"]["TEST_RUN"]
    command = [OPENMCP, "bridge", "--port", "0", "--path", "/here", "--env", "GIVEN=a=b", "--env", "OURS"]
    command += ["--env", f"TEST_RUN={run}", "--cwd", tmp_path, "--", sys.executable, SERVER, "--port", "7"]
    with running("openmcp bridge", command, {"OURS": "ours", "NOT_NAMED": "x"}) as process:
        url = process.wait_for(lambda: (found := _SERVING.search(process.printed())) and found[1]) + "/here"
        answer, session = post(url, INITIALIZE)
        assert answer["result"]["protocolVersion"] == "2025-11-25"
        call = {"name": "allowed_environment", "arguments": {}}
        wanted = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
        answer, _ = post(url, wanted, mcp_session_id=session)
        environment, folder, arguments = json.loads(answer["result"]["content"][0]["text"])
        assert (environment["GIVEN"], environment["OURS"]) == ("a=b", "ours")
        assert "NOT_NAMED" not in environment
        assert (folder, arguments) == (str(tmp_path), ["--port", "7"])
        (child,) = behind.processes()
        os.kill(child, signal.SIGSTOP)  # it cannot end by itself now
        assert process.stop() == 0
    assert behind.processes() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--", "no-such-program"], "no program no-such-program that can be run\n"),
        (["--env", "NOT_SET", "--", "cat"], "stdio.env: environment variable NOT_SET is not set\n"),
    ],
)
def test_what_cannot_be_started_is_said_at_once(arguments: list[str], said: str) -> None:
    command = [OPENMCP, "bridge", "--port", "0", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", said)

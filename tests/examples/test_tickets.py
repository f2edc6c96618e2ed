"""examples/tickets runs as its README says, and prints what is written there."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.examples.test_laptop import _listening
from tests.support.process import OPENMCP, ROOT, free_ports, running, sidecar

FOLDER = ROOT / "examples" / "tickets"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
PATIENCE = 30.0


@pytest.fixture
def folder(tmp_path):
    """A copy, so that nothing is written into the example."""
    return shutil.copytree(FOLDER, tmp_path / "tickets")


def told(text):
    """What was printed, without the ids of approvals."""
    return re.sub(r"PENDING apr_[0-9a-f]{16}:", "PENDING:", text)


def openmcp(folder, *words):
    return subprocess.run([OPENMCP, *words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_the_readme(folder):
    (command,) = re.findall(r"```sh\n(python agent\.py .*)\n```", README)
    (output,) = re.findall(r"```\n(tool .*?)```", README, re.DOTALL)
    (port,) = free_ports(1)
    written = yaml.safe_load((folder / "gateway.yaml").read_text())
    assert written["servers"][0]["endpoints"] == ["http://127.0.0.1:9100/mcp"]
    written["servers"][0]["endpoints"] = [f"http://127.0.0.1:{port}/mcp"]
    written["telemetry"]["audit"]["output"]["file"] = str(folder / "audit.jsonl")
    with running("server.py", [sys.executable, "server.py", str(port)], cwd=folder) as server:
        server.wait_for(lambda: _listening(port))
        with sidecar(written) as gateway:
            words = [sys.executable, *command.split()[1:], f"{gateway.url}/zendesk"]
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
            assert (told(done.stdout), done.stderr) == (output, "")
    verified = openmcp(folder, "audit", "verify", "audit.jsonl")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    replayed = openmcp(folder, "replay", "--audit", "audit.jsonl", "--agent", "key:support-bot")
    assert replayed.returncode == 0
    assert "get_payment" in replayed.stdout
    record = (folder / "audit.jsonl").read_text()
    assert "4111 1111" not in record  # four digits alone stand in some hash
    assert "jane@" not in record
    assert "omar@" not in record


def test_why_and_what_has_to_stay_true(folder):
    (command,) = re.findall(r"```sh\nopenmcp (explain .*)\n```", README)
    explained = subprocess.run(
        ["bash", "-c", f"{OPENMCP} {command}"], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert "requireApproval" in explained.stdout
    tested = openmcp(folder, "test", "policy-tests.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr

"""examples/tickets runs as its README says, and prints what is written there."""

import json
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
    """What was printed, without the ids of approvals and the time of day."""
    return re.sub(r"before [0-9: -]+Z\.", "before TIME.", re.sub(r"DENIED apr_[0-9a-z]{26}:", "DENIED:", text))


def openmcp(folder, *words):
    return subprocess.run([OPENMCP, *words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)


def decide(folder, verb, gateway, *more):
    """As the human does who is asked, once somebody is."""

    def asked():
        found = json.loads(openmcp(folder, "approvals", "list", "--json").stdout)
        return next((one["id"] for one in found if one["status"] == "pending"), None)

    done = openmcp(folder, "approvals", verb, gateway.running.wait_for(asked), *more)
    assert done.returncode == 0, done.stderr


def test_the_readme(folder):
    (command,) = re.findall(r"```sh\n(python agent\.py .*)\n```", README)
    (output,) = re.findall(r"```\n(tool .*?)```", README, re.DOTALL)
    (port,) = free_ports(1)
    written = yaml.safe_load((folder / "gateway.yaml").read_text())
    assert written["servers"][0]["endpoints"] == ["http://127.0.0.1:9100/mcp"]
    written["servers"][0]["endpoints"] = [f"http://127.0.0.1:{port}/mcp"]
    written["state"]["path"] = str(folder / "approvals.db")
    written["telemetry"]["audit"]["output"]["file"] = str(folder / "audit.jsonl")
    with running("server.py", [sys.executable, "server.py", str(port)], cwd=folder) as server:
        server.wait_for(lambda: _listening(port))
        with sidecar(written) as gateway:
            words = [sys.executable, *command.split()[1:], f"{gateway.url}/zendesk"]
            with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as agent:
                decide(folder, "approve", gateway)
                decide(folder, "deny", gateway, "--reason", "comments are internal")
                assert told(agent.communicate(timeout=PATIENCE)[0]) == output
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

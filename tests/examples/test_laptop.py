"""examples/laptop runs as its README says, and prints what is written there."""

import json
import re
import shutil
import socket
import subprocess
import sys

import pytest
import yaml

from tests.support.process import ROOT, free_ports, running, sidecar

FOLDER = ROOT / "examples" / "laptop"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
PATIENCE = 30.0


@pytest.fixture
def folder(tmp_path):
    """A copy, so that nothing is written into the example."""
    return shutil.copytree(FOLDER, tmp_path / "laptop")


def blocks():
    """The README's commands, each with the output that follows it, or None."""
    found = re.findall(r"```sh\n(.*?)```(?:\n\n```\n(.*?)```)?", README, re.DOTALL)
    return [(command.strip(), output or None) for command, output in found]


def test_the_readme(folder):
    start, assistant, digest, look = blocks()
    assert start[0].splitlines() == ["python server.py &", "openmcp run"]
    (port,) = free_ports(1)
    written = yaml.safe_load((folder / "gateway.yaml").read_text())
    assert written["servers"][0]["endpoints"] == ["http://127.0.0.1:9100/mcp"]
    written["servers"][0]["endpoints"] = [f"http://127.0.0.1:{port}/mcp"]
    config = {key: written[key] for key in ("identity", "servers", "policies")}  # the rest names fixed ports and files
    with running("server.py", [sys.executable, "server.py", str(port)], cwd=folder) as server:
        server.wait_for(lambda: _listening(port))
        with sidecar(config) as gateway:
            for command, output in (assistant, digest):
                words = [sys.executable, *command.split()[1:], f"{gateway.url}/notes"]
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
                assert (done.stdout, done.stderr) == (output, "")
            (folder / "audit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in gateway.records()))
    if shutil.which("jq") is not None:
        shown = subprocess.run(["bash", "-c", look[0]], cwd=folder, capture_output=True, text=True, check=True).stdout
        assert "key:assistant\tnote:///private/diary\tdeny\tprivate\n" in shown


def _listening(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return None
    return "yes"

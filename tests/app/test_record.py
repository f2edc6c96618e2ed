"""The record of a real process: signed, rotated by size and by hand, killed and started again, and whole in the end."""

import asyncio
import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import KEYS, call, configuration, gate, message
from tests.support.hostile import Reply, Request, hostile
from tests.support.process import OPENMCP, Running, free_ports, running
from tests.telemetry.recording import keys

DENIED = json.dumps(call("forbidden")).encode()  # answered without a server


def settings(folder: Path, **audit: Any) -> dict[str, Any]:
    (folder / "audit.pem").write_bytes(keys()[0])
    (folder / "public.pem").write_bytes(keys()[1])
    mcp, admin = free_ports(2)
    record = {"output": {"file": str(folder / "audit.jsonl")}, "signingKey": {"file": str(folder / "audit.pem")}}
    return configuration("http://127.0.0.1:1/mcp") | {
        "listen": {"mcp": f"127.0.0.1:{mcp}", "admin": f"127.0.0.1:{admin}"},
        "telemetry": {"audit": record | audit},
    }


def ask(config: dict[str, Any], times: int) -> None:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    headers["x-api-key"] = KEYS["alice"]
    for _ in range(times):
        url = f"http://{config['listen']['mcp']}/server"
        with urllib.request.urlopen(urllib.request.Request(url, DENIED, headers)) as answer:
            assert json.load(answer)["result"]["isError"] is True


@contextmanager
def sidecar(folder: Path, config: dict[str, Any]) -> Iterator[Running]:
    (folder / "gateway.yaml").write_text(json.dumps(config))
    with running("openmcp run", [OPENMCP, "run", "-c", folder / "gateway.yaml"], cwd=folder) as process:
        process.wait_for(lambda: "serving" if "serving" in process.printed() else None)
        yield process


def verify(folder: Path, *options: str) -> tuple[int, str, str]:
    files = sorted(str(path) for path in folder.glob("audit.jsonl*"))
    done = subprocess.run(
        [OPENMCP, "audit", "verify", "--key", folder / "public.pem", *options, *files], capture_output=True, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def recorded(folder: Path) -> int:
    """Requests that are on record, also while it is being written."""
    found = 0
    for path in folder.glob("audit.jsonl*"):
        with suppress(FileNotFoundError):  # it has just been set aside
            found += path.read_bytes().count(b'"event":"request"')
    return found


def moved(file: Path, to: Path) -> str | None:
    """Move a file, which is not there for a moment whenever the sidecar sets it aside itself."""
    with suppress(FileNotFoundError):
        file.rename(to)
        return "moved"
    return None


def test_rotated_by_size_moved_by_hand_killed_and_whole(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config["telemetry"]["audit"]["output"]["rotate"] = {"size": "8KiB"}
    with sidecar(tmp_path, config) as process:
        ask(config, 30)
        process.wait_for(lambda: moved(tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.by-hand"))
        process.process.send_signal(signal.SIGHUP)
        process.wait_for(lambda: "there" if (tmp_path / "audit.jsonl").exists() else None)
        ask(config, 5)
        process.wait_for(lambda: "written" if recorded(tmp_path) == 35 else None)
        code, _, wrong = verify(tmp_path, "--live")
        assert code == 0, wrong
    assert verify(tmp_path)[0] == 0
    with sidecar(tmp_path, config) as process:
        ask(config, 5)
        process.wait_for(lambda: "written" if recorded(tmp_path) == 40 else None)
        process.process.kill()
        process.process.wait()
    code, _, wrong = verify(tmp_path)
    assert code == 1
    assert "the record ends here without a last checkpoint" in wrong
    with sidecar(tmp_path, config):
        ask(config, 1)
    code, said, wrong = verify(tmp_path)
    assert code == 0, wrong
    assert "note: " in wrong
    assert "the process before ended without a last checkpoint" in wrong
    assert "signatures: all" in said
    assert recorded(tmp_path) == 41
    assert len(list(tmp_path.glob("audit.jsonl*"))) > 4


def test_the_log_tells_where_the_record_ends(tmp_path: Path) -> None:
    """Somebody who cuts the record's end would have to cut the log's too."""
    config = settings(tmp_path)
    with sidecar(tmp_path, config) as process:
        ask(config, 1)
        assert process.stop() == 0
        told = re.search(r"the record ends with seq (\d+), chain (\w+)", process.printed())
    last = (tmp_path / "audit.jsonl").read_text().splitlines()[-1]
    assert told is not None
    assert last.endswith(f',"seq":{told[1]},"chain":"{told[2]}"}}')


def test_standard_output_is_a_chain_too(tmp_path: Path) -> None:
    config = settings(tmp_path, output="stdout")
    with sidecar(tmp_path, config) as process:
        ask(config, 3)
        assert process.stop() == 0
        whole = process.printed()
    printed = [line for line in whole.splitlines() if line.startswith('{"time"') and '"chain"' in line]
    (tmp_path / "audit.jsonl").write_text("".join(f"{line}\n" for line in printed))
    assert verify(tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"", "is empty"),
        (b"no key", "is not a private key in PEM without a password (make one with: openmcp audit keygen audit.pem)"),
        (keys()[1], "is not a private key in PEM"),
    ],
)
def test_a_key_that_is_none_is_told_at_the_start(tmp_path: Path, pem: bytes, why: str) -> None:
    config = settings(tmp_path)
    (tmp_path / "audit.pem").write_bytes(pem)
    (tmp_path / "gateway.yaml").write_text(json.dumps(config))
    done = subprocess.run([OPENMCP, "run", "-c", tmp_path / "gateway.yaml"], capture_output=True, check=False)
    assert done.returncode == 1
    assert f"telemetry.audit.signingKey: file {tmp_path / 'audit.pem'} {why}" in done.stderr.decode()
    assert not (tmp_path / "audit.jsonl").exists()


async def test_neither_credentials_nor_what_is_large_are_kept(tmp_path: Path) -> None:
    """The agent says its own key; the server answers with more than is looked at here."""

    async def large(request: Request, reply: Reply) -> None:
        await reply.result({"content": [{"type": "text", "text": "x" * 400_000}]})

    async with hostile(large) as server:
        config = configuration(server.url)
        config["telemetry"] = {"audit": {"output": {"file": str(tmp_path / "audit.jsonl")}, "payloads": "redacted"}}
        async with gate(tmp_path, config) as it, it.connect("alice") as agent:
            answer = await agent.ask(call("allowed", said=f"my key is {KEYS['alice']}"))
            assert len(answer.body) > 400_000
            line = await it.recorded(event="response")
            assert line["clipped"] == {"member": "message", "bytes": len(answer.body)}
            asked = await it.recorded(event="request")
            assert asked["params"]["arguments"] == {"said": "my key is [credential]"}
            assert server.calls("tools/call")[0]["params"]["arguments"] == {"said": f"my key is {KEYS['alice']}"}
            assert KEYS["alice"] not in await asyncio.to_thread(it.record.read_text)
            assert (await agent.ask(message("ping"))).status == 200

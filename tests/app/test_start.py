"""The begin: nobody is told that calls may come before they are taken."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openmcp.config import load
from openmcp.sidecar import app as app_module
from openmcp.sidecar.app import App
from tests.support.gate import Gate, configuration
from tests.support.hostile import Hostile
from tests.support.process import free_ports


async def test_operators_hear_of_it_once_agents_are_heard(server: Hostile, tmp_path: Path) -> None:
    config = configuration(server.url)
    operators = ("127.0.0.1", *free_ports(1))
    config["listen"] = {"mcp": "127.0.0.1:0", "admin": "{}:{}".format(*operators)}
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps({"telemetry": {"audit": {"output": {"file": str(tmp_path / "audit.jsonl")}}}, **config}))
    app = App(load(file).configuration)
    bind, bound = app._listener.start, asyncio.Event()

    async def binding(*arguments: Any) -> tuple[str, int]:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*operators)
        bound.set()
        return await bind(*arguments)

    app._listener.start = binding  # type: ignore[method-assign]  # to look at the moment before
    await app.start()
    _, writer = await asyncio.open_connection(*operators)
    writer.close()
    await app.stop(patience=0.0)
    assert bound.is_set()


HEAVY = (
    "aiohttp", "aiosmtpd", "authlib", "boto3", "botocore", "cryptography", "difflib", "email", "google", "grpc", "h2",
    "jinja2", "jsonpath_ng", "jsonschema", "jwt", "kubernetes", "mcp", "opentelemetry", "prometheus_client", "redis",
    "rich", "spiffe", "sqlite3",
)  # fmt: skip


def test_a_plain_sidecar_loads_nothing_that_it_does_not_need() -> None:
    program = f"import sys, openmcp.sidecar.serve; print(*sorted({{*{HEAVY}}} & {{*sys.modules}}))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ended.stdout.split() == []


@pytest.mark.parametrize(
    ("mistake", "code", "said"),
    [
        (
            {"sessions": {"key": {"file": "session.key"}}},
            1,
            r"sessions\.key: file .*session\.key cannot be read: No such",
        ),
        ({"listen": {"mcp": "127.0.0.1:0", "admin": "{taken}"}}, 3, r"cannot listen: .*address already in use"),
        (
            {"listen": {"mcp": "{taken}", "admin": "127.0.0.1:0"}},
            3,
            r"cannot listen: .*address already in use \(another process has it: end that one",
        ),
        ({"approvals": {"console": {"listen": "{taken}"}}}, 3, r"cannot listen: .*address already in use"),
    ],
)
def test_a_start_that_fails_leaves_a_whole_record(
    tmp_path: Path, mistake: dict[str, Any], code: int, said: str
) -> None:
    """Otherwise it looks as if somebody had cut it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        config = configuration("http://127.0.0.1:9/mcp") | {
            "listen": {"mcp": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "telemetry": {"audit": {"output": {"file": "audit.jsonl"}}},
        }
        (tmp_path / "gateway.yaml").write_text(json.dumps(config | mistake).replace("{taken}", address))
        for _ in range(2):
            ended = _openmcp(tmp_path, "run")
            assert (ended.returncode, bool(re.search(said, ended.stderr))) == (code, True), ended.stderr
    verified = _openmcp(tmp_path, "audit", "verify", "audit.jsonl")
    assert (verified.returncode, verified.stdout.splitlines()[0]) == (
        0,
        "whole: 4 lines (seq 1 to 4) in 1 file, chained without a break",
    )


def test_a_record_that_cannot_be_written_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = configuration("http://127.0.0.1:9/mcp") | {"telemetry": {"audit": {"output": {"file": "no/audit.jsonl"}}}}
    (tmp_path / "gateway.yaml").write_text(json.dumps(config))

    async def made() -> None:
        App(load(tmp_path / "gateway.yaml").configuration).audit.close(5.0)

    asyncio.run(made())
    where = tmp_path / "no/audit.jsonl"
    said = f"the record cannot be written: telemetry.audit.output, {where}: No such file or directory"
    assert said in caplog.messages


def _openmcp(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openmcp.sidecar.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


async def test_strangers_keep_no_probe_from_its_answer(sidecar: Gate) -> None:
    """The port for operators is open to a whole cluster: half a head on each of many connections takes memory."""
    strangers = []
    for _ in range(app_module.OPERATORS + 1):
        reader, writer = await asyncio.open_connection(*sidecar.app.admin_address, local_addr=("127.0.0.2", 0))
        writer.write(b"GET /healthz HTTP/1.1\r\nx: ")
        strangers.append((reader, writer))
    assert "HTTP/1.1 200" in await sidecar.page("/healthz")
    assert sidecar.app._admin.connections <= app_module.OPERATORS
    for _, writer in strangers:
        writer.close()

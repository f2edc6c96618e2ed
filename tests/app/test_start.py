"""The begin: nobody is told that calls may come before they are taken."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openmcp.config import load
from openmcp.sidecar.app import App
from tests.support.gate import configuration
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

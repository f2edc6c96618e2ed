"""Official servers behind the sidecar as stdio servers: what their clients get is what they get from them over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.interop.plans import EVERYTHING
from tests.interop.test_everything import asked_back
from tests.support.parts import require, sdk_environment
from tests.support.process import ROOT, allow_all, mcp_server, sidecar

pytestmark = pytest.mark.real


@contextmanager
def bridged(command: list[str], **stdio: Any) -> Iterator[str]:
    """Run a sidecar in front of a stdio server, and yield its URL there."""
    config = allow_all(server="http://unused")
    program, *arguments = command
    config["servers"] = [
        {"name": "server", "stdio": {"command": program, "args": arguments, "cwd": str(ROOT), **stdio}}
    ]
    with sidecar(config) as gateway:
        yield f"{gateway.url}/server"


async def test_the_reference_server_of_node_is_the_same() -> None:
    require("node", "sdk")
    command = [str(part) for part in EVERYTHING.command()]
    with (
        mcp_server("everything", command, sdk_environment()) as direct,
        bridged([*command[:-1], "stdio"]) as through,
    ):
        report = await asked_back(through)
        assert report[0] == ["Roots updated: 1 root(s) received from client"]
        assert report == await asked_back(direct)

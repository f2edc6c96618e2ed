"""The transport of 2024-11-05, HTTP+SSE, on either side of the sidecar: official clients and servers complete their
plan in every mixture of it with Streamable HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.interop.clients import NodeClient, PythonClient
from tests.interop.plans import EVERYTHING, PYTHON, TYPESCRIPT_1, Upstream
from tests.support.parts import require, sdk_environment
from tests.support.process import Sidecar, allow_all, mcp_server, sidecar

VERSION = "2025-11-25"


@dataclass(frozen=True)
class Server:
    """An official server and the transport it speaks; `arguments` make it do so, `path` is where."""

    upstream: Upstream
    transport: str
    arguments: tuple[str, ...] = ()
    path: str = "/mcp"


NEW = [Server(PYTHON, "http"), Server(TYPESCRIPT_1, "http")]
OLD = [
    Server(PYTHON, "sse", ("--sse",)),
    Server(TYPESCRIPT_1, "sse", ("sse",)),
    Server(EVERYTHING, "sse", ("sse",), "/sse"),
]


def params(servers: list[Server]) -> list[Any]:
    """Return the servers as parameters of tests; those of Node are real parts."""
    return [
        pytest.param(
            one, id=f"{one.upstream.name}-{one.transport}", marks=[pytest.mark.real] * bool(one.upstream.parts)
        )
        for one in servers
    ]


@contextmanager
def through(server: Server) -> Iterator[tuple[str, Sidecar]]:
    """Run the server with a sidecar in front that serves old agents too; yields the URL there."""
    require(*server.upstream.parts)
    environment = sdk_environment() if server.upstream.parts else {}
    command = [str(word) for word in server.upstream.command()]
    if server.upstream is EVERYTHING:
        command.pop()  # its own word for Streamable HTTP
    with mcp_server("server", [*command, *server.arguments], environment) as url:
        config = allow_all(upstream=url.removesuffix("/mcp") + server.path)
        config["servers"][0] |= {"transport": server.transport, "compat": {"sse": True}}
        with sidecar(config) as gateway:
            yield f"{gateway.url}/upstream", gateway


def expected(server: Server) -> list[Any]:
    """Return the report of a client that has completed its plan."""
    return [{"connected": {"server": server.upstream.name, "version": VERSION}}, *server.upstream.report()]


def unheard(report: list[Any]) -> list[Any]:
    """Return a report without the progress that was seen: over HTTP+SSE the TypeScript client loses what comes just
    before an answer, also without a sidecar."""
    return [step | {"progress": step["progress"]["result"]} if "progress" in step else step for step in report]


@pytest.mark.parametrize("server", params(NEW + OLD))
async def test_the_old_client_of_python_completes_its_plan(server: Server) -> None:
    with through(server) as (url, gateway):
        assert await PythonClient("legacy", sse=True).play(url, server.upstream) == expected(server)
        called = [line["method"] for line in gateway.records() if line["event"] == "request"]
        assert called[:3] == ["initialize", "tools/list", "tools/call"], "each message is judged and recorded by itself"


@pytest.mark.parametrize("server", params(OLD))
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_python_client_completes_its_plan_with_an_old_server(server: Server, mode: str) -> None:
    with through(server) as (url, _):
        assert await PythonClient(mode).play(url, server.upstream) == expected(server)


@pytest.mark.real
@pytest.mark.parametrize("server", params(NEW + OLD))
async def test_the_old_client_of_typescript_completes_its_plan(server: Server) -> None:
    require("node", "sdk")
    with through(server) as (url, _):
        report = await NodeClient("client-v1.mjs", "sse").play(url, server.upstream)
        assert unheard(report) == unheard(expected(server))


@pytest.mark.real
@pytest.mark.parametrize("server", params(OLD))
@pytest.mark.parametrize(("script", "mode"), [("client-v1.mjs", "-"), ("client-v2.mjs", "auto")])
async def test_typescript_clients_complete_their_plan_with_an_old_server(
    server: Server, script: str, mode: str
) -> None:
    require("node", "sdk")
    with through(server) as (url, _):
        assert await NodeClient(script, mode).play(url, server.upstream) == expected(server)

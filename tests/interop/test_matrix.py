"""Official clients and servers complete every kind of exchange through the sidecar.

Every client plays the same plan (list, call, progress, elicitation, read, prompt) against every
server, and reports what it would report without a sidecar between them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from tests.interop.clients import ClientFailed, Inspector, NodeClient, PythonClient
from tests.interop.plans import EVERYTHING, PYTHON, TYPESCRIPT_1, TYPESCRIPT_2, Routes, Upstream
from tests.support.parts import require

LEGACY, MODERN = "2025-11-25", "2026-07-28"

ALL = (PYTHON, TYPESCRIPT_1, TYPESCRIPT_2, EVERYTHING)
UPSTREAMS = [pytest.param(each, id=each.name, marks=[pytest.mark.real] if each.parts else []) for each in ALL]
MODERN_UPSTREAMS = [param for param, each in zip(UPSTREAMS, ALL, strict=True) if each.modern]
LEGACY_UPSTREAMS = [param for param, each in zip(UPSTREAMS, ALL, strict=True) if not each.modern]


def expected(upstream: Upstream, version: str) -> list[dict[str, Any]]:
    """Return the whole report of a client that is connected at ``version``."""
    return [{"connected": {"server": upstream.name, "version": version}}, *upstream.report()]


@pytest.mark.parametrize("routes", UPSTREAMS, indirect=True)
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_python_client_completes_its_plan(routes: Routes, mode: str) -> None:
    upstream, _, url = routes
    version = MODERN if upstream.modern and mode == "auto" else LEGACY

    assert await PythonClient(mode).play(url, upstream) == expected(upstream, version)


@pytest.mark.parametrize("routes", MODERN_UPSTREAMS, indirect=True)
async def test_the_python_client_completes_its_plan_without_asking_for_versions(routes: Routes) -> None:
    upstream, _, url = routes
    report = await PythonClient(MODERN).play(url, upstream)

    # It never asks who the server is, so it does not know.
    assert report == [{"connected": {"server": None, "version": MODERN}}, *upstream.report()]


@pytest.mark.real
@pytest.mark.parametrize("routes", UPSTREAMS, indirect=True)
@pytest.mark.parametrize(("script", "mode"), [("client-v1.mjs", "-"), ("client-v2.mjs", "legacy")])
async def test_typescript_clients_complete_their_plan(routes: Routes, script: str, mode: str) -> None:
    require("node", "sdk")
    upstream, _, url = routes

    assert await NodeClient(script, mode).play(url, upstream) == expected(upstream, LEGACY)


@pytest.mark.real
@pytest.mark.parametrize("routes", UPSTREAMS, indirect=True)
async def test_the_typescript_client_finds_the_newest_version(routes: Routes) -> None:
    require("node", "sdk")
    upstream, _, url = routes
    version = MODERN if upstream.modern else LEGACY

    assert await NodeClient("client-v2.mjs", "auto").play(url, upstream) == expected(upstream, version)


@pytest.mark.real
@pytest.mark.parametrize("routes", MODERN_UPSTREAMS, indirect=True)
async def test_the_typescript_client_completes_its_plan_at_the_newest_version(routes: Routes) -> None:
    require("node", "sdk")
    upstream, _, url = routes

    assert await NodeClient("client-v2.mjs", MODERN).play(url, upstream) == expected(upstream, MODERN)


@pytest.mark.real
@pytest.mark.parametrize("routes", LEGACY_UPSTREAMS, indirect=True)
async def test_clients_that_insist_on_a_version_are_told_which_there_are(routes: Routes) -> None:
    require("node", "sdk")
    upstream, _, url = routes
    async with Client(url, mode=MODERN) as client:
        with pytest.raises(MCPError) as refused:
            await client.list_tools()
    assert refused.value.error.code == -32022
    assert refused.value.error.data == {"supported": ["2025-11-25", "2025-06-18", "2025-03-26"], "requested": MODERN}

    with pytest.raises(ClientFailed, match="UnsupportedProtocolVersionError"):
        await NodeClient("client-v2.mjs", MODERN).play(url, upstream)


def inspected(inspector: Inspector, url: str, step: dict[str, Any]) -> Any:
    """Make one step of a plan with the inspector and report it as the other clients do."""
    given = [f"{name}={json.dumps(value)}" for name, value in step.get("arguments", {}).items()]
    if step["do"] == "tools":
        return sorted(tool["name"] for tool in inspector.ask(url, "--method", "tools/list")["tools"])
    if step["do"] == "read":
        return inspector.ask(url, "--method", "resources/read", "--uri", step["uri"])["contents"]
    if step["do"] == "prompt":
        words = [f"{name}={value}" for name, value in step["arguments"].items()]
        prompt = ["--method", "prompts/get", "--prompt-name", step["name"], "--prompt-args", *words]
        return inspector.ask(url, *prompt)["messages"]
    result = inspector.ask(url, "--method", "tools/call", "--tool-name", step["name"], "--tool-arg", *given)
    return {"content": result["content"], "isError": result.get("isError", False)}


def inspector_expects(upstream: Upstream) -> list[dict[str, Any]]:
    """Return the report without what the inspector's command line cannot do: elicit, show progress."""
    report = {kind: came for step in upstream.report() for kind, came in step.items()}
    report["progress"] = report["progress"]["result"]
    if upstream is EVERYTHING:  # this server offers its tools by what the client declares
        by_capability = {"trigger-elicitation-request", "trigger-url-elicitation"}
        report["tools"] = sorted({*report["tools"], "get-roots-list"} - by_capability)
    return [{kind: came} for kind, came in report.items() if kind != "ask"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("routes", "era"),
    [
        *(pytest.param(each, "legacy", id=f"{each.name}-legacy") for each in ALL),
        *(pytest.param(each, "modern", id=f"{each.name}-modern") for each in ALL if each.modern),
    ],
    indirect=["routes"],
)
async def test_the_inspector_completes_its_plan(routes: Routes, era: str) -> None:
    require("node", "inspector")
    upstream, _, url = routes
    plan = [step for step in upstream.plan if step["do"] != "ask"]
    report = [{step["do"]: inspected(Inspector(era), url, step)} for step in plan]

    assert report == inspector_expects(upstream)


@pytest.mark.real
@pytest.mark.parametrize("routes", UPSTREAMS[:1], indirect=True)
async def test_the_inspector_is_told_that_it_cannot_be_asked(routes: Routes) -> None:
    require("node", "inspector")
    upstream, _, url = routes
    with pytest.raises(ClientFailed, match="Client did not declare the form elicitation capability"):
        inspected(Inspector("legacy"), url, next(step for step in upstream.plan if step["do"] == "ask"))

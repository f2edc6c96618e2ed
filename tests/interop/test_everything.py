"""The rarer exchanges, with the reference server that has them all: it asks back, it logs, it has tasks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from mcp import types
from mcp.client.client import Client

from tests.interop.clients import run_node
from tests.interop.plans import EVERYTHING, Routes
from tests.support.parts import require
from tests.support.process import ROOT

pytestmark = [pytest.mark.real, pytest.mark.parametrize("routes", [EVERYTHING], indirect=True, ids=["everything"])]

PATIENCE = 10.0  # seconds for what the server sends on its own


class Answering:
    """A client's side of what the server asks: a model that says one thing, one root, a log."""

    def __init__(self) -> None:
        self.logged: list[str] = []
        self.log_arrived = asyncio.Event()

    async def sampled(self, context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        content = types.TextContent(text="a sampled answer")
        return types.CreateMessageResult(role="assistant", content=content, model="none")

    async def roots(self, context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(
            roots=[types.Root.model_validate({"uri": "file:///srv/interop", "name": "interop"})]
        )

    async def log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logged.append(str(params.data))
        self.log_arrived.set()


async def asked_back(url: str) -> list[Any]:
    """Have the server ask for roots and a completion, log, and complete an argument."""
    answering = Answering()
    async with Client(
        url,
        mode="legacy",
        sampling_callback=answering.sampled,
        list_roots_callback=answering.roots,
        logging_callback=answering.log,
    ) as client:
        # Asked for on the stream that belongs to no request, once the session has begun.
        await asyncio.wait_for(answering.log_arrived.wait(), PATIENCE)
        department = await client.complete(
            types.PromptReference(name="completable-prompt"), {"name": "department", "value": "E"}
        )
        calls = [
            await client.call_tool("get-roots-list", {}),
            await client.call_tool("trigger-sampling-request", {"prompt": "anything", "maxTokens": 10}),
            await client.call_tool("get-structured-content", {"location": "New York"}),
            await client.call_tool("get-resource-links", {"count": 3}),
            await client.call_tool("get-tiny-image", {}),
            await client.call_tool("no-such-tool", {}),
        ]
        listed = (await client.list_resources(), await client.list_resource_templates(), await client.list_tools())
        whole = [each.model_dump(mode="json") for each in (*calls, *listed)]
        return [answering.logged, department.completion.values, *whole]


async def test_a_server_that_asks_back_gets_its_answers(routes: Routes) -> None:
    _, direct, through = routes
    report = await asked_back(through)

    assert report[:2] == [["Roots updated: 1 root(s) received from client"], ["Engineering"]]
    assert "file:///srv/interop" in report[2]["content"][0]["text"]
    assert "a sampled answer" in report[3]["content"][0]["text"]
    assert report == await asked_back(direct)


async def test_a_task_is_followed_to_its_result(routes: Routes) -> None:
    require("node", "sdk")
    _, _, url = routes
    report = json.loads(run_node(ROOT / "tests" / "interop" / "node" / "tasks-v1.mjs", url))
    text = report.pop("result")[0]["text"]

    assert report == {
        "first": "taskCreated working",
        "last": "taskStatus completed",
        "listed": ["completed"],
        "unknown": -32602,
    }
    assert text.startswith("# Research Report: bees")

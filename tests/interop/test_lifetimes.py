"""What ends before its time: calls that are cancelled, and subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from mcp import types
from mcp.client.client import Client
from mcp.client.subscriptions import PromptsListChanged, ToolsListChanged

from tests.support.process import allow_all, mcp_server, python_server, sidecar

PATIENCE = 10.0  # seconds; everything here takes milliseconds


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """The base URL of a sidecar in front of two fixture servers, ``patient`` and ``changing``."""
    with (
        mcp_server("patient", python_server("tests.fixtures.patient_server")) as patient,
        mcp_server("changing", python_server("tests.fixtures.conformance_server")) as changing,
        sidecar(allow_all(patient=patient, changing=changing)) as running,
    ):
        yield running.url


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_cancelled_call_is_cancelled_at_the_server(gateway: str, mode: str) -> None:
    begun = asyncio.Event()

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    async with asyncio.timeout(PATIENCE), Client(f"{gateway}/patient", mode=mode) as client:
        call = asyncio.create_task(client.call_tool("wait", {"name": mode}, progress_callback=progressed))
        await begun.wait()
        call.cancel()
        result = await client.call_tool("when_cancelled", {"name": mode})

    assert result.content == [types.TextContent(text=f"{mode} was cancelled")]


async def test_what_a_client_listens_to_arrives(gateway: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        Client(f"{gateway}/changing") as client,
        client.listen(tools_list_changed=True, prompts_list_changed=True) as subscription,
    ):
        events = aiter(subscription)
        await client.call_tool("test_trigger_prompt_change", {})
        first = await anext(events)
        await client.call_tool("test_trigger_tool_change", {})
        second = await anext(events)

    assert [first, second] == [PromptsListChanged(), ToolsListChanged()]


async def test_a_client_gets_only_what_it_listens_to(gateway: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        Client(f"{gateway}/changing") as client,
        client.listen(tools_list_changed=True) as subscription,
    ):
        await client.call_tool("test_trigger_prompt_change", {})
        await client.call_tool("test_trigger_tool_change", {})

        assert await anext(aiter(subscription)) == ToolsListChanged()

"""Agents of 2024-11-05 with a server that is a program: one process for each stream."""

from tests.bridge.conftest import Behind
from tests.support.gate import call
from tests.support.old import old_agent


async def test_the_process_of_an_old_agent_ends_with_its_stream(behind: Behind) -> None:
    async with behind.gate(server={"compat": {"sse": True}}) as sidecar:
        async with old_agent(sidecar) as agent:
            await agent.initialize()
            answer = await agent.ask(call("allowed_echo", text="hi"))
            assert answer["result"]["content"][0]["text"] == f"hi {behind.processes()[0]}"
        assert await behind.left(0) == []

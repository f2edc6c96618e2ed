"""A server is replaced by one of the other era while agents use it, and may be put back."""

from typing import Any

from tests.policy.rules import allow
from tests.stages.scene import Sent, reply, response
from tests.stages.translating import LegacyOnly, ModernOnly, complete, text, translated

ALL = allow()


def done(sent: Sent) -> Any:
    return reply(response(text("done"), sent.json["id"]))


def modern_done(sent: Sent) -> Any:
    return reply(response(complete(**text("done")), sent.json["id"]))


async def test_modern_agents_do_not_notice_that_a_server_has_become_modern() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=done)
        assert (await it.agent.modern("tools/call", name="echo")).result == complete(**text("done"))
        it.server = ModernOnly(tools_call=modern_done)
        for agent in (it.agent, it.eve):  # one of them has a session there
            assert (await agent.modern("tools/call", name="echo")).result == complete(**text("done"))


async def test_an_agent_without_a_session_does_not_notice_it_either() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=done)
        await it.agent.modern("tools/call", name="echo")
        it.server = ModernOnly(tools_call=modern_done)
        assert (await it.eve.modern("tools/call", name="echo")).result == complete(**text("done"))


async def test_legacy_agents_begin_anew_with_a_server_that_is_legacy_again() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=modern_done)
        await it.agent.initialize()
        it.server = server = LegacyOnly(tools_call=done)
        assert (await it.agent.call("echo")).status == 404
        it.agent.session = None
        await it.agent.initialize()
        assert (await it.agent.call("echo")).result == text("done")
        assert server.sessions == {"upstream-1"}  # the session is the server's own


async def test_a_new_session_is_the_servers_own_once_it_is_legacy_again() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=modern_done)
        await it.agent.initialize()
        it.server = server = LegacyOnly(tools_call=done)
        await it.eve.initialize()
        assert server.sessions == {"upstream-1"}
        assert (await it.eve.call("echo")).result == text("done")

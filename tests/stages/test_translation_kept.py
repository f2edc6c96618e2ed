"""Sessions that are kept for modern agents are where the configuration has an endpoint, and where that answers."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.stages.translation import kept
from tests.policy.rules import allow
from tests.stages.scene import Sent, reply, response, stream
from tests.stages.translating import LegacyOnly, complete, text, translated
from tests.support.gate import MODERN, ask_modern, call, configuration, gate
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile

ALL = allow()


def done(sent: Sent) -> Any:
    return reply(response(text("done"), sent.json["id"]))


async def legacy_only(asked: Request, answer: Reply) -> None:
    """A plain server of the legacy era alone."""
    if asked.header("mcp-protocol-version") == MODERN:
        error = {"code": -32000, "message": "Bad Request: Unsupported protocol version"}
        await answer.message({"jsonrpc": "2.0", "id": None, "error": error}, status=400)
    else:
        await friendly(asked, answer)


def calls(server: Hostile) -> int:
    return sum(one.header("mcp-protocol-version") != MODERN for one in server.requests if b"tools/call" in one.body)


async def test_a_server_that_the_configuration_has_no_longer_gets_nothing_more(tmp_path: Path) -> None:
    async with (
        hostile(legacy_only) as old,
        hostile(legacy_only) as new,
        gate(tmp_path, configuration(old.url, translate=True)) as sidecar,
        sidecar.connect() as agent,
    ):
        assert (await ask_modern(agent, call())).status == 200
        assert (calls(old), calls(new)) == (1, 0)
        sidecar.reload(configuration(new.url, translate=True))
        assert (await ask_modern(agent, call())).status == 200
        assert (calls(old), calls(new)) == (1, 1)


@pytest.mark.parametrize("method", ["tools/call", "subscriptions/listen"])
async def test_a_session_at_an_endpoint_that_is_gone_is_given_up(method: str) -> None:
    async with translated(ALL, endpoints=2) as it:
        server = LegacyOnly(tools_call=done, GET=lambda sent: stream())
        gone: set[str] = set()

        def reached(sent: Sent) -> Any:
            if sent.endpoint in gone:
                raise UpstreamFailed("connect", "connection refused", sent=False)
            return server(sent)

        it.server = reached
        await it.agent.modern("tools/call", name="echo")
        gone.add(it.sent[-1].endpoint)
        for place in it.upstream.endpoints:
            place.healthy = place.url not in gone
        if method == "subscriptions/listen":
            assert "error" in (await it.agent.modern(method, notifications={"toolsListChanged": True})).json
            listening = await it.agent.modern(method, 2, notifications={"toolsListChanged": True})
            assert listening.messages[0]["method"] == "notifications/subscriptions/acknowledged"
        assert (await it.agent.modern("tools/call", name="echo")).result == complete(**text("done"))


async def test_a_session_that_has_too_much_to_do_is_kept() -> None:
    """Behind a program each session is a process."""

    def busy(sent: Sent) -> Any:
        raise UpstreamFailed("overloaded", "256 calls are under way", sent=False)

    async with translated(ALL) as it:
        it.server = server = LegacyOnly(tools_call=busy)
        assert "error" in (await it.agent.modern("tools/call", name="echo")).json
        assert server.begun == 1


async def test_a_server_that_says_too_much_of_itself_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "INTRODUCTION", 256)
    async with translated(ALL) as it:
        it.server = server = LegacyOnly(tools_call=done)
        assert "result" in (await it.agent.modern("tools/call", name="echo")).json
        monkeypatch.setattr("tests.stages.translating.INFO", {"name": "x" * 256, "version": "1"})
        assert "error" in (await it.eve.modern("tools/call", name="echo")).json
        assert len(it.snapshot.routes["/tools"].translator._downward._keeping) == 1  # type: ignore[union-attr]  # it has one
        assert server.begun == 2


async def test_all_pages_of_a_list_come_from_one_session() -> None:
    """A cursor is good for the session that it was given in (2025-11-25 server/utilities/pagination)."""
    numbers = itertools.count(1)

    def page(sent: Sent) -> Any:
        return reply(response({"tools": [], "nextCursor": f"page {next(numbers)}"}, sent.json["id"]))

    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_list=page)
        cursor: dict[str, Any] = {}
        for _ in range(3):
            cursor = {"cursor": (await it.agent.modern("tools/list", **cursor)).result["nextCursor"]}
        pages = [one for one in it.sent if b'"tools/list"' in one.body and "mcp-session-id" in one.headers]
        assert [one.json["params"].get("cursor") for one in pages] == [None, "page 1", "page 2"]
        assert {one.headers["mcp-session-id"] for one in pages} == {"upstream-1"}

"""A client comes back for its session's stream before its server has noticed that the one before ended."""

from pathlib import Path

import pytest

from tests.support.gate import configuration, gate, initialize
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile


@pytest.mark.parametrize(("refusals", "status"), [(1, 200), (3, 200), (4, 502)])
async def test_a_server_that_still_has_the_stream_before_is_asked_again(
    tmp_path: Path, refusals: int, status: int
) -> None:
    left = refusals

    async def handler(request: Request, reply: Reply) -> None:
        nonlocal left
        if request.method != "GET" or "text/event-stream" not in (request.header("accept") or ""):
            await friendly(request, reply)
        elif left:
            left -= 1
            await reply.respond(status=409)
        else:
            await reply.stream()
            await reply.end()

    async with (
        hostile(handler) as server,
        gate(tmp_path, configuration(server.url)) as sidecar,
        sidecar.connect("alice") as agent,
    ):
        await initialize(agent)
        answer = await agent.ask(b"", "GET", accept="text/event-stream")
    assert answer.status == status
    assert _streams(server) == min(refusals + 1, 4)


def _streams(server: Hostile) -> int:
    return sum(
        request.method == "GET" and request.header("accept") == "text/event-stream" for request in server.requests
    )

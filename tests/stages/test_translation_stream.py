"""The stream of a legacy session with a modern server, whatever else the agent does meanwhile."""

import asyncio
from typing import Any

from openmcp.sidecar.mcp.era import META_SUBSCRIPTION
from openmcp.sidecar.stages.translation.sides import MOST_URIS
from tests.policy.rules import allow
from tests.stages.scene import Answer, Scene, Sent, notification, reply, response, stream
from tests.stages.translating import CAPABILITIES, DISCOVERED, LegacyOnly, ModernOnly, translated

ALL = allow()


class Listened:
    """A server that is listened to: `streams` are those that it has, with what each is about."""

    def __init__(self) -> None:
        self.wanted: list[Any] = []
        self.streams: list[Any] = []
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, sent: Sent) -> Any:
        asked = sent.json
        self.wanted.append(asked["params"]["notifications"].get("resourceSubscriptions", []))
        await self.free.wait()
        mark = {"_meta": {META_SUBSCRIPTION: asked["id"]}}
        self.streams.append(stream(notification("subscriptions/acknowledged", notifications={}, **mark), open_end=True))
        return self.streams[-1]


async def begun(count: int, server: Listened) -> None:
    """Wait until the server was asked so often."""
    async with asyncio.timeout(20):
        while len(server.wanted) < count:  # noqa: ASYNC110  # a list has no event
            await asyncio.sleep(0)


def get(it: Scene) -> tuple[Answer, asyncio.Task[None]]:
    """Open the session's stream."""
    answer = it.agent.begin(method="GET", accept="text/event-stream")
    return answer, asyncio.create_task(it.pipeline(answer))


async def test_what_is_subscribed_to_while_the_stream_is_being_opened_is_listened_to() -> None:
    async with translated(ALL) as it:
        listened = Listened()
        listened.free.clear()
        it.server = ModernOnly(subscriptions_listen=listened)
        await it.agent.initialize()
        _, serving = get(it)
        await begun(1, listened)
        assert (await it.agent.ask("resources/subscribe", uri="file:///a")).result == {}
        listened.free.set()
        await begun(2, listened)
        assert listened.wanted == [[], ["file:///a"]]
        await it.agent.send(method="DELETE")
        await asyncio.wait_for(serving, 20)


async def test_a_stream_takes_the_place_of_one_that_is_open() -> None:
    """Its agent may be back before it is seen that the first one is lost; each change is told once."""
    async with translated(ALL) as it:
        listened = Listened()
        it.server = ModernOnly(subscriptions_listen=listened)
        await it.agent.initialize()
        _, first = get(it)
        await begun(1, listened)
        _, second = get(it)
        await asyncio.wait_for(first, 20)
        assert (await it.agent.ask("resources/subscribe", uri="file:///a")).result == {}
        await begun(3, listened)
        assert listened.wanted == [[], [], ["file:///a"]]
        await it.agent.send(method="DELETE")
        await asyncio.wait_for(second, 20)


async def test_a_stream_that_waits_for_a_subscription_ends_with_its_session() -> None:
    quiet = DISCOVERED | {"capabilities": CAPABILITIES | {"tools": {}}}
    async with translated(ALL) as it:
        it.server = ModernOnly(server_discover=lambda sent: reply(response(quiet, sent.json["id"])))
        await it.agent.initialize()
        answer, serving = get(it)
        await answer.begun.wait()
        await it.agent.send(method="DELETE")
        await asyncio.wait_for(serving, 20)


async def test_a_subscription_that_ends_is_left_resource_by_resource() -> None:
    """Else an agent that goes would have us open a connection for each."""
    at_once: list[int] = []
    left: list[str] = []
    over = asyncio.Event()

    async def leave(sent: Sent) -> Any:
        left.append(sent.json["params"]["uri"])
        at_once.append(len(left) - at_once.count(0))
        await asyncio.sleep(0)
        at_once.append(0)
        if len(left) == MOST_URIS:
            over.set()
        return reply(response({}, sent.json["id"]))

    def follow(sent: Sent) -> Any:
        return reply(response({}, sent.json["id"]))

    async with translated(ALL) as it:
        it.server = LegacyOnly(
            resources_subscribe=follow, resources_unsubscribe=leave, GET=lambda sent: stream(open_end=True)
        )
        wanted = {"resourceSubscriptions": [f"file:///{number}" for number in range(1000)]}
        body, headers = it.agent.modern_request("subscriptions/listen", 1, notifications=wanted)
        answer = it.agent.begin(body, **headers)
        serving = asyncio.create_task(it.pipeline(answer))
        async with asyncio.timeout(20):
            while not answer.body:  # noqa: ASYNC110  # it has no event
                await asyncio.sleep(0)
        assert len(answer.messages[0]["params"]["notifications"]["resourceSubscriptions"]) == MOST_URIS
        serving.cancel()
        await asyncio.wait_for(over.wait(), 20)
        assert max(at_once) == 1
        await asyncio.gather(serving, return_exceptions=True)

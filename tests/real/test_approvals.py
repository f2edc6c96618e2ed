"""Tickets under approval in two clusters: processes of their own for all of it, as in production.

A sidecar in each of two clusters with a configuration of its own, before the same support desk; one state for both (a
table, Redis, or a file for two sidecars of one machine); a console beside them, in which Ann decides in her browser;
the official client as agents. `-s` shows how long decisions took to arrive.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import re
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client, ConnectMode
from mcp.client.streamable_http import streamable_http_client

from tests.approvals.console.site import TOKENS, Browser, digest
from tests.support.process import (
    OPENMCP,
    ProcessFailed,
    Sidecar,
    free_ports,
    mcp_server,
    python_server,
    running,
    sidecar,
)
from tests.support.stopwatch import stopwatch
from tests.support.stores import Store, dynamodb_local, redis_server

pytestmark = pytest.mark.real

PATIENCE = 60.0
"""Seconds for what a busy machine takes long for; nothing here waits for so long by itself."""
PROMISED = 3.0
"""Seconds until a decision made in one cluster has arrived in the other, at the latest."""
BUSY = 1.0
"""Seconds that a busy machine may add to it."""
LONG = 3
"""Reports of progress after which the state is looked at no more often than it ever is."""
STORES = ["dynamodb", "redis", "sqlite"]
BOT, OTHER = "support-bot", "other-bot"
RUNS = {"get_ticket": {"duration": "10m", "maxDuration": "1h"}, "get_ticket_status": {"duration": "10s"}}
RUNS |= {"merge_tickets": {"duration": "10m", "maxUses": 3}}
_ID = re.compile(r"apr_[a-z0-9]+")


def approvals(**more: Any) -> dict[str, Any]:
    """Who decides; the same in all processes."""
    return {"workflows": [{"name": "support-leads", "approvers": ["token:ann"]}], **more}


def configuration(url: str, state: dict[str, Any]) -> dict[str, Any]:
    """What a cluster's sidecar is told: three tools need an approval, each for its ticket."""
    keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in (BOT, OTHER)]
    asked = {"workflow": "support-leads", "show": ["$.ticket_id"], "bind": ["$.ticket_id"]}
    rules = [
        {"name": tool, "tools": [tool], "action": "requireApproval", "approval": asked | runs}
        for tool, runs in RUNS.items()
    ]
    return {
        "identity": {"agents": [{"type": "apiKey", "keys": keys}]},
        "servers": [{"name": "zendesk", "endpoints": [url]}],
        "policies": [{"name": "tickets", "servers": ["zendesk"], "requests": rules}],
        "approvals": approvals(hold="100ms", holdWithProgress="60s", maxOpen=100),
        "state": state,
    }


@dataclass(frozen=True)
class Console:
    """`openmcp approvals serve`, and the command line on the same state."""

    port: int
    file: Path

    def run(self, *command: str) -> bytes:
        """Return what `openmcp approvals` with these arguments prints."""
        done = subprocess.run([OPENMCP, "approvals", *command, "-c", self.file], capture_output=True, check=True)
        return done.stdout

    def listed(self) -> list[dict[str, Any]]:
        """Return what waits, what holds, and what has ended."""
        found: list[dict[str, Any]] = json.loads(self.run("list", "--history", "--json"))
        return found


@dataclass
class World:
    """What runs. `server` is the state's, None for a file."""

    desk: str
    state: dict[str, Any]
    server: Store | None
    console: Console
    a: Sidecar
    b: Sidecar
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(123, 100_000)))

    def ticket(self) -> str:
        """Return one that nobody has asked for."""
        return str(next(self.numbers))


@contextmanager
def stored(kind: str, folder: Path) -> Iterator[tuple[dict[str, Any], Store | None]]:
    """Yield `state` of a configuration, and what serves it; it keeps all on disk."""
    if kind == "sqlite":
        yield {"type": "sqlite", "path": str(folder / "approvals.db")}, None
    elif kind == "redis":
        with redis_server(folder) as server:
            yield {"type": "redis", "url": server.url}, server
    else:
        with dynamodb_local(folder) as server:
            table = f"t{secrets.token_hex(6)}"
            yield {"type": "dynamodb", "table": table, "region": "eu-west-1", "endpoint": server.url}, server


@pytest.fixture(scope="module", params=STORES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two clusters and a console."""
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "testing")
        state, server = stack.enter_context(stored(request.param, folder))
        console = Console(free_ports(1)[0], folder / "console.yaml")
        tokens = [{"name": "ann", "sha256": digest(TOKENS["ann"])}]
        place = {"listen": f"127.0.0.1:{console.port}"}
        told = {"apiVersion": "openmcp.dev/v1alpha1", "state": state}
        console.file.write_text(json.dumps(told | {"approvals": approvals(console=place, tokens=tokens)}))
        subprocess.run([OPENMCP, "state", "create", "-c", console.file], check=True, capture_output=True)
        command = [OPENMCP, "approvals", "serve", "-c", console.file]
        serving = stack.enter_context(running("approvals serve", command, cwd=folder))
        serving.wait_for(lambda: "ready" if "approvers decide at" in serving.printed() else None)
        desk = stack.enter_context(mcp_server("tickets", python_server("tests.fixtures.ticket_server")))
        a, b = (stack.enter_context(sidecar(configuration(desk, state))) for _ in "ab")
        yield World(desk, state, server, console, a, b)


@pytest.fixture
async def ann(world: World) -> AsyncIterator[Browser]:
    """Ann, logged in to the console."""
    browser = Browser(world.console)
    assert (await browser.log_in("ann")).location == "/"
    yield browser
    await browser.close()


class Agent:
    """An agent with the official client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, ticket: str, tool: str = "get_ticket", **more: Any) -> tuple[bool, str]:
        """Whether the call was made, and the text."""
        arguments = {"ticket_id": ticket} | ({"into": "1"} if tool == "merge_tickets" else {})
        result = await self._client.call_tool(tool, arguments, **more)
        (content,) = result.content
        return not result.is_error, content.text

    async def asks(self, ticket: str, tool: str = "get_ticket") -> str:
        """Ask for what nobody has decided on; the id of the request."""
        made, text = await self.call(ticket, tool)
        assert not made
        assert text.startswith("APPROVAL PENDING"), text
        return _ID.findall(text)[0]

    async def held(self, ticket: str, count: int = 1) -> tuple[str, asyncio.Task[tuple[bool, str]]]:
        """Ask with progress, so that the call is held, until that has come so often; the request's id, and the call."""
        asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        messages = []

        async def told(progress: float, total: float | None, message: str | None) -> None:
            messages.append(message or "")
            if len(messages) == count:
                asked.set_result(_ID.findall(messages[0])[0])

        waiting = asyncio.create_task(self.call(ticket, progress_callback=told))
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([waiting, asked], return_when=asyncio.FIRST_COMPLETED)
        assert asked.done(), waiting.result()
        return asked.result(), waiting

    async def until(self, wanted: Callable[[tuple[bool, str]], bool], ticket: str, **more: Any) -> list[float]:
        """Repeat a call until its answer is as wanted; when those before it were sent, in seconds of `time.time`."""
        sent = []
        async with asyncio.timeout(PATIENCE):
            while True:
                at = time.time()
                if wanted(await self.call(ticket, **more)):
                    return sent
                sent.append(at)


@asynccontextmanager
async def agent(cluster: Sidecar, name: str = BOT, mode: ConnectMode = "auto") -> AsyncIterator[Agent]:
    """An agent in this cluster, known by its key."""
    async with (
        httpx2.AsyncClient(headers={"X-API-Key": name}, timeout=PATIENCE) as http,
        Client(streamable_http_client(f"{cluster.url}/zendesk", http_client=http), mode=mode) as client,
    ):
        yield Agent(client)


@asynccontextmanager
async def both(world: World) -> AsyncIterator[tuple[Agent, Agent]]:
    """The same agent in both clusters, with clients of both eras."""
    async with agent(world.a) as at_a, agent(world.b, mode="legacy") as at_b:
        yield at_a, at_b


def refused(answer: tuple[bool, str]) -> bool:
    """Whether a call was not made."""
    return not answer[0]


def away(answer: tuple[bool, str]) -> bool:
    """Whether a call was denied as approvals cannot be looked up."""
    return refused(answer) and "approvals cannot be looked up now" in answer[1]


def made(answer: tuple[bool, str]) -> bool:
    """Whether a call was made."""
    return answer[0]


def show(world: World, what: str, seconds: Sequence[float]) -> None:
    """Print how long something took."""
    print(f"\n{world.state['type']}: {what}: {', '.join(f'{one:.2f}' for one in seconds)} s")


async def test_the_ticket(world: World, ann: Browser) -> None:
    ticket = world.ticket()
    async with both(world) as (at_a, at_b), agent(world.b, OTHER, "legacy") as other:
        rid = await at_a.asks(ticket)
        assert await at_b.asks(ticket) == rid, "one question, whoever of them asks"
        page = await ann.get(f"/requests/{rid}")
        assert "key:support-bot" in page.words
        assert "get_ticket on zendesk" in page.words
        assert f'"{ticket}"' in html.unescape(page.words)
        assert (await ann.decide(rid, "approve", reason="customer is on the phone")).status == 303

        for at in (at_a, at_b):
            found, text = await at.call(ticket)
            assert found
            assert text.startswith(f"{ticket}: ")
        assert await other.asks(ticket) != rid, "the grant is another agent's"
        assert await at_b.asks(world.ticket()) != rid, "the grant is for another ticket"

        loops = [asyncio.create_task(at.until(refused, ticket)) for at in (at_a, at_b)]
        assert (await ann.decide(rid, "revoke", reason="done")).status == 303
        revoked = time.time()
        late = [max(sent, default=revoked) - revoked for sent in await asyncio.gather(*loops)]
        show(world, "calls at A and B went through after a revocation for", late)
        assert max(late) < PROMISED
        assert await at_a.asks(ticket) == await at_b.asks(ticket) != rid, "asked anew"
        stale = await ann.get(f"/requests/{rid}")
        assert "/approve" not in stale.text


async def test_a_grant_ends_to_the_second(world: World, ann: Browser) -> None:
    ticket, tool = world.ticket(), "get_ticket_status"
    async with both(world) as (at_a, at_b):
        rid = await at_b.asks(ticket, tool)
        await ann.decide(rid, "approve")
        # before anybody calls: who is refused asks anew, and that takes its place
        (grant,) = [one for one in await asyncio.to_thread(world.console.listed) if one["id"] == rid]
        sent = await asyncio.gather(*(at.until(refused, ticket, tool=tool) for at in (at_a, at_b)))
    ends = datetime.fromisoformat(grant["until"]).timestamp()
    assert time.time() >= ends, "refused too early"
    show(
        world, "the last calls at A and B that went through began before the end by", [ends - max(one) for one in sent]
    )
    assert all(max(one) < ends for one in sent)


async def test_a_held_call_is_released_by_a_decision_made_elsewhere(world: World, ann: Browser) -> None:
    took = []
    async with both(world) as agents:
        for at in agents * 3:
            rid, waiting = await at.held(world.ticket())
            await ann.decide(rid, "approve")
            async with asyncio.timeout(PATIENCE), stopwatch() as seconds:
                assert made(await waiting)
                took.append(seconds())
        rid, waiting = await agents[0].held(world.ticket(), LONG)
        await ann.decide(rid, "deny", reason="not this one")
        async with asyncio.timeout(PATIENCE), stopwatch() as seconds:
            found, text = await waiting
            took.append(seconds())
        assert not found
        assert "APPROVAL DENIED" in text
        assert "not this one" in text
    show(world, "held calls, the last one after a long while, were released after", took)
    assert max(took) < PROMISED + BUSY


async def test_uses_are_counted_over_both_clusters(world: World, ann: Browser) -> None:
    ticket, tool = world.ticket(), "merge_tickets"
    async with both(world) as agents:
        rid = await agents[1].asks(ticket, tool)
        await ann.decide(rid, "approve")
        answers = await asyncio.gather(*(at.call(ticket, tool) for at in agents * 6))
    assert sum(map(made, answers)) == 3
    assert {text.split()[1] for found, text in answers if not found} == {"PENDING"}


async def test_while_the_state_is_away_calls_are_denied_and_nothing_is_lost(world: World, ann: Browser) -> None:
    if world.server is None:
        pytest.skip("a file is not away")
    granted, asked = world.ticket(), world.ticket()
    async with both(world) as (at_a, at_b), agent(world.a, mode="legacy") as third:
        grant, pending = await third.asks(granted), await third.asks(asked)
        await ann.decide(grant, "approve")
        assert made(await at_a.call(granted))
        rid, waiting = await at_b.held(world.ticket())
        began = time.monotonic()
        world.server.kill()
        for at in (at_a, third):
            await at.until(away, granted)
        assert away(await at_a.call(asked))
        assert away(await third.call(world.ticket()))
        show(world, "four calls were denied without the state within", [time.monotonic() - began])
        assert (await ann.get(f"/requests/{pending}")).status == 503
        assert not waiting.done(), "a held call waits on"

        await asyncio.to_thread(world.server.start)
        for at in (at_a, at_b):
            await at.until(made, granted)
        assert await at_b.asks(asked) == pending
        for one in (rid, pending):
            assert (await ann.decide(one, "approve")).status == 303
        async with asyncio.timeout(PATIENCE):
            assert made(await waiting)
        assert made(await at_a.call(asked))


async def test_a_sidecar_that_was_killed_knows_what_was_asked_and_granted(world: World, ann: Browser) -> None:
    granted, asked = world.ticket(), world.ticket()
    ids = []

    async def until_killed() -> None:
        with sidecar(configuration(world.desk, world.state)) as killed:
            async with agent(killed, mode="legacy") as before:
                ids.extend([await before.asks(granted), await before.asks(asked)])
                await ann.decide(ids[0], "approve")
                assert made(await before.call(granted))
            killed.running.process.kill()

    with pytest.raises(ProcessFailed, match="ended with -9"):
        await until_killed()
    with sidecar(configuration(world.desk, world.state)) as again:
        async with agent(again, mode="legacy") as after:
            assert made(await after.call(granted))
            assert await after.asks(asked) == ids[1]
            await asyncio.to_thread(world.console.run, "approve", ids[1])
            assert made(await after.call(asked))

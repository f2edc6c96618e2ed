"""A running sidecar whose servers and policies come from the real API server."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from openmcp.config.kubernetes.source import WAITING
from tests.soak import apiserver
from tests.soak.apiserver import (
    EDITS,
    EFFECT,
    RATE,
    RECOVERY,
    Governed,
    configuration,
    custom,
    decided,
    effect,
    governed,
    in_pod,
    rule,
)
from tests.soak.load import said
from tests.support.container import unavailable
from tests.support.gate import modern_headers
from tests.support.kubernetes import KubeApi
from tests.support.parts import missing
from tests.support.process import OPENMCP, Running, Sidecar, free_ports, mcp_server, python_server, running
from tests.support.raw import connect
from tests.support.spire import wait_until

pytestmark = pytest.mark.real

AWAY = int(os.environ.get("OPENMCP_AWAY", "8"))
"""Seconds without the API server, and seconds with one that hangs; `make soak ARGS=apiserver` is the long form."""
TRIES = 5
MANY = 5000
FLOOD, BULK = 1000, 40_000
"""Objects, and bytes of each: more than what lies between the API server and a watcher that does not read."""
READ_ALL = 60.0
"""Seconds in which so many objects are known."""
MEMORY = 130
"""MiB that a sidecar may take with them."""


@pytest.fixture(scope="module")
def tickets() -> Iterator[str]:
    """The URL of an MCP server."""
    with mcp_server("the MCP server", python_server("tests.fixtures.ticket_server")) as url:
        yield url


@pytest.fixture(scope="module")
def ours(kube: KubeApi) -> KubeApi:
    """The API server with our kinds."""
    apiserver.install_crds(kube)
    return kube


@contextmanager
def stopped(process: Running) -> Iterator[None]:
    """Let a process stand still."""
    process.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.process.send_signal(signal.SIGCONT)


def readiness(there: Governed) -> tuple[int, dict[str, Any]]:
    """Status and body of /readyz; 0 while nobody listens there."""
    try:
        with urllib.request.urlopen(f"{there.sidecar.admin}/readyz", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        return answer.code, json.load(answer)
    except OSError:
        return 0, {}


def watches_cut(kube: KubeApi) -> float:
    """How many watches of policies the API server has ended because nobody read them fast enough."""
    found = re.findall(r'^apiserver_terminated_watchers_total\{.*"mcppolicies.*\} (\S+)$', kube.text("/metrics"), re.M)
    return sum(map(float, found))


def objects(there: Governed, state: str) -> int:
    """How many policies are in a state."""
    return int(there.metric("openmcp_config_objects", kind="MCPPolicy", state=state))


async def promptly(change: Callable[[], Awaitable[float]]) -> None:
    """Have a change take effect in time: a machine that stands still for a while makes one late, and not the next."""
    took = [await change()]
    while took[-1] >= EFFECT and len(took) < TRIES:
        took.append(await change())
    assert took[-1] < EFFECT, took


def test_no_call_fails_while_the_api_server_is_away(ours: KubeApi, tickets: str):
    with governed(ours, tickets) as there:
        report = asyncio.run(apiserver.run(AWAY, there))
    print(report.text())
    assert (report.faults, report.tally.failures) == ([], [])
    assert len(report.edits) == EDITS
    assert report.tally.calls > 0.8 * 2 * AWAY * RATE


async def test_a_history_that_is_gone_is_read_anew(ours: KubeApi, tickets: str):
    with governed(ours, tickets) as there:
        await effect(there, allowed=True, patience=RECOVERY)
        with stopped(there.sidecar.running):
            await asyncio.to_thread(ours.kill)
            await asyncio.to_thread(ours.compact)
            await asyncio.to_thread(ours.restart)
            await asyncio.to_thread(there.merging, allowed=False)
        assert await decided(there, allowed=False, patience=RECOVERY) < RECOVERY
        assert there.metric("openmcp_kubernetes_watch_errors_total", kind="MCPPolicy", reason="expired") == 1


async def test_a_watch_that_is_cut_for_being_slow_is_taken_up_again(ours: KubeApi, tickets: str):
    with governed(ours, tickets) as there:
        bulky = custom("MCPPolicy", "bulky", {"servers": ["tickets"], "requests": [rule("search", "search_tickets")]})
        bulky["metadata"]["annotations"] = {"example.com/manifest": "x" * BULK}
        await asyncio.to_thread(ours.create, bulky, there.namespace)
        before = watches_cut(ours)
        with stopped(there.sidecar.running):
            names = [f"bulky-{number}" for number in range(FLOOD)]
            await asyncio.to_thread(ours.multiply, bulky, names, there.namespace)
            await asyncio.to_thread(wait_until, lambda: watches_cut(ours) > before, "the watch to be cut")
        await asyncio.to_thread(wait_until, lambda: objects(there, "accepted") == FLOOD + 2, "all objects", READ_ALL)
        assert await effect(there, allowed=True, patience=RECOVERY) < RECOVERY


async def test_a_sidecar_that_starts_first_serves_nothing_and_waits(ours: KubeApi, tickets: str, tmp_path: Path):
    with governed(ours, tickets) as before:
        pass
    file = ours.kubeconfig(tmp_path / "config", before.namespace)
    mcp, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    record = {"audit": {"output": {"file": str(tmp_path / "audit.jsonl")}}}
    config = configuration(namespace=before.namespace) | {"listen": {"mcp": mcp, "admin": admin}, "telemetry": record}
    (tmp_path / "gateway.yaml").write_text(json.dumps({"apiVersion": "openmcp.dev/v1alpha1", **config}))
    await asyncio.to_thread(ours.kill)
    command = [OPENMCP, "run", "-c", tmp_path / "gateway.yaml"]
    with running("openmcp run", command, {"KUBECONFIG": str(file)}) as process:
        there = Governed(ours, before.namespace, Sidecar(f"http://{mcp}", f"http://{admin}", process, tmp_path))
        await asyncio.to_thread(process.wait_for, lambda: "up" if readiness(there)[0] else None)
        status, body = await asyncio.to_thread(readiness, there)
        assert (status, body["configuration"]["closed"]) == (503, WAITING)
        async with connect(there.sidecar.url, "/tickets") as agent:
            answer = await agent.ask(apiserver.ASKED, **modern_headers(apiserver.ASKED))
        assert (answer.status, WAITING in answer.body.decode()) == (503, True)
        await asyncio.to_thread(ours.restart)
        await asyncio.to_thread(wait_until, lambda: readiness(there)[0] == 200, "it to be ready", RECOVERY)
        async with there.agents().connection() as agent:
            answer = await agent.ask(apiserver.ASKED, **modern_headers(apiserver.ASKED))
        assert said(answer) == apiserver.ANSWER


async def test_an_update_that_is_not_valid_leaves_what_was_in_force(ours: KubeApi, tickets: str):
    ask = {**rule("merge", "merge_tickets", action="requireApproval"), "approval": {"workflow": "nobody-made-it"}}
    with governed(ours, tickets) as there:
        await effect(there, allowed=True, patience=RECOVERY)
        turns = itertools.cycle((False, True))

        async def refuse() -> None:
            await asyncio.to_thread(there.policy, "merging", ask)
            await asyncio.to_thread(wait_until, lambda: objects(there, "previous") == 1, "the update to be refused")

        async def mend() -> float:
            await refuse()
            return await effect(there, allowed=next(turns), patience=RECOVERY)

        await refuse()
        await decided(there, allowed=True, patience=0)
        status, body = await asyncio.to_thread(readiness, there)
        place = f"MCPPolicy {there.namespace}/merging"
        refused = body["configuration"]["source"]["refused"]
        assert (status, list(refused), refused[place]["inForce"]) == (200, [place], "previous")
        assert "nobody-made-it" in refused[place]["errors"][0]
        await promptly(mend)
        assert (objects(there, "accepted"), objects(there, "previous")) == (2, 0)


async def test_a_policy_that_never_was_valid_denies_what_it_is_about(ours: KubeApi, tickets: str):
    ask = {**rule("merge", "merge_tickets", action="requireApproval"), "approval": {"workflow": "nobody-made-it"}}
    with governed(ours, tickets) as there:
        await effect(there, allowed=True, patience=RECOVERY)

        async def come_and_go() -> float:
            await asyncio.to_thread(there.policy, "asking", ask)
            denied = await decided(there, allowed=False, patience=RECOVERY)
            assert objects(there, "denied") == 1
            await asyncio.to_thread(ours.delete, custom("MCPPolicy", "asking", {}), there.namespace)
            return max(denied, await decided(there, allowed=True, patience=RECOVERY))

        await promptly(come_and_go)


async def test_five_thousand_objects_at_once(ours: KubeApi, tickets: str, tmp_path: Path):
    """In a pod, as the memory counts. All come as one burst, into a sidecar that is busy."""
    if why := unavailable():
        missing(why)
    with governed(ours, tickets, pod=True) as there:
        before = there.sidecar.running.resident()
        callers = there.agents()
        async with asyncio.TaskGroup() as group:
            group.create_task(callers.call(1 / RATE))
            began = time.monotonic()
            await asyncio.to_thread(fill, there, MANY)
            await asyncio.to_thread(wait_until, lambda: objects(there, "accepted") == MANY + 1, "all objects", READ_ALL)
            known = time.monotonic() - began
            took = [await effect(there, allowed=number % 2 == 0, patience=RECOVERY) for number in range(6)]
            callers.ending.set()
        memory = there.sidecar.running.resident()
        began = time.monotonic()
        with in_pod(ours, there.namespace, tmp_path, configuration()) as other:
            ready = time.monotonic() - began
            other_memory = other.running.resident()
        print(
            f"{MANY} policies known {known:.1f} s after the first was made; edits in effect after "
            f"{', '.join(f'{one:.2f}' for one in took)} s; calls took {max(callers.tally.latencies):.2f} s at most\n"
            f"another sidecar was ready after {ready:.1f} s\n"
            f"memory: {before} MiB, with all of them {memory} MiB, of the other {other_memory} MiB"
        )
        assert callers.tally.failures == []
        assert max(memory, other_memory) < MEMORY


def fill(there: Governed, count: int) -> None:
    """Make so many policies, for agents of their own."""
    spec = {
        "agents": ["spiffe://prod.example/ns/agents/sa/agent-0"],
        "servers": ["tickets"],
        "requests": [
            rule("read", "get_*", "search_*"),
            rule("never", "delete_*", action="deny") | {"message": "ask a person"},
        ],
    }
    first = there.kube.create(custom("MCPPolicy", "agent-0", spec), there.namespace)
    there.kube.multiply(first, [f"agent-{number}" for number in range(1, count)])

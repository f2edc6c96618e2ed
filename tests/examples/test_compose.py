"""The set of manifests/compose, started as plain processes by its `up.py`: one agent, one approver, all there is."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import dataclass

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from openmcp.sidecar.telemetry.families import FAMILIES
from tests.approvals.console.site import Browser
from tests.support.composed import PATIENCE, up
from tests.support.parts import missing, require
from tests.support.process import OPENMCP, ROOT, free_ports, running

DASHBOARD = ROOT / "manifests/helm/openmcp/files/monitoring/dashboard.json"
PAGE = (ROOT / "docs/compose.md").read_text(encoding="utf-8")
NEWEST = "2026-07-28"


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    if shutil.which("redis-server") is None:
        missing("redis-server (Debian package redis-server)")
    with up(tmp_path_factory.mktemp("composed")) as running_set:
        yield running_set


@pytest.fixture
def http(composed):
    """What an agent with the key sends by."""
    return http_of(composed)


def http_of(composed):
    """Waits for as long as somebody takes to approve, on a machine that does other things too."""
    return httpx2.AsyncClient(headers={"X-API-Key": composed.secret("agent_key")}, timeout=PATIENCE)


def agent(composed, http, server):
    return Client(streamable_http_client(f"{composed.urls['gateway']}/{server}", http_client=http))


def text(result):
    return result.content[0].text


async def eventually(look):
    """What `look` returns once it is something: there is no event for what other processes do."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if found := await look():
                return found
            await asyncio.sleep(0.1)


def got(url):
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()
    return ""


async def test_an_agent_calls_both_servers_and_the_record_tells_of_it(composed, http):
    async with http, agent(composed, http, "tickets") as client:
        assert "delete_ticket" not in {tool.name for tool in (await client.list_tools()).tools}
        found = (await client.call_tool("search_tickets", {"text": "charged"})).structured_content["tickets"]
        assert (found[0]["from"], found[0]["owner"]) == ("[redacted:email]", "li@acme.example")
        assert text(await client.call_tool("delete_ticket", {"ticket_id": "101"})).startswith(
            "Denied: destructive tools are off"
        )
    async with (
        http_of(composed) as again,
        agent(composed, again, "notes") as client,
    ):
        read = await client.read_resource("note:///team/monday")
        assert read.contents[0].text == "Call the printer's shop."
    expected = {
        ("tickets", "search_tickets", "key:agent", "allow"),
        ("tickets", "delete_ticket", "key:agent", "deny"),
        ("notes", "note:///team/monday", "key:agent", "allow"),
    }

    async def recorded():
        return expected <= {
            (one["server"], one.get("name"), one["agent"], one.get("decision")) for one in composed.records()
        }

    await eventually(recorded)


async def test_without_the_key_nobody_is_let_in(composed):
    async with httpx2.AsyncClient(timeout=PATIENCE) as http:
        answer = await http.post(f"{composed.urls['gateway']}/tickets", json={})
    assert answer.status_code == 401


@dataclass
class Console:
    """Where a browser finds it."""

    port: int


async def listed(browser):
    return re.search(r"/requests/(\w+)", (await browser.get("/")).text)


async def test_somebody_approves_in_the_console_what_an_agent_asks_for(composed, http):
    browser = Browser(Console(int(composed.urls["console"].rpartition(":")[2])))
    try:
        login = (await browser.get("/login")).forms["/login"] | {"token": composed.secret("approver_token")}
        assert (await browser.post("/login", login)).status == 303
        async with http, agent(composed, http, "tickets") as client:
            asked = asyncio.create_task(client.call_tool("get_ticket", {"ticket_id": "101"}))
            found = await eventually(lambda: listed(browser))
            assert (await browser.decide(found[1], "approve")).status == 303
            await asked  # in time or not: the call that is repeated finds the grant, which Redis holds
            assert text(await client.call_tool("get_ticket", {"ticket_id": "101"})).startswith("Cannot log in")
    finally:
        await browser.close()


def test_the_agent_of_the_page_gets_what_is_written_there(composed):
    """After the approval above."""
    (command,) = re.findall(r"```sh\n(python examples/.*)\n```", PAGE)
    (output,) = re.findall(r"```\n(tool .*?)```", PAGE, re.DOTALL)
    assert command.split()[2:] == ['"$(cat', 'manifests/compose/secrets/agent_key)"', "http://127.0.0.1:15001/tickets"]
    words = [command.split()[1], composed.secret("agent_key"), f"{composed.urls['gateway']}/tickets"]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.stdout, done.stderr) == (output, "")


def search(number):
    return {
        "jsonrpc": "2.0",
        "id": number,
        "method": "tools/call",
        "params": {
            "name": "search_tickets",
            "arguments": {"text": "charged"},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": NEWEST,
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }


HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": NEWEST,
    "Mcp-Method": "tools/call",
    "Mcp-Name": "search_tickets",
}


async def test_what_one_gateway_has_used_up_another_one_refuses(composed, http, tmp_path):
    folder = shutil.copytree(composed.folder / "gateway/etc/openmcp", tmp_path / "second")
    mcp, admin = free_ports(2)
    file = folder / "gateway.yaml"
    written = file.read_text()
    for key, port in (("mcp", mcp), ("admin", admin)):
        written, count = re.subn(rf"  {key}: 127\.0\.0\.1:\d+", f"  {key}: 127.0.0.1:{port}", written)
        assert count == 1
    file.write_text(written)
    with running("a second gateway", [OPENMCP, "run", "-c", folder]) as second:
        second.wait_for(lambda: got(f"http://127.0.0.1:{admin}/readyz") or None)
        async with http:
            _, refused = await passed(http, composed.urls["gateway"])
            began = time.monotonic()
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, 42900)
            assert int(refused.headers["Retry-After"]) >= 1
            through, refused = await passed(http, f"http://127.0.0.1:{mcp}")
    assert refused.status_code == 429
    assert through <= 1 + (time.monotonic() - began) / 2  # a token falls in each two seconds
    assert through < BURST, "as many as a bucket of its own would have had"


BURST = 10


async def passed(http, gateway):
    """How many searches get through before one is refused, and what that one is told."""
    for number in range(100):
        answer = await http.post(f"{gateway}/tickets", json=search(number), headers=HEADERS)
        if answer.status_code != 200:
            return number, answer
    pytest.fail("nothing is refused")


def expressions():
    """What the dashboard asks Prometheus for."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def named():
    """The metrics in it."""
    return set(re.findall(r"\bopenmcp_\w+", " ".join(expressions())))


def test_the_gateway_exports_what_the_dashboard_shows(composed):
    exposed = set(re.findall(r"^# TYPE (\w+) ", got(f"{composed.urls['gateway-15020']}/metrics"), re.MULTILINE))
    families = {name for family in FAMILIES.values() for name in (family.name, f"{family.name}_total")}
    ours = {re.sub(r"_bucket$", "", name) for name in named() if not name.startswith("openmcp_injector_")}
    assert ours - families == set()
    assert {"openmcp_requests_total", "openmcp_request_duration_seconds", "openmcp_endpoint_healthy"} <= ours & exposed


@pytest.mark.real
async def test_prometheus_has_what_the_dashboard_asks_for(composed):
    require("prometheus")

    async def asked(query):
        answer = await asyncio.to_thread(
            got, f"{composed.urls['prometheus']}/api/v1/query?query={urllib.parse.quote(query)}"
        )
        told = json.loads(answer or '{"status": "nobody"}')
        assert told["status"] == "success", (query, told)
        return told["data"]["result"]

    assert await eventually(lambda: asked('up{job="openmcp"} == 1'))
    assert await eventually(lambda: asked('openmcp_requests_total{server="tickets", namespace=~".*"}'))
    for expression in expressions():
        filled = re.sub(r"\$__\w+", "5m", re.sub(r"\$(namespace|server)\b", ".*", expression))
        await asked(filled)
    rules = json.loads(got(f"{composed.urls['prometheus']}/api/v1/rules"))["data"]["groups"]
    assert sum(len(group["rules"]) for group in rules) > 10


@pytest.mark.real
async def test_the_collector_gets_the_traces(composed):
    require("collector")

    async def printed():
        return "tools/call search_tickets" in (composed.folder / "collector.log").read_text()

    assert await eventually(printed)

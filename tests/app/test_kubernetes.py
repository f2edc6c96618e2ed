"""A sidecar whose servers, policies and workflows are objects of Kubernetes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from openmcp.config import ConfigurationError, Problem
from openmcp.config.filesource import FileSource
from openmcp.config.kubernetes import source as source_module
from openmcp.config.kubernetes.api import Api
from openmcp.config.kubernetes.assemble import NOT_VALID, Assembled
from openmcp.config.kubernetes.guard import OWN
from openmcp.config.kubernetes.source import RESTART, STALE, WAITING, KubernetesSource
from openmcp.config.model import Address
from openmcp.sidecar import serve
from openmcp.sidecar.app import App
from openmcp.sidecar.build import usable
from tests.app.test_reload import open_get, streaming
from tests.fakes import slack
from tests.fakes.kubernetes_api import Answer, KubernetesApi, Reach, kubernetes_api
from tests.support.gate import Gate, call, configuration, initialize
from tests.support.hostile import Handler, friendly, hostile
from tests.support.process import OPENMCP

ALLOW = {"name": "tools", "tools": ["allowed*"], "action": "allow"}
DENY = {"name": "off", "tools": ["allowed*"], "action": "deny", "message": "off today"}
BASE = {key: value for key, value in configuration().items() if key not in ("servers", "policies")}
EDIT = 1.0
"""Seconds from the edit of a policy to decisions."""
TRIES = 5


class Governed:
    """A sidecar, and the API server that it listens to."""

    def __init__(self, kubernetes: KubernetesApi, gate: Gate, source: KubernetesSource, url: str) -> None:
        self.kubernetes = kubernetes
        self.gate = gate
        self.source = source
        self.url = url
        self.now = 0.0

    def clock(self) -> float:
        """Tell the time, which goes on with `now`."""
        return time.monotonic() + self.now

    def server(self, name: str = "server", **spec: Any) -> None:
        self.kubernetes.put("MCPServer", name, {"endpoints": [self.url], "health": {"interval": "1h"}, **spec})

    def policy(self, *rules: Any, name: str = "base", **spec: Any) -> None:
        self.kubernetes.put("MCPPolicy", name, {"servers": ["*"], "requests": rules, **spec})

    async def ask(self, path: str = "/server") -> Any:
        """Return the status, and the text of an error."""
        async with self.gate.connect(path=path) as agent:
            answer = await agent.ask(call())
            return answer.status, said(answer.json) if answer.body else None

    async def until(self, expected: Any, path: str = "/server", patience: float = 10.0) -> float:
        """Wait until calls are answered so; return the seconds it took."""
        begun = time.monotonic()
        found = None
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while (found := await self.ask(path)) != expected:
                    await self.gate.page("/healthz")  # lets others work; what is waited for is what agents see
        assert found == expected
        return time.monotonic() - begun

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return what `/readyz` says of readiness and of the configuration."""
        page = await self.gate.page("/readyz")
        told = json.loads(page.partition("\r\n\r\n")[2])
        assert page.startswith("HTTP/1.1 200" if told["ready"] else "HTTP/1.1 503")
        return told["ready"], told["configuration"]

    async def when(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `/readyz` says this of the configuration."""
        async with asyncio.timeout(10):
            while True:
                _, told = await self.ready()
                if found(told):
                    return told

    async def metric(self, line: str) -> float:
        page = await self.gate.page("/metrics")
        return next(float(one.rpartition(" ")[2]) for one in page.splitlines() if one.startswith(line + " "))


OPEN = (200, None)


def said(answer: dict[str, Any]) -> str | None:
    """Return why a call was refused, None where it was not."""
    result = answer.get("result", {})
    if result.get("isError"):
        return str(result["content"][0]["text"]).removeprefix("Denied: ").partition(" (decision ")[0]
    found = answer.get("error", {}).get("message")
    return None if found is None else str(found)


@asynccontextmanager
async def governed(
    folder: Path,
    *,
    prepare: Callable[[KubernetesApi, str], None] | None = None,
    admin: Address | None = None,
    base: dict[str, Any] = BASE,
    handler: Handler = friendly,
    **origin: Any,
) -> AsyncIterator[Governed]:
    """A sidecar with one server and one policy that allows `allowed`, or with what `prepare` makes."""
    async with kubernetes_api() as kubernetes, hostile(handler) as upstream:
        if prepare is not None:
            prepare(kubernetes, upstream.url)
        else:
            kubernetes.put("MCPServer", "server", {"endpoints": [upstream.url], "health": {"interval": "1h"}})
            kubernetes.put("MCPPolicy", "base", {"servers": ["*"], "requests": [ALLOW]})
        file, record = folder / "gateway.yaml", folder / "audit.jsonl"
        telemetry = {"audit": {"output": {"file": str(record)}}}
        file.write_text(json.dumps({**base, "telemetry": telemetry, "source": {"type": "kubernetes", **origin}}))
        there: Governed | None = None
        source = KubernetesSource(
            FileSource(file, interval=0.05),
            Api(Reach(kubernetes)),
            fault=usable.fault,
            clock=lambda: there.clock() if there is not None else time.monotonic(),
        )
        loaded = serve._listening(source.load(), admin)
        app = App(loaded.configuration, loaded.closed, source)
        there = Governed(kubernetes, Gate(app, record, file), source, upstream.url)
        await app.start()
        following = asyncio.create_task(serve.follow(source, app, admin))
        try:
            yield there
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await app.stop(patience=0.0)


async def test_a_policy_edit_reaches_decisions_at_once(tmp_path: Path):
    async with governed(tmp_path) as there:
        await there.until(OPEN)
        ready, told = await there.ready()
        assert ready
        assert told["source"]["kinds"] == {
            "MCPServer": {"objects": 1, "problem": None},
            "MCPPolicy": {"objects": 1, "problem": None},
            "ApprovalWorkflow": {"objects": 0, "problem": None},
        }
        took: list[float] = []
        while min(took, default=EDIT) >= EDIT and len(took) < TRIES:  # a machine may stand still for a while
            there.policy(ALLOW, DENY)
            off = await there.until((200, "off today"))
            there.policy(ALLOW)
            on = await there.until(OPEN)
            there.kubernetes.remove("MCPServer", "server")
            gone = await there.until((404, "no MCP server has this path"))
            there.server()
            took.append(max(off, on, gone, await there.until(OPEN)))
        assert min(took) < EDIT, took


async def test_before_the_objects_are_known_all_is_refused(tmp_path: Path):
    def away(kubernetes: KubernetesApi, url: str) -> None:
        kubernetes.match = "mcppolicies"
        kubernetes.answers.extend([Answer(403, "Forbidden", "not for you")] * 10_000)

    async with governed(tmp_path, prepare=away) as there:
        there.server()
        there.policy(ALLOW)
        told = await there.when(lambda told: told["source"]["kinds"]["MCPPolicy"]["problem"] == "not for you")
        assert (told["closed"], told["source"]["closed"]) == (WAITING, WAITING)
        assert await there.ask() == (503, WAITING)
        assert await there.ask("/no-such-server") == (503, WAITING)
        assert not (await there.ready())[0]
        assert await there.metric("openmcp_config_closed") == 1
        errors = 'openmcp_kubernetes_watch_errors_total{kind="MCPPolicy",reason="forbidden"}'
        assert await there.metric(errors) >= 1
        there.kubernetes.answers.clear()
        await there.until(OPEN, patience=20)
        assert await there.metric("openmcp_config_closed") == 0
        assert (await there.ready())[0]


async def test_while_the_api_server_is_away_the_last_configuration_serves(tmp_path: Path):
    async with governed(tmp_path) as there:
        await there.until(OPEN)
        await there.kubernetes.stop()
        await there.when(lambda told: "cannot connect" in (told["source"]["kinds"]["MCPPolicy"]["problem"] or ""))
        there.now += 86_400
        assert await there.ask() == OPEN
        assert (await there.ready())[0]
        assert await there.metric("openmcp_config_age_seconds") > 86_400
        there.policy(ALLOW, DENY)
        await there.kubernetes.start()
        await there.until((200, "off today"), patience=20)


async def test_a_configuration_that_may_be_out_of_date_is_refused_where_that_is_wanted(tmp_path: Path):
    async with governed(tmp_path, maxStaleness="10m") as there:
        await there.until(OPEN)
        await there.kubernetes.until(lambda: there.kubernetes.watching == 3)
        async with there.gate.connect() as agent:
            await initialize(agent)
            await there.kubernetes.stop()
            there.now += 601
            there.source._woken.set()  # time that is made up wakes nobody
            await there.until((503, STALE))
            assert (await agent.ask(call())).status == 503
        ready, told = await there.ready()
        assert (ready, told["closed"]) == (False, STALE)
        assert [line["outcome"] for line in await there.gate.records() if line["event"] == "reload"] == ["ok", "closed"]
        await there.kubernetes.start()
        await there.until(OPEN, patience=20)
        assert (await there.ready())[0]


async def test_staleness_comes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("openmcp.config.origin.SHORTEST", 0.1)
    async with governed(tmp_path, maxStaleness="300ms") as there:
        await there.kubernetes.until(lambda: there.kubernetes.watching == 3)
        there.kubernetes.silent = True
        await there.until((503, STALE))
        there.kubernetes.silent = False
        async with asyncio.timeout(10):
            while await there.ask() != OPEN:  # each bookmark is good for 300 ms
                there.kubernetes.bookmark()


async def test_an_invalid_edit_changes_nothing_and_shows(tmp_path: Path):
    async with governed(tmp_path) as there:
        await there.until(OPEN)
        there.policy({"name": "broken"})
        told = await there.when(lambda told: bool(told["source"]["refused"]))
        assert told["source"]["refused"] == {
            "MCPPolicy test/base": {
                "inForce": "previous",
                "errors": ["MCPPolicy test/base: spec.requests[0]: `action` is required"],
            }
        }
        assert await there.ask() == OPEN
        assert await there.metric('openmcp_config_objects{kind="MCPPolicy",state="previous"}') == 1
        there.policy({"name": "broken"}, name="new", servers=["server"])
        await there.until((200, NOT_VALID))
        assert await there.metric('openmcp_config_objects{kind="MCPPolicy",state="denied"}') == 1
        assert (await there.ready())[0], "one bad object does not take the pod down"


async def test_of_many_errors_the_first_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """An object has room for more of them than a probe or a line of a log."""
    async with governed(tmp_path) as there:
        await there.until(OPEN)
        there.policy(*({"name": f"broken{number}"} for number in range(1000)))
        told = await there.when(lambda told: bool(told["source"]["refused"]))
        errors = told["source"]["refused"]["MCPPolicy test/base"]["errors"]
        assert (len(errors), errors[-1]) == (21, "and 980 more")
        (logged,) = [record.message for record in caplog.records if "is not valid" in record.message]
        assert logged.splitlines()[1:] == errors


async def test_a_server_that_cannot_be_used_here_does_not_stand_in_the_way_of_others(tmp_path: Path):
    async with governed(tmp_path) as there:
        await there.until(OPEN)
        there.server("secret", auth={"type": "header", "name": "X-Key", "value": {"env": "OPENMCP_NO_SUCH"}})
        there.server("mutual", endpoints=["https://h/"], auth={"type": "spiffe", "serverIds": ["spiffe://a/b"]})
        there.server("pinned", endpoints=["https://h/"], tls={"ca": {"file": str(tmp_path / "ca.pem")}})
        token = {"file": "/var/run/secrets/kubernetes.io/serviceaccount/token"}
        there.server("thief", auth={"type": "header", "name": "X-Key", "value": token})
        there.policy(ALLOW, DENY)
        await there.until((200, "off today"))
        told = (await there.ready())[1]["source"]["refused"]
        assert told.pop("MCPServer test/thief")["errors"] == [f"MCPServer test/thief: spec: {OWN}"]
        assert {name: refused["errors"] for name, refused in told.items()} == {
            "MCPServer test/secret": [
                "MCPServer test/secret: spec: auth: environment variable OPENMCP_NO_SUCH is not set"
            ],
            "MCPServer test/mutual": [
                "MCPServer test/mutual: spec: auth: it needs the Workload API and nothing says where it is: write "
                "identity.workloadApi or set SPIFFE_ENDPOINT_SOCKET (unix:///run/spire/agent-sockets/api.sock or "
                "tcp://127.0.0.1:8081)"
            ],
            "MCPServer test/pinned": [
                f"MCPServer test/pinned: spec: tls.ca cannot be used: file {tmp_path}/ca.pem cannot be read: "
                "No such file or directory"
            ],
        }


async def test_the_file_is_followed_too(tmp_path: Path):
    async with governed(tmp_path) as there:
        await there.until(OPEN)
        made = json.loads(there.gate.file.read_text())
        there.gate.file.write_text(json.dumps({**made, "identity": {"agents": [{"type": "none"}]}}))
        async with asyncio.timeout(10):
            while True:
                async with there.gate.connect(agent="bob") as agent:
                    if (await agent.ask(call())).json.get("error") is None:
                        break
        await there.when(lambda told: told["refused"] is None)
        there.gate.file.write_text(json.dumps({**made, "listen": {"mcp": "no address"}}))
        await there.when(lambda told: "not an address" in (told["refused"] or ""))
        there.gate.file.write_text(json.dumps({**made, "source": {"type": "file"}}))
        await there.when(lambda told: RESTART in (told["refused"] or ""))
        assert await there.ask() == OPEN


async def test_asked_to_the_sidecar_reads_everything_anew(tmp_path: Path):
    """As on SIGHUP, or where a secret has changed, which the configuration does not show."""
    async with governed(tmp_path) as there:
        await there.until(OPEN)
        told = await there.when(lambda told: True)
        there.source.poke()
        async with asyncio.timeout(10):
            while await there.metric('openmcp_config_reloads_total{result="ok"}') < 2:
                pass
        assert (await there.ready())[1]["digest"] == told["digest"]


async def test_files_that_objects_refer_to_are_looked_at(tmp_path: Path):
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca)
    async with governed(tmp_path) as there:
        await there.until(OPEN)
        there.server("secured", endpoints=["https://127.0.0.1:9/"], tls={"ca": {"file": str(ca)}})
        routes = there.gate.app.snapshot.routes
        await there.when(lambda told: "/secured" in there.gate.app.snapshot.routes)
        before = there.gate.app.snapshot.routes["/secured"].upstream
        trustme.CA().cert_pem.write_to_path(ca)
        await there.when(lambda told: there.gate.app.snapshot.routes["/secured"].upstream is not before)
        assert there.gate.app.snapshot.routes["/server"].upstream is routes["/server"].upstream


async def test_a_file_cannot_turn_to_kubernetes_while_it_runs(tmp_path: Path):
    file = tmp_path / "gateway.yaml"
    made = {**configuration("http://127.0.0.1:9/"), "telemetry": {"audit": {"output": {"file": str(tmp_path / "a")}}}}
    file.write_text(json.dumps(made))
    source = FileSource(file, interval=0.02)
    app = App(source.load().configuration)
    await app.start()
    following = asyncio.create_task(serve.follow(source, app))
    gate = Gate(app, tmp_path / "a", file)
    changed = {key: value for key, value in made.items() if key not in ("servers", "policies")}
    file.write_text(json.dumps({**changed, "source": {"type": "kubernetes"}}))
    async with asyncio.timeout(10):
        while "its type changes only with a restart" not in await gate.page("/readyz"):
            pass
    assert [server.name for server in app.snapshot.configuration.servers] == ["server"]
    following.cancel()
    await app.stop(patience=0.0)


async def test_without_any_good_configuration_it_stays_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problem = Problem(file="gateway.yaml", line=1, path="listen", message="does not go with the objects")
    whole = source_module.assemble
    bad = Assembled(ConfigurationError([problem]), (), {})
    monkeypatch.setattr(source_module, "assemble", lambda documents, parsed, good: bad)
    async with governed(tmp_path) as there:
        told = await there.when(lambda told: told["refused"] is not None)
        assert (told["closed"], told["refused"]) == (WAITING, "gateway.yaml:1: listen: does not go with the objects")
        assert await there.ask() == (503, WAITING)
        monkeypatch.setattr(source_module, "assemble", whole)
        there.policy(ALLOW, name="another")
        await there.until(OPEN)


async def test_a_burst_of_changes_is_one_reload(tmp_path: Path):
    async with governed(tmp_path) as there:
        await there.until(OPEN)
        before = len([line for line in await there.gate.records() if line["event"] == "reload"])
        for number in range(200):
            there.policy(ALLOW, name=f"p{number}")
        await there.when(lambda told: told["source"]["kinds"]["MCPPolicy"]["objects"] == 201)
        there.policy(ALLOW, DENY)
        await there.until((200, "off today"))
        after = len([line for line in await there.gate.records() if line["event"] == "reload"])
        assert after - before <= 4


async def test_probes_reach_another_address(tmp_path: Path):
    async with governed(tmp_path, admin=Address(host="0.0.0.0", port=0)) as there:
        assert there.gate.app.admin_address[0] == "0.0.0.0"
        await there.until(OPEN)
        assert there.gate.app.snapshot.configuration.listen.admin == Address(host="0.0.0.0", port=0)


async def test_streams_end_where_nothing_may_pass(tmp_path: Path):
    async with governed(tmp_path, handler=streaming, maxStaleness="10m") as there:
        await there.until(OPEN)
        async with there.gate.connect() as agent:
            await initialize(agent)
            await open_get(agent)
            await there.kubernetes.stop()
            there.now += 601
            there.source._woken.set()
            assert await agent.event() is None


async def test_rules_that_ask_somebody_may_come_late(tmp_path: Path):
    """No rule asks anybody when the sidecar starts: what tells of requests is opened with the first that does."""
    for name, secret in (("token", slack.TOKEN), ("app-token", slack.APP_TOKEN)):
        (tmp_path / name).write_text(secret)
    async with slack.fake_slack() as chat:
        channel = {
            "name": "chat",
            "type": "slack",
            "mode": "socket",
            "channel": slack.CHANNEL,
            "token": {"file": "token"},
            "appToken": {"file": "app-token"},
            "apiUrl": chat.url,
        }
        async with governed(tmp_path, base={**BASE, "approvals": {"channels": [channel]}}) as there:
            await there.until(OPEN)
            there.kubernetes.put("ApprovalWorkflow", "leads", {"approvers": ["slack:U0ANN"], "channels": ["chat"]})
            there.policy({**ALLOW, "action": "requireApproval", "approval": {"workflow": "leads"}})
            app = there.gate.app
            await there.when(lambda told: app.snapshot.configuration.policies[0].requests[0].approval is not None)
            async with there.gate.connect() as agent:
                await initialize(agent)
                await agent.send(agent.request(call()))
                posted = await chat.seen("chat.postMessage")
            assert posted["channel"] == slack.CHANNEL


async def test_commands_see_the_objects_too(tmp_path: Path):
    async with kubernetes_api() as kubernetes:
        kubernetes.put("MCPServer", "server", {"endpoints": ["http://127.0.0.1:9/mcp"]})
        kubernetes.put("MCPPolicy", "base", {"servers": ["*"], "requests": [ALLOW]})
        file, kubeconfig = tmp_path / "gateway.yaml", tmp_path / "kubeconfig"
        file.write_text(json.dumps({**BASE, "source": {"type": "kubernetes"}}))
        kubeconfig.write_text(kubernetes.kubeconfig())
        command = [OPENMCP, "explain", "-c", file, "--agent", "key:alice", "--server", "server", "--tool", "allowed"]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        process = await asyncio.create_subprocess_exec(*map(str, command), env=environment, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert b"allow" in out
        assert {asked.headers["authorization"] for asked in kubernetes.asked} == {"Bearer a-token"}

"""Servers that want to know us: what an agent with empty hands gets through the sidecar, and what it never sees."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from mcp.client.client import Client

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net import oauth
from tests.fakes.workload_api import FakeWorkloadApi
from tests.support.gate import Gate, ask_modern, call, configuration, gate, initialize, message
from tests.support.guarded import by_oauth, tools
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile
from tests.support.oauth import SPIFFE_ID, Issuer, issuer
from tests.support.raw import connect


@pytest.fixture
async def workload(tmp_path: Path) -> AsyncIterator[FakeWorkloadApi]:
    """The agent of SPIRE: it knows us."""
    async with FakeWorkloadApi(f"unix://{tmp_path}/api.sock", (SPIFFE_ID,)) as running:
        yield running


@pytest.fixture
async def authorization(workload: FakeWorkloadApi) -> AsyncIterator[Issuer]:
    """The authorization server: it trusts our trust domain."""
    async with issuer(workload.jwks()) as running:
        yield running


async def used(agent: Client) -> str:
    """What the tool says."""
    (content,) = (await agent.call_tool("allowed", {})).content
    return content.text


@pytest.mark.parametrize("kind", ["jwtSvid", "jwtSvidSpiffe"])
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_an_agent_without_a_secret_uses_a_server_behind_oauth(
    tmp_path: Path,
    workload: FakeWorkloadApi,
    authorization: Issuer,
    kind: str,
    mode: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "openmcp")
    monkeypatch.setattr(oauth, "FRESH", 0.0)  # as if all of this took its time
    async with (
        tools() as server,
        gate(tmp_path, by_oauth(tmp_path, workload.address, authorization, server, kind)) as sidecar,
    ):
        await sidecar.has_identity(SPIFFE_ID)
        async with Client(f"{sidecar.url}/server", mode=mode) as agent:
            assert [await used(agent) for _ in range(3)] == ["for openmcp"] * 3
            (first,) = set(server.seen)
            server.withdrawn.add(first)
            assert [await used(agent) for _ in range(3)] == ["for openmcp"] * 3
        assert len(set(server.seen)) == 2
        assert [form["resource"] for form in authorization.asked] == [server.url] * 2
        assert [claims["sub"] for claims in authorization.assertions] == [SPIFFE_ID] * 2
        assertions = {form["client_assertion"] for form in authorization.asked}
        await shows_nothing(sidecar, caplog, {*server.seen, *assertions})
        record = await sidecar.records()
    assert {line["agent"] for line in record if "agent" in line} == {SPIFFE_ID}


async def shows_nothing(sidecar: Gate, caplog: pytest.LogCaptureFixture, secrets: set[str]) -> None:
    """Expect that no secret stands in the record, the log, the metrics or what operators are told."""
    text = json.dumps(await sidecar.records()) + caplog.text + await sidecar.page("/readyz")
    text += await sidecar.page("/metrics")
    assert "openmcp_" in text
    for secret in secrets:
        assert secret not in text


async def test_without_the_sidecar_or_our_svid_the_server_is_closed(
    tmp_path: Path, workload: FakeWorkloadApi, authorization: Issuer
) -> None:
    workload.ids = ("spiffe://prod.acme.example/agent",)
    async with tools() as server:
        config = by_oauth(tmp_path, workload.address, authorization, server, "jwtSvid")
        async with gate(tmp_path, config) as sidecar, connect(sidecar.url, "/server") as agent:
            await sidecar.has_identity("spiffe://prod.acme.example/agent")
            answer = await agent.ask(call())
            assert answer.json["error"] == {"code": -32603, "message": CLOSED}
            ended = await sidecar.recorded(id=1, ends=True)
            assert ended["outcome"] == "credential"
            assert ended["reason"] == "the token endpoint answered HTTP 400: invalid_client"
    assert (authorization.assertions, server.seen) == ([], [])


async def test_a_server_that_verifies_jwt_svids_sees_ours(tmp_path: Path, workload: FakeWorkloadApi) -> None:
    shown: list[dict[str, Any]] = []

    async def verifying(request: Request, reply: Reply) -> None:
        token = (request.header("authorization") or "").removeprefix("Bearer ")
        key = workload.jwt_key.key.public_key()
        shown.append(jwt.decode(token, key, algorithms=["ES256"], audience="tools"))
        await friendly(request, reply)

    async with hostile(verifying) as server:
        identity = {"workloadApi": workload.address, "agents": [{"type": "workload"}]}
        config = configuration(server.url, auth={"type": "jwtSvid", "audience": "tools"}) | {"identity": identity}
        async with gate(tmp_path, config) as sidecar, connect(sidecar.url, "/server") as agent:
            await sidecar.has_identity(SPIFFE_ID)
            await initialize(agent)
            for number in range(3):
                answer = await agent.ask(call(identifier=number), authorization="Bearer agents-own")
                assert answer.json["result"]["content"][0]["text"] == "done"
    assert {(claims["sub"], *claims["aud"]) for claims in shown} == {(SPIFFE_ID, "tools")}
    assert (len(shown), workload.calls["FetchJWTSVID"]) == (4, 1)


# A secret in a header, and what servers do with it

TOKEN = "our-secret-token"
CLOSED = "the gateway cannot prove itself to the MCP server"


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


@pytest.fixture
async def sidecar(server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gate]:
    """A sidecar that shows this server its secret."""
    monkeypatch.setenv("TOOLS_TOKEN", TOKEN)
    auth = {"type": "header", "name": "Authorization", "value": {"env": "TOOLS_TOKEN"}, "prefix": "Bearer "}
    async with gate(tmp_path, configuration(server.url, auth=auth)) as running:
        yield running


async def test_the_agents_own_credential_stays_here_and_ours_goes_on(server: Hostile, sidecar: Gate) -> None:
    for headers in ({"authorization": "Bearer key-of-alice"}, {"authorization": "Basic YTpi"}, {"cookie": "a=b"}):
        async with sidecar.connect(**headers) as agent:
            await initialize(agent)
            assert (await agent.ask(call())).json["result"]["content"][0]["text"] == "done"
            assert (await agent.ask(method="DELETE")).status == 200
            assert (await agent.ask(method="GET", accept="text/event-stream")).status == 405
    assert {request.method for request in server.requests} == {"GET", "POST", "DELETE"}
    for request in server.requests:
        assert request.header("authorization") == f"Bearer {TOKEN}"
        assert request.header("x-api-key") is None
        assert request.header("cookie") is None
        assert "alice" not in str(request.headers)


async def test_a_challenge_never_reaches_the_agent(
    server: Hostile, sidecar: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "openmcp")

    async def guarded(request: Request, reply: Reply) -> None:
        challenge = 'Bearer resource_metadata="https://evil.example/", error="invalid_token"'
        await reply.respond(
            b'{"error":"evil"}', status=401, www_authenticate=challenge, content_type="application/json"
        )

    async with sidecar.connect() as agent:
        await initialize(agent)
        server.handler = guarded
        answer = await agent.ask(call())
        assert (answer.status, answer.json["error"]) == (200, {"code": -32603, "message": CLOSED})
        answers = [answer]
        answers.append(await agent.ask(message("notifications/initialized", None)))
        answers.append(await agent.ask(method="GET", accept="text/event-stream"))
        answers.append(await agent.ask(method="DELETE"))
        assert [answer.status for answer in answers] == [200, 502, 502, 502]
        assert "evil" not in str(answers)
        assert all(answer.header("www-authenticate") is None for answer in answers)
        ended = await sidecar.recorded(id=1, method="tools/call", ends=True)
        assert (ended["outcome"], ended["reason"]) == ("credential", "the server refused our credential (HTTP 401)")
        server.handler = friendly
        assert (await agent.ask(call(identifier=2))).json["result"]["content"][0]["text"] == "done"
    await shows_nothing(sidecar, caplog, {TOKEN})


async def test_a_session_that_is_gone_is_still_a_404(server: Hostile, sidecar: Gate) -> None:
    async def gone(request: Request, reply: Reply) -> None:
        await reply.respond(b"", status=404)

    async with sidecar.connect() as agent:
        await initialize(agent)
        server.handler = gone
        assert (await agent.ask(call())).status == 404


async def test_a_call_that_was_refused_once_is_carried_out_once(
    server: Hostile, sidecar: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sidecar.connect() as agent:
        await initialize(agent)
        monkeypatch.setenv("TOOLS_TOKEN", "another")

        async def guarded(request: Request, reply: Reply) -> None:
            if request.header("authorization") == "Bearer another":
                await friendly(request, reply)
            else:
                await reply.respond(b"", status=401)

        server.handler = guarded
        assert (await agent.ask(call())).json["result"]["content"][0]["text"] == "done"
        calls = [request.header("authorization") for request in server.requests if b"tools/call" in request.body]
        assert calls == [f"Bearer {TOKEN}", "Bearer another"]
        assert len([line for line in await sidecar.records() if line.get("id") == 1 and "latency" in line]) == 1


async def test_what_we_lack_ourselves_is_not_asked_for_at_each_endpoint(server: Hostile, tmp_path: Path) -> None:
    class Lacking:
        asked = 0

        def lines(self) -> None:
            return None

        async def fetch(self) -> bytes:
            self.asked += 1
            raise UpstreamFailed("credential", "nobody gives us one", sent=False)

        def close(self) -> None:
            pass

    async with gate(tmp_path, configuration(server.url, f"{server.url}2", f"{server.url}3")) as sidecar:
        lacking = Lacking()
        for endpoint in sidecar.app.snapshot.routes["/server"].upstream.endpoints:
            endpoint._credential = lacking
        async with sidecar.connect() as agent:
            answer = await ask_modern(agent, call())
            assert answer.json["error"] == {"code": -32603, "message": CLOSED}
    assert (lacking.asked, server.requests) == (1, [])

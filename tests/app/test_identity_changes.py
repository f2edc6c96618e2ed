"""Who we are changes while the sidecar runs: what was agreed on under another identity, or not at all, is not used."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from openmcp.identity.peer import certificate_of
from openmcp.identity.tls import SpiffeTls
from openmcp.sidecar.build import BuildError
from tests.fakes.workload_api import GATEWAY, FakeWorkloadApi
from tests.support.gate import Gate, call, configuration, gate
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile
from tests.support.mtls import Moved
from tests.support.raw import connect

OTHER = "spiffe://example.org/other"
SERVER = "spiffe://example.org/ns/tools/sa/server"
ANYBODY: dict[str, Any] = {"agents": [{"type": "none"}]}


def settings(url: str, workload_api: FakeWorkloadApi, **server: Any) -> dict[str, Any]:
    made = configuration(url, auth={"type": "spiffe", "serverIds": [SERVER]}, **server)
    return made | {"identity": {"workloadApi": workload_api.address, **ANYBODY}}


async def ready(sidecar: Gate) -> Any:
    return json.loads((await sidecar.page("/readyz")).partition("\r\n\r\n")[2])


async def test_a_server_is_not_called_as_somebody_we_were(workload_api: FakeWorkloadApi, tmp_path: Path) -> None:
    """The registration entry names another ID: pooled connections say who we were."""
    seen: list[str] = []

    async def look(request: Request, reply: Reply) -> None:
        if request.method == "POST":
            certificate = certificate_of(reply.writer.get_extra_info("ssl_object"))
            seen.append(str(certificate.spiffe_id if certificate is not None else None))
        await friendly(request, reply)

    context = SpiffeTls(Moved.of(workload_api.ca, SERVER)).server_context(lambda why: None)
    async with hostile(look, tls=context) as server, gate(tmp_path, settings(server.url, workload_api)) as sidecar:
        await sidecar.has_identity(GATEWAY)
        async with connect(sidecar.url) as agent:
            assert "isError" not in (await agent.ask(call(identifier=1))).json["result"]
            workload_api.rotate()
            assert "isError" not in (await agent.ask(call(identifier=2))).json["result"]
            workload_api.ids = (OTHER,)
            workload_api.rotate()
            await sidecar.has_identity(OTHER)
            assert "isError" not in (await agent.ask(call(identifier=3))).json["result"]
    assert seen == [GATEWAY, GATEWAY, OTHER]


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


async def test_a_configuration_that_is_refused_changes_nothing_of_who_we_are(
    server: Hostile, workload_api: FakeWorkloadApi, tmp_path: Path
) -> None:
    """It would need an SVID, of an agent that is not there, and a file that is not there either."""
    async with gate(tmp_path, configuration(server.url) | {"identity": ANYBODY}) as sidecar:
        broken = configuration("https://localhost:1/mcp", tls={"ca": {"file": f"{tmp_path}/absent.pem"}})
        broken["identity"] = {
            "workloadApi": f"unix://{tmp_path}/absent.sock",
            "agents": [{"type": "jwtSvid", "audience": "us", "trustDomains": ["example.org"]}],
        }
        with pytest.raises(BuildError, match=r"absent\.pem"):
            sidecar.reload(broken)
        assert (await sidecar.page("/readyz")).startswith("HTTP/1.1 200 ")
        assert (await ready(sidecar))["identity"] == {"state": "none"}
        sidecar.reload(settings("https://localhost:1/mcp", workload_api))
        await sidecar.has_identity(GATEWAY)


async def test_issuers_of_a_configuration_that_is_refused_are_not_asked(server: Hostile, tmp_path: Path) -> None:
    async with gate(tmp_path, configuration(server.url) | {"identity": ANYBODY}) as sidecar:
        issuer = {"type": "jwt", "audience": "us"}
        sets = ({"url": f"{server.url}/jwks"}, {"file": f"{tmp_path}/absent.json"})
        agents = [{**issuer, "issuer": f"https://idp/{number}", "jwks": jwks} for number, jwks in enumerate(sets)]
        with pytest.raises(BuildError, match=r"absent\.json"):
            sidecar.reload(configuration(server.url) | {"identity": {"agents": agents}})
        assert (await ready(sidecar))["issuers"] == {}
        assert not any(request.path.endswith("/jwks") for request in server.requests)

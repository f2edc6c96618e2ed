"""The client of the Workload API on the wire, and what it costs and leaves alone in the process around it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from openmcp.identity.material import CallFailed
from openmcp.identity.spiffe_id import parse
from openmcp.identity.workload_api import WorkloadApi, target
from tests.fakes import pki
from tests.fakes.workload_api import GATEWAY, FakeWorkloadApi
from tests.identity.following import until

ID = parse(GATEWAY)


@pytest.fixture
async def api(agent):
    made = WorkloadApi(agent.address, time.time)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("unix:///run/spire/api.sock", "unix:/run/spire/api.sock"),
        ("tcp://127.0.0.1:8081", "ipv4:127.0.0.1:8081"),
        ("tcp://[::1]:8081", "ipv6:[::1]:8081"),
    ],
)
def test_addresses_in_the_words_of_grpc(address, said):
    assert target(address) == said


@pytest.mark.parametrize("address", ["", "/run/api.sock", "unix:api.sock", "tcp://agent:8081", "https://127.0.0.1:1"])
def test_an_address_that_is_none(address):
    with pytest.raises(ValueError, match=r"absolute path|IP address|unix:///"):
        target(address)


async def test_every_call_carries_the_header_that_agents_ask_for(agent, api):
    for stream in (api.x509(), api.jwt_bundles()):
        assert await stream.read() is not None
        stream.close()
    await api.jwt_svid("tools", ID)
    marks = {method: metadata.get("workload.spiffe.io") for method, metadata in agent.metadata.items()}
    assert marks == {"FetchX509SVID": "true", "FetchJWTBundles": "true", "FetchJWTSVID": "true"}


async def test_a_stream_gives_updates_until_it_ends(agent, api):
    stream = api.x509()
    first = await stream.read()
    agent.rotate()
    second = await stream.read()
    assert first.material.svids[0].id == second.material.svids[0].id == ID
    assert first != second
    agent.end_streams()
    assert await stream.read() is None
    stream.close()


async def test_a_stream_that_is_closed_ends_at_the_agent(agent, api):
    stream = api.jwt_bundles()
    await stream.read()
    assert agent.listeners == 1
    stream.close()
    await until(lambda: agent.listeners == 0)


async def test_over_tcp_no_proxy_is_asked(unused_tcp_port, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with FakeWorkloadApi(f"tcp://127.0.0.1:{unused_tcp_port}") as agent:
        api = WorkloadApi(agent.address, time.time)
        assert (await api.jwt_bundles().read()).bundles == {"example.org": agent.jwks()}
        await api.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "denied"),
        (grpc.StatusCode.UNAVAILABLE, "unreachable"),
        (grpc.StatusCode.INVALID_ARGUMENT, "refused"),
        (grpc.StatusCode.UNIMPLEMENTED, "refused"),
    ],
)
async def test_kinds_of_failure(agent, api, code, kind):
    agent.refuse(code, "because")
    for call in (api.x509().read(), api.jwt_bundles().read(), api.jwt_svid("tools", ID)):
        with pytest.raises(CallFailed) as failed:
            await call
        assert (failed.value.kind, failed.value.detail) == (kind, f"{code.name}: because")


async def test_a_long_detail_is_cut(agent, api):
    agent.refuse(grpc.StatusCode.INTERNAL, "x" * 5000)
    with pytest.raises(CallFailed) as failed:
        await api.x509().read()
    assert failed.value.detail == f"INTERNAL: {'x' * 200}"


async def test_an_agent_that_is_not_there(address):
    api = WorkloadApi(address, time.time)
    with pytest.raises(CallFailed) as failed:
        await api.x509().read()
    assert (failed.value.kind, failed.value.detail) == ("unreachable", "UNAVAILABLE: No such file or directory")
    await api.close()


async def test_a_jwt_svid_of_the_id_that_is_asked_for(agent, api):
    agent.ids = (GATEWAY, "spiffe://example.org/other")
    svid = await api.jwt_svid("tools", parse("spiffe://example.org/other"))
    claims = json.loads(pki.payload(svid.token))
    assert (claims["sub"], claims["aud"], svid.expires) == ("spiffe://example.org/other", ["tools"], claims["exp"])
    with pytest.raises(CallFailed, match="denied"):
        await api.jwt_svid("tools", parse("spiffe://example.org/third"))


async def test_of_several_jwt_svids_the_one_with_the_hint(agent, api):
    agent.ids = (GATEWAY, GATEWAY)
    agent.hints = ("external", "internal")
    made = iter(range(100))
    agent.answer_jwt(lambda audience, id: agent.mint_jwt(audience, id, number=next(made)))
    for hint, number in (("internal", 1), ("external", 2), (None, 4), ("unknown", 6)):
        token = (await api.jwt_svid("tools", ID, hint)).token
        assert json.loads(pki.payload(token))["number"] == number


async def test_a_jwt_svid_for_another_audience_is_refused(agent, api):
    agent.answer_jwt(lambda audience, id: agent.mint_jwt("other", id))
    with pytest.raises(CallFailed, match="malformed: the JWT-SVID is for another audience"):
        await api.jwt_svid("tools", ID)


async def test_an_answer_without_a_jwt_svid_is_refused(agent, api):
    agent.answer_jwt(lambda audience, id: None)
    with pytest.raises(CallFailed, match="malformed: no JWT-SVID in the answer"):
        await api.jwt_svid("tools", ID)


async def test_a_jwt_svid_waits_for_an_agent_that_is_starting(address, monkeypatch):
    monkeypatch.setattr("openmcp.identity.workload_api.PATIENCE", 60.0)
    api = WorkloadApi(address, time.time)
    with pytest.raises(CallFailed):
        await api.x509().read()
    waiting = asyncio.create_task(api.jwt_svid("tools", ID))
    async with FakeWorkloadApi(address):
        assert (await waiting).id == ID
        await api.close()


async def test_an_agent_that_never_answers_is_given_up(agent, api, monkeypatch):
    monkeypatch.setattr("openmcp.identity.workload_api.PATIENCE", 0.1)
    agent.be_silent()
    with pytest.raises(CallFailed, match="unreachable: DEADLINE_EXCEEDED"):
        await api.jwt_svid("tools", ID)


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, which has to end well."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code, *arguments],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_nothing_is_imported_before_it_is_needed():
    code = """
import sys
def loaded(): return sorted({name.partition(".")[0] for name in sys.modules} & {"grpc", "google", "spiffe"})
import openmcp.identity.source
print(loaded())
import openmcp.identity.workload_api
print(loaded())
"""
    assert run(code).stdout == "[]\n['google', 'grpc']\n"


FOLLOW = """
import asyncio, sys, subprocess, warnings
import openmcp.identity.workload_api  # before the stand-in loads gRPC
from tests.fakes.workload_api import FakeWorkloadApi
from tests.identity.following import Watched, until

warnings.simplefilter("error")

async def main():
    agent = await FakeWorkloadApi(sys.argv[1]).start()
    async with Watched(agent.address) as watched:
        watched.want_jwt_bundles()
        await watched.change()
        await until(lambda: watched.jwt_generation)
        for number in range(20):
            child = await asyncio.create_subprocess_exec("true")
            assert await child.wait() == 0
            assert subprocess.run(["true"], start_new_session=True).returncode == 0
            agent.rotate()
            await watched.change()
        assert len(await watched.jwt_svid("tools")) > 100
        assert watched.stats.rotations == 20
        await agent.stop()
        await until(lambda: watched.stats.failures["unreachable"])
    assert asyncio.all_tasks() == {asyncio.current_task()}
"""


def test_grpc_keeps_out_of_our_log():
    code = """
import logging, os
os.environ.pop("GRPC_VERBOSITY", None)
import openmcp.identity.workload_api
print(os.environ["GRPC_VERBOSITY"], logging.getLogger("grpc._cython.cygrpc").isEnabledFor(logging.DEBUG))
"""
    assert run(code).stdout == "NONE False\n"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_it_works_beside_child_processes_and_leaves_nothing(address, loop):
    done = run(f"{FOLLOW}\nimport {loop}\n{loop}.run(main())", address)
    lines = done.stderr.splitlines()
    expected = ("cannot be reached", "Executing <")  # the end of the agent; how slow this machine is
    assert [line for line in lines if not any(text in line for text in expected)] == [], "of gRPC, or not ended"


def test_what_grpc_does_when_processes_are_forked_is_off(address):
    done = run(f"{FOLLOW}\nimport uvloop\nuvloop.run(main())", address, GRPC_VERBOSITY="INFO")
    assert "log.cc" in done.stderr, "it does say something, by the operator's wish"
    assert "fork" not in done.stderr

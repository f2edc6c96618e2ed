"""Attacks on who is calling: credentials that are not good, two at once, stolen sessions, and what is told to whom."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from openmcp.identity import jwks
from tests.fakes import pki
from tests.fakes.workload_api import FakeWorkloadApi
from tests.support.gate import KEYS, LEGACY, Gate, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly
from tests.support.raw import Connection, connect

ISSUER = "https://idp.acme.example/"
KEY, RSA = pki.jwt_key("k1"), pki.jwt_key("k2", "RS256")
BOT = "spiffe://example.org/ns/support/sa/bot"
EVE = "spiffe://example.org/ns/support/sa/eve"


def token(sub: str = "alice", **claims: Any) -> str:
    """A token of the issuer, for a day: some are made before any test runs."""
    return pki.mint_jwt(KEY, {"iss": ISSUER, "aud": "openmcp", "sub": sub, **claims}, ttl=86_400)


def settings(folder: Path, url: str, *agents: dict[str, Any], **server: Any) -> dict[str, Any]:
    """A configuration that knows tokens of the issuer, API keys, and what `agents` add behind these."""
    (folder / "jwks.json").write_bytes(pki.jwks(KEY, RSA, use="sig"))
    made = configuration(url, **server)
    issuer = {"type": "jwt", "issuer": ISSUER, "audience": "openmcp", "clockSkew": "1ms"}
    issuer["jwks"] = {"file": str(folder / "jwks.json")}  # type: ignore[assignment]  # members of several types
    made["identity"]["agents"] = [issuer, *made["identity"]["agents"], *agents]
    return made


FORWARDED = {"type": "forwarded", "from": ["127.0.0.1/32"]}


def xfcc(caller: str) -> str:
    return f"By=spiffe://example.org/proxy;URI={caller}"


@pytest.fixture
async def sidecar(server: Hostile, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar that identifies by token, key and proxy."""
    async with gate(tmp_path, settings(tmp_path, server.url, FORWARDED)) as running:
        yield running


def by(sidecar: Gate, path: str = "/server", **headers: str) -> AbstractAsyncContextManager[Connection]:
    """A connection whose requests have these headers."""
    return connect(sidecar.url, path, **headers)


def by_token(sidecar: Gate, given: str, path: str = "/server") -> AbstractAsyncContextManager[Connection]:
    return by(sidecar, path, authorization=f"Bearer {given}")


CREDENTIALS = {
    "token": {"authorization": f"Bearer {token()}"},
    "key": {"x_api_key": KEYS["alice"]},
    "key as a token": {"authorization": f"Bearer {KEYS['alice']}"},
    "proxy": {"x_forwarded_client_cert": xfcc(BOT)},
}


@pytest.mark.parametrize("headers", CREDENTIALS.values(), ids=CREDENTIALS)
async def test_the_agents_credential_never_goes_upstream(
    sidecar: Gate, server: Hostile, headers: dict[str, str]
) -> None:
    """Neither with a call nor with anything else that an agent can make us send."""
    async with by(sidecar, **headers) as agent:
        await initialize(agent)
        assert (await agent.ask(call())).status == 200
        assert (await agent.ask(message("notifications/initialized", None))).status == 202
        await agent.ask(b"", "GET")
        await agent.ask(b"", "DELETE")
    assert {request.method for request in server.requests} == {"POST", "GET", "DELETE"}
    for request in server.requests:
        assert not {"authorization", "x-api-key", "x-forwarded-client-cert"} & {name for name, _ in request.headers}
        assert not any(secret in value for secret in headers.values() for _, value in request.headers)


@pytest.mark.parametrize("status", [401, 403, 407])
async def test_an_upstreams_challenge_never_reaches_the_agent(sidecar: Gate, server: Hostile, status: int) -> None:
    """An agent that followed it would send its own token to where the server says."""
    async with by_token(sidecar, token()) as agent:
        await initialize(agent)

        async def challenge(request: Request, reply: Reply) -> None:
            where = 'Bearer resource_metadata="https://evil.example/"'
            await reply.respond(b"", status, www_authenticate=where, proxy_authenticate=where)

        server.handler = challenge
        for body, method in (
            (call(), "POST"),
            (message("notifications/initialized", None), "POST"),
            (b"", "GET"),
            (b"", "DELETE"),
        ):
            answer = await agent.ask(body, method)
            assert answer.status not in (401, 403, 407), method
            assert not [name for name, _ in answer.headers if "authenticate" in name]
            assert b"evil.example" not in answer.body


def replaced(given: str, at: int) -> str:
    """The token with another character there."""
    return given[:at] + ("A" if given[at] != "A" else "B") + given[at + 1 :]


BAD: dict[str, dict[str, str | list[str]]] = {
    "wrong key": {"x_api_key": "wrong"},
    "empty key": {"x_api_key": ""},
    "wrong bearer": {"authorization": "Bearer wrong"},
    "empty bearer": {"authorization": "Bearer"},
    "expired": {"authorization": f"Bearer {token(exp=int(time.time()) - 60)}"},
    "another audience": {"authorization": f"Bearer {token(aud='other')}"},
    "another issuer": {"authorization": f"Bearer {token(iss='https://idp.evil.example/')}"},
    "signed by nobody": {"authorization": f"Bearer {replaced(token(), -20)}"},
    "changed": {"authorization": f"Bearer {replaced(token(), 60)}"},
    "an SVID, where none are taken": {"authorization": f"Bearer {token(sub=BOT, iss=None)}"},
    "key and token": {"authorization": f"Bearer {token()}", "x_api_key": KEYS["alice"]},
    "token and wrong key": {"authorization": f"Bearer {token()}", "x_api_key": "wrong"},
    "two keys": {"authorization": f"Bearer {KEYS['bob']}", "x_api_key": KEYS["alice"]},
    "bearer in two headers": {"authorization": [f"Bearer {token()}", f"Bearer {token('eve')}"]},
    "two bearers in one": {"authorization": f"Bearer {token()}, Bearer {token('eve')}"},
    "a proxy's header in two": {"x_forwarded_client_cert": [xfcc(BOT), xfcc(EVE)]},
    "a proxy's header that is malformed": {"x_forwarded_client_cert": xfcc(BOT) + ",garbage"},
    "a proxy that names two": {"x_forwarded_client_cert": xfcc(BOT) + f";URI={EVE}"},
}


@pytest.mark.parametrize("demanded", [True, False], ids=["requireAuth", "open"])
@pytest.mark.parametrize("headers", BAD.values(), ids=BAD)
async def test_a_bad_credential_never_becomes_anonymous(
    server: Hostile, tmp_path: Path, headers: dict[str, str | list[str]], demanded: bool
) -> None:
    """Neither behind `none`, nor on a server that demands nothing; and nothing of it reaches the server."""
    config = settings(tmp_path, server.url, FORWARDED, {"type": "none"}, requireAuth=demanded)
    async with gate(tmp_path, config) as sidecar, by(sidecar) as agent:
        answer = await agent.ask(call(), **headers)
        assert answer.status == (400 if any(isinstance(value, list) for value in headers.values()) else 401)
        line = await sidecar.recorded(status=answer.status)
        assert "agent" not in line or line["agent"] == ""
        assert server.requests == []
        assert (await agent.ask(call())).status == 200, "who presents nothing is anonymous here"


async def test_the_proxys_header_is_worth_nothing_from_others(server: Hostile, tmp_path: Path) -> None:
    """The agent connects by itself and says it were another's proxy."""
    elsewhere = {"type": "forwarded", "from": ["10.0.0.0/8", "127.0.0.2/32"]}
    async with gate(tmp_path, settings(tmp_path, server.url, elsewhere)) as sidecar:
        async with by(sidecar, x_forwarded_client_cert=xfcc(BOT)) as agent:
            assert (await agent.ask(call())).status == 401
        async with by(sidecar, x_forwarded_client_cert=xfcc(BOT), x_api_key=KEYS["alice"]) as agent:
            assert (await agent.ask(call())).status == 200
        assert (await sidecar.recorded(event="request"))["agent"] == "key:alice"


# Sessions


@asynccontextmanager
async def both_proofs(server: Hostile, folder: Path) -> AsyncIterator[tuple[Gate, FakeWorkloadApi]]:
    """A sidecar to which an agent may prove its SPIFFE ID by a proxy and by a JWT-SVID."""
    async with FakeWorkloadApi(f"unix://{folder}/api.sock") as workload_api:
        svids = {"type": "jwtSvid", "audience": "openmcp", "trustDomains": ["example.org"]}
        config = settings(folder, server.url, svids, FORWARDED)
        config["identity"]["workloadApi"] = workload_api.address
        async with gate(folder, config) as sidecar:
            yield sidecar, workload_api


async def ready(agent: Connection) -> str:
    """A session, once the keys of the trust domain are there."""
    while True:
        answer = await agent.ask(message("ping"))
        if answer.status != 503:
            return await initialize(agent)
        assert answer.header("www-authenticate") is None, "no other token would do"
        assert "the Workload API has not given the keys" in answer.json["error"]["message"]


async def is_none_of(thief: Connection, session: str, server: Hostile) -> None:
    """Every use of this session id is a 404, and the server hears of none."""
    server.requests.clear()
    headers = {"mcp_session_id": session, "mcp_protocol_version": LEGACY}
    for body, method in (
        (call(), "POST"),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, "POST"),
        (b"", "GET"),
        (b"", "DELETE"),
    ):
        answer = await thief.ask(body, method, **headers)
        assert (answer.status, answer.code) == (404, 40400)
    assert server.requests == []


async def test_a_session_is_its_principals_by_the_same_proof(server: Hostile, tmp_path: Path) -> None:
    """Whoever can forge one proof does not take over what was begun by a better one."""
    async with both_proofs(server, tmp_path) as (sidecar, workload_api):
        svid = workload_api.mint_jwt("openmcp", BOT)
        async with (
            by_token(sidecar, svid) as agent,
            by(sidecar, x_forwarded_client_cert=xfcc(BOT)) as by_proxy,
            by_token(sidecar, workload_api.mint_jwt("openmcp", EVE)) as eve,
            by_token(sidecar, workload_api.mint_jwt("openmcp", BOT, jti="renewed")) as renewed,
        ):
            session = await ready(agent)
            lines = await sidecar.records()
            assert {(line["agent"], line["identified_by"]) for line in lines if line["event"] == "request"} == {
                (BOT, "jwtSvid")
            }
            await is_none_of(by_proxy, session, server)
            await is_none_of(eve, session, server)
            headers = {"mcp_session_id": session, "mcp_protocol_version": LEGACY}
            assert (await renewed.ask(call(), **headers)).status == 200, "a new token of the same agent"
            await initialize(by_proxy)
            assert (await by_proxy.ask(call())).status == 200


# Lifetimes


async def endless(request: Request, reply: Reply) -> None:
    """A server with a stream for every GET, which it never ends."""
    if request.method == "POST":
        await friendly(request, reply)
        return
    await reply.stream()
    await reply.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "hello"}})
    await reply.left()


async def test_a_stream_ends_with_the_token_that_opened_it(sidecar: Gate, server: Hostile) -> None:
    server.handler = endless
    async with by_token(sidecar, token(exp=time.time() + 1.2)) as agent:
        await initialize(agent)
        await agent.send(agent.request(method="GET", accept="text/event-stream"))
        assert (await agent.answer_head())[0] == 200
        assert (await agent.event())["params"] == {"data": "hello"}
        assert await agent.event() is None, "ended in good order"
        answer = await agent.ask(call())
        assert (answer.status, answer.json["error"]["message"]) == (
            401,
            "the caller is not identified: the token has expired",
        )
    assert (await sidecar.recorded(event="stream-end"))["outcome"] == "ok"


def soon(streams: Any, now: float) -> None:
    """Have it asked at each sweep, and not every ten seconds, who has these."""
    for relay in streams:
        relay.review_at = now


@pytest.mark.parametrize("withdrawn", ["by the issuer", "by the Workload API"])
async def test_a_stream_ends_with_the_key_that_vouched_for_it(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, withdrawn: str
) -> None:
    monkeypatch.setattr(jwks, "WATCH", 0.0)
    server.handler = endless
    async with both_proofs(server, tmp_path) as (sidecar, workload_api):
        given = token() if withdrawn == "by the issuer" else workload_api.mint_jwt("openmcp", BOT)
        async with by_token(sidecar, given) as agent, by(sidecar, x_forwarded_client_cert=xfcc(BOT)) as other:
            await ready(agent)
            await initialize(other)
            for one in (agent, other):
                await one.send(one.request(method="GET", accept="text/event-stream"))
                assert (await one.answer_head())[0] == 200
                assert (await one.event())["params"] == {"data": "hello"}
            streams = sidecar.app._pipeline.relays.open
            async with asyncio.timeout(10):
                while not all(relay.review_at for relay in streams):  # noqa: ASYNC110 - the sweep tells nobody
                    await asyncio.sleep(0.01)
            sidecar.app._sweeper.add(lambda now: soon(streams, now))
            if withdrawn == "by the issuer":
                (tmp_path / "jwks.json").write_bytes(pki.jwks(RSA, use="sig"))
            else:
                workload_api.jwt_key = pki.jwt_key("next")
                workload_api.end_streams()
            assert await agent.event() is None, "ended in good order"
            assert (await agent.ask(call())).status == 401
            assert [relay.flow.identified_by for relay in streams] == ["forwarded"], (
                "the one whom a proxy vouches for is none the worse"
            )


async def test_a_reload_ends_the_streams_of_those_it_does_not_know(
    sidecar: Gate, server: Hostile, tmp_path: Path
) -> None:
    server.handler = endless
    async with by_token(sidecar, token()) as stays, by(sidecar, x_forwarded_client_cert=xfcc(BOT)) as goes:
        for agent in (stays, goes):
            await initialize(agent)
            await agent.send(agent.request(method="GET", accept="text/event-stream"))
            assert (await agent.answer_head())[0] == 200
            assert (await agent.event())["params"] == {"data": "hello"}
        sidecar.reload(settings(tmp_path, server.url))
        assert await goes.event() is None
        sidecar.reload(settings(tmp_path, server.url) | {"policies": []})
        assert await stays.event() is None


# What is told to those who are not identified


async def challenge_of(agent: Connection, **headers: str) -> str:
    answer = await agent.ask(call(), **headers)
    assert answer.status == 401
    said = answer.header("www-authenticate")
    assert said is not None
    return said


async def test_who_is_not_identified_is_told_how(sidecar: Gate) -> None:
    """RFC 6750, 3, and RFC 9728, 5.1: nothing is said to be wrong where nothing was presented."""
    metadata = f"{sidecar.url}/.well-known/oauth-protected-resource/server"
    begin = f'Bearer realm="openmcp", resource_metadata="{metadata}"'
    async with by(sidecar) as agent:
        assert await challenge_of(agent) == begin
        assert await challenge_of(agent, x_api_key="wrong") == begin
        wrong = ', error="invalid_token", error_description='
        assert await challenge_of(agent, authorization=f"Bearer {token(aud='x')}") == (
            f'{begin}{wrong}"the token is for another audience"'
        )
        assert await challenge_of(agent, authorization='Bearer "\\"') == f'{begin}{wrong}"unknown API key"'


async def test_why_a_caller_was_refused_is_recorded_and_counted(sidecar: Gate) -> None:
    stolen = replaced(token(), -20)
    async with by_token(sidecar, stolen) as agent:
        await agent.ask(call())
    line = await sidecar.recorded(event="refused")
    assert (line["outcome"], line["reason"]) == ("not_identified", "the signature of the token is not good")
    assert "agent" not in line or not line["agent"]
    assert stolen[-20:] not in json.dumps(await sidecar.records())
    text = sidecar.app.metrics.exposition().decode()
    assert 'openmcp_identification_refused_total{reason="signature"} 1.0' in text


async def test_without_issuers_nobody_is_sent_to_one(server: Hostile, tmp_path: Path) -> None:
    async with gate(tmp_path, configuration(server.url)) as sidecar:
        async with by(sidecar) as agent:
            assert await challenge_of(agent) == 'Bearer realm="openmcp"'
        async with by(sidecar, "/.well-known/oauth-protected-resource/server") as anybody:
            assert (await anybody.ask(b"", "GET")).status == 404


METADATA = "/.well-known/oauth-protected-resource"


async def test_where_tokens_come_from_is_told_to_anybody(sidecar: Gate, server: Hostile) -> None:
    async with by(sidecar, f"{METADATA}/server") as anybody:
        answer = await anybody.ask(b"", "GET")
        assert (answer.status, answer.json) == (
            200,
            {
                "resource": f"{sidecar.url}/server",
                "resource_name": "server",
                "authorization_servers": [ISSUER],
                "bearer_methods_supported": ["header"],
            },
        )
        for method in ("POST", "DELETE"):
            answer = await anybody.ask(b"", method)
            assert (answer.status, answer.header("allow")) == (405, "GET")
    assert (await sidecar.recorded(event="metadata"))["server"] == "server"
    assert server.requests == []


@pytest.mark.parametrize(
    "path",
    [
        METADATA,
        f"{METADATA}/",
        f"{METADATA}/other",
        f"{METADATA}/server/",
        f"{METADATA}//server",
        f"{METADATA}server",
        f"{METADATA}{METADATA}/server",
        f"/x{METADATA}/server",
        f"{METADATA}/%73erver",
        f"{METADATA}/../server",
        "/.well-known/oauth-authorization-server/server",
        f"/server{METADATA}",
    ],
)
async def test_other_paths_tell_nothing(sidecar: Gate, path: str) -> None:
    async with by(sidecar, path) as anybody:
        assert (await anybody.ask(b"", "GET")).status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:15001", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example/127.0.0.1", 403),
        ("evil.example#@127.0.0.1", 403),
        ("127.0.0.1@evil.example", 403),
        ("evil.example@127.0.0.1", 403),
        ("127.0.0.1, evil.example", 403),
        ("", 403),
        ('127.0.0.1:1", x="', 400),
        ("127.0.0.1:evil.example", 400),
        ("127.0.0.1:1 evil.example", 400),
        ("evil.example[::1]", 400),
        ("[::1]evil.example", 400),
        ("[::1]:1:2", 400),
    ],
)
async def test_a_host_that_is_not_ours_is_never_repeated(sidecar: Gate, host: str, status: int) -> None:
    """What we tell clients to ask for tokens must not be what an attacker has told us."""
    async with by(sidecar, f"{METADATA}/server") as anybody:
        answer = await anybody.ask(b"", "GET", host=host)
        assert answer.status in ({status} if status == 403 else {400, 403})
        assert b"resource" not in answer.body
    async with by(sidecar) as agent:
        answer = await agent.ask(call(), host=host)
        assert answer.status in (401, 403, 400)
        assert "resource_metadata" not in (answer.header("www-authenticate") or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:15001", "[::1]"])
async def test_our_names_are_the_ones_that_clients_use(sidecar: Gate, host: str) -> None:
    async with by(sidecar, f"{METADATA}/server") as anybody:
        assert (await anybody.ask(b"", "GET", host=host)).json["resource"] == f"http://{host}/server"


async def test_behind_a_proxy_the_url_of_the_configuration_is_told(server: Hostile, tmp_path: Path) -> None:
    config = settings(tmp_path, server.url)
    config["listen"]["url"] = "https://gateway.acme.example"
    async with gate(tmp_path, config) as sidecar:
        async with by(sidecar, f"{METADATA}/server") as anybody:
            assert (await anybody.ask(b"", "GET")).json["resource"] == "https://gateway.acme.example/server"
        async with by(sidecar) as agent:
            assert f'resource_metadata="https://gateway.acme.example{METADATA}/server"' in await challenge_of(agent)


async def test_a_page_of_another_origin_learns_nothing(sidecar: Gate) -> None:
    async with by(sidecar, f"{METADATA}/server", origin="https://evil.example") as page:
        assert (await page.ask(b"", "GET")).status == 403

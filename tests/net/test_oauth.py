"""Access tokens from a real authorization server: how we prove ourselves there, when we ask, and what can go wrong."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import HTMLResponse, JSONResponse, Response

from openmcp.config.model import OAuthAuth, OAuthClient, Secret
from openmcp.config.secrets import SecretError
from openmcp.identity.spiffe_id import parse
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net import oauth
from openmcp.sidecar.net.oauth import OAuthToken
from tests.fakes import pki
from tests.net.sources import PATIENCE, Clock, Svids, request, upstream
from tests.support.hostile import Reply, Request, hostile
from tests.support.oauth import JWT_BEARER, JWT_SPIFFE, SECRET, SIGNING, SPIFFE_ID, Issuer, issuer

KEY = pki.jwt_key()
RESOURCE = "https://tools.acme.example/mcp"
BY_SVID = OAuthClient(id="openmcp", type="jwtSvid")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server() -> AsyncIterator[Issuer]:
    async with issuer(pki.jwks(KEY)) as running:
        yield running


Make = Callable[..., OAuthToken]


@pytest.fixture
def token(server: Issuer, tmp_path: Path, clock: Clock) -> Make:
    """Makes a credential; keywords are members of its configuration."""
    (tmp_path / "ca.pem").write_bytes(server.ca)
    (tmp_path / "secret").write_text(SECRET)

    def make(client: OAuthClient = BY_SVID, source: Svids | None = None, **members: Any) -> OAuthToken:
        auth = OAuthAuth(
            **{"token_url": server.url, "client": client, "ca": Secret(file=str(tmp_path / "ca.pem")), **members}
        )
        return OAuthToken("server", auth, source or Svids(KEY), results.append, clock)

    results: list[str] = []
    make.results = results
    return make


def claims(lines: bytes | None) -> dict[str, Any]:
    """The claims of a good access token in header lines."""
    assert lines is not None
    assert lines.startswith(b"authorization: Bearer ")
    assert lines.endswith(b"\r\n")
    options = {"verify_aud": False}
    return jwt.decode(lines.split()[2], SIGNING.key.public_key(), algorithms=["ES256"], options=options)


async def failure(credential: OAuthToken) -> str:
    """Why there is no token."""
    with pytest.raises(UpstreamFailed) as failed:
        await credential.fetch()
    assert (failed.value.kind, failed.value.sent) == ("credential", False)
    return failed.value.detail


def of(folder: Path, **changed: Any) -> OAuthClient:
    """The client with a secret."""
    return OAuthClient(
        **{"id": "with-secret", "type": "secret", "secret": Secret(file=str(folder / "secret")), **changed}
    )


# Who we are


async def test_by_a_secret(server: Issuer, token: Make, tmp_path: Path) -> None:
    lines = await token(of(tmp_path), resource=RESOURCE, scopes=("read", "write")).fetch()
    found = claims(lines)
    assert (found["client_id"], found["aud"], found["scope"]) == ("with-secret", RESOURCE, "read write")
    assert server.asked == [{"grant_type": "client_credentials", "scope": "read write", "resource": RESOURCE}]


@pytest.mark.parametrize(("kind", "named"), [("jwtSvid", JWT_BEARER), ("jwtSvidSpiffe", JWT_SPIFFE)])
async def test_by_a_jwt_svid(server: Issuer, token: Make, kind: Any, named: str) -> None:
    source = Svids(KEY)
    lines = await token(OAuthClient(id="openmcp", type=kind), source, resource=RESOURCE).fetch()
    assert (claims(lines)["client_id"], claims(lines)["aud"]) == ("openmcp", RESOURCE)
    assert server.asked == [
        {
            "grant_type": "client_credentials",
            "resource": RESOURCE,
            "client_id": "openmcp",
            "client_assertion_type": named,
            "client_assertion": source.kept[server.url],
        }
    ]
    assert [(seen["sub"], seen["aud"]) for seen in server.assertions] == [(SPIFFE_ID, [server.url])]


async def test_a_token_is_not_used_by_somebody_else(server: Issuer, token: Make) -> None:
    """It was given to who we were. Whom the server takes as the same client is its own business."""
    source = Svids(KEY)
    credential = token(source=source)
    lines = await credential.fetch()
    source.identity = parse("spiffe://prod.acme.example/other")
    assert credential.lines() is None
    anew = await credential.fetch()
    assert anew != lines
    assert credential.lines() == anew
    source.identity, source.problem = None, "no registration entry"
    source.kept.clear()
    assert await failure(credential) == "no registration entry"


async def test_an_audience_of_its_own(server: Issuer, token: Make) -> None:
    server.audience = "https://as.acme.example"
    assert "invalid_client" in await failure(token())
    client = OAuthClient(id="openmcp", type="jwtSvidSpiffe", audience="https://as.acme.example")
    assert claims(await token(client).fetch())["client_id"] == "openmcp"


async def test_a_secret_is_read_when_it_is_used(token: Make, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "secret").write_text("old")
    credential = token(of(tmp_path))
    assert await failure(credential) == "the token endpoint answered HTTP 401: invalid_client"
    (tmp_path / "secret").write_text(SECRET)
    clock.now += 1
    assert claims(await credential.fetch())["client_id"] == "with-secret"
    (tmp_path / "secret").unlink()
    clock.now += 3600
    assert await failure(credential) == f"file {tmp_path}/secret cannot be read: No such file or directory"


def test_what_cannot_be_read_shows_at_the_start(token: Make, tmp_path: Path) -> None:
    for wrong in ({"client": of(tmp_path, secret=Secret(file="none"))}, {"ca": Secret(file="none")}):
        with pytest.raises(SecretError, match="file none cannot be read"):
            token(**wrong)


@pytest.mark.parametrize(
    ("client", "source"),
    [
        (BY_SVID, Svids(pki.jwt_key())),
        (BY_SVID, Svids(pki.jwt_key("k2"))),
        (BY_SVID, Svids(KEY, sub="spiffe://prod.acme.example/agent")),
        (BY_SVID, Svids(KEY, exp=1)),
        (BY_SVID, Svids(KEY, iss="openmcp")),
        (OAuthClient(id="with-secret", type="jwtSvid"), Svids(KEY)),
    ],
    ids=["key", "kid", "sub", "exp", "iss", "client_id"],
)
async def test_the_server_of_these_tests_lets_nobody_else_in(
    server: Issuer, token: Make, client: OAuthClient, source: Svids
) -> None:
    assert await failure(token(client, source)) in (
        "the token endpoint answered HTTP 401: invalid_client",
        "the token endpoint answered HTTP 400: invalid_client",
        "the token endpoint answered HTTP 500 without a JSON object",
    )
    assert server.assertions == []


async def test_a_refused_svid_is_not_shown_again(server: Issuer, token: Make, clock: Clock) -> None:
    source = Svids(KEY, sub="spiffe://prod.acme.example/agent")
    credential = token(BY_SVID, source)
    await failure(credential)
    source.claims = {}
    clock.now += 1
    assert claims(await credential.fetch())["client_id"] == "openmcp"
    assert source.forgotten == [server.url]


async def test_without_an_svid_the_endpoint_is_not_asked(server: Issuer, token: Make) -> None:
    source = Svids(KEY)
    source.problem = "no registration entry"
    assert await failure(token(BY_SVID, source)) == "no registration entry"
    assert server.asked == []


# When we ask


async def test_all_who_wait_share_one_fetch(server: Issuer, token: Make) -> None:
    server.open.clear()
    credential = token()
    assert credential.lines() is None
    waiting = [asyncio.create_task(credential.fetch()) for _ in range(50)]
    await server.received(1)
    waiting.pop(0).cancel()  # an agent that goes away takes nothing from the others
    server.open.set()
    lines = await asyncio.gather(*waiting)
    assert len(server.asked) == 1
    assert set(lines) == {credential.lines()}
    assert token.results == ["ok"]


async def test_a_token_is_renewed_ahead_of_its_end_and_nobody_waits(server: Issuer, token: Make, clock: Clock) -> None:
    credential = token()
    first = await credential.fetch()
    clock.now += 2699
    assert credential.lines() is first
    server.open.clear()
    clock.now += 2
    for _ in range(100):
        assert credential.lines() is first
    await server.received(2)
    assert (await credential.fetch()) is first
    server.open.set()
    await settled(credential)
    assert claims(credential.lines()) != claims(first)
    assert len(server.asked) == 2


async def test_an_outage_is_not_noticed_while_the_token_lives(
    server: Issuer, token: Make, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "openmcp")
    server.lifetime = 60
    credential = token()
    first = await credential.fetch()
    begun, server.broken = clock.now, Response("down", 503)
    asked = []
    while clock.now < begun + 53.5:
        clock.now += 0.5
        assert credential.lines() is first
        await settled(credential)
        asked.append(len(server.asked))
    assert asked.index(2) == 89  # after 45 seconds
    assert asked[-1] == 5  # and again after one, two and five more
    clock.now = begun + 54
    assert credential.lines() is None
    assert await failure(credential) == "the token endpoint answered HTTP 503 without a JSON object"
    server.broken = None
    clock.now += 5
    assert await credential.fetch() != first
    assert [record.message for record in caplog.records] == [
        "server server: no new access token: the token endpoint answered HTTP 503 without a JSON object",
        "server server: the token endpoint gives access tokens again",
    ]


async def settled(credential: OAuthToken) -> None:
    """Wait until nothing is being fetched."""
    if credential._fetching is not None:
        await asyncio.wait([credential._fetching])


async def test_after_a_failure_the_endpoint_is_left_alone_for_a_while(
    server: Issuer, token: Make, clock: Clock
) -> None:
    server.broken = JSONResponse({"error": "temporarily_unavailable"}, 503)
    credential = token()
    for pause, asked in [(1, 1), (2, 2), (5, 3), (5, 4)]:
        for _ in range(3):
            why = await failure(credential)
            assert why == "the token endpoint answered HTTP 503: temporarily_unavailable"
        assert len(server.asked) == asked
        clock.now += pause - 0.1
        await failure(credential)
        assert len(server.asked) == asked
        clock.now += 0.1
    server.broken = None
    await credential.fetch()
    server.broken = Response("", 500)
    assert credential.rejected(b"other")
    clock.now += 3600
    await failure(credential)
    clock.now += 1
    server.broken = None
    assert credential.lines() is None
    await credential.fetch()


async def test_a_rejected_token_is_fetched_anew_but_not_at_once(server: Issuer, token: Make, clock: Clock) -> None:
    credential = token()
    first = await credential.fetch()
    assert not credential.rejected(first)
    assert credential.lines() is first
    clock.now += 11
    assert credential.rejected(first)
    assert credential.lines() is None
    assert await credential.fetch() != first
    assert credential.rejected(first)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (60, 54.0),
        ("3599", 3589.0),
        (7.5, 6.75),
        (None, 290.0),
        (10**30, 86_390.0),
        (1e300, 86_390.0),
    ],
)
async def test_how_long_a_token_is_used(
    server: Issuer, token: Make, clock: Clock, said: object, seconds: float
) -> None:
    answer = {"access_token": "abc", "token_type": "bearer"} | ({} if said is None else {"expires_in": said})
    server.broken = JSONResponse(answer)
    credential = token()
    assert await credential.fetch() == b"authorization: Bearer abc\r\n"
    server.broken = Response("", 500)
    clock.now += seconds - 0.01
    assert credential.lines() is not None
    await settled(credential)
    clock.now += 0.02
    assert credential.lines() is None


# What can go wrong

GOOD = {"access_token": "abc", "token_type": "Bearer", "expires_in": 60}
NO_OBJECT = "the token endpoint answered HTTP 200 without a JSON object"
NO_TOKEN = "the token endpoint's answer has no access_token"
NOT_BEARER = "the token endpoint's token_type is not Bearer"
NOT_A_TIME = "the token endpoint's answer cannot be used: expires_in is not a number above 0"
NOT_VISIBLE = "the token endpoint's answer cannot be used: the token is longer than 8192 bytes or not visible ASCII"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (HTMLResponse("<h1>Sign in</h1>"), NO_OBJECT),
        (Response(b"\xff\x00"), NO_OBJECT),
        (Response(b""), NO_OBJECT),
        (Response(b"[" * 50_000), NO_OBJECT),
        (Response(b"[]"), NO_OBJECT),
        (JSONResponse({}), NOT_BEARER),
        (JSONResponse(GOOD | {"token_type": "DPoP"}), NOT_BEARER),
        (JSONResponse(GOOD | {"token_type": None}), NOT_BEARER),
        (JSONResponse(GOOD | {"access_token": None}), NO_TOKEN),
        (JSONResponse(GOOD | {"access_token": ["abc"]}), NO_TOKEN),
        (JSONResponse(GOOD | {"access_token": ""}), NOT_VISIBLE),
        (JSONResponse(GOOD | {"access_token": "abc\r\nx-admin: 1"}), NOT_VISIBLE),
        (JSONResponse(GOOD | {"access_token": "abc def"}), NOT_VISIBLE),
        (JSONResponse(GOOD | {"access_token": "abc\n"}), NOT_VISIBLE),
        (JSONResponse(GOOD | {"access_token": "é"}), NOT_VISIBLE),
        (JSONResponse(GOOD | {"access_token": "x" * 8193}), NOT_VISIBLE),
        (JSONResponse(GOOD | {"expires_in": 0}), NOT_A_TIME),
        (JSONResponse(GOOD | {"expires_in": -60}), NOT_A_TIME),
        (JSONResponse(GOOD | {"expires_in": True}), NOT_A_TIME),
        (JSONResponse(GOOD | {"expires_in": "soon"}), NOT_A_TIME),
        (JSONResponse(GOOD | {"expires_in": "-1"}), NOT_A_TIME),
        (JSONResponse(GOOD | {"expires_in": [60]}), NOT_A_TIME),
        (JSONResponse(GOOD | {"expires_in": "1\n"}), NOT_A_TIME),
        (JSONResponse(GOOD, 201), "the token endpoint answered HTTP 201"),
        (
            JSONResponse({"error": "invalid_scope", "error_description": "abc"}, 400),
            "the token endpoint answered HTTP 400: invalid_scope",
        ),
        (JSONResponse({"error": "Bad client_assertion eyJx"}, 400), "the token endpoint answered HTTP 400"),
        (JSONResponse({"error": {"code": 1}}, 400), "the token endpoint answered HTTP 400"),
        (
            Response(b"", 307, {"location": "https://127.0.0.1:1/token"}),
            "the token endpoint answered HTTP 307 without a JSON object",
        ),
        (
            Response(json.dumps(GOOD | {"scope": "x" * 70_000})),
            "the token endpoint cannot be used: the answer is larger than 65536 bytes",
        ),
    ],
)
async def test_an_answer_without_a_token(server: Issuer, token: Make, answer: Response, why: str) -> None:
    server.broken = answer
    assert await failure(token()) == why
    assert token.results == ["failed"]
    assert len(server.asked) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "access_token": st.just("abc") | json_values,
        "token_type": st.just("Bearer") | json_values,
        "expires_in": json_values,
        "error": json_values,
    },
)


@given(status=st.sampled_from([200, 400, 500]), body=answers.map(json.dumps).map(str.encode) | st.binary(max_size=30))
def test_whatever_comes_is_a_token_or_a_reason(status: int, body: bytes) -> None:
    try:
        lines, lifetime = oauth._read(status, body)
    except oauth._Unusable:
        return
    assert status == 200
    assert lines.startswith(b"authorization: Bearer ")
    assert lines[:-2].decode("ascii").isprintable()
    assert 0 < lifetime <= 86_400


async def test_an_endpoint_that_does_not_answer(server: Issuer, token: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "PATIENCE", 0.2)
    server.open.clear()
    assert await failure(token()) == "the token endpoint cannot be used: no answer in 0.2 s"


async def test_an_endpoint_that_is_not_there_and_one_that_is_another(token: Make, tmp_path: Path) -> None:
    gone = token(token_url="https://127.0.0.1:1/token")
    assert await failure(gone) == "the token endpoint cannot be used: cannot connect: Connection refused"
    (tmp_path / "other.pem").write_bytes(trustme.CA().cert_pem.bytes())
    other = token(ca=Secret(file=str(tmp_path / "other.pem")))
    assert await failure(other) == "the token endpoint cannot be used: TLS: unable to get local issuer certificate"
    spoilt = token(ca=Secret(file=str(tmp_path / "other.pem")))
    (tmp_path / "other.pem").write_bytes(b"")
    assert await failure(spoilt) == "the token endpoint cannot be used: the CA is not a PEM certificate"
    (tmp_path / "other.pem").unlink()
    assert await failure(token(ca=Secret(file=str(tmp_path / "ca.pem")), token_url="http://as.acme.example")) == (
        "the token endpoint cannot be used: http leaves this machine in the clear: only https is used"
    )


async def test_no_secret_shows_anywhere(
    server: Issuer, token: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    caplog.set_level(logging.DEBUG, "openmcp")
    source = Svids(KEY)
    seen = ""
    for client in (of(tmp_path), BY_SVID):
        credential = token(client, source)
        lines = await credential.fetch()
        seen += f"{credential!r} {vars(credential)}"
        server.broken = JSONResponse({"error": "invalid_request", "error_description": server.asked[-1]}, 400)
        clock.now += 3600
        seen += await failure(credential)
        server.broken = None
        for secret in (SECRET, lines.split()[2].decode(), *source.kept.values()):
            assert secret not in seen + caplog.text
    assert "invalid_request" in caplog.text


async def test_closing_ends_what_is_under_way(server: Issuer, token: Make) -> None:
    server.open.clear()
    credential = token()
    waiting = asyncio.create_task(credential.fetch())
    await server.received(1)
    credential.close()
    with pytest.raises(UpstreamFailed, match="the server is given up"):
        await waiting
    credential.close()


# With a server behind it


async def test_a_token_that_was_withdrawn_is_replaced_once(server: Issuer, token: Make, clock: Clock) -> None:
    credential = token(resource=RESOURCE)
    withdrawn: set[str | None] = {f"Bearer {(await credential.fetch()).split()[2].decode()}"}

    async def guarded(request: Request, reply: Reply) -> None:
        if request.header("authorization") in withdrawn:
            await reply.respond(b"", status=401, www_authenticate='Bearer error="invalid_token"')
        else:
            await reply.respond(b"{}", content_type="application/json")

    async with hostile(guarded) as tools:
        gate = upstream(tools.url, credential)
        clock.now += 60
        answers = await asyncio.gather(*(gate.endpoints[0].send(request(), PATIENCE) for _ in range(20)))
        assert {answer.status for answer in answers} == {200}
        assert (len(tools.requests), len(server.asked)) == (40, 2)
        gate.close()

"""How we prove ourselves to a server: a secret in a header, a JWT-SVID; and what happens when it says 401."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config.model import HeaderAuth, Secret
from openmcp.config.secrets import SecretError
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net import credentials, health
from openmcp.sidecar.net.credentials import HeaderSecret, JwtSvidToken
from openmcp.sidecar.net.pool import Upstream
from openmcp.sidecar.net.values import Patience
from tests.fakes import pki
from tests.net.sources import PATIENCE, Clock, Svids, request, upstream
from tests.support.hostile import Hostile, Reply, Request, hostile

KEY = pki.jwt_key()
REFUSED = "credential: the server refused our credential (HTTP 401)"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a secret."""
    path = tmp_path / "token"
    write(path, "one")
    return path


def write(path: Path, text: str) -> None:
    """Replace the file at once, as `mv` does."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


def in_file(path: Path, clock: Clock, prefix: str = "Bearer ") -> HeaderSecret:
    """The secret of a file."""
    return HeaderSecret("server", HeaderAuth(name="Authorization", value=Secret(file=str(path)), prefix=prefix), clock)


# The secret in a header


def test_a_secret_stands_in_its_header(file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_file(file, clock).lines() == b"authorization: Bearer one\r\n"
    monkeypatch.setenv("TOOLS_KEY", "Token abc def\r\n")
    auth = HeaderAuth(name="X-API-Key", value=Secret(env="TOOLS_KEY"))
    assert HeaderSecret("server", auth, clock).lines() == b"x-api-key: Token abc def\r\n"


@pytest.mark.parametrize(
    "text",
    [
        "hunter2\r\nx-admin: 1",
        "hunter2\nhost: other",
        "hunter2\rx",
        "hunter2\n\n",
        "hunter2\0",
        "hunter2\x7f",
        "hunter2é",
        "hunter2\t",
        "hunter2 ",
        "\x01hunter2",
    ],
)
def test_what_would_be_more_than_a_value_is_refused(
    file: Path, clock: Clock, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SecretError, match="is not one line of visible ASCII") as failure:
        in_file_of(file, text, clock)
    assert "hunter2" not in str(failure.value) + caplog.text
    assert str(file) in str(failure.value)


def in_file_of(file: Path, text: str, clock: Clock) -> HeaderSecret:
    file.write_bytes(text.encode())
    return in_file(file, clock)


@given(value=st.binary(max_size=40), prefix=st.sampled_from(["", "Bearer "]))
def test_whatever_a_file_holds_makes_one_line_or_none(
    tmp_path_factory: pytest.TempPathFactory, value: bytes, prefix: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(value)
    try:
        lines = in_file(file, Clock(), prefix).lines()
    except SecretError:
        return
    assert lines == b"authorization: %b%b\r\n" % (prefix.encode(), value.removesuffix(b"\n").removesuffix(b"\r"))
    assert lines[:-2].decode("ascii").isprintable()
    assert lines[:-2].strip() == lines[:-2]
    assert len(lines) > len(b"authorization: \r\n") + len(prefix)


def test_a_secret_of_none_and_one_too_long_are_refused(file: Path, clock: Clock) -> None:
    for text, why in [("", "is empty"), ("\n", "is empty"), ("x" * 8186, "longer than the 8192 bytes")]:
        with pytest.raises(SecretError, match=why):
            in_file_of(file, text, clock)
    assert in_file_of(file, "x" * 8185, clock).lines() is not None
    file.unlink()
    with pytest.raises(SecretError, match="cannot be read"):
        in_file(file, clock)


def test_a_changed_file_is_read_anew(file: Path, clock: Clock) -> None:
    secret = in_file(file, clock)
    write(file, "two")
    assert secret.lines() == b"authorization: Bearer one\r\n"
    clock.now += 1
    assert secret.lines() == b"authorization: Bearer two\r\n"
    file.write_text("six")  # in place, of the same size
    clock.now += 1
    assert secret.lines() == b"authorization: Bearer six\r\n"


def test_two_changes_in_one_tick_of_the_file_system(file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    same = os.stat(file)
    monkeypatch.setattr(credentials.os, "stat", lambda path: same)
    secret = in_file(file, clock)
    file.write_text("six")
    clock.now += 1
    assert secret.lines() == b"authorization: Bearer six\r\n"


def test_a_file_that_stays_is_looked_at_once_a_second_and_not_read(
    file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, reads = [], []
    monkeypatch.setattr(credentials, "_SETTLED", -1)
    look, read = os.stat, credentials.secrets.read
    secret = in_file(file, clock)
    monkeypatch.setattr(credentials.os, "stat", lambda path: looks.append(path) or look(path))
    monkeypatch.setattr(credentials.secrets, "read", lambda of: reads.append(of) or read(of))
    for _ in range(30):
        clock.now += 0.1
        assert secret.lines() == b"authorization: Bearer one\r\n"
    assert (2 <= len(looks) <= 3, reads) == (True, [])


def spoil(file: Path, damage: str | None) -> None:
    """Take the file away, or replace it."""
    file.unlink() if damage is None else write(file, damage)


@pytest.mark.parametrize("damage", ["", "x\r\ny: z", None])
async def test_a_spoilt_file_keeps_its_last_value_for_a_while(
    file: Path, clock: Clock, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "openmcp")
    secret = in_file(file, clock)
    spoil(file, damage)
    for _ in range(10):
        clock.now += 1
        assert secret.lines() == b"authorization: Bearer one\r\n"
    for _ in range(3):
        clock.now += 1
        assert secret.lines() is None
        with pytest.raises(UpstreamFailed) as failure:
            await secret.fetch()
        assert (failure.value.kind, failure.value.sent) == ("credential", False)
        assert str(file) in failure.value.detail
    write(file, "two")
    clock.now += 1
    assert secret.lines() == b"authorization: Bearer two\r\n"
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "INFO"]


# JWT-SVIDs


async def test_a_jwt_svid_is_a_bearer_token(clock: Clock) -> None:
    source = Svids(KEY)
    token = JwtSvidToken(source, "tools", clock)
    assert token.lines() is None
    lines = await token.fetch()
    assert lines == b"authorization: Bearer %b\r\n" % source.kept["tools"].encode()
    assert token.lines() is token.lines()
    assert (token.lines(), source.fetched) == (lines, ["tools"])
    source.forget_jwt_svid("tools")
    assert token.lines() is None
    assert await token.fetch() != lines


async def test_where_there_is_no_svid_nothing_is_sent(clock: Clock) -> None:
    source = Svids(KEY)
    source.problem = "no registration entry"
    with pytest.raises(UpstreamFailed) as failure:
        await JwtSvidToken(source, "tools", clock).fetch()
    assert (str(failure.value), failure.value.sent) == ("credential: no registration entry", False)


async def test_a_workload_api_that_does_not_answer(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Svids):
        async def jwt_svid(self, audience: str) -> str:
            return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(credentials, "PATIENCE", 0.05)
    with pytest.raises(UpstreamFailed, match="the Workload API gave no JWT-SVID in 0.05 s"):
        await JwtSvidToken(Silent(KEY), "tools", clock).fetch()


@pytest.mark.parametrize("bad", ["", "a b", "a\r\nx: y", "a\0", "é", "x" * 8193])
async def test_a_token_that_is_none(bad: str, clock: Clock) -> None:
    source = Svids(KEY)
    source.kept["tools"] = bad
    with pytest.raises(
        UpstreamFailed, match="our JWT-SVID cannot be used: the token is longer than 8192 bytes or not visible ASCII"
    ):
        await JwtSvidToken(source, "tools", clock).fetch()


async def test_a_refused_svid_is_replaced_but_not_with_every_call(clock: Clock) -> None:
    source = Svids(KEY)
    token = JwtSvidToken(source, "tools", clock)
    first = await token.fetch()
    assert not token.rejected(first)  # it was just fetched
    clock.now += 11
    assert token.rejected(first)
    second = await token.fetch()
    assert token.rejected(first)  # somebody else's, of before
    assert (await token.fetch(), source.forgotten) == (second, ["tools"])
    clock.now += 9
    assert not token.rejected(second)
    clock.now += 2
    assert token.rejected(second)


async def test_an_agent_that_gives_the_same_svid_again_is_not_asked_with_every_call(clock: Clock) -> None:
    source = Svids(KEY)
    token = JwtSvidToken(source, "tools", clock)
    first = await token.fetch()
    clock.now += 11
    assert token.rejected(first)
    source.kept["tools"] = first.split()[2].decode()
    assert await token.fetch() == first
    assert not token.rejected(first)
    assert source.forgotten == ["tools"]


# What the server says


class Guard:
    """A server that serves the bearer of `good` and challenges everybody else."""

    def __init__(self, good: str = "") -> None:
        self.good = good

    async def __call__(self, request: Request, reply: Reply) -> None:
        if request.header("authorization") == f"Bearer {self.good}":
            await reply.respond(b'{"served":true}', content_type="application/json")
        else:
            challenge = 'Bearer resource_metadata="https://evil.example/"'
            await reply.respond(b"{}", status=401, www_authenticate=challenge, content_type="application/json")


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


def shown(server: Hostile) -> list[str | None]:
    """The credentials that the server was shown."""
    return [request.header("authorization") for request in server.requests]


async def test_a_new_secret_is_sent_once_more_after_a_401(server: Hostile, file: Path, clock: Clock) -> None:
    server.handler = Guard("two")
    gate = upstream(server.url, in_file(file, clock))
    write(file, "two")
    (endpoint,) = gate.endpoints
    response = await endpoint.send(request(), PATIENCE)
    assert (response.status, response.body) == (200, b'{"served":true}')
    assert shown(server) == ["Bearer one", "Bearer two"]
    assert server.requests[0].body == server.requests[1].body
    gate.close()


async def test_both_together_take_no_longer_than_one_may(server: Hostile, file: Path, clock: Clock) -> None:
    gate = upstream(server.url, in_file(file, clock))
    write(file, "two")
    (endpoint,) = gate.endpoints
    later, patience = Clock(), Patience(head=30.0, idle=30.0, total=30.0)
    endpoint._now = later

    async def slow(request: Request, reply: Reply) -> None:
        if len(server.requests) == 1:
            later.now += 29.75
            await reply.respond(b"", status=401)
        else:
            gate.sweep(asyncio.get_running_loop().time() + 1.0)
            await reply.left()

    server.handler = slow
    with pytest.raises(UpstreamFailed, match=r"^timeout: no answer in 0\.25 s$"):
        await endpoint.send(request(), patience)
    gate.close()


async def test_the_same_secret_is_not_sent_again(server: Hostile, file: Path, clock: Clock) -> None:
    server.handler = Guard("two")
    gate = upstream(server.url, in_file(file, clock))
    await refused(gate)
    assert shown(server) == ["Bearer one"]
    gate.close()


async def refused(gate: Upstream) -> None:
    """Expect that the server refuses us, and that its challenge is not repeated."""
    with pytest.raises(UpstreamFailed) as failure:
        await gate.endpoints[0].send(request(), PATIENCE)
    assert (str(failure.value), failure.value.sent) == (REFUSED, True)


async def test_a_token_that_was_kept_is_fetched_anew_once(server: Hostile, clock: Clock) -> None:
    source = Svids(KEY)
    gate = upstream(server.url, JwtSvidToken(source, "tools", clock))
    server.handler = Guard(await source.jwt_svid("tools"))
    assert (await gate.endpoints[0].send(request(), PATIENCE)).status == 200
    clock.now += 60

    class Later(Guard):
        async def __call__(self, request: Request, reply: Reply) -> None:
            self.good = "" if len(source.fetched) == 1 else source.kept["tools"]
            await super().__call__(request, reply)

    server.handler = Later()
    answers = await asyncio.gather(*(gate.endpoints[0].send(request(), PATIENCE) for _ in range(10)))
    assert {answer.status for answer in answers} == {200}
    assert source.fetched == ["tools", "tools"]
    assert len(server.requests) == 21
    gate.close()


async def test_a_server_that_refuses_everybody_costs_no_token_per_call(server: Hostile, clock: Clock) -> None:
    server.handler = Guard("nobody's")
    source = Svids(KEY)
    gate = upstream(server.url, JwtSvidToken(source, "tools", clock))
    await refused(gate)
    assert len(server.requests) == 1  # it was just fetched
    clock.now += 60
    await refused(gate)
    assert len(server.requests) == 3
    for _ in range(5):
        await refused(gate)
    assert (len(server.requests), len(source.fetched)) == (8, 2)
    gate.close()


async def test_other_statuses_are_the_callers(server: Hostile, file: Path, clock: Clock) -> None:
    gate = upstream(server.url, in_file(file, clock))
    for status in (400, 403, 404, 405, 500, 503):

        async def handler(request: Request, reply: Reply, status: int = status) -> None:
            await reply.respond(b"", status=status)

        server.handler = handler
        assert (await gate.endpoints[0].send(request(), PATIENCE)).status == status
    assert len(server.requests) == 6
    gate.close()


async def test_without_a_credential_a_401_is_the_callers(server: Hostile) -> None:
    server.handler = Guard("x")
    gate = upstream(server.url, None)
    assert (await gate.endpoints[0].send(request(), PATIENCE)).status == 401
    assert shown(server) == [None]
    gate.close()


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"POST"])
async def test_every_kind_of_request_carries_it(server: Hostile, file: Path, clock: Clock, method: bytes) -> None:
    gate = upstream(server.url, in_file(file, clock))
    (await gate.endpoints[0].send(request(b"{}", method), PATIENCE)).close()
    assert [(seen.method, seen.header("authorization")) for seen in server.requests] == [
        (method.decode(), "Bearer one")
    ]
    assert server.requests[0].header("content-type") == "application/json"
    gate.close()


async def test_a_health_check_shows_nothing_and_a_guarded_server_is_alive() -> None:
    seen: list[bytes] = []

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    source = Svids(KEY)
    async with await asyncio.start_server(guarded, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
        gate = upstream(url, JwtSvidToken(source, "tools"))
        assert await health.check(gate.endpoints[0], 5.0) is None
        gate.close()
    assert (len(seen), source.fetched, b"authorization" in seen[0].lower()) == (1, [], False)


async def test_without_a_token_nothing_reaches_the_server(server: Hostile) -> None:
    source = Svids(KEY)
    source.problem = "the agent is not reachable"
    gate = upstream(server.url, JwtSvidToken(source, "tools"))
    with pytest.raises(UpstreamFailed) as failure:
        await gate.endpoints[0].send(request(), PATIENCE)
    assert failure.value.sent is False
    assert (server.requests, server.connections) == ([], 0)

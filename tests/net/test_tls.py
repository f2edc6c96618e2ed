"""TLS to servers under the web PKI: whom it trusts, under which name, and what it says where it does not."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from openmcp.sidecar.net import health
from openmcp.sidecar.net.upstream import UpstreamConnection
from openmcp.sidecar.net.values import Patience
from tests.fakes.pki import Ca
from tests.support.gate import Gate, call, configuration, gate
from tests.support.hostile import Hostile, hostile
from tests.support.mtls import careless_client, careless_server

DONE = {"content": [{"type": "text", "text": "done"}]}


@asynccontextmanager
async def served(authority: trustme.CA, *names: str) -> AsyncIterator[Hostile]:
    """Run a server with a certificate for these names."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert(*names).configure_cert(context)
    async with hostile(tls=context) as server:
        yield server


@asynccontextmanager
async def sidecar_to(server: Hostile, folder: Path, authority: trustme.CA, **tls: Any) -> AsyncIterator[Gate]:
    """Run a sidecar that trusts this authority."""
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    tls = {"ca": {"file": str(folder / "ca.pem")}, **tls}
    async with gate(folder, configuration(server.url, tls=tls)) as sidecar:
        yield sidecar


async def problem(sidecar: Gate) -> str | None:
    """What a health check says of the only endpoint."""
    (endpoint,) = sidecar.app.snapshot.routes["/server"].upstream.endpoints
    return await health.check(endpoint, 5.0)


@pytest.mark.parametrize(
    ("names", "tls"),
    [(["127.0.0.1"], {}), (["tools.acme.example"], {"serverName": "tools.acme.example"})],
)
async def test_a_private_authority_is_trusted(tmp_path: Path, names: list[str], tls: dict[str, str]) -> None:
    authority = trustme.CA()
    async with served(authority, *names) as server, sidecar_to(server, tmp_path, authority, **tls) as sidecar:
        async with sidecar.connect() as agent:
            for number in range(3):
                assert (await agent.ask(call(identifier=number))).json["result"] == DONE
        assert server.connections == 1


@pytest.mark.parametrize(
    ("trusted", "names", "tls", "why"),
    [
        (False, ["127.0.0.1"], {}, "unable to get local issuer certificate"),
        (True, ["other.example"], {}, "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        (
            True,
            ["127.0.0.1"],
            {"serverName": "tools.acme.example"},
            "Hostname mismatch, certificate is not valid for 'tools.acme.example'.",
        ),
    ],
)
async def test_another_authority_and_another_name_are_refused(
    tmp_path: Path,
    trusted: bool,
    names: list[str],
    tls: dict[str, str],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "openmcp")
    authority, other = trustme.CA(), trustme.CA()
    async with served(authority, *names) as server:
        async with sidecar_to(server, tmp_path, authority if trusted else other, **tls) as sidecar:
            async with sidecar.connect() as agent:
                answer = await agent.ask(call())
                assert answer.json["error"] == {"code": -32603, "message": "the MCP server cannot be reached"}
            assert await problem(sidecar) == f"connect: TLS: {why}"
            assert any(why in line for line in caplog.messages)
        assert server.requests == []


def answer_and_leave(listening: socket.socket, context: ssl.SSLContext, answer: bytes) -> None:
    """One answer to whatever comes, then a goodbye and the end, as servers do that wait for nothing (Go's, nginx)."""
    plain, _ = listening.accept()
    with context.wrap_socket(plain, server_side=True) as peer:
        peer.recv(65536)
        peer.sendall(answer)
        peer.settimeout(0)
        with suppress(ssl.SSLWantReadError):
            peer.unwrap()


@pytest.mark.parametrize(("streams", "size"), [(False, 1_000_000), (True, 300_000)])
async def test_a_large_answer_before_the_end_of_its_connection_is_read_whole(streams: bool, size: int) -> None:
    """It comes while reading is paused, as others have their turn or the agent reads slowly."""
    body = b":" * size
    head = b"content-type: text/event-stream" if streams else b"content-length: %d" % size
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n%b\r\n\r\n%b" % (head, body)
    patience = Patience(60.0, 60.0, 60.0)
    context = careless_server(Ca("example.org").leaf("spiffe://example.org/server"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = asyncio.create_task(asyncio.to_thread(answer_and_leave, listening, context, answer))
        transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: UpstreamConnection(lambda one: None, lambda one: None),
            *listening.getsockname(),
            ssl=careless_client(),
            server_hostname="x",
        )
        response = await connection.request((b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",), 2**21, patience)
        if streams:
            await peer  # it is rid of all before anything is read of it
        pieces = list(response.pieces)
        while response.streaming and (piece := await response.chunk()):
            pieces.append(piece)
        await peer
        assert sum(map(len, pieces)) == size
        transport.abort()

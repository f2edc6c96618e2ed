"""Clients that begin a handshake and do not go on: they cost memory until they are given up, and so are bounded."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

import pytest

from openmcp.identity import contexts
from openmcp.identity.tls import SpiffeTls
from openmcp.identity.webtls import FileTls
from tests.fakes.pki import Ca
from tests.support.mtls import Moved, careless_client, echoing, talk

CUT = (ConnectionError, ssl.SSLError)
MOST = 3


class Told(list[str]):
    """Why clients were refused."""

    def __call__(self, why: str) -> None:
        self.append(why)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "MAX_HANDSHAKES", MOST)


def by_svid(told: Told) -> ssl.SSLContext:
    return SpiffeTls(Moved.of(Ca("example.org"), "spiffe://example.org/us")).server_context(told)


def by_file(told: Told) -> ssl.SSLContext:
    leaf = Ca("example.org").leaf([], dns=["localhost"])
    return FileTls(leaf.pem(), b"").server_context(told)


@pytest.mark.parametrize("make", [by_svid, by_file])
async def test_half_open_handshakes_are_bounded(make):
    told = Told()
    async with echoing(make(told)) as server:
        for _ in range(MOST + 1):  # handshakes that are over do not count
            await talk(server.port, careless_client())
        waiting = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MOST)]
        waiting[0][1].write(hello())
        assert await waiting[0][0].read(1)
        with pytest.raises(CUT):
            await talk(server.port, careless_client())
        assert told == ["too many handshakes at once"]
        waiting[0][1].write(b"this is no TLS")
        with suppress(*CUT):  # it failed, and makes room
            await waiting[0][0].read()
        await talk(server.port, careless_client())
        for _, writer in waiting:
            writer.close()


def hello() -> bytes:
    """What a client says first."""
    out = ssl.MemoryBIO()
    client = careless_client().wrap_bio(ssl.MemoryBIO(), out, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()

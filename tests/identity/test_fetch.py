"""What is fetched from others: whom it trusts, what it refuses, and that it ends."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qs

import pytest
import trustme

from openmcp.identity import fetch
from openmcp.identity.fetch import FetchFailed, Form
from tests.support.hostile import Hostile, Reply, Request, hostile

Handler = Callable[[Request, Reply], Awaitable[None]]
AUTHORITY = trustme.CA()
CA = AUTHORITY.cert_pem.bytes()


def raw(data: bytes) -> Handler:
    """A server that answers these bytes and closes."""

    async def handler(request: Request, reply: Reply) -> None:
        await reply.raw(data)
        reply.close()

    return handler


async def document(request: Request, reply: Reply) -> None:
    """Answer with a JSON document."""
    await reply.respond(b'{"keys":[]}', content_type="application/json")


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    """A server under TLS whose certificate is for its address."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    async with hostile(raw(b""), tls=context) as running:
        running.handler = document
        running.url = running.url.replace("/mcp", "/keys?v=1")
        yield running


async def refused(url: str, reason: str, ca: bytes | None = CA, **terms: float) -> None:
    """Expect that nothing is got, for this reason."""
    with pytest.raises(FetchFailed) as failure:
        await fetch.get(url, ca=ca, patience=terms.get("patience", 5.0), limit=int(terms.get("limit", 1000)))
    assert failure.value.reason == reason
    assert str(failure.value) == reason


async def test_a_document_is_got_over_tls(server: Hostile) -> None:
    assert await fetch.get(server.url, ca=CA) == b'{"keys":[]}'
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/keys?v=1")
    assert request.header("accept-encoding") == "identity"
    assert request.header("user-agent") == "openmcp"
    assert request.header("authorization") is None


async def test_a_form_is_posted_and_any_answer_is_given(server: Hostile) -> None:
    async def denied(request: Request, reply: Reply) -> None:
        await reply.respond(b'{"error":"invalid_client"}', status=401, set_cookie="a=b")

    server.handler = denied
    form = Form({"grant_type": "client_credentials", "scope": "a b&c=d"}, {"authorization": "Basic eDp5"})
    for _ in range(2):
        assert await fetch.post_form(server.url, form, ca=CA) == (401, b'{"error":"invalid_client"}')
    request = server.requests[1]
    assert parse_qs(request.body.decode()) == {"grant_type": ["client_credentials"], "scope": ["a b&c=d"]}
    assert request.header("content-type") == "application/x-www-form-urlencoded"
    assert request.header("authorization") == "Basic eDp5"
    assert request.header("cookie") is None
    assert server.connections == 2
    assert "eDp5" not in repr(form)


async def test_only_its_own_authority_is_trusted(server: Hostile) -> None:
    await refused(server.url, "TLS: unable to get local issuer certificate", ca=trustme.CA().cert_pem.bytes())
    await refused(server.url, "TLS: unable to get local issuer certificate", ca=None)
    assert server.requests == []


async def test_another_name_is_refused() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("keys.acme.example").configure_cert(context)
    async with hostile(document, tls=context) as server:
        await refused(server.url, "TLS: IP address mismatch, certificate is not valid for '127.0.0.1'.")
        assert server.requests == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://keys.acme.example/", "http leaves this machine in the clear: only https is used"),
        ("http://127.0.0.1.acme.example/", "http leaves this machine in the clear: only https is used"),
        ("http://10.0.0.1/", "http leaves this machine in the clear: only https is used"),
        ("https://me:secret@127.0.0.1/", "a URL with a user name in it"),
        ("file:///etc/passwd", "not an https URL"),
        ("https:///x", "not an https URL"),
        ("keys", "not an https URL"),
        ("https://[::1/", "not a valid URL"),
        ("https://h:99999/", "not a valid URL"),
    ],
)
async def test_such_urls_are_not_asked(url: str, reason: str) -> None:
    await refused(url, reason)


async def test_http_is_for_this_machine_and_for_those_who_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hostile(document) as server:
        assert await fetch.get(server.url) == b'{"keys":[]}'
        monkeypatch.setattr(fetch, "is_this_machine", lambda host: False)
        await refused(server.url, "http leaves this machine in the clear: only https is used")
        assert await fetch.get(server.url, allow_http=True) == b'{"keys":[]}'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "HTTP 404"),
        (b"HTTP/1.1 204 No\r\n\r\n", "HTTP 204"),
        (
            b"HTTP/1.1 302 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            "HTTP 302, and redirects are not followed",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n" + b"x" * 1001, "the answer is larger than 1000 bytes"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n",
            "the answer is larger than 1000 bytes",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, "the answer is larger than 1000 bytes"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b",
            "a compressed answer, although nobody offered that",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nxy",
            "the connection was closed before the answer was complete",
        ),
        (b"", "the connection was closed before the answer was complete"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "the answer is not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "the answer is not valid HTTP"),
    ],
)
async def test_an_answer_that_is_none(server: Hostile, data: bytes, reason: str) -> None:
    server.handler = raw(data)
    await refused(server.url, reason)


async def test_a_form_is_sent_once(server: Hostile) -> None:
    server.handler = raw(b"")
    with pytest.raises(FetchFailed, match="closed before the answer was complete"):
        await fetch.post_form(server.url, Form({"grant_type": "client_credentials"}), ca=CA)
    assert len(server.requests) == 1


async def test_it_does_not_wait_for_ever(server: Hostile) -> None:
    async def silent(request: Request, reply: Reply) -> None:
        await reply.left()

    async def trickling(request: Request, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nx")
        await reply.left()

    for handler in (silent, trickling):
        server.handler = handler
        await refused(server.url, "no answer in 0.3 s", patience=0.3)


async def test_nobody_is_there() -> None:
    async with hostile() as server:
        url = server.url
    await refused(url, "cannot connect: Connection refused")
    await refused("https://nobody.invalid/", "its name is not known")


async def test_what_is_no_tls() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as listener:
        await refused(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/", "TLS: the handshake failed")


@pytest.mark.parametrize(
    "ca", [b"", b"nonsense", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
async def test_a_ca_that_is_none(server: Hostile, ca: bytes) -> None:
    await refused(server.url, "the CA is not a PEM certificate", ca=ca)
    assert server.requests == []


async def test_a_cancelled_request_is_cut(server: Hostile) -> None:
    left = asyncio.Event()

    async def silent(request: Request, reply: Reply) -> None:
        await reply.left()
        left.set()

    server.handler = silent
    asking = asyncio.create_task(fetch.get(server.url, ca=CA))
    await server.received(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(20):
        await left.wait()


def test_the_library_is_loaded_by_the_first_request_alone() -> None:
    program = "import sys, openmcp.identity.fetch; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

"""Asking others over HTTPS, now and then: keys of an issuer, a token from a token endpoint.

Not for the calls of agents. Each request has a connection of its own, knows no proxy, cookie or redirect, and what may
come back is bounded. aiohttp is imported with the first request, in a thread: it takes 0.3 s and 25 MiB, which
sidecars that ask nobody are spared.
"""

import asyncio
import errno
import os
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from openmcp.identity.addresses import is_this_machine

if TYPE_CHECKING:
    import aiohttp

PATIENCE: Final = 10.0
"""Seconds for a whole request."""
LIMIT: Final = 256 * 1024
"""Bytes of an answer."""
_HEADERS: Final = {
    "user-agent": "openmcp",
    "accept": "application/json, application/jwk-set+json",
    "accept-encoding": "identity",
}


class FetchFailed(Exception):
    """No answer that could be used. `reason` says why; it holds neither the URL nor anything that was sent or came."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AnswerTooLarge(FetchFailed):
    """The answer is larger than its limit."""


class Form(msgspec.Struct, frozen=True):
    """A form to post, and the headers that go with it. Its representation leaves both out: they hold secrets."""

    fields: Mapping[str, str]
    headers: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return "Form()"


async def get(
    url: str, *, ca: bytes | None = None, patience: float = PATIENCE, limit: int = LIMIT, allow_http: bool = False
) -> bytes:
    """The body of a document, of at most `limit` bytes, which has to be there (HTTP 200) within `patience` seconds.

    `ca` (PEM) replaces the system's roots. http is for this machine alone, unless `allow_http`. Raises `FetchFailed`.
    """
    connector = await _connector(url, ca, allow_http)
    status, body = await _bounded(lambda session: session.get(url, allow_redirects=False), connector, patience, limit)
    if status != 200:
        raise FetchFailed(f"HTTP {status}" + (", and redirects are not followed" if 300 <= status < 400 else ""))
    return body


async def post_form(
    url: str,
    form: Form,
    *,
    ca: bytes | None = None,
    patience: float = PATIENCE,
    limit: int = LIMIT,
    allow_http: bool = False,
) -> tuple[int, bytes]:
    """Post a form; the status and the body of the answer, whatever they are. Otherwise as `get`."""
    connector = await _connector(url, ca, allow_http)
    return await _bounded(
        lambda session: session.post(url, data=dict(form.fields), headers=dict(form.headers), allow_redirects=False),
        connector,
        patience,
        limit,
    )


async def _connector(url: str, ca: bytes | None, allow_http: bool) -> "aiohttp.TCPConnector":
    """What connects to the host of this URL, and to no other than the CA vouches for."""
    parts = _checked(url, allow_http)
    tls = await _context(ca) if parts.scheme == "https" else False
    await asyncio.to_thread(_import)
    import aiohttp

    return aiohttp.TCPConnector(ssl=tls, force_close=True, resolver=aiohttp.ThreadedResolver())


def _import() -> None:
    import aiohttp  # noqa: F401 - loaded here, outside of the loop, and used there


def _checked(url: str, allow_http: bool) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise FetchFailed("not a valid URL") from None
    if not host or parts.scheme not in ("https", "http"):
        raise FetchFailed("not an https URL")
    if parts.username is not None:
        raise FetchFailed("a URL with a user name in it")
    if parts.scheme == "http" and not (allow_http or is_this_machine(host)):
        raise FetchFailed("http leaves this machine in the clear: only https is used")
    return parts


async def _context(ca: bytes | None) -> ssl.SSLContext:
    if ca is None:  # hundreds of certificates to read
        return await asyncio.to_thread(ssl.create_default_context)
    try:
        return ssl.create_default_context(
            cadata=ca.decode("ascii") or "none"
        )  # of an empty text it would trust the system
    except (ssl.SSLError, ValueError):
        raise FetchFailed("the CA is not a PEM certificate") from None


async def _bounded(
    request: "Callable[[aiohttp.ClientSession], aiohttp.client._RequestContextManager]",
    connector: "aiohttp.TCPConnector",
    patience: float,
    limit: int,
) -> tuple[int, bytes]:
    import aiohttp

    try:
        async with asyncio.timeout(patience):
            session = aiohttp.ClientSession(
                connector=connector,
                headers=_HEADERS,
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
            async with session, request(session) as response:
                return response.status, await body_of(response, limit)
    except TimeoutError:
        raise FetchFailed(f"no answer in {patience:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchFailed(reason_of(error)) from None


async def body_of(response: "aiohttp.ClientResponse", limit: int) -> bytes:
    """The whole body of an answer, of at most so many bytes. Raises FetchFailed."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise FetchFailed("a compressed answer, although nobody offered that")
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise AnswerTooLarge(f"the answer is larger than {limit} bytes")
    return bytes(body)


def reason_of(error: Exception) -> str:
    """What went wrong, in our words: those of the library may name what was sent. For errors of aiohttp and the OS."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        return f"TLS: {getattr(cause, 'verify_message', None) or 'the certificate is refused'}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS: the handshake failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {os.strerror(error.os_error.errno or errno.ENETUNREACH)}"
    if isinstance(error, (aiohttp.ServerConnectionError, aiohttp.ClientPayloadError, OSError)):
        return "the connection was closed before the answer was complete"
    return "the answer is not valid HTTP"

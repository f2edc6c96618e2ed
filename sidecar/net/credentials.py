"""What we show to an MCP server so that it knows us, besides mTLS: a secret in a header, a JWT-SVID, an access token.

A credential is header lines. It is in memory when it is needed and leaves it in these lines alone: no message, log
line or representation holds any of it.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable
from typing import Final, Protocol

from openmcp.config import secrets
from openmcp.config.model import HeaderAuth, Secret
from openmcp.config.secrets import SecretError
from openmcp.identity.material import NoIdentity
from openmcp.identity.spiffe_id import SpiffeId
from openmcp.sidecar.errors import UpstreamFailed

LOOK: Final = 1.0
"""Seconds between two looks at the file of a secret; it is looked at when it is used."""
LAST_GOOD: Final = 10.0
"""Seconds for which a secret is still used after its file became unreadable, empty or invalid: long enough for whoever
writes it anew, short enough for whoever takes it away."""
FRESH: Final = 10.0
"""Seconds after which a token that is refused may be replaced: a server that refuses whatever it is shown must not
make us ask for a token with every call."""
PATIENCE: Final = 10.0
"""Seconds to wait for a JWT-SVID."""
MAX_BYTES: Final = 8192
"""Bytes of a value; servers commonly take 8 KiB in a header line."""
_SETTLED: Final = 2_000_000_000
"""Nanoseconds after which a file that is written again has other times: until then it is read at each look."""
_VALUE: Final = re.compile(rb"[!-~]([ -~]*[!-~])?")
"""Visible ASCII with blanks inside: a header's value (RFC 9110, 5.5) without its historic bytes."""
_TOKEN: Final = re.compile("[!-~]+")
_log = logging.getLogger("openmcp.net")


class Credential(Protocol):
    """How we prove ourselves to one server."""

    def lines(self) -> bytes | None:
        """The header lines, where they are at hand; called for each request."""

    async def fetch(self) -> bytes:
        """The header lines, once they are there. Raises `UpstreamFailed` (credential, nothing was sent)."""

    def rejected(self, lines: bytes) -> bool:
        """The server answered 401 to these lines. True: it is worth asking for others, which may be the same."""

    def close(self) -> None:
        """Nothing is asked of it any more."""


class JwtSvids(Protocol):
    """Where JWT-SVIDs come from (`identity.source.SvidSource`)."""

    @property
    def identity(self) -> SpiffeId | None:
        """Who we are; None where nobody says so any more."""

    def cached_jwt_svid(self, audience: str) -> str | None:
        """The one at hand."""

    async def jwt_svid(self, audience: str) -> str:
        """The one at hand, or a new one. Raises `NoIdentity`."""

    def forget_jwt_svid(self, audience: str) -> None:
        """Have a new one fetched the next time."""


def bearer(token: str) -> bytes:
    """The header line of a bearer token (RFC 6750, 2.1). Raises ValueError for what cannot stand in one."""
    if len(token) > MAX_BYTES or not _TOKEN.fullmatch(token):
        raise ValueError(f"the token is longer than {MAX_BYTES} bytes or not visible ASCII")
    return b"authorization: Bearer %b\r\n" % token.encode()


async def jwt_svid(source: JwtSvids, audience: str) -> str:
    """A JWT-SVID, or `NoIdentity` within some seconds."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await source.jwt_svid(audience)
    except TimeoutError:
        raise NoIdentity(f"the Workload API gave no JWT-SVID in {PATIENCE:g} s") from None


class HeaderSecret:
    """A secret in a header, read anew when its file changes.

    A file that becomes unusable keeps its last good value for `LAST_GOOD` seconds; then calls fail, with the reason,
    until it is good again. There is never an empty header.
    """

    def __init__(self, server: str, auth: HeaderAuth, clock: Callable[[], float] = time.monotonic) -> None:
        """`server` is its name, for the log. Raises `SecretError` where there is no good value to begin with."""
        self._server = server
        self._auth = auth
        self._clock = clock
        self._stamp = _stamp(auth.value)
        self._lines: bytes | None = self._read()
        self._looked = clock()
        self._problem = ""
        self._unusable_since = 0.0

    def lines(self) -> bytes | None:
        """See `Credential`."""
        now = self._clock()
        if now - self._looked >= LOOK:
            self._look(now)
        return self._lines

    async def fetch(self) -> bytes:
        """See `Credential`."""
        lines = self.lines()
        if lines is None:
            raise UpstreamFailed("credential", self._problem, sent=False)
        return lines

    def rejected(self, lines: bytes) -> bool:
        """See `Credential`: it may have been replaced just now."""
        self._look(self._clock())
        return True

    def close(self) -> None:
        """See `Credential`."""

    def _look(self, now: float) -> None:
        self._looked = now
        stamp = _stamp(self._auth.value)
        if stamp is not None and stamp == self._stamp:
            return
        try:
            self._lines = self._read()
        except SecretError as error:
            self._unusable(str(error), now)
            return
        if self._problem:
            _log.info("server %s: %s is usable again", self._server, secrets.name(self._auth.value))
        self._stamp, self._problem = stamp, ""

    def _unusable(self, problem: str, now: float) -> None:
        self._stamp = None
        if not self._problem:
            self._unusable_since = now
            _log.warning("server %s: %s; the last good one is used for %g s", self._server, problem, LAST_GOOD)
        self._problem = problem
        if self._lines is not None and now - self._unusable_since >= LAST_GOOD:
            self._lines = None
            _log.error("server %s: %s: calls fail", self._server, problem)

    def _read(self) -> bytes:
        secret = self._auth.value
        value = self._auth.prefix.encode() + secrets.read(secret)
        if len(value) > MAX_BYTES:
            raise SecretError(f"{secrets.name(secret)} is longer than the {MAX_BYTES} bytes of a header")
        if not _VALUE.fullmatch(value):
            raise SecretError(
                f"{secrets.name(secret)} is not one line of visible ASCII, with which a header has to begin and end"
            )
        return b"%b: %b\r\n" % (self._auth.name.lower().encode(), value)


def _stamp(secret: Secret) -> tuple[int, ...] | None:
    """What differs when a file was replaced or written; None: look into it, as there is no telling."""
    if secret.file is None:
        return None
    try:
        found = os.stat(secret.file)
    except OSError:
        return None
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _SETTLED:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class JwtSvidToken:
    """Our JWT-SVID for an audience as a bearer token; its source keeps and renews it."""

    def __init__(self, source: JwtSvids, audience: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._audience = audience
        self._clock = clock
        self._token: str | None = None
        self._lines = b""
        self._since = 0.0

    def lines(self) -> bytes | None:
        """See `Credential`."""
        token = self._source.cached_jwt_svid(self._audience)
        if token is None:
            return None
        return self._lines if token is self._token else self._of(token)

    async def fetch(self) -> bytes:
        """See `Credential`."""
        try:
            return self._of(await jwt_svid(self._source, self._audience))
        except NoIdentity as error:
            raise UpstreamFailed("credential", str(error), sent=False) from None

    def rejected(self, lines: bytes) -> bool:
        """See `Credential`."""
        if lines == self._lines:
            if self._clock() - self._since < FRESH:
                return False
            self._source.forget_jwt_svid(self._audience)
            self._since = self._clock()  # also where the same one comes back: agents keep them, too
        return True

    def close(self) -> None:
        """See `Credential`."""

    def _of(self, token: str) -> bytes:
        if token != self._token:
            try:
                self._lines = bearer(token)
            except ValueError as error:
                raise UpstreamFailed("credential", f"our JWT-SVID cannot be used: {error}", sent=False) from None
            self._since = self._clock()
        self._token = token
        return self._lines

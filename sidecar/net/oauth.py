"""Access tokens of an OAuth server by the client credentials grant (RFC 6749, 4.4), for servers that want one.

We prove ourselves at the token endpoint by a secret, or by a JWT-SVID: then nothing that is kept anywhere opens the
MCP server, neither at the agent nor here.
"""

import asyncio
import base64
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import msgspec
import orjson

from openmcp.config import secrets
from openmcp.config.model import OAuthAuth
from openmcp.config.secrets import SecretError
from openmcp.identity import fetch
from openmcp.identity.fetch import FetchFailed, Form
from openmcp.identity.material import NoIdentity
from openmcp.identity.spiffe_id import SpiffeId
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.credentials import FRESH, JwtSvids, bearer, jwt_svid

ASSERTION_TYPES: Final = {
    "jwtSvid": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    "jwtSvidSpiffe": "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
}
"""RFC 7523, 2.2, and draft-ietf-oauth-spiffe-client-auth."""
ASSUMED: Final = 300.0
"""Seconds for which a token is used whose lifetime is not said (RFC 6749, 5.1 allows that)."""
LONGEST: Final = 86_400.0
"""Seconds for which a token is used at most."""
RENEW: Final = 0.75
"""Part of its lifetime after which a token is renewed, while it still serves."""
MARGIN: Final = 10.0
"""Seconds before its end at which a token is no longer used (a tenth of a shorter lifetime): the way to the server
takes time, and clocks differ."""
PAUSES: Final = (1.0, 2.0, 5.0)
"""Seconds in which the endpoint is left alone after a failure, after the next one, and after all others."""
PATIENCE: Final = 10.0
LIMIT: Final = 64 * 1024
_CODE: Final = re.compile("[a-z][a-z_]{0,39}")
"""What an error code looks like: nothing else of a refusal is repeated, it may hold what we sent."""
_log = logging.getLogger("openmcp.net")


class _Unusable(Exception):
    """The token endpoint gave no token. The text says why."""


class _Refused(_Unusable):
    """It did not like what we sent."""


class _Kept(msgspec.Struct, frozen=True):
    """A token: its header lines, whose it is (None where we have shown no SVID for it), and when (by our clock) it was
    asked for, is renewed and is used no more."""

    lines: bytes
    owner: SpiffeId | None
    asked: float
    renew: float
    end: float

    def __repr__(self) -> str:
        return "_Kept()"


class OAuthToken:
    """An access token: fetched once for all who wait, renewed ahead of time, used until its end while that fails."""

    def __init__(
        self,
        server: str,
        auth: OAuthAuth,
        source: JwtSvids | None,
        on_fetch: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`server` is its name, for the log; `source` may be None where the client has a secret. `on_fetch` is told how
        each fetch ended: ok or failed. Raises `SecretError` for a secret or a CA that cannot be read now."""
        if auth.client.secret is not None:
            secrets.read(auth.client.secret)
        if auth.ca is not None:
            secrets.read_pem(auth.ca)
        self._server = server
        self._auth = auth
        self._source = source
        self._on_fetch = on_fetch
        self._clock = clock
        self._kept: _Kept | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._problem = ""
        self._failures = 0
        self._not_before = 0.0

    def lines(self) -> bytes | None:
        """See `Credential`. From three quarters of its lifetime on, a token is renewed in the background."""
        kept = self._kept
        if kept is None or kept.owner != self._owner:
            return None
        now = self._clock()
        if now < kept.renew:
            return kept.lines
        if now >= kept.end:
            return None
        if self._fetching is None and not self._paused(now):
            self._begin()
        return kept.lines

    async def fetch(self) -> bytes:
        """See `Credential`."""
        lines = self.lines()
        if lines is None:
            if self._fetching is None and self._paused(self._clock()):
                raise UpstreamFailed("credential", self._problem, sent=False)
            await asyncio.wait({self._fetching or self._begin()})  # whoever stops waiting does not end it
            lines = self.lines()
        if lines is None:
            raise UpstreamFailed("credential", self._problem or "our identity is changing", sent=False)
        return lines

    def rejected(self, lines: bytes) -> bool:
        """See `Credential`."""
        kept = self._kept
        if kept is not None and kept.lines == lines:
            if self._clock() - kept.asked < FRESH:
                return False
            self._kept = None
        return True

    def close(self) -> None:
        """See `Credential`."""
        if self._fetching is not None:
            self._problem = "the server is given up"
            self._fetching.cancel()

    def _paused(self, now: float) -> bool:
        return self._failures > 0 and now < self._not_before

    def _begin(self) -> "asyncio.Task[None]":
        self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        asked, owner = self._clock(), self._owner
        try:
            form = await self._form()
            token, lifetime = _read(*await self._post(form))
        except (_Unusable, NoIdentity, FetchFailed, SecretError) as error:
            if isinstance(error, _Refused) and self._source is not None:
                self._source.forget_jwt_svid(self._audience)  # if it was the reason, the next one is another
            self._failed(_why(error))
        else:
            end = asked + lifetime - min(MARGIN, lifetime / 10)
            self._kept = _Kept(token, owner, asked, asked + lifetime * RENEW, end)
            self._succeeded()
        finally:
            self._fetching = None

    async def _form(self) -> Form:
        client, fields = self._auth.client, {"grant_type": "client_credentials"}
        if self._auth.scopes:
            fields["scope"] = " ".join(self._auth.scopes)
        if self._auth.resource is not None:
            fields["resource"] = self._auth.resource
        if client.secret is not None:
            # RFC 6749, 2.3.1 wants both encoded as in a form; a blank as %20 is read rightly by all that decode at all.
            pair = f"{quote(client.id, safe='')}:{quote(secrets.read(client.secret), safe='')}"
            return Form(fields, {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"})
        assert self._source is not None  # the configuration says that there is a Workload API
        fields["client_id"] = client.id
        fields["client_assertion_type"] = ASSERTION_TYPES[client.type]
        fields["client_assertion"] = await jwt_svid(self._source, self._audience)
        return Form(fields)

    @property
    def _owner(self) -> SpiffeId | None:
        """Who proves who we are at the token endpoint."""
        return self._source.identity if self._source is not None and self._auth.client.secret is None else None

    @property
    def _audience(self) -> str:
        return self._auth.client.audience or self._auth.token_url

    async def _post(self, form: Form) -> tuple[int, bytes]:
        auth = self._auth
        ca = secrets.read_pem(auth.ca) if auth.ca is not None else None
        return await fetch.post_form(
            auth.token_url, form, ca=ca, patience=PATIENCE, limit=LIMIT, allow_http=auth.allow_http
        )

    def _succeeded(self) -> None:
        if self._failures:
            _log.info("server %s: the token endpoint gives access tokens again", self._server)
        self._failures, self._problem = 0, ""
        self._on_fetch("ok")

    def _failed(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("server %s: no new access token: %s", self._server, problem)
        self._not_before = self._clock() + PAUSES[min(self._failures, len(PAUSES) - 1)]
        self._failures += 1
        self._problem = problem
        self._on_fetch("failed")


def _why(error: Exception) -> str:
    if isinstance(error, FetchFailed):
        return f"the token endpoint cannot be used: {error.reason}"
    return str(error)


def _read(status: int, body: bytes) -> tuple[bytes, float]:
    """The header lines and the lifetime of the token in an answer (RFC 6749, 5.1). Raises `_Unusable`."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if type(answer) is not dict:
        raise _Unusable(f"the token endpoint answered HTTP {status} without a JSON object")
    if status != 200:
        kind = _Refused if 400 <= status < 500 else _Unusable
        raise kind(f"the token endpoint answered HTTP {status}{_code(answer)}")
    token_type = answer.get("token_type")
    if type(token_type) is not str or token_type.lower() != "bearer":
        raise _Unusable("the token endpoint's token_type is not Bearer")
    token = answer.get("access_token")
    if type(token) is not str:
        raise _Unusable("the token endpoint's answer has no access_token")
    try:
        return bearer(token), _lifetime(answer.get("expires_in"))
    except ValueError as error:
        raise _Unusable(f"the token endpoint's answer cannot be used: {error}") from None


def _code(answer: dict[str, Any]) -> str:
    code = answer.get("error")
    return f": {code}" if type(code) is str and _CODE.fullmatch(code) else ""


def _lifetime(given: object) -> float:
    """Seconds; some servers write the number as a text."""
    if given is None:
        return ASSUMED
    if isinstance(given, str) and re.fullmatch("[0-9]{1,9}", given):
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, (int, float)) or given <= 0:
        raise ValueError("expires_in is not a number above 0")
    return min(float(given), LONGEST)

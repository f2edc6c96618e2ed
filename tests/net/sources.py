"""What credentials are made of in tests: a clock, a source of JWT-SVIDs, a server's configuration."""

from __future__ import annotations

from typing import Any

from openmcp.config.model import Server
from openmcp.identity.material import NoIdentity
from openmcp.identity.spiffe_id import SpiffeId, parse
from openmcp.sidecar.net.credentials import Credential
from openmcp.sidecar.net.pool import Upstream
from openmcp.sidecar.net.values import Outgoing, Patience
from tests.fakes import pki
from tests.support.oauth import SPIFFE_ID

PATIENCE = Patience(5.0, 5.0, 5.0)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Svids:
    """A source of JWT-SVIDs: each one that is fetched is another, and kept until it is forgotten.

    `claims` are added; with `problem` there is none. `identity` is who we are.
    """

    def __init__(self, key: pki.JwtKey, **claims: Any) -> None:
        self.key = key
        self.claims = claims
        self.problem = ""
        self.identity: SpiffeId | None = parse(SPIFFE_ID)
        self.fetched: list[str] = []
        self.forgotten: list[str] = []
        self.kept: dict[str, str] = {}

    def cached_jwt_svid(self, audience: str) -> str | None:
        return self.kept.get(audience)

    async def jwt_svid(self, audience: str) -> str:
        if audience in self.kept:
            return self.kept[audience]
        if self.problem:
            raise NoIdentity(self.problem)
        self.fetched.append(audience)
        claims = {"sub": SPIFFE_ID, "aud": [audience], "jti": str(len(self.fetched)), **self.claims}
        self.kept[audience] = pki.mint_jwt(self.key, claims)
        return self.kept[audience]

    def forget_jwt_svid(self, audience: str) -> None:
        self.forgotten.append(audience)
        self.kept.pop(audience, None)


def upstream(url: str, credential: Credential | None) -> Upstream:
    """A server at this URL to which we prove ourselves with this credential."""
    server = Server(name="server", path="/server", endpoints=(url,))
    return Upstream(server, lambda name, url, result: None, credential=credential)


def request(body: bytes = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}', method: bytes = b"POST") -> Outgoing:
    """A request whose repetition is not allowed."""
    return Outgoing(method, b"content-type: application/json\r\n", body, 65536, repeatable=False)

"""An OAuth authorization server over TLS (Authlib's): client credentials, by a secret or by a JWT-SVID.

It knows two clients. `with-secret` shows its secret by HTTP Basic; `openmcp` is whoever has a JWT-SVID of its SPIFFE
ID, verified by the keys of its trust domain. Access tokens are JWTs (RFC 9068) for the resource asked for.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import trustme
import uvicorn
from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import ClientMixin, InvalidClientError
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from joserfc.jwk import ECKey, KeySet
from joserfc.jwt import JWTClaimsRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.fakes import pki

SPIFFE_ID = "spiffe://prod.acme.example/gateway"
SECRET = "s3cr+t/of client:1%41"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
SIGNING = pki.jwt_key("as-1")
"""The key of the authorization server."""


@dataclass
class Client(ClientMixin):
    """A registered client: it has a secret or is a workload."""

    id: str
    methods: tuple[str, ...]
    secret: str = ""

    def get_client_id(self) -> str:
        return self.id

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_client_secret(self, client_secret: str) -> bool:
        return bool(self.secret) and client_secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in self.methods

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "client_credentials"


CLIENTS = (
    Client("with-secret", ("client_secret_basic",), secret=SECRET),
    Client("openmcp", (JWT_BEARER, JWT_SPIFFE)),
)


class _Asked(OAuth2Request):
    """A request as Authlib wants it."""

    def __init__(self, request: Request, body: bytes) -> None:
        named = {name.title(): value for name, value in request.headers.items()}
        super().__init__(request.method, str(request.url), headers=named)
        self._form = {name: values[0] for name, values in parse_qs(body.decode(), strict_parsing=True).items()}
        self.payload = BasicOAuth2Payload(self._form)

    @property
    def args(self) -> dict[str, str]:
        return {}

    @property
    def form(self) -> dict[str, str]:
        return self._form


class _Grant(ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", JWT_BEARER, JWT_SPIFFE]


class _Svids(JWTBearerClientAssertion):
    """Clients known by a JWT-SVID: no iss, sub is a SPIFFE ID, one audience (draft-ietf-oauth-spiffe-client-auth)."""

    def __init__(self, issuer: Issuer, kind: str) -> None:
        super().__init__(validate_jti=False, leeway=0)
        self.issuer, self.CLIENT_AUTH_METHOD = issuer, kind

    def __call__(self, query_client: Any, request: _Asked) -> Client | None:
        if request.form.get("client_assertion_type") != self.CLIENT_AUTH_METHOD:
            return None
        assertion = request.form["client_assertion"]
        claims = self.process_assertion_claims(assertion, KeySet.import_key_set(self.issuer.bundle))
        client = CLIENTS[1]
        if claims["sub"] != self.issuer.workload or request.form.get("client_id") not in (None, client.id):
            raise InvalidClientError(description="no client has this SPIFFE ID")
        self.issuer.assertions.append(claims)
        return self.authenticate_client(client)

    def verify_claims(self, claims: Any) -> None:
        if "iss" in claims or claims.get("aud") != [self.issuer.audience]:
            raise InvalidClientError(description="not a JWT-SVID for this server")
        JWTClaimsRegistry(leeway=0, sub={"essential": True}, exp={"essential": True}).validate(claims)


class _Tokens(JWTBearerTokenGenerator):
    def __init__(self, issuer: Issuer) -> None:
        super().__init__(
            "https://as.acme.example", alg="ES256", expires_generator=lambda client, grant: issuer.lifetime
        )
        self.server = issuer

    def get_jwks(self) -> Any:
        return ECKey.import_key(pki.key_der(SIGNING.key), {"kid": SIGNING.kid})

    def get_audiences(self, client: Client, user: None, scope: str) -> str:
        return self.server.asked[-1].get("resource", "default")


@dataclass
class Issuer(AuthorizationServer):
    """A running authorization server; `asked` are the forms that came, `assertions` the claims of good assertions.

    `bundle` are the keys (JWKS) of the trust domain of `workload`, which is the SPIFFE ID of `openmcp`. With `broken`
    it answers that instead. It waits for `open`.
    """

    bundle: dict[str, Any]
    workload: str = SPIFFE_ID
    audience: str = ""
    url: str = ""
    ca: bytes = b""
    lifetime: int = 3600
    asked: list[dict[str, str]] = field(default_factory=list)
    assertions: list[dict[str, Any]] = field(default_factory=list)
    broken: Response | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        super().__init__(scopes_supported=["read", "write"])
        self.register_grant(_Grant)
        for kind in (JWT_BEARER, JWT_SPIFFE):
            self.register_client_auth_method(kind, _Svids(self, kind))
        self.register_token_generator("default", _Tokens(self))
        self.open.set()

    async def received(self, count: int) -> None:
        """Wait for the `count`-th request (from 1)."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.asked) >= count)

    async def token(self, request: Request) -> Response:
        """The token endpoint."""
        asked = _Asked(request, await request.body())
        async with self._changed:
            self.asked.append(asked.form)
            self._changed.notify_all()
        await self.open.wait()
        return self.broken or self.create_token_response(asked)

    def query_client(self, client_id: str) -> Client | None:
        return next((client for client in CLIENTS if client.id == client_id and client.secret), None)

    def save_token(self, token: Any, request: Any) -> None:
        pass

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        pass

    def create_oauth2_request(self, request: _Asked) -> _Asked:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> Response:
        return JSONResponse(body, status, dict(headers))


@asynccontextmanager
async def issuer(bundle: bytes | str, workload: str = SPIFFE_ID) -> AsyncIterator[Issuer]:
    """Run an authorization server that trusts the keys of this SPIFFE bundle, and knows this workload."""
    authority = trustme.CA()
    keys = [key for key in json.loads(bundle)["keys"] if key.pop("use") == "jwt-svid"]
    server = Issuer({"keys": keys}, workload, ca=authority.cert_pem.bytes())
    app = Starlette(routes=[Route("/token", server.token, methods=["POST"])])
    config = uvicorn.Config(app, log_level="error", lifespan="off")
    config.load()
    config.ssl = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(config.ssl)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        server.url = server.audience = f"https://127.0.0.1:{bound.getsockname()[1]}/token"
        running = uvicorn.Server(config)
        serving = asyncio.ensure_future(running.serve(sockets=[bound]))
        try:
            yield server
        finally:
            server.open.set()
            running.should_exit = running.force_exit = True
            await serving

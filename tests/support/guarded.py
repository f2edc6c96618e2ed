"""The official SDK's server as a resource that an OAuth server guards, and a sidecar that gets in by its SVID."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import trustme
import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl

from tests.support.gate import configuration
from tests.support.oauth import SIGNING, Issuer

AUTHORITY = trustme.CA()


@dataclass
class Tools:
    """The official SDK's server, for holders of a token of the authorization server that is meant for it alone.

    It takes no token that is in `withdrawn`.
    """

    url: str
    seen: list[str] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)

    async def verify_token(self, token: str) -> AccessToken | None:
        """Say what a token proves, None for one that is not good."""
        self.seen.append(token)
        try:
            claims = jwt.decode(token, SIGNING.key.public_key(), algorithms=["ES256"], audience=self.url)
        except jwt.InvalidTokenError:
            return None
        if token in self.withdrawn:
            return None
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=claims["scope"].split(),
            expires_at=claims["exp"],
            resource=claims["aud"],
        )


@asynccontextmanager
async def tools() -> AsyncIterator[Tools]:
    """Run it over TLS."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"https://127.0.0.1:{bound.getsockname()[1]}/mcp"
        made = Tools(url)
        auth = AuthSettings(
            issuer_url=AnyHttpUrl("https://as.acme.example"),
            resource_server_url=AnyHttpUrl(url),
            required_scopes=["read"],
            validate_token_resource=True,
        )
        server = MCPServer("guarded", log_level="ERROR", auth=auth, token_verifier=made)

        @server.tool()
        def allowed() -> str:
            token = get_access_token()
            assert token is not None
            return f"for {token.client_id}"

        config = uvicorn.Config(
            server.streamable_http_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=1
        )
        config.load()
        config.ssl = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        AUTHORITY.issue_cert("127.0.0.1").configure_cert(config.ssl)
        running = uvicorn.Server(config)
        serving = asyncio.ensure_future(running.serve(sockets=[bound]))
        try:
            yield made
        finally:
            running.should_exit = True
            await serving


def by_oauth(folder: Path, address: str, authorization: Issuer, server: Tools, kind: str) -> dict[str, Any]:
    """The configuration of a sidecar whose agent is known as its pod, and which has no secret either.

    `address` is that of the Workload API.
    """
    (folder / "as.pem").write_bytes(authorization.ca)
    AUTHORITY.cert_pem.write_to_path(str(folder / "ca.pem"))
    auth = {
        "type": "oauth",
        "tokenUrl": authorization.url,
        "client": {"id": "openmcp", "type": kind},
        "resource": server.url,
        "scopes": ["read"],
        "ca": {"file": str(folder / "as.pem")},
    }
    config = configuration(server.url, auth=auth, tls={"ca": {"file": str(folder / "ca.pem")}})
    return config | {"identity": {"workloadApi": address, "agents": [{"type": "workload"}]}}

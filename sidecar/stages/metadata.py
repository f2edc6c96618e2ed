"""What a caller who is not identified is told: the challenge of a 401, and where tokens for a server come from.

Source: RFC 6750, 3 (`WWW-Authenticate`); RFC 9728 (protected resource metadata), which MCP's authorization builds on.
"""

import re
from typing import Final

from openmcp.config.model import JwtAgents
from openmcp.identity.bearer import presented
from openmcp.sidecar.errors import INVALID_REQUEST, MethodNotAllowed, Refused, Unidentified
from openmcp.sidecar.ports import HttpRequest
from openmcp.sidecar.stages.snapshot import Route, Snapshot
from openmcp.sidecar.types import JsonObject

PREFIX: Final = "/.well-known/oauth-protected-resource"
"""Before the path of a server: where its metadata is (RFC 9728, 3.1)."""
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
"""A Host that may stand in a URL we tell; that it is one of ours was checked before."""


def challenge(snapshot: Snapshot, request: HttpRequest, refusal: Unidentified) -> bytes:
    """The header line of a 401. What was wrong is said about tokens alone, and not where none was presented."""
    said = ['Bearer realm="openmcp"']
    url = _base(snapshot, request)
    if url is not None and _issuers(snapshot):
        said.append(f'resource_metadata="{url}{PREFIX}{_suffix(request.path)}"')
    if presented(request.headers) is not None:
        said.append(f'error="invalid_token", error_description="{refusal.why}"')
    return f"www-authenticate: {', '.join(said)}\r\n".encode("ascii")


def described(snapshot: Snapshot, request: HttpRequest) -> tuple[Route, JsonObject]:
    """The metadata that a path asks for, and the server it is about. Raises `Refused`: 404 for every other path, and
    where no method takes tokens of an issuer."""
    path = request.path.removeprefix(PREFIX)
    route = snapshot.routes.get(path or "/") if path != request.path else None
    issuers = _issuers(snapshot)
    if route is None or not issuers:
        raise Refused(404, INVALID_REQUEST, "no MCP server has this path", reason="path")
    if request.method != "GET":
        raise MethodNotAllowed("only GET is served", "GET")
    url = _base(snapshot, request)
    if url is None:
        raise Refused(400, INVALID_REQUEST, "the Host is malformed", reason="host")
    return route, {
        "resource": url + _suffix(route.server.path),
        "resource_name": route.server.name,
        "authorization_servers": issuers,
        "bearer_methods_supported": ["header"],
    }


def _issuers(snapshot: Snapshot) -> list[str]:
    """The issuers whose tokens are taken, each once."""
    agents = snapshot.configuration.identity.agents
    return list(dict.fromkeys(entry.issuer for entry in agents if isinstance(entry, JwtAgents)))


def _base(snapshot: Snapshot, request: HttpRequest) -> str | None:
    """The URL of the listener as its clients know it, without a path; None where Host could not be part of one."""
    listen = snapshot.configuration.listen
    if listen.url is not None:
        return listen.url
    host = request.headers.get(b"host", b"")
    if not _HOST.fullmatch(host):
        return None
    return f"{'https' if listen.tls is not None else 'http'}://{host.decode('ascii')}"


def _suffix(path: str) -> str:
    return "" if path == "/" else path

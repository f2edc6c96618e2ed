"""What of a configuration needs the Workload API."""

from typing import Literal

import msgspec

from openmcp.config.model import (
    Configuration,
    DynamodbState,
    JwtSvidAgents,
    JwtSvidAuth,
    OAuthAuth,
    ServerAuth,
    SpiffeAuth,
    SpiffeTls,
    WorkloadAgents,
)


class Use(msgspec.Struct, frozen=True):
    """One thing that needs it: `listen.tls`, an entry of `identity.agents` or the `auth` of a server, by `index`, or
    `state`."""

    where: Literal["tls", "agents", "auth", "state"]
    index: int = 0
    server: str = ""

    def __str__(self) -> str:
        if self.where == "auth":
            return f"servers: {self.server}: auth"
        if self.where == "state":
            return "state.credentials"
        return "listen.tls" if self.where == "tls" else f"identity.agents[{self.index}]"


def workload_api_uses(configuration: Configuration) -> list[Use]:
    """Everything that needs SVIDs or bundles, in the order of the sections; `str` names its place."""
    found = [Use("tls")] if isinstance(configuration.listen.tls, SpiffeTls) else []
    for index, method in enumerate(configuration.identity.agents):
        if isinstance(method, JwtSvidAgents | WorkloadAgents):
            found.append(Use("agents", index))
    for index, server in enumerate(configuration.servers):
        if _by_svid(server.auth):
            found.append(Use("auth", index, server.name))
    if isinstance(configuration.state, DynamodbState) and configuration.state.credentials == "spiffe":
        found.append(Use("state"))
    return found


def _by_svid(auth: ServerAuth | None) -> bool:
    if isinstance(auth, OAuthAuth):
        return auth.client.type != "secret"
    return isinstance(auth, SpiffeAuth | JwtSvidAuth)

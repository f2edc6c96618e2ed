"""Whether a server can be used on this machine: its files, variables, and who we are to it.

For objects of Kubernetes, one of which must not keep the others from being taken over.
"""

import ssl

from openmcp.config.model import Configuration, HeaderAuth, OAuthAuth, Server
from openmcp.config.secrets import SecretError
from openmcp.config.uses import workload_api_uses
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.build.identities import address_of
from openmcp.sidecar.net.credentials import HeaderSecret
from openmcp.sidecar.net.dialing import authority, web_context
from openmcp.sidecar.net.oauth import OAuthToken


def fault(configuration: Configuration, server: Server) -> str | None:
    """What keeps a server from being used here, None where nothing does. Blocks while reading files."""
    try:
        authority(server)
        web_context(server)
    except (SecretError, ssl.SSLError, OSError, UnicodeDecodeError) as error:
        return f"tls.ca cannot be used: {error}"
    try:
        if isinstance(server.auth, HeaderAuth):
            HeaderSecret(server.name, server.auth)
        elif isinstance(server.auth, OAuthAuth):
            OAuthToken(server.name, server.auth, None, lambda result: None)
        if configuration.identity.workload_api != "" and workload_api_uses(Configuration(servers=(server,))):
            address_of(configuration.identity, "it")
    except (SecretError, BuildError) as error:
        return f"auth: {error}"
    return None

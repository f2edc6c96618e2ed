"""The address of the Workload API (SPIFFE Workload Endpoint, section 4)."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from openmcp.identity.addresses import is_loopback

VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"
"""Where workloads find the address, if nothing else says it."""
EXAMPLES: Final = "unix:///run/spire/agent-sockets/api.sock or tcp://127.0.0.1:8081"


def fault(address: str) -> str | None:
    """What is wrong with an address; None for `unix:///absolute/path` and `tcp://ip:port`."""
    if not address.isascii() or not address.isprintable() or " " in address:
        return "only printable ASCII without blanks"
    if "?" in address or "#" in address:
        return "no query and no fragment"
    scheme, separator, rest = address.partition("://")
    if separator and scheme == "unix":
        return (
            None
            if rest.startswith("/") and len(rest) > 1
            else "behind unix:// stands an absolute path: unix:///run/..."
        )
    if separator and scheme == "tcp":
        return _tcp_fault(rest)
    return f"write {EXAMPLES}"


def _tcp_fault(rest: str) -> str | None:
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return "the address or the port cannot be read"
    if parts.path or "@" in parts.netloc:
        return "tcp:// is followed by an IP address and a port alone"
    if not host or not _is_address(host):
        return (
            "behind tcp:// stands an IP address, not a name: no name service can be trusted before there is an identity"
        )
    return None if port else "the port is missing: tcp://127.0.0.1:8081"


def is_local(address: str) -> bool:
    """Whether a valid address stays on this machine; keys come over it, and tcp does not hide them."""
    if address.startswith("unix:"):
        return True
    return is_loopback(urlsplit(address).hostname or "")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

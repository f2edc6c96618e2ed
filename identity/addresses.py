"""IP addresses of peers: in which networks they are, and which are of this machine. IPv4 mapped to IPv6 is IPv4."""

import functools
import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@functools.lru_cache(maxsize=1024)
def read(text: str) -> Address | None:
    """An address; None for everything else, such as that of a Unix socket, or one with a scope."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return None if address.scope_id is not None else address.ipv4_mapped or address
    return address


def is_loopback(text: str) -> bool:
    """Whether this is an address of this machine, or of this pod, alone."""
    address = read(text)
    return address is not None and address.is_loopback


def is_this_machine(host: str) -> bool:
    """Whether only this machine reaches an address on `host`, a name or an IP address (IPv6 also in brackets)."""
    return host.lower() == "localhost" or is_loopback(host.strip("[]"))


class Networks:
    """Some networks in CIDR; raises `ValueError` for what is none."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network) for network in networks)
        self._remembered = functools.lru_cache(maxsize=1024)(self._include)

    def include(self, address: str) -> bool:
        """Whether an address is in one of them."""
        return self._remembered(address)

    def _include(self, text: str) -> bool:
        address = read(text)
        return address is not None and any(address in network for network in self._networks)

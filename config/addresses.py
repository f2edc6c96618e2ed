"""Readings of addresses to listen on, and to connect to."""

import re
from urllib.parse import urlsplit

from openmcp.config.cursor import At, shortened, string
from openmcp.config.model import Address
from openmcp.config.yamlsource import Scalar

HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")


def address(at: At) -> Address | None:
    """`host:port` or `[::1]:port`; port 0 means any free one."""
    if isinstance(at.node, Scalar) and isinstance(at.node.value, int) and not isinstance(at.node.value, bool):
        at.error(f"expected host:port, found the number {at.text()}", f"write 127.0.0.1:{at.text()}")
        return None
    text = string(at)
    if text is None:
        return None
    wrong = _address_fault(*text.rpartition(":"))
    if wrong is not None:
        at.error(f'not an address to listen on: "{shortened(text)}"', wrong)
        return None
    return parse_address(text)


def reached(at: At) -> Address | None:
    """`host:port` or `[::1]:port` to connect to."""
    text = string(at)
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    unfit = host in ("", "*") or "/" in text
    wrong = "write host:port, such as 10.96.0.1:443" if unfit else _address_fault(host, colon, port)
    if wrong is None and int(port) == 0:
        wrong = "the port is a number from 1 to 65535"
    if wrong is not None:
        at.error(f'not an address to connect to: "{shortened(text)}"', wrong)
        return None
    return parse_address(text)


def parse_address(text: str) -> Address:
    """The same from a text. Raises ValueError, which says what is wrong."""
    host, colon, port = text.rpartition(":")
    wrong = _address_fault(host, colon, port)
    if wrong is not None:
        raise ValueError(wrong)
    return Address(host=host.strip("[]"), port=int(port))


def shown(address: Address) -> str:
    """An address as it is written."""
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


def _address_fault(host: str, colon: str, port: str) -> str | None:
    if not colon:
        return "write host:port, such as 127.0.0.1:15001"
    if host in ("", "*"):
        return f"for every interface write 0.0.0.0:{port} or [::]:{port}, for this machine alone 127.0.0.1:{port}"
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        return "the port is a number from 0 to 65535"
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        return "an IPv6 address goes in brackets: [::1]:15001"
    if bracketed:
        return None if is_ipv6(host[1:-1]) else "the part in brackets is not an IPv6 address"
    return None if HOST_NAME.fullmatch(host) else "the host is an IP address or a name"


def is_ipv6(text: str) -> bool:
    """Whether this is an IPv6 address, without brackets."""
    try:
        return urlsplit(f"http://[{text}]/").hostname is not None and ":" in text
    except ValueError:
        return False

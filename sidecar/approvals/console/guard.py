"""What is refused before a page looks at it, and the headers that each answer has. Pure, except for counting failures.

Refused: names that are not the console's (DNS rebinding), forms that another site has sent, guessing of tokens.
"""

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")

POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would send the origin `null` with our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "openmcp",
}
_OVER_TLS: Final = {"Strict-Transport-Security": "max-age=31536000"}


class Place:
    """Where the console is: the origin that browsers see, and the others that mean the same on this machine."""

    def __init__(self, url: str, port: int) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        self.secure = parts.scheme == "https"
        self.host = parts.netloc.lower()
        self._hosts = {self.host}
        if not self.secure and _name(self.host) in _LOOPBACK:
            self._hosts |= {f"{name}:{port}" for name in _LOOPBACK}
        self.headers = HEADERS | (_OVER_TLS if self.secure else {})
        self.session_cookie = "__Host-openmcp" if self.secure else f"openmcp-{parts.port or 80}"
        self.login_cookie = f"{self.session_cookie}-login"
        self.provider_cookie = f"{self.session_cookie}-oidc"

    def is_ours(self, host: str) -> bool:
        """Whether a `Host` is one of ours."""
        return host.lower() in self._hosts

    def is_own_form(self, origin: str | None, host: str) -> bool:
        """Whether a form was sent by a page of this very origin; browsers say so with each POST (RFC 6454, 7)."""
        scheme = "https" if self.secure else "http"
        return origin is not None and origin.lower() == f"{scheme}://{host.lower()}"


def _name(host: str) -> str:
    return host if host.endswith("]") else host.rpartition(":")[0] or host


class Attempts:
    """Failed logins by address (of IPv6 by its /64): so many within so many milliseconds, then none for a while."""

    def __init__(self, clock: Callable[[], int], most: int = 10, within: int = 60_000, addresses: int = 10_000) -> None:
        self._clock = clock
        self._most, self._within, self._addresses = most, within, addresses
        self._failed: OrderedDict[str, deque[int]] = OrderedDict()

    def allowed(self, address: str | None) -> bool:
        """Whether another attempt is looked at."""
        times = self._failed.get(_network(address))
        return times is None or len(times) < self._most or times[0] <= self._clock() - self._within

    def failed(self, address: str | None) -> None:
        """Count one."""
        key = _network(address)
        times = self._failed.setdefault(key, deque(maxlen=self._most))
        times.append(self._clock())
        self._failed.move_to_end(key)
        while len(self._failed) > self._addresses:
            self._failed.popitem(last=False)


def _network(address: str | None) -> str:
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))

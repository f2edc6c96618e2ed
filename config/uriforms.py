"""What the canonical form of a URI knows by name; warnings about rules go by the same. Source: RFC 3986."""

import re
from typing import Final

WEB_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
"""The schemes of the web, and the ports that go without saying."""
UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""Characters that mean the same escaped and not (section 2.3)."""
ESCAPE: Final = re.compile("%([0-9A-Fa-f]{2})")
"""A percent-encoded byte, with its digits (section 2.1)."""

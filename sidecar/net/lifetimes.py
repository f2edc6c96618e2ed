"""Who is at the other end of a connection, and how long it lasts."""

import asyncio
import random
import time
from math import inf
from typing import Final

from openmcp.identity.peer import Peer, certificate_of

MAX_AGE: Final = 3600.0
"""Seconds, give or take a tenth, for which a connection takes requests: peers that were added get their share, and what
was agreed on long ago (a certificate, a key) is agreed on anew."""
AHEAD: Final = 30.0
"""Seconds before a certificate ends, a quarter of its rest at most, in which a connection takes no more requests."""
_MAPPED: Final = "::ffff:"


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The peer of a connection that has just been made, after the handshake where there is one."""
    name = transport.get_extra_info("peername")
    address = str(name[0]).partition("%")[0] if isinstance(name, tuple) else ""
    if "." in address:  # an IPv4 address as a listener on :: sees it
        address = address.removeprefix(_MAPPED)
    return Peer(address, certificate_of(transport.get_extra_info("ssl_object")))


def lifetime(now: float, peer: Peer) -> tuple[float, float]:
    """As `bounds`, for a client's connection."""
    return bounds(now, peer.certificate.expires if peer.certificate is not None else inf)


def bounds(now: float, expires: float) -> tuple[float, float]:
    """Until when a connection takes requests, and when it ends, both by the loop's time (`now`); `expires` is when the
    first certificate of either side ends, in Unix seconds."""
    age = MAX_AGE * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, hides nothing
    left = expires - time.time()
    return now + min(age, left - min(AHEAD, left / 4)), now + left

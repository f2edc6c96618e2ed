"""Callers known by what a proxy says about its client: `X-Forwarded-Client-Cert`, as Envoy writes it.

Source: Envoy's documentation of the header (HTTP header manipulation, "x-forwarded-client-cert"): elements separated by
commas, one for each proxy, the last one's at the end; in each, pairs `Key=Value` separated by semicolons; values with
separators in quotes, in which a backslash stands before a quote.
"""

import functools
import re
from collections.abc import Iterable
from typing import Final

from openmcp.identity.addresses import Networks
from openmcp.identity.bearer import Headers
from openmcp.identity.peer import Peer
from openmcp.identity.principal import Principal
from openmcp.identity.refusal import Refused
from openmcp.identity.spiffe_id import NotASpiffeId, parse_workload

HEADER: Final = b"x-forwarded-client-cert"
_REMEMBERED: Final = 8192
"""Bytes of a header up to which what it says is remembered: with the client's certificate it has some 3,000."""
_PAIR: Final = re.compile(rb'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;=\\]*))')

Element = list[tuple[bytes, bytes]]


class Forwarded:
    """`type: forwarded`: the client of a proxy at one of these networks (CIDR), of one of these trust domains (none
    given: of any). From everybody else the header is worth nothing, and not looked at."""

    def __init__(self, networks: Iterable[str], trust_domains: Iterable[str] = ()) -> None:
        self._networks = Networks(networks)
        self._trust_domains = frozenset(trust_domains)
        self._remembered = functools.lru_cache(maxsize=256)(self._judge)

    def speaks(self, peer: Peer) -> bool:
        """Whether this peer speaks for others."""
        return self._networks.include(peer.address)

    def principal(self, headers: Headers, peer: Peer) -> Principal | None:
        """The client that the nearest proxy had: the last element. Raises `Refused` unless it has exactly one URI."""
        value = headers.get(HEADER)
        if value is None or not self.speaks(peer):
            return None
        return self._remembered(value) if len(value) <= _REMEMBERED else self._judge(value)

    def until(self, headers: Headers, peer: Peer) -> float:
        """Nothing is said about when it ends."""
        return float("inf")

    def _judge(self, value: bytes) -> Principal:
        try:
            uris = [text for key, text in parse(value)[-1] if key == b"uri"]
            (uri,) = uris
            client = parse_workload(uri.decode("ascii"))
        except NotXfcc:
            raise Refused("forwarded", "X-Forwarded-Client-Cert is malformed") from None
        except (NotASpiffeId, ValueError):
            raise Refused("forwarded", "X-Forwarded-Client-Cert names no client, or not as one SPIFFE ID") from None
        if self._trust_domains and client.trust_domain not in self._trust_domains:
            raise Refused("trust_domain", "the trust domain of the proxy's client is not accepted")
        return Principal(str(client), "forwarded")


class NotXfcc(Exception):
    """A header that does not follow the grammar."""


def parse(value: bytes) -> list[Element]:
    """The elements of a header, at least one, each its keys (in lower case) and values in order, these as they stand
    between their quotes. Raises `NotXfcc`."""
    elements: list[Element] = [[]]
    at = 0
    while True:
        pair = _PAIR.match(value, at)
        if pair is None:
            raise NotXfcc
        elements[-1].append((pair[1].lower(), pair[3] if pair[2] is None else pair[2]))
        at = pair.end()
        if at == len(value):
            return elements
        separator, at = value[at : at + 1], at + 1
        if separator == b",":
            elements.append([])
            while value[at : at + 1] == b" ":
                at += 1
        elif separator != b";":
            raise NotXfcc

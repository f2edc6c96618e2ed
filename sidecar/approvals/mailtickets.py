"""Proving an address by a mail: a signed link and a code, which is typed in, so that following the link is not enough.

Both are made from the state's key: every process can check what another has sent, and nothing is stored. A ticket is
for one address and one request, and ends with that request's time to be decided. Pure, but for `tickets_of`.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

_LONGEST: Final = 2000
_DIGITS: Final = 8


class BadTicket(Exception):
    """Nobody is proved; the text may be shown."""


class Ticket(msgspec.Struct, frozen=True):
    """What a mail holds: `token` for the link, `code` to type in."""

    token: str
    code: str


class Proof(msgspec.Struct, frozen=True):
    """What a ticket proves: who has read this address is here because of this request. `until`: Unix milliseconds."""

    address: str
    rid: str
    until: int


class Tickets:
    """Made and checked with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, proof: Proof) -> Ticket:
        """The ticket that proves this."""
        body = msgspec.json.encode(proof)
        return Ticket(f"{_encoded(body)}.{_encoded(self._mac(b'link', body))}", self._code(body))

    def check(self, token: str, code: str, now: int) -> Proof:
        """What a link and the code of the same mail prove. Raises `BadTicket`."""
        body = self._body(token)
        said = "".join(code.split())
        if not hmac.compare_digest(self._code(body).encode(), said.encode("utf-8", "replace")):
            raise BadTicket("This is not the code of that mail.")
        proof = msgspec.json.decode(body, type=Proof)
        if now >= proof.until:
            raise BadTicket("This link has ended, as has the time to decide on its request.")
        return proof

    def is_ours(self, token: str) -> bool:
        """Whether a link is one that we have sent."""
        try:
            self._body(token)
        except BadTicket:
            return False
        return True

    def _body(self, token: str) -> bytes:
        try:
            body, mac = (_decoded(part) for part in token[:_LONGEST].split("."))
        except (ValueError, binascii.Error):
            raise BadTicket("This link is not whole.") from None
        if not hmac.compare_digest(self._mac(b"link", body), mac):
            raise BadTicket("This link is not one of ours.")
        return body

    def _mac(self, use: bytes, body: bytes) -> bytes:
        return hmac.new(self._key, use + b"\0" + body, hashlib.sha256).digest()

    def _code(self, body: bytes) -> str:
        number = int.from_bytes(self._mac(b"code", body)) % 10**_DIGITS
        return f"{number:0{_DIGITS}}"


def tickets_of(read_key: Callable[[], Awaitable[bytes]]) -> Callable[[], Awaitable[Tickets]]:
    """Tickets under the key of a state store, which is read at the first use."""
    made: list[Tickets] = []

    async def tickets() -> Tickets:
        if not made:
            made.append(Tickets(hmac.new(await read_key(), b"openmcp mail tickets", hashlib.sha256).digest()))
        return made[0]

    return tickets


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)

"""What a stateless client carries for the server between requests: list cursors and MRTR states, sealed and bound.

Source: 2026-07-28 basic/patterns/mrtr ("requestState is attacker-controlled"), server/utilities/pagination.
"""

import hashlib
from typing import Final

import msgspec
import orjson

from openmcp.sidecar.errors import INVALID_PARAMS, Refused
from openmcp.sidecar.sealing import Sealer
from openmcp.sidecar.types import JsonObject

_CURSOR: Final = b"cursor"
_STATE: Final = b"request-state"
_ROUND: Final = b"approval-round"
STATE_LIFETIME: Final = 3600.0
"""Seconds in which a client may come back with the input that a server asked for."""


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    principal: str
    server: str
    method: str
    endpoint: str
    cursor: str


class _State(msgspec.Struct, frozen=True, array_like=True):
    principal: str
    server: str
    endpoint: str
    digest: bytes
    expires: int
    state: str | None


class _Round(msgspec.Struct, frozen=True, array_like=True):
    principal: str
    server: str
    digest: bytes
    expires: int
    number: int


class Tokens:
    """Seals and opens cursors and request states for one agent (`principal`) on one server at a time."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal_cursor(self, principal: str, server: str, method: str, endpoint: str, cursor: str) -> str:
        """The cursor that goes to the client, bound to whom and what it was made for."""
        return self._sealer.seal(_CURSOR, _Cursor(principal, server, method, endpoint, cursor))

    def open_cursor(self, principal: str, server: str, method: str, token: str) -> tuple[str, str]:
        """The server's cursor and the key of its endpoint; raises `Refused` (-32602) for one that is not this."""
        opened = self._sealer.open(_CURSOR, token, _Cursor)
        if opened is None or (opened.principal, opened.server, opened.method) != (principal, server, method):
            raise _invalid("params.cursor is not a cursor of this list")
        return opened.cursor, opened.endpoint

    def seal_state(
        self, principal: str, server: str, endpoint: str, digest: bytes, state: str | None, now: float
    ) -> str:
        """The requestState that goes to the client; `digest` names the request that it belongs to."""
        expires = int(now + STATE_LIFETIME)
        return self._sealer.seal(_STATE, _State(principal, server, endpoint, digest, expires, state))

    def open_state(
        self, principal: str, server: str, digest: bytes, token: object, now: float
    ) -> tuple[str | None, str]:
        """The server's state and the key of its endpoint; raises `Refused` (-32602) for one that is not this."""
        opened = self._sealer.open(_STATE, token, _State) if type(token) is str else None
        if opened is None or (opened.principal, opened.server, opened.digest) != (principal, server, digest):
            raise _invalid("params.requestState does not belong to this request")
        if opened.expires <= now:
            raise _invalid("params.requestState has expired")
        return opened.state, opened.endpoint

    def seal_round(self, principal: str, server: str, digest: bytes, number: int, now: float) -> str:
        """The requestState of our own that brings a client back while a human decides; `number` counts from 1."""
        return self._sealer.seal(_ROUND, _Round(principal, server, digest, int(now + STATE_LIFETIME), number))

    def round(self, principal: str, server: str, digest: bytes, token: object, now: float) -> int:
        """Its number; 0 for all that is not ours and for this."""
        opened = self._sealer.open(_ROUND, token, _Round) if type(token) is str else None
        if opened is None or (opened.principal, opened.server, opened.digest) != (principal, server, digest):
            return 0
        return opened.number if opened.expires > now else 0


def digest(method: str, params: JsonObject) -> bytes:
    """What a request asks for, apart from what a retry adds: method, name or URI, and arguments."""
    asked = [method, params.get("name"), params.get("uri"), params.get("arguments")]
    return hashlib.blake2b(_canonical(asked), digest_size=16).digest()


def _canonical(value: object) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers beyond 64 bits
        return repr(value).encode()


def _invalid(message: str) -> Refused:
    return Refused(400, INVALID_PARAMS, message, reason="foreign_token")

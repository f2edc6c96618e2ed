"""Legacy sessions: the client holds our sealed id, which says whose it is and where it is pinned.

Nothing is stored. Another principal, the same one by another proof, another server, a changed byte and an expired id
are all the same: 404.
"""

import hashlib
from typing import Final

from openmcp.identity.principal import Principal
from openmcp.sidecar.errors import INVALID_REQUEST, SESSION_NOT_FOUND, Refused, UpstreamFailed
from openmcp.sidecar.mcp import capabilities
from openmcp.sidecar.sealing import Sealer
from openmcp.sidecar.telemetry.records import fingerprint
from openmcp.sidecar.types import JsonObject, MessageId, Session

_SESSION: Final = b"session"
_EVENT: Final = b"event"
_SERVER_REQUEST: Final = b"server-request"
MAX_TOKEN: Final = 4096
MAX_REMEMBERED: Final = 4096
"""Opened sessions kept, and answered server requests: each a bounded memory that costs only time when it is lost."""

MAX_UPSTREAM_ID: Final = 2048
_VISIBLE: Final = bytes(range(0x21, 0x7F))


class Sessions:
    """Makes and opens the tokens of legacy sessions. `lifetime` is in seconds."""

    def __init__(self, sealer: Sealer, lifetime: float) -> None:
        self._sealer = sealer
        self.lifetime = lifetime
        self._opened: dict[str, tuple[Session, str]] = {}
        self._answered: dict[str, None] = {}

    def issue(self, session: Session) -> str:
        """The id that the client gets."""
        return self._sealer.seal(_SESSION, session)

    def expiry(self, now: float) -> int:
        """When a session that is made now ends, in Unix seconds."""
        return int(now + self.lifetime)

    def open(self, token: str, principal: Principal, server: str, now: float) -> tuple[Session, str]:
        """The session of an id, and its short name for the record; raises `Refused` (404) where it is another's."""
        known = self._opened.get(token) or self._decode(token)
        if known is not None:
            session = known[0]
            same = session.principal == principal.name and session.method == principal.method
            if same and session.server == server and session.expires > now:
                return known
        raise session_not_found()

    def forget(self) -> None:
        """Trust nothing that was opened before: the key has changed."""
        self._opened.clear()

    def _decode(self, token: str) -> tuple[Session, str] | None:
        if len(token) > MAX_TOKEN:
            return None
        session = self._sealer.open(_SESSION, token, Session)
        if session is None:
            return None
        if len(self._opened) >= MAX_REMEMBERED:
            self._opened.clear()
        known = self._opened[token] = (session, fingerprint(token))
        return known

    def event_id(self, session: Session, upstream_id: str, stream: JsonObject) -> bytes | None:
        """The event id that goes to the client: bound to its session, and saying what stream it belongs to. None where
        it would be too long to come back with."""
        token = self._sealer.seal(_EVENT, (pin(session), upstream_id, stream))
        return token.encode() if len(token) <= MAX_TOKEN else None

    def resume(self, session: Session, token: str) -> tuple[str, JsonObject]:
        """The server's event id and the stream of a `Last-Event-ID`; raises `Refused` (404) for a foreign one."""
        opened = self._sealer.open(_EVENT, token, tuple[bytes, str, JsonObject]) if len(token) <= MAX_TOKEN else None
        if opened is None or opened[0] != pin(session):
            raise session_not_found()
        return opened[1], opened[2]

    def request_id(self, session: Session, upstream_id: MessageId) -> str:
        """The id under which a server's request goes to the client; the same for the same request."""
        return self._sealer.seal(_SERVER_REQUEST, (pin(session), upstream_id))

    def answered_id(self, session: Session, token: MessageId | None) -> MessageId:
        """The server's id of the request that a client answers; raises `Refused` (400) unless it was delivered on this
        session and not answered before."""
        opened = None
        if type(token) is str and len(token) <= MAX_TOKEN and token not in self._answered:
            opened = self._sealer.open(_SERVER_REQUEST, token, tuple[bytes, str | int])
        if opened is None or opened[0] != pin(session):
            raise Refused(400, INVALID_REQUEST, "no request of the server has this id", reason="forged_response")
        if len(self._answered) >= MAX_REMEMBERED:
            del self._answered[next(iter(self._answered))]
        self._answered[str(token)] = None
        return opened[1]


def pin(session: Session) -> bytes:
    """What identifies a session among all of a server's: the endpoint and its own id, and whose it is.

    16 bytes, however long these are: the ids that carry it have to stay within what a client may send back.
    """
    named = (session.principal, session.method, session.server, session.endpoint, session.upstream_id)
    return hashlib.blake2b("\0".join(named).encode(), digest_size=16).digest()


def declared_capabilities(params: JsonObject) -> tuple[str, ...]:
    """What an initialize request says the client can be asked for."""
    return capabilities.declared(params.get("capabilities"))


def checked_upstream_id(value: bytes) -> str:
    """The id that a server gave its session; raises `UpstreamFailed` unless it is visible ASCII (each revision)."""
    if len(value) > MAX_UPSTREAM_ID or value.translate(None, _VISIBLE):
        raise UpstreamFailed("protocol", "the server's session id is too long or not visible ASCII")
    return value.decode("ascii")


def session_not_found() -> Refused:
    """404: the client has to initialise anew (every legacy revision)."""
    return Refused(404, SESSION_NOT_FOUND, "Session not found", reason="session")

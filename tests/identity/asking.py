"""What identifying a caller comes to, as one value: a principal, None, or why not."""

from typing import Any

from openmcp.identity.peer import UNKNOWN, Peer
from openmcp.identity.principal import Principal
from openmcp.identity.refusal import KeysNeeded, Refused, Unavailable

NOW = 1_800_000_000.0


def ask(method: Any, headers: dict[bytes, bytes], peer: Peer = UNKNOWN) -> Principal | str | None:
    """Whom a method or an identifier finds; a refusal is its word, `unavailable: <word>`, or `keys needed`."""
    asked = getattr(method, "identify", None) or method.principal
    try:
        return asked(headers, peer)
    except Refused as refused:
        _said_plainly(refused.why)
        return refused.reason
    except Unavailable as unavailable:
        return f"unavailable: {unavailable.reason}"
    except KeysNeeded:
        return "keys needed"


def bearer(token: str | bytes) -> dict[bytes, bytes]:
    """The headers of a request with this token."""
    return {b"authorization": b"Bearer " + (token if isinstance(token, bytes) else token.encode())}


def _said_plainly(why: str) -> None:
    """It fits into `error_description` (RFC 6750, 3)."""
    assert why.isascii()
    assert why.isprintable()
    assert not set(why) & set('"\\')

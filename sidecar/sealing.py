"""Sealed tokens: what a client has to hold for us (session ids, event ids, cursors, states) and may not read or alter.

AES-256-GCM with a nonce derived from the plaintext by a keyed hash (a synthetic nonce, after RFC 5297's idea): equal
content gives the equal token, nothing needs to be stored, and no randomness is needed at run time. The purpose is
authenticated too, so that a token of one kind is worthless as another.

The library of the cipher is loaded with the first token: it takes 8 MiB, and nothing of revision 2026-07-28 has to be
sealed in an ordinary call.
"""

import base64
import hashlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FAULTS: Final = (ValueError, msgspec.MsgspecError)

T = TypeVar("T")


class Sealer:
    """Seals and opens values for named purposes under one 32-byte key."""

    def __init__(self, key: bytes) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._faults: tuple[type[Exception], ...] = _FAULTS
        self.rekey(key)

    def rekey(self, key: bytes) -> None:
        """Use another key from now on; tokens under the old one are worthless then."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"the sealing key has {len(key)} bytes and must have {KEY_BYTES}")
        self._cipher: AESGCM | None = None
        self._key = hashlib.blake2b(b"openmcp seal", key=key, digest_size=32).digest()
        self._nonce_key = hashlib.blake2b(b"openmcp nonce", key=key, digest_size=32).digest()

    def seal(self, purpose: bytes, value: Any) -> str:
        """A token of visible ASCII (base64url without padding) for a value that MessagePack can hold."""
        plain = self._encoder.encode(value)
        nonce = hashlib.blake2b(purpose + b"\0" + plain, key=self._nonce_key, digest_size=_NONCE_BYTES).digest()
        sealed = nonce + self._ready().encrypt(nonce, plain, purpose)
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, purpose: bytes, token: str, shape: type[T]) -> T | None:
        """The value of a token that this key sealed for this purpose, or None for every other string."""
        try:
            sealed = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(sealed).rstrip(b"=").decode() != token:
                return None  # one value has one token: trailing bits and padding are not ours
            plain = self._ready().decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose)
            return msgspec.msgpack.decode(plain, type=shape)
        except self._faults:
            return None

    def _ready(self) -> "AESGCM":
        if self._cipher is None:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._cipher = AESGCM(self._key)
            self._faults = (InvalidTag, *_FAULTS)
        return self._cipher

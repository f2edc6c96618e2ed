"""What TLS contexts need beyond the standard library: checks at the end of a handshake, keys from memory, words.

Works on the event loops of asyncio and uvloop: both make their TLS objects by `SSLContext.wrap_bio`, and take an
SSLError out of `do_handshake` for a handshake that failed, without a word in the log.
"""

import base64
import logging
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast
from weakref import WeakSet

from openmcp.identity.certificates import (
    FOREIGN_ANCHOR,
    MALFORMED,
    NAME_CONSTRAINTS,
    NO_CA,
    PURPOSE,
    TOO_WEAK,
    UNKNOWN_CRITICAL,
)
from openmcp.identity.material import NoIdentity
from openmcp.identity.peer import PeerCertificate, PeerRefused

_DER: Final = 2
"""DER in the standard library's private interface (`_ssl.ENCODING_DER`)."""
MAX_HANDSHAKES = 1000
"""Handshakes of clients under way at once. Each takes some 50 KiB before anybody is known, until it is over or given
up."""
QUIET: Final = 60.0
"""Seconds for which another refusal for the same reason is counted, not logged."""
_AGAIN: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError)
_VERIFICATION: Final = {
    **dict.fromkeys((2, 18, 19, 20, 21), FOREIGN_ANCHOR),
    7: "a wrong signature",
    9: "not yet valid",
    10: "expired",
    **dict.fromkeys((24, 32, 79), NO_CA),
    25: "a longer chain than its CA allows",
    26: PURPOSE,
    34: UNKNOWN_CRITICAL,
    **dict.fromkeys((47, 48, 49, 50, 51, 52, 53), NAME_CONSTRAINTS),
    **dict.fromkeys((66, 67, 68), TOO_WEAK),
}
"""OpenSSL's X509_V_ERR_* (x509_vfy.h) in the words of `certificates`."""
_PROTOCOL: Final = {
    **dict.fromkeys(("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"), "plain HTTP instead of TLS"),
    **dict.fromkeys(("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"), "no TLS"),
    **dict.fromkeys(("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "NO_PROTOCOLS_AVAILABLE"), "no common version of TLS"),
    **dict.fromkeys(("NO_SHARED_CIPHER", "NO_SHARED_GROUP", "NO_SUITABLE_KEY_SHARE"), "no common cipher"),
}
_FAILED: Final = "the handshake failed"
_TOO_MANY: Final = "too many handshakes at once"
_log = logging.getLogger("openmcp.identity")


Check = Callable[[list[bytes]], PeerCertificate]
OnRefused = Callable[[str, str], None]
"""Is told the fixed text, and the whole message."""


class Refusals:
    """Tells that handshakes were refused: each one to `count` (by its fixed text), and for each such text one line a
    minute in the log, which `whom` begins ("a client")."""

    def __init__(self, whom: str, count: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._whom = whom
        self._count = count
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def add(self, why: str, message: str) -> None:
        """One more; `message` is `why` with what is particular to it."""
        self._count(why)
        now = self._clock()
        before, silent = self._told.get(why, (now - QUIET, 0))
        if now - before < QUIET:
            self._told[why] = (before, silent + 1)
            return
        self._told[why] = (now, 0)
        more = f" ({silent} more since this was last said)" if silent else ""
        _log.warning("TLS: the handshake of %s is refused: %s%s", self._whom, message, more)


class CheckedObject(ssl.SSLObject):
    """One end of a connection, whose handshake ends with a look at the peer."""

    peer_certificate: PeerCertificate | None = None
    under_way: "WeakSet[CheckedObject] | None" = None

    def do_handshake(self) -> None:
        """Raises `PeerRefused` for a certificate that is not good, and SSLError for other failures."""
        context = cast(Checked, self.context)
        over = True
        try:
            super().do_handshake()
            self.peer_certificate = context.peer(self)
        except _AGAIN:
            over = False
            raise
        except ssl.SSLError as error:
            raise context.refused(error) from None
        except Exception as error:  # a fault of ours lets nobody in
            _log.exception("TLS: a certificate could not be checked")
            raise context.refused(PeerRefused(MALFORMED)) from error
        finally:
            if over and self.under_way is not None:
                self.under_way.discard(self)


class Checked(ssl.SSLContext):
    """A context that hands the verified chain (DER, leaf first) of each peer to `check`, which raises PeerRefused.

    `on_refused` is told of every handshake that failed. `stranger` says that no CA vouches for a peer.
    """

    sslobject_class = CheckedObject
    check: Check
    on_refused: OnRefused
    stranger: str = FOREIGN_ANCHOR

    def peer(self, connection: ssl.SSLObject) -> PeerCertificate | None:
        """Who is at the other end; None where it presented nothing (and did not have to)."""
        chain = verified_chain(connection)
        if chain:
            return self.check(chain)
        if self.verify_mode is ssl.CERT_REQUIRED or connection.getpeercert(binary_form=True) is not None:
            raise PeerRefused("no verified chain")
        return None

    def refused(self, error: ssl.SSLError) -> ssl.SSLError:
        """The same failure in our words, counted and logged."""
        found = in_words(error, self.stranger)
        if isinstance(found, PeerRefused):
            self.on_refused(found.why, str(found))
        else:
            why = protocol_failure(found)
            self.on_refused(why, f"{why} ({(found.reason or 'unknown').lower().replace('_', ' ')})")
        return found


class Delegating(ssl.SSLContext):
    """A context that makes each connection by another one, the present one."""

    current: Callable[[], ssl.SSLContext]
    on_refused: OnRefused
    under_way: WeakSet[CheckedObject]
    """Those of clients that vanish go with their connections."""

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """One more connection. Raises SSLError where there is nothing to make it with, and where there are too many."""
        if len(self.under_way) >= MAX_HANDSHAKES:
            self.on_refused(_TOO_MANY, f"{_TOO_MANY} ({MAX_HANDSHAKES})")
            raise ssl.SSLError(1, _TOO_MANY)
        try:
            made = cast(CheckedObject, self.current().wrap_bio(*args, **options))
            made.under_way = self.under_way
            self.under_way.add(made)
            return made
        except NoIdentity as error:
            self.on_refused("no SVID of our own", f"no SVID of our own: {error}")
            raise ssl.SSLError(1, f"no SVID of our own: {error}") from None

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Not for blocking sockets."""
        raise NotImplementedError


def delegating(current: Callable[[], ssl.SSLContext], on_refused: OnRefused) -> ssl.SSLContext:
    """The context of a listener: each connection is made by what `current` gives then; it may raise NoIdentity."""
    context = Delegating(ssl.PROTOCOL_TLS_SERVER)
    context.current, context.on_refused, context.under_way = current, on_refused, WeakSet()
    return context


def verified_chain(connection: ssl.SSLObject) -> list[bytes]:
    """The chain that OpenSSL verified, DER, from the leaf to the CA that it trusts; empty where it verified none."""
    public = getattr(connection, "get_verified_chain", None)  # from Python 3.13 on
    if public is not None:
        return list(public())
    chain = connection._sslobj.get_verified_chain() or ()  # type: ignore[attr-defined]  # the only way before 3.13
    return [certificate.public_bytes(_DER) for certificate in chain]


def in_words(error: ssl.SSLError, stranger: str) -> ssl.SSLError:
    """A failure to verify as `PeerRefused`; any other error as it is."""
    if isinstance(error, PeerRefused) or not isinstance(error, ssl.SSLCertVerificationError):
        return error
    why = _VERIFICATION.get(error.verify_code, "a chain that cannot be verified")
    return PeerRefused(stranger if why is FOREIGN_ANCHOR else why, error.verify_message)


def protocol_failure(error: ssl.SSLError) -> str:
    """What went wrong in a handshake apart from certificates, as one of a few texts."""
    reason = error.reason or ""
    return "refused by the other side" if "_ALERT_" in reason else _PROTOCOL.get(reason, _FAILED)


def load_key_pair(context: ssl.SSLContext, pem: bytes) -> None:
    """Give a context its certificates and key from memory. Raises ssl.SSLError where they are not good.

    OpenSSL takes a key through Python from a file alone: this one has no name on any disk and is emptied at once.
    """
    with _file_of(pem) as path:
        context.load_cert_chain(path, password=lambda: b"")  # an encrypted key is an error, not a question


def pem_of(certificates: Iterable[bytes], key: bytes) -> bytes:
    """DER certificates and a PKCS#8 key as PEM."""
    parts = [(b"CERTIFICATE", der) for der in certificates]
    return b"".join(
        b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, base64.encodebytes(der), label)
        for label, der in (*parts, (b"PRIVATE KEY", key))
    )


@contextmanager
def _file_of(content: bytes) -> Iterator[str]:
    if not hasattr(os, "memfd_create"):  # not on Linux: a file that only we can read, for the time of loading it
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)

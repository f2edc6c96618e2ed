"""Where the keys of an issuer come from: its JWKS URL, or a file. Both are followed while the sidecar runs."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from openmcp.identity import fetch, jose

FRESH: Final = 300.0
"""Seconds after which the keys are asked for again: by then a key that was withdrawn is out of use."""
RETRY: Final = 10.0
"""Seconds between two attempts, whoever asks for keys that do not exist."""
STALE: Final = 4 * 3600.0
"""Seconds for which keys serve whose issuer cannot be reached: longer than its tokens live, usually."""
PATIENCE: Final = 5.0
"""Seconds that callers wait for the keys."""
WATCH: Final = 1.0
"""Seconds between two looks at a file."""
LIMIT: Final = 256 * 1024
"""Bytes of a key set."""
_USES: Final = frozenset(("sig",))
_log = logging.getLogger("openmcp.identity")


class KeysUnusable(Exception):
    """A file of keys that cannot be used; the text says why, without the file's name."""


class Get(Protocol):
    """As `fetch.get`."""

    def __call__(self, url: str, *, ca: bytes | None, patience: float, limit: int) -> Awaitable[bytes]: ...


class UrlKeys:
    """The keys behind a URL: asked for when they are first needed, when they are no longer `FRESH`, and when a token
    names one that is not known.

    While the issuer cannot be reached the last keys serve, for `STALE` seconds at most. `on_fetch` hears `ok` or
    `error` after each attempt; `ca` reads the CA (PEM), None for those of the system. Needs a running loop.
    """

    def __init__(
        self,
        url: str,
        ca: Callable[[], bytes | None] = lambda: None,
        on_fetch: Callable[[str], None] = lambda result: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        get: Get = fetch.get,
    ) -> None:
        self.generation = 0
        self.failing = ""
        self._url = url
        self._ca = ca
        self._on_fetch = on_fetch
        self._clock = clock
        self._get = get
        self._document = b""
        self._keys: jose.KeySet | None = None
        self._good_at = 0.0
        self._asked_at = float("-inf")
        self._due = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def current(self) -> jose.KeySet | None:
        """The keys, None where there are none to trust; asks for them on the side where that is due."""
        now = self._clock()
        if now >= self._due:
            self._ask(now)
            if self._keys is not None and now - self._good_at > STALE:
                self._keys, self._document = None, b""
                self.generation += 1
                _log.error("%s: its keys are too old to be trusted any more: its tokens are refused", self._url)
        return self._keys

    def may_refresh(self) -> bool:
        """See `jwt_issuer.IssuerKeys`."""
        return self._asking is not None or self._clock() - self._asked_at >= RETRY

    async def refresh(self) -> None:
        """See `jwt_issuer.IssuerKeys`. All who wait share one attempt."""
        if self.may_refresh():
            self._ask(self._clock())
        if self._asking is not None:
            await asyncio.wait((self._asking,))  # which neither cancels it nor fails with it

    def close(self) -> None:
        """Ask no more."""
        self._due = float("inf")
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self, now: float) -> None:
        if self._asking is None:
            self._asked_at, self._due = now, now + RETRY
            self._asking = asyncio.get_running_loop().create_task(self._attempt())
            self._asking.add_done_callback(self._attempted)

    def _attempted(self, task: asyncio.Task[None]) -> None:
        self._asking = None

    async def _attempt(self) -> None:
        try:
            document = await self._get(self._url, ca=self._ca(), patience=PATIENCE, limit=LIMIT)
            keys = await asyncio.to_thread(jose.key_set, document, _USES)  # PyJWT may have to be imported
        except Exception as error:  # whatever it was: callers wait for this, and the keys that there are stay
            self._failed(str(error))
        else:
            self._took(document, keys)

    def _failed(self, reason: str) -> None:
        if reason != self.failing:
            _log.warning("%s: no keys: %s", self._url, reason)
        self.failing = reason
        self._on_fetch("error")

    def _took(self, document: bytes, keys: jose.KeySet) -> None:
        if self.failing:
            _log.info("%s: the keys are to be had again", self._url)
        self.failing = ""
        self._good_at = self._clock()
        self._due = self._good_at + FRESH
        if document != self._document or self._keys is None:
            if not len(keys):
                _log.warning("%s: there is no key that could be used", self._url)
            self._document, self._keys = document, keys
            self.generation += 1
        self._on_fetch("ok")


class FileKeys:
    """The keys in a file, which is read again when it changes; one that cannot be used then leaves the last good ones.

    Raises `KeysUnusable` where there are none at the start.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.generation = 1
        self.failing = ""
        self._path = Path(path)
        self._clock = clock
        self._looked_at = clock()
        try:
            self._state = self._stat()
            self._keys = self._read()
        except (OSError, jose.NotAKeySet) as error:
            raise KeysUnusable(_said(error)) from error

    def current(self) -> jose.KeySet:
        """The keys as the file has them, seen at most `WATCH` seconds ago."""
        now = self._clock()
        if now - self._looked_at >= WATCH:
            self._looked_at = now
            self._look()
        return self._keys

    def may_refresh(self) -> bool:
        """Never: `current` sees what changes by itself."""
        return False

    async def refresh(self) -> None:
        """See `may_refresh`."""

    def _look(self) -> None:
        try:
            state = self._stat()
            if state != self._state:
                self._keys, self._state = self._read(), state
                self.generation += 1
                _log.info("%s: %d keys were read", self._path, len(self._keys))
            self.failing = ""
        except (OSError, jose.NotAKeySet) as error:
            if not self.failing:
                _log.error("%s: the last good keys stay: %s", self._path, _said(error))
            self.failing = _said(error)

    def _stat(self) -> tuple[int, ...]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _read(self) -> jose.KeySet:
        with self._path.open("rb") as file:
            document = file.read(LIMIT + 1)
        if len(document) > LIMIT:
            raise jose.NotAKeySet(f"larger than {LIMIT} bytes")
        return jose.key_set(document, _USES)


def _said(error: Exception) -> str:
    return (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)

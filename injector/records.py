"""The record of admissions: one JSON line on standard output for each, written before it is answered.

What cannot be recorded does not happen: where a line cannot be written, the pod is refused.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final

import msgspec

from openmcp.injector.review import Admission

PATIENCE: Final = 2.0
"""Seconds for a line; an API server waits 5 for the answer."""
_LOOKS: Final = 8
"""Parts of that: where the process stood still for seconds, one part is over and no line was slow."""
_MOST: Final = 1000
"""Characters of a text: what strangers send may be long, what API servers send is not."""
_MOST_WARNINGS: Final = 20
_WAITING: Final = 1000
"""Lines that wait for a slow reader at most."""


class CannotRecord(Exception):
    """The line could not be written; the text says why."""


class Line(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One admission. Without the patch: it follows from the pod and the settings, and may be long."""

    time: str
    kind: str = "admission"
    uid: str
    namespace: str
    name: str
    user: str
    outcome: str
    reason: str
    image: str | None
    dry_run: bool
    warnings: tuple[str, ...]
    milliseconds: float


class Records:
    """Writes to a file descriptor, of standard output by default, from a thread of its own."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._thread = ThreadPoolExecutor(1, "records")
        self._waiting = 0

    async def write(self, admission: Admission, seconds: float) -> None:
        """Write the line of an admission that took so long. Raises `CannotRecord`."""
        if self._waiting >= _WAITING:
            raise CannotRecord("standard output takes nothing")
        self._waiting += 1
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, _line(admission, seconds))
        writing.add_done_callback(self._written)
        for _ in range(_LOOKS):
            if (await asyncio.wait((writing,), timeout=PATIENCE / _LOOKS))[0]:
                break
        else:
            raise CannotRecord("standard output takes nothing")
        try:
            writing.result()
        except OSError as error:
            raise CannotRecord(f"standard output: {error.strerror}") from None

    def close(self) -> None:
        """Without waiting for a reader that has gone."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _written(self, writing: "asyncio.Future[None]") -> None:
        self._waiting -= 1
        if not writing.cancelled():
            writing.exception()  # was told to whoever waited, or nobody waits any more

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def _line(admission: Admission, seconds: float) -> bytes:
    line = Line(
        time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        uid=admission.uid[:_MOST],
        namespace=admission.namespace[:_MOST],
        name=admission.name[:_MOST],
        user=admission.user[:_MOST],
        outcome=admission.outcome,
        reason=admission.reason[:_MOST],
        image=admission.image,
        dry_run=admission.dry_run,
        warnings=tuple(warning[:_MOST] for warning in admission.warnings[:_MOST_WARNINGS]),
        milliseconds=round(seconds * 1000, 3),
    )
    return msgspec.json.encode(line) + b"\n"

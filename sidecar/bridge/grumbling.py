"""Standard error of a server: it goes into our log line by line, no faster than a log can be read."""

import logging
from collections.abc import Callable
from typing import Final

LONGEST: Final = 2048
"""Bytes of a line that are logged."""
LINES: Final = 25
BYTES: Final = 64 * 1024
"""What is logged, and what is read at all, between two sweeps; the server waits with the rest."""
_SAVED: Final = 8
"""Sweeps for which lines that were not used are saved up."""
_log = logging.getLogger("openmcp.bridge")


class Grumbling:
    """Logs what comes on standard error of one process, which is called `name`; `count` is told, now and then, how many
    lines were logged and how many were not."""

    def __init__(self, name: str, count: Callable[[int, int], None]) -> None:
        self.name = name
        self._tell = count
        self._logged = 0
        self._rest = b""
        self._lines = LINES * _SAVED
        self._bytes = BYTES
        self._skipped = 0

    def feed(self, data: bytes) -> bool:
        """Log the lines that are complete; False where no more is to be read before the next `sweep`."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._say(line)
        if len(self._rest) > LONGEST:  # the end of such a line counts as another one
            self._say(self._rest)
            self._rest = b""
        self._bytes -= len(data)
        return self._bytes > 0

    def sweep(self) -> None:
        """A quarter of a second has passed."""
        self._bytes = BYTES
        self._lines = min(self._lines + LINES, LINES * _SAVED)
        self._count()

    def end(self) -> None:
        """The process has ended."""
        self._say(self._rest)
        self._rest = b""
        self._count()

    def _count(self) -> None:
        if self._skipped:
            _log.info("%s: (%d more lines of its standard error)", self.name, self._skipped)
        if self._logged or self._skipped:
            self._tell(self._logged, self._skipped)
            self._logged = self._skipped = 0

    def _say(self, line: bytes) -> None:
        text = line.strip()
        if not text:
            return
        if self._lines <= 0:
            self._skipped += 1
            return
        self._lines -= 1
        self._logged += 1
        _log.info("%s: %s", self.name, visible(text))


def visible(data: bytes) -> str:
    """One line of others that no terminal and no reader of logs acts on."""
    text = data[:LONGEST].decode("utf-8", "replace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)

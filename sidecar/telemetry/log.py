"""The log of the process itself: start, reload, health, faults. Messages are the record's business (audit.py)."""

import logging
import sys
import time
from typing import TextIO

from openmcp.sidecar.telemetry.records import encode, timestamp

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every `LogRecord` has; all else came in as `extra` and is logged as a field."""

_OURS = "openmcp"


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, the fields given as `extra`, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        entry: dict[str, object] = {
            "time": timestamp(int(record.created * 1e9)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(extra(record))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return encode(entry).decode()


class TerminalFormatter(logging.Formatter):
    """For people: local time, level, message, `key=value` of the fields; text from outside cannot act on it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback below it where there is one."""
        when = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {key}={value}" for key, value in extra(record).items())
        line = _printable(f"{when} {record.levelname.lower():<7} {record.getMessage()}{fields}")
        if record.exc_info:
            return f"{line}\n{self.formatException(record.exc_info)}"
        return line


def configure(level: str, stream: TextIO | None = None) -> None:
    """Set up logging: `level` is `debug`, `info`, `warning` or `error`; `stream` is standard error by default.

    JSON lines where the stream is not a terminal. Called again (a reload) it replaces what it set up before. `debug` is
    for our own loggers: libraries, such as botocore, tell there whole messages with the credentials in them.
    """
    output = stream or sys.stderr
    handler = logging.StreamHandler(output)
    handler.setFormatter(TerminalFormatter() if output.isatty() else JsonFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if getattr(old, "openmcp", False):
            root.removeHandler(old)
    handler.openmcp = True  # type: ignore[attr-defined]  # marks ours among handlers a host program may have
    root.addHandler(handler)
    wanted = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(wanted, logging.INFO))
    logging.getLogger(_OURS).setLevel(wanted)
    logging.raiseExceptions = False  # a closed standard error must not stop anything


def extra(record: logging.LogRecord) -> dict[str, object]:
    """The fields that were given as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

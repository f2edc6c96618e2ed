"""The file that keeps pinned tools across restarts, shared by the sidecars and the operator's command."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

MAX_BYTES = 64 * 1024 * 1024
"""Of the file; a server has at most some thousand tools, of some KiB each."""


class Pinned(msgspec.Struct, frozen=True):
    """One tool: the digest and the definition that are trusted, and those that the server last gave.

    Digests are SHA-256 in hexadecimal, definitions canonical JSON.
    """

    pinned: str
    definition: str
    seen: str
    offered: str


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    servers: dict[str, dict[str, Pinned]] = {}


class PinFile:
    """The part of one server in a file of pins. Errors are `OSError`, and `ValueError` for a file that is not one."""

    def __init__(self, path: Path, server: str) -> None:
        self.path = path
        self._server = server
        self._read_at: tuple[int, int, int] | None = None

    def changed(self) -> Mapping[str, Pinned] | None:
        """The tools in the file, or None where it is as when it was last read, or not there."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        mark = (status.st_ino, status.st_mtime_ns, status.st_size)
        if mark == self._read_at:
            return None
        tools = self._load().servers.get(self._server, {})
        self._read_at = mark
        return tools

    def merge(self, noticed: Mapping[str, Pinned]) -> Mapping[str, Pinned]:
        """Write down what was noticed, and return what the file then holds: what it trusts already is not replaced."""
        with self._locked():
            content = self._load()
            tools = dict(content.servers.get(self._server, {}))
            for name, one in noticed.items():
                known = tools.get(name, one)
                tools[name] = Pinned(known.pinned, known.definition, one.seen, one.offered)
            self._write(_Content(1, content.servers | {self._server: tools}))
            return tools

    def accept(self, names: list[str]) -> None:
        """Trust what the server last gave for these tools. Raises KeyError for one that is not there."""
        with self._locked():
            content = self._load()
            tools = dict(content.servers.get(self._server, {}))
            for name in names:
                one = tools[name]
                tools[name] = Pinned(one.seen, one.offered, one.seen, one.offered)
            self._write(_Content(1, content.servers | {self._server: tools}))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; the lock is beside the file, which is replaced as a whole."""
        lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _load(self) -> _Content:
        try:
            data = self._bytes()
        except FileNotFoundError:
            return _Content(1)
        try:
            content = msgspec.json.decode(data, type=_Content)
        except msgspec.DecodeError as error:
            raise ValueError(f"not a file of pins: {error}") from None
        if content.version != 1:
            raise ValueError(f"a file of pins of version {content.version}, which this version does not know")
        return content

    def _bytes(self) -> bytes:
        """What is in the file; of a pipe or a device there would be no end."""
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("not a file that can be read as a whole")
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES // 1024**2} MiB")
        return data

    def _write(self, content: _Content) -> None:
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        fd = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError:
            new.unlink(missing_ok=True)
            raise

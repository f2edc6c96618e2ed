"""Real stores over loopback: a Redis server and DynamoDB Local, which a test may kill and start again.

    with redis_server(folder) as redis:
        ...                            # redis.url
        redis.kill()
        redis.start()                  # what was written is still there: it keeps an append-only file

A `redis-server` on the PATH is used, and the real part `dynamodb` with Java; a test is skipped by name where one is
missing, and fails with OPENMCP_REAL=1.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.real_parts import install
from tests.support import parts
from tests.support.process import Running, free_ports, running

PASSWORD = "correct horse"
_LOADING = b"-LOADING"
"""How Redis, which takes connections first and reads its files then, answers meanwhile."""


def wait_longer(patch: pytest.MonkeyPatch) -> None:
    """Have the stores wait for their servers for longer than this machine stalls."""
    for module, names in _WAITS.items():
        for name in names:
            patch.setattr(f"openmcp.sidecar.state.{module}.{name}", 60.0)


_WAITS = {
    "redis": ("_SECONDS",),
    "rediscounters": ("SECONDS",),
    "dynamoclient": ("_CONNECT", "_READ", "_PATIENCE"),
    "sqlite": ("_WAIT",),
}


class Store:
    """A server that listens on one port, the same after each start."""

    def __init__(self, name: str, command: Sequence[str | Path], port: int, url: str, warm_up: bytes) -> None:
        self.name = name
        self._warm_up = warm_up
        self.port = port
        self.url = url
        self._command = command
        self._running: Running | None = None
        self._stack = ExitStack()

    def start(self) -> None:
        """Start it, and wait until it takes connections, and has answered to `warm_up`."""
        self._running = self._stack.enter_context(running(self.name, self._command))
        self._running.wait_for(self._connects)

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._running is not None
        self._running.process.kill()
        self._running.process.wait()

    def stop(self) -> None:
        """End it for good."""
        self._stack.close()

    def _connects(self) -> str | None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.settimeout(30)
            connection.sendall(self._warm_up)
            said = connection.recv(64)
            return "ready" if said and not said.startswith(_LOADING) else None
        return None


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[Store]:
    """A Redis that writes every change to disk before it answers, as production should for approvals."""
    program = shutil.which("redis-server")
    if program is None:
        parts.missing("redis-server (Debian package redis-server)")
    (port,) = free_ports(1)
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", *options]
    with _kept(Store("redis-server", command, port, f"redis://127.0.0.1:{port}", b"PING\r\n")) as store:
        yield store


@asynccontextmanager
async def failed_over(folder: Path) -> AsyncIterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """The URL of a primary, and what makes a replica of it: connections stay, new ones lead to another primary."""
    with redis_server(folder) as first, redis_server(folder, "--appenddirname", "second") as second:
        primary, streams = first.port, list[asyncio.StreamWriter]()

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            streams.append(writer)
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    writer.write(data)
            writer.close()

        async def relayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answers, out = await asyncio.open_connection("127.0.0.1", primary)
            await asyncio.gather(pass_on(reader, out), pass_on(answers, writer))

        async def fail_over() -> None:
            nonlocal primary
            async with Redis.from_url(first.url) as admin:
                await admin.replicaof("127.0.0.1", str(second.port))
            primary = second.port

        relay = await asyncio.start_server(relayed, "127.0.0.1", 0)
        yield f"redis://127.0.0.1:{relay.sockets[0].getsockname()[1]}", fail_over
        relay.close()
        for stream in streams:
            stream.close()
        await relay.wait_closed()


@contextmanager
def dynamodb_local(folder: Path | None = None) -> Iterator[Store]:
    """DynamoDB Local; with a folder it keeps its tables there, else in memory."""
    parts.require("dynamodb")
    java = shutil.which("java")
    if java is None:
        parts.missing("java (Debian package default-jre-headless)")
    (port,) = free_ports(1)
    libraries = install.libraries("dynamodb")
    command = [java, "-Xmx512m", f"-Djava.library.path={libraries}", "-cp", f"{libraries}/*"]
    command += ["com.amazonaws.services.dynamodbv2.local.main.ServerRunner", "-disableTelemetry", "-port", str(port)]
    command += ["-inMemory"] if folder is None else ["-dbPath", str(folder)]
    with _kept(Store("DynamoDB Local", command, port, f"http://127.0.0.1:{port}", _LIST_TABLES)) as store:
        yield store


_LIST_TABLES = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: DynamoDB_20120810.ListTables\r\n"
    b"Content-Type: application/x-amz-json-1.0\r\n"
    b"Authorization: AWS4-HMAC-SHA256 Credential=none/20260101/eu-west-1/dynamodb/aws4_request, "
    b"SignedHeaders=host, Signature=none\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
)
"""The first call takes Java seconds on a busy machine, longer than a sidecar waits for its store."""


@contextmanager
def _kept(store: Store) -> Iterator[Store]:
    try:
        store.start()
        yield store
    finally:
        store.stop()

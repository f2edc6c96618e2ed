"""The worker as the sidecar sees it: a process that is there when it is needed, one message at a time."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final, cast

import msgspec

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.worker.values import Job, Reply

IDLE: Final = 60.0
"""Seconds without a job after which the worker ends: it holds some 35 MiB."""
PATIENCE: Final = 30.0
"""Seconds for one message; 10 MiB take 0.1 to 2."""
MOST_WAITING: Final = 128 * 1024 * 1024
"""Bytes of messages that wait for the worker or are in it; more are refused."""
_HEADER: Final = 4
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
"""What the worker gets of our environment: programs could read all that it got until it has concealed itself."""
_COMMAND: Final = ("-P", "-m", "openmcp.sidecar.worker.child")
_log = logging.getLogger("openmcp.worker")

Answered = tuple[Reply, tuple[bytes, ...]]
"""A reply, and its payload in the pieces it came in."""


class Worker:
    """Starts the worker's process with its first job, again after it ended, and ends it when it is idle.

    A message that the worker cannot cope with (it crashes, or needs too long) costs the process, and fails by itself.
    """

    def __init__(self, command: Sequence[str] = (sys.executable, *_COMMAND), patience: float = PATIENCE) -> None:
        self._command = tuple(command)
        self._patience = patience
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._running: _Running | None = None
        self._ended: list[subprocess.Popen[bytes]] = []
        self._jobs: set[asyncio.Task[Answered]] = set()
        self._last = 0.0

    @property
    def pid(self) -> int | None:
        """Of the process, where there is one."""
        return self._running.process.pid if self._running is not None else None

    async def perform(self, job: Job, message: Sequence[bytes]) -> Answered:
        """Have a message (its bytes in pieces) read. Raises `UpstreamFailed`: overloaded, too_large.

        Who stops waiting does not stop the worker: the link must stay in step."""
        if self._waiting + job.size > MOST_WAITING:
            raise UpstreamFailed("overloaded", "too many large messages at once")
        self._waiting += job.size
        task = asyncio.create_task(self._perform(job, message))
        self._jobs.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def sweep(self, now: float) -> None:
        """End a worker that was idle for long, and see to those that ended."""
        self._ended = [process for process in self._ended if process.poll() is None]
        if self._running is not None and not self._waiting and now - self._last > IDLE:
            self._part(self._running)

    async def close(self) -> None:
        """End the process; jobs under way fail."""
        if self._running is not None:
            self._kill(self._running)
        for process in self._ended:
            process.kill()
            await asyncio.to_thread(process.wait)
        self._ended.clear()

    def _done(self, task: "asyncio.Task[Answered]") -> None:
        self._jobs.discard(task)
        if not task.cancelled():
            task.exception()  # heard by whoever still waits

    async def _perform(self, job: Job, message: Sequence[bytes]) -> Answered:
        try:
            async with self._turn:
                running = await self._ready()
                try:
                    async with asyncio.timeout(self._patience):
                        return await self._exchange(running, job, message)
                except BaseException:
                    self._kill(running)  # it may be in the middle of something
                    raise
        except TimeoutError:
            _log.error("a message of %d bytes could not be read in %g s", job.size, self._patience)
            raise UpstreamFailed("too_large", f"it could not be read in {self._patience:g} s") from None
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            _log.error("a message of %d bytes could not be read: the worker failed: %s", job.size, error)
            raise UpstreamFailed("too_large", f"it could not be read: {error}") from None
        finally:
            self._waiting -= job.size
            self._last = asyncio.get_running_loop().time()

    async def _ready(self) -> "_Running":
        running = self._running
        if running is not None and not running.link.lost:
            return running
        if running is not None:
            self._kill(running)
        self._running = running = await self._start()
        return running

    async def _start(self) -> "_Running":
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.to_thread(_spawn, self._command, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        _, link = await asyncio.get_running_loop().create_unix_connection(_Link, sock=ours)
        return _Running(process, link)

    async def _exchange(self, running: "_Running", job: Job, message: Sequence[bytes]) -> Answered:
        job = running.introduced(job)
        header = msgspec.msgpack.encode(job)
        link = running.link
        await link.send(len(header).to_bytes(_HEADER) + header)
        for piece in message:
            await link.send(piece)
        size = int.from_bytes(b"".join(await link.receive(_HEADER)))
        reply = msgspec.msgpack.decode(b"".join(await link.receive(size)), type=Reply)
        payload = await link.receive(reply.size)
        return reply, tuple(payload)

    def _part(self, running: "_Running") -> None:
        """It ends by itself, when it sees that nothing more comes."""
        running.link.transport.close()
        self._ended.append(running.process)
        self._running = None

    def _kill(self, running: "_Running") -> None:
        if self._running is running:
            running.link.transport.abort()
            running.process.kill()
            self._ended.append(running.process)
            self._running = None


class _Running:
    """A process with the link to it."""

    def __init__(self, process: "subprocess.Popen[bytes]", link: "_Link") -> None:
        self.process = process
        self.link = link
        self._policies = 0

    def introduced(self, job: Job) -> Job:
        """The job without its policies, where those are what the process got last."""
        rules = job.rules
        if rules is None:
            return job
        if rules.number == self._policies:
            return msgspec.structs.replace(job, rules=msgspec.structs.replace(rules, policies=None))
        self._policies = rules.number
        return job


def _spawn(command: tuple[str, ...], descriptor: int) -> "subprocess.Popen[bytes]":
    """The command with the number of its descriptor; in a session of its own, so that Ctrl-C does not reach it."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [*command, str(descriptor)],
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # standard output may be the record
        start_new_session=True,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    )


class _Link(asyncio.Protocol):
    """The sidecar's end of the socket."""

    def __init__(self) -> None:
        self.lost = False
        self._pieces: list[bytes] = []
        self._available = 0
        self._wanted = 0
        self._arrived: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._available += len(data)
        if self._available >= self._wanted:
            self._wake()

    async def send(self, data: bytes) -> None:
        """Write, and wait while the worker is slow to read. Raises EOFError when it is gone."""
        if self.lost:
            raise EOFError("it ended")
        self.transport.write(data)
        if self._drained is not None:
            await self._drained
        else:
            await asyncio.sleep(0)  # others come in between

    async def receive(self, size: int) -> list[bytes]:
        """The next `size` bytes in the pieces they came in. Raises EOFError where they do not come."""
        while self._available < size:
            if self.lost:
                raise EOFError("it ended")
            self._wanted = size
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        taken: list[bytes] = []
        self._available -= size
        while size:
            piece = self._pieces[0]
            if len(piece) > size:
                self._pieces[0] = piece[size:]
                piece = piece[:size]
            else:
                self._pieces.pop(0)
            taken.append(piece)
            size -= len(piece)
        return taken

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.done():
            arrived.set_result(None)

"""One process of a stdio server: lines in and out, and an end that leaves nothing of it.

Source: 2026-07-28 basic/transports/stdio (the same framing as in all revisions; "Shutdown").
"""

import asyncio
import logging
import signal
import subprocess
from collections.abc import Callable
from enum import IntEnum, StrEnum
from typing import Final, Protocol, cast

from openmcp.sidecar.bridge import reaping
from openmcp.sidecar.bridge.grumbling import Grumbling
from openmcp.sidecar.bridge.spawning import Launch
from openmcp.sidecar.errors import UpstreamFailed

PATIENCE: Final = 2.0
"""Seconds a process has to end after its input was closed, and once more after SIGTERM."""
_CLOSING: Final = 1.0
"""Seconds after its end within which the pipes of a process close, if nobody else holds them."""
_log = logging.getLogger("openmcp.bridge")


class Reason(StrEnum):
    """Why a process ends: the first four by our will, in good order; the fifth by our will, at once; or by itself."""

    SESSION = "session"
    IDLE = "idle"
    CONFIGURATION = "configuration"
    STOPPED = "stopped"
    KILLED = "killed"
    EXITED = "exited"
    SIGNAL = "signal"


class Reader(Protocol):
    """Who talks to a process."""

    def line(self, data: bytes) -> None:
        """It wrote one line."""

    def ended(self, why: str) -> None:
        """It is gone, or will be in a moment; nothing more comes. Told once."""


class _Stage(IntEnum):
    RUNNING = 0
    CLOSED = 1
    TERMINATED = 2
    KILLED = 3


class Process(asyncio.SubprocessProtocol):
    """A process, called `name`, that talks to `reader`. A line of its output has at most `limit` bytes. `why` says why
    it ended, empty while it runs, and `reason` in a word; `asked`: because it was told to. `count` is told how many
    lines of its standard error were logged, and how many were not."""

    noun = "the process"

    def __init__(self, name: str, limit: int, reader: Reader, count: Callable[[int, int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.name = name
        self.pid = 0
        self.why = ""
        self.reason = Reason.EXITED
        self.asked = False
        self._mark = ""
        self._limit = limit
        self._reader = reader
        self._output = bytearray()
        self._seen = 0
        self._grumbling = Grumbling(name, count)
        self._transport: asyncio.SubprocessTransport | None = None
        self._stage = _Stage.RUNNING
        self._stage_at = 0.0
        self._exit_at = 0.0
        self._silent = False
        self._cleaning: asyncio.Task[None] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()

    async def start(self, launch: Launch) -> None:
        """Start it. Raises `UpstreamFailed` (connect, nothing was sent)."""
        self._mark = launch.mark
        try:
            await self._loop.subprocess_exec(
                lambda: self,
                *launch.arguments,
                env=launch.environment,
                cwd=launch.folder,
                start_new_session=True,
                preexec_fn=launch.settle,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error.__cause__ or error)
            raise UpstreamFailed("connect", f"{launch.arguments[0]} cannot be started: {why}", sent=False) from None

    def write(self, data: bytes) -> None:
        """Send one line (without its end). Raises `UpstreamFailed` where the process takes no more."""
        if self.why:
            raise UpstreamFailed("closed", f"the process {self.why}", sent=False)
        assert b"\n" not in data  # our own serialisation: else one message could pose as two
        pipe = cast(asyncio.WriteTransport | None, self._pipe(0))
        if pipe is None or self._stage or self._exit_at or pipe.is_closing():  # its end, in a moment, says why
            self._close()
            return
        if pipe.get_write_buffer_size() > self._limit:
            raise UpstreamFailed("overloaded", "the process does not read what it was sent", sent=False)
        pipe.write(data + b"\n")

    def reply(self, data: bytes) -> None:
        """The same for our own answer to what it asked."""
        self.write(data)

    def pause(self) -> None:
        """Read no more of its output."""
        pipe = cast(asyncio.ReadTransport | None, self._pipe(1))
        if pipe is not None and not self._silent and pipe.is_reading():
            pipe.pause_reading()

    def resume(self) -> None:
        """Read on."""
        pipe = cast(asyncio.ReadTransport | None, self._pipe(1))
        if pipe is not None and not self._silent and not pipe.is_reading():
            pipe.resume_reading()

    def end(self, why: str, reason: Reason) -> None:
        """Have it end as the specification says: its input is closed, later come SIGTERM and SIGKILL (`sweep`)."""
        self.asked = True
        self._close()
        self._tell(why, reason)

    def kill(self, why: str) -> None:
        """End it at once, with all it has started."""
        self._advance(_Stage.KILLED)
        if not self._exit_at:
            reaping.signal_group(self.pid, signal.SIGKILL)
        self._tell(why, Reason.KILLED)
        self.resume()

    def when_gone(self, call: Callable[[], None]) -> None:
        """Call this when nothing is left of it; `sweep` has to be called meanwhile."""
        self._gone.add_done_callback(lambda _: call())

    def sweep(self, now: float) -> None:
        """Go on with its end, and read on its standard error."""
        self._grumbling.sweep()
        complaints = cast(asyncio.ReadTransport | None, self._pipe(2))
        if complaints is not None and not complaints.is_closing() and not complaints.is_reading():
            complaints.resume_reading()
        if self._exit_at:
            if now - self._exit_at > _CLOSING:
                self._finish()
        elif self._stage and now - self._stage_at > PATIENCE:
            self._insist()

    def _insist(self) -> None:
        self._tell("closed its standard input or output and went on", Reason.KILLED)
        if self._stage is _Stage.CLOSED:
            self._advance(_Stage.TERMINATED)
            reaping.signal_group(self.pid, signal.SIGTERM)
        else:
            self._advance(_Stage.KILLED)
            reaping.signal_group(self.pid, signal.SIGKILL)

    def _close(self) -> None:
        if self._stage is _Stage.RUNNING:
            self._advance(_Stage.CLOSED)
            pipe = self._pipe(0)
            if pipe is not None:
                pipe.close()
        self.resume()  # what it still writes must not keep it from ending

    # asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._transport.get_pid()
        self.name = self._grumbling.name = f"{self.name}, process {self.pid}"
        pipe = self._pipe(0)
        if self._stage and pipe is not None:  # it was to end before it had begun
            pipe.close()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            complaints = cast(asyncio.ReadTransport | None, self._pipe(2))
            if not self._grumbling.feed(data) and complaints is not None:
                complaints.pause_reading()
            return
        self._output += data
        start = 0
        while (end := self._output.find(b"\n", self._seen)) >= 0:
            line = bytes(self._output[start:end])
            start = self._seen = end + 1
            if self._stage is not _Stage.KILLED:
                self._reader.line(line)
        del self._output[:start]
        self._seen = len(self._output)
        if self._seen > self._limit:
            self._output.clear()
            self._seen = 0
            self.kill(f"wrote a line of more than {self._limit} bytes")

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._silent = True
            if self._exit_at:
                self._finish()
        if fd != 2 and not self._exit_at:
            self._close()  # most often it is ending, and we hear in a moment how

    def process_exited(self) -> None:
        self._exit_at = self._loop.time()
        reaping.signal_group(self.pid, signal.SIGKILL)  # what it has started ends with it
        if self._silent:
            self._finish()

    def _finish(self) -> None:
        """It has ended and said all it had to say."""
        if self._cleaning is not None or self._transport is None:
            return
        self._grumbling.end()
        code = self._transport.get_returncode()
        self._tell(_meaning(code), Reason.SIGNAL if code is not None and code < 0 else Reason.EXITED)
        self._transport.close()
        self._cleaning = self._loop.create_task(self._clean())

    async def _clean(self) -> None:
        left = await asyncio.to_thread(reaping.kill_marked, self._mark)
        if left:
            _log.warning("%s: %d processes that it had started went on without it and were killed", self.name, left)
        self._gone.set_result(None)

    def _tell(self, why: str, reason: Reason) -> None:
        if not self.why:
            self.why, self.reason = why, reason
            self._reader.ended(why)

    def _advance(self, stage: _Stage) -> None:
        self._stage = max(stage, self._stage)
        self._stage_at = self._loop.time()

    def _pipe(self, fd: int) -> asyncio.BaseTransport | None:
        transport = self._transport
        return transport.get_pipe_transport(fd) if transport is not None else None


def _meaning(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with exit status {code}"

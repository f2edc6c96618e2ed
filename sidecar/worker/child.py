"""The worker's process: takes one job after the other from its socket until the sidecar closes that.

`python -m openmcp.sidecar.worker.child FD`, started by `openmcp.sidecar.worker.process` alone.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import msgspec

from openmcp.sidecar.concealing import conceal
from openmcp.sidecar.worker.inspecting import Inspecting
from openmcp.sidecar.worker.job import perform
from openmcp.sidecar.worker.values import Job

NICENESS: Final = 10
"""The worker has what the sidecar leaves of a CPU: measured, its work then delays a call by some 0.3 ms, else by 4."""
_HEADER: Final = 4


def main() -> None:
    """Serve until there are no more jobs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the sidecar drains, and closes the socket when it is done
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # where memory is short, rather this process than the sidecar
        Path("/proc/self/oom_score_adj").write_text("1000")
    conceal()  # it gets what agents say; nothing can be written there any more
    gc.disable()  # the objects of a message are many, live together and hold no cycles
    with socket.socket(fileno=int(sys.argv[1])) as link:
        serve(link)


def serve(link: socket.socket) -> None:
    """Take jobs from `link` until it is closed."""
    decoder, encoder = msgspec.msgpack.Decoder(Job), msgspec.msgpack.Encoder()
    inspecting = Inspecting()
    while header := _exactly(link, _HEADER):
        job = decoder.decode(_exactly(link, int.from_bytes(header)))
        reply, payload = perform(job, _exactly(link, job.size), inspecting.inspector(job.rules))
        encoded = encoder.encode(reply)
        link.sendall(len(encoded).to_bytes(_HEADER) + encoded)
        for piece in payload:
            link.sendall(piece)


def _exactly(link: socket.socket, size: int) -> bytes:
    """The next `size` bytes; fewer (none) only at the end."""
    if size == 0:
        return b""
    data = link.recv(size, socket.MSG_WAITALL)
    while 0 < len(data) < size:
        more = link.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            return b""
        data += more
    return data


if __name__ == "__main__":
    main()

"""Leaving nothing behind: a process ends with its group, and with those of its descendants that left the group."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from openmcp.sidecar.bridge.spawning import MARK

_ROUNDS: Final = 20
"""How often it is looked for descendants: one that forks meanwhile is found by the next round."""
_STARTING: Final = 0.005
"""Seconds until it is looked again for those of which it could not be told."""
_ENV_END: Final = 48
"""The place of `env_end` in /proc/<pid>/stat behind the name."""
_PROCESSES: Final = Path("/proc")


def signal_group(leader: int, number: int) -> None:
    """Signal a process, which leads its group, with all of the group that is left; 0 is one that was never started."""
    if leader <= 1:  # these numbers would mean our own group, or everybody
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def kill_marked(mark: str) -> int:
    """Kill every process that has this mark in its environment; how many there were. Blocks for some milliseconds.

    On systems without /proc nobody is found: the group is all that ends there.
    """
    wanted = f"{MARK}={mark}".encode()
    killed = 0
    for _ in range(_ROUNDS):
        found = [_kill_if(entry, wanted) for entry in _PROCESSES.glob("[0-9]*")]
        killed += found.count(True)
        if not any(found):
            if None not in found:
                break
            time.sleep(_STARTING)
    return killed


def _kill_if(process: Path, wanted: bytes) -> bool | None:
    """Kill one process, if it is one: by a descriptor, since its number may be another's a moment later. None where
    that cannot be told yet."""
    try:
        handle = os.pidfd_open(int(process.name))
    except OSError:
        return False
    try:
        environment = _environment(process)
        if environment is None or wanted not in environment.split(b"\0"):
            return None if environment is None else False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:  # it is gone, or another user's
        return False
    finally:
        os.close(handle)
    return True


def _environment(process: Path) -> bytes | None:
    """The environment of a process. None while it is in the midst of execve(2), where it has none for a moment: there
    is a program, unlike that of kernel threads and what has ended, and nothing yet where its environment would end
    (proc(5), `env_end`)."""
    environ = process / "environ"
    found = environ.read_bytes()
    if not found:
        (process / "exe").readlink()
        if (process / "stat").read_bytes().rpartition(b")")[2].split()[_ENV_END] == b"0":
            return None
        found = environ.read_bytes()  # which may have come meanwhile
    return found

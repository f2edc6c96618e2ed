"""Leaving nothing behind: a process ends with its group, and with those of its descendants that left the group."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from openmcp.sidecar.bridge.spawning import MARK

_ROUNDS: Final = 20
"""How often it is looked for descendants: one that forks meanwhile is found by the next round."""
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
        found = sum(_kill_if(entry.name, wanted) for entry in _PROCESSES.glob("[0-9]*"))
        killed += found
        if not found:
            break
    return killed


def _kill_if(name: str, wanted: bytes) -> bool:
    """Kill one process, if it is one: by a descriptor, since its number may be another's a moment later."""
    try:
        handle = os.pidfd_open(int(name))
    except OSError:
        return False
    try:
        if wanted not in (_PROCESSES / name / "environ").read_bytes().split(b"\0"):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:  # it is gone, or another user's
        return False
    finally:
        os.close(handle)
    return True

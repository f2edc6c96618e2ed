"""What the sidecar holds in memory and in its environment (keys, tokens, what agents say) is not for other programs of
the same user."""

import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def conceal() -> None:
    """Let no program of the same user read this process, its memory, environment and descriptors, unless it is
    privileged; nor is its memory ever written to disk. Linux alone knows this; see prctl(2), PR_SET_DUMPABLE."""
    if sys.platform != "linux":
        return
    import ctypes  # here: a megabyte that most have no use for

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)

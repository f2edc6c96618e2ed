"""How the process of a server is started: its command, its folder, what it may take, and the environment it gets,
which is what is listed and nothing else."""

import math
import os
import resource
import secrets as randomness
import shutil
from typing import Final

import msgspec

from openmcp.config import secrets
from openmcp.config.model import ProcessLimits, Secret, Stdio
from openmcp.config.secrets import SecretError
from openmcp.sidecar.errors import UpstreamFailed

MARK: Final = "OPENMCP_PROCESS"
"""The variable that all descendants of a process have in common, unless they give it up."""


class Launch(msgspec.Struct, frozen=True):
    """What is started: the program, its arguments, its whole environment, its folder. `mark` is the value of `MARK`,
    `bounds` are limits of `resource` with their values."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str | None
    mark: str
    bounds: tuple[tuple[int, int], ...]

    def settle(self) -> None:
        """Called in the new process before the program: what it may take, and that it gets no descriptor of ours but
        its standard ones. An exception here means that the program is not started."""
        for number in _descriptors():
            try:
                os.set_inheritable(number, False)
            except OSError:  # it was that of the listing itself
                continue
        for which, value in self.bounds:
            resource.setrlimit(which, (value, value))


def launch(stdio: Stdio) -> Launch:
    """What to start now; secrets are read anew each time. Raises `UpstreamFailed` (connect, nothing was sent)."""
    mark = randomness.token_hex(16)
    try:
        listed = {name: _text(value) for name, value in stdio.env}
    except (SecretError, UnicodeDecodeError) as error:
        raise UpstreamFailed("connect", f"stdio.env: {error}", sent=False) from None
    environment = {"PATH": os.environ.get("PATH", os.defpath)} | listed | {MARK: mark}
    program = shutil.which(stdio.command, path=_absolute(environment["PATH"]))
    if program is None:
        raise UpstreamFailed("connect", f"no program {stdio.command} that can be run", sent=False)
    if stdio.cwd is not None and not os.path.isdir(stdio.cwd):  # execve(2) would blame the program
        raise UpstreamFailed("connect", f"stdio.cwd: there is no folder {stdio.cwd}", sent=False)
    bounds = _bounds(stdio.limits)
    return Launch((os.path.abspath(program), *stdio.args), environment, stdio.cwd, mark, bounds)


def _absolute(path: str) -> str:
    """A PATH without relative folders: what somebody puts into the folder we run in is not what was meant."""
    return os.pathsep.join(folder for folder in path.split(os.pathsep) if os.path.isabs(folder))


def _bounds(limits: ProcessLimits) -> tuple[tuple[int, int], ...]:
    """No memory of it is ever written to disk: it may hold secrets. The rest as configured; more than we may ourselves
    nobody can give."""
    wanted = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, limits.memory),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CPU, math.ceil(limits.cpu) if limits.cpu is not None else None),
    )
    return tuple((which, _possible(which, value)) for which, value in wanted if value is not None)


def _possible(which: int, value: int) -> int:
    most = resource.getrlimit(which)[1]
    return value if most == resource.RLIM_INFINITY else min(value, most)


def _descriptors() -> range | list[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd") if int(name) > 2]
    except OSError:
        return range(3, 4096)


def _text(value: str | Secret) -> str:
    return value if isinstance(value, str) else secrets.read(value).decode()

"""How the process of a server is started: its command, its folder, and the environment it gets, which is what is
listed and nothing else."""

import os
import secrets as randomness
import shutil
from typing import Final

import msgspec

from openmcp.config import secrets
from openmcp.config.model import Secret, Stdio
from openmcp.config.secrets import SecretError
from openmcp.sidecar.errors import UpstreamFailed

MARK: Final = "OPENMCP_PROCESS"
"""The variable that all descendants of a process have in common, unless they give it up."""


class Launch(msgspec.Struct, frozen=True):
    """What is started: the program, its arguments, its whole environment, its folder. `mark` is the value of `MARK`."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str | None
    mark: str


def launch(stdio: Stdio) -> Launch:
    """What to start now; secrets are read anew each time. Raises `UpstreamFailed` (connect, nothing was sent)."""
    mark = randomness.token_hex(16)
    try:
        listed = {name: _text(value) for name, value in stdio.env}
    except (SecretError, UnicodeDecodeError) as error:
        raise UpstreamFailed("connect", f"stdio.env: {error}", sent=False) from None
    environment = {"PATH": os.environ.get("PATH", os.defpath)} | listed | {MARK: mark}
    program = shutil.which(stdio.command, path=environment["PATH"])
    if program is None:
        raise UpstreamFailed("connect", f"no program {stdio.command} that can be run", sent=False)
    return Launch((os.path.abspath(program), *stdio.args), environment, stdio.cwd, mark)


def _text(value: str | Secret) -> str:
    return value if isinstance(value, str) else secrets.read(value).decode()

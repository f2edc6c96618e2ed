"""From the tree of a source to a server that is a program here: `stdio` of an entry of `servers`."""

import os
import re

from openmcp.config import model
from openmcp.config.cursor import At, Reading, Shape, choice, integer, list_of, pairs, shortened, string
from openmcp.config.values import duration, file_name, secret, size
from openmcp.config.yamlsource import Mapping, Scalar

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HTTP_ONLY = ("auth", "tls", "transport")
_WITHOUT_EFFECT = ("health", "outliers")
_FEWEST_FILES = 16
"""With fewer no interpreter starts."""


def _command(at: At) -> str | None:
    """A program: its name, to be found in `PATH`, or its file."""
    value = string(at)
    if value is None or os.sep not in value:
        if value is not None and any(char.isspace() for char in value):
            at.warn(f'no shell reads this: the program is called "{shortened(value)}"', "write arguments in `args`")
        return value
    return file_name(at)


def _argument(at: At) -> str | None:
    """Any text without a NUL; numbers and booleans want quotes."""
    value = at.node.value if isinstance(at.node, Scalar) else None
    if not isinstance(value, str):
        at.expected("text", f'put it in quotes: "{at.text()}"' if at.text() else None)
        return None
    if "\0" in value:
        at.error("must hold no NUL")
        return None
    return value


def _variable_fault(name: str) -> str | None:
    if name == "OPENMCP_PROCESS":
        return "a name that is not ours: by this one we find what a server has started"
    return None if _VARIABLE.fullmatch(name) else "the name of an environment variable: letters, digits and _"


def _variable(at: At) -> str | model.Secret | None:
    return secret(at) if isinstance(at.node, Mapping) else _argument(at)


stdio: Reading[model.Stdio] = Shape(
    model.Stdio,
    {
        "command": _command,
        "args": list_of(_argument),
        "env": pairs(_variable, _variable_fault),
        "cwd": file_name,
        "share": choice(("session", "server")),
        "processes": integer(1, 10_000),
        "perAgent": integer(1, 10_000),
        "idle": duration,
        "limits": Shape(
            model.ProcessLimits, {"memory": size, "openFiles": integer(_FEWEST_FILES, 1_000_000), "cpu": duration}
        ),
    },
    required=("command",),
)


def check_place(at: At) -> bool:
    """Report unless a server is in one place: at its endpoints or in a program of this machine; whether it is."""
    endpoints, program = at.key("endpoints"), at.key("stdio")
    if endpoints is None and program is None:
        at.error("`endpoints` is required", "or `stdio`, where the server is a program of this machine")
        return False
    if program is None:
        return True
    if endpoints is not None:
        program.error("a server has `endpoints` or `stdio`, not both")
        return False
    found = [key for key in map(at.key, _HTTP_ONLY) if key is not None]
    for key in found:
        secrets = "" if key.path.endswith("transport") else "the server gets its secrets in stdio.env: "
        key.error("has no meaning with `stdio`", f"{secrets}remove it")
    timeouts = at.key("timeouts")
    connect = timeouts.key("connect") if timeouts is not None else None
    for idle in (*map(at.key, _WITHOUT_EFFECT), connect):
        if idle is not None:
            idle.warn("has no effect with `stdio`", "there is nothing to connect to: remove it")
    return not found

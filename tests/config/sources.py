"""Writing configurations down and reading what comes of them."""

from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

import pytest

from openmcp.config import ConfigurationError, Loaded, load

HEAD = "apiVersion: openmcp.dev/v1alpha1\n"
"""Line 1 of most cases, so that the first line of their own is line 2."""


def outcome(files: Mapping[str, str | bytes], path: str, namespace: str | None = None) -> Loaded | ConfigurationError:
    """Load `path` from a folder with these files; problems then name files by the same relative names."""
    with TemporaryDirectory() as folder, chdir(folder):
        for name, text in files.items():
            target = Path(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            return load(Path(path), namespace)
        except ConfigurationError as error:
            return error


def single(text: str) -> Loaded | ConfigurationError:
    """Load one gateway.yaml: the apiVersion on line 1, then `text` from line 2 on."""
    return outcome({"gateway.yaml": HEAD + dedent(text).lstrip("\n")}, "gateway.yaml")


def good(text: str) -> Loaded:
    """Load one gateway.yaml that must be accepted."""
    found = single(text)
    assert isinstance(found, Loaded), str(found)
    return found


def errors(text: str) -> list[str]:
    """The errors of one gateway.yaml, without the name of the file: `2: servers[0]: ...`."""
    found = single(text)
    assert isinstance(found, ConfigurationError), "accepted"
    return [str(problem).removeprefix("gateway.yaml:") for problem in found.problems]


def warnings(text: str) -> list[str]:
    """The warnings of one good gateway.yaml, without the name of the file."""
    return [str(problem).removeprefix("gateway.yaml:") for problem in good(text).warnings]


def check(cases):
    """Parametrise over cases `{what: (yaml, messages...)}`."""
    return pytest.mark.parametrize(
        ("text", "expected"), [pytest.param(case[0], list(case[1:]), id=name) for name, case in cases.items()]
    )


def server(line: str, indent: str = "    ") -> str:
    """A server whose line 4 is the one in question."""
    return f'servers:\n  - endpoints: ["http://h/mcp"]\n{indent}{line}\n    name: s\n'


def rule(line: str) -> str:
    """A policy whose only rule is on line 5."""
    return f"policies:\n  - {{name: p, servers: [s], requests: [\n    # the rule\n    {line}]}}\n"

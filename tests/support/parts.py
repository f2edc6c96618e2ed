"""Real parts in tests: skipped by name where missing, a failure where ``OPENMCP_REAL=1``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from tests.real_parts import install


def require(*parts: str) -> None:
    """Skip the test, or fail it where ``OPENMCP_REAL=1``, unless all ``parts`` are installed."""
    absent = [part for part in parts if not install.is_installed(part)]
    if absent:
        missing(f"{', '.join(absent)} (make real-parts)")


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where ``OPENMCP_REAL=1``, since this is not there."""
    message = f"real part missing: {what}"
    if os.environ.get("OPENMCP_REAL") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def node(*arguments: str | Path) -> list[str | Path]:
    """Return a command that runs the pinned Node.js."""
    return [install.node_binary(), *arguments]


def sdk_environment() -> dict[str, str]:
    """Return what our Node scripts need in their environment to find the TypeScript SDKs."""
    return {"OPENMCP_PART": str(install.part_folder("sdk"))}

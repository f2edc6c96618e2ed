"""`manifests/compose`, copied to where a test may write, and started as plain processes by its own `up.py`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_parts.install import is_installed, part_folder
from tests.support.process import ROOT, Running, running

COMPOSE = ROOT / "manifests" / "compose"
PARTS = ("collector", "prometheus")
PATIENCE = 90.0


def copied(folder: Path) -> Path:
    """A working copy as far as the set needs it, without what its scripts made in ours; where compose.yaml is."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "manifests/compose"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "manifests" / "helm").symlink_to(ROOT / "manifests" / "helm")
    return folder / "manifests" / "compose"


def secrets(compose: Path) -> None:
    """Make what nobody should find in a repository."""
    subprocess.run(["sh", "-c", 'umask 077; sh "$0"', compose / "secrets.sh"], check=True, capture_output=True)


@dataclass(frozen=True)
class Composed:
    """The running set: URLs by service, and where everything lies."""

    compose: Path
    folder: Path
    running: Running
    urls: dict[str, str]

    def secret(self, name: str) -> str:
        """A secret that was made."""
        return (self.compose / "secrets" / name).read_text()

    def records(self) -> list[dict[str, Any]]:
        """The gateway's record so far, out of what it prints: it writes a moment after it answered."""
        lines = (self.folder / "gateway.log").read_text().rpartition("\n")[0].splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry.get("event") in ("request", "response")]


@contextmanager
def up(folder: Path) -> Iterator[Composed]:
    """Start it on free ports, with Prometheus and a collector where they are installed as real parts.

    :raises ProcessFailed: it did not get ready, did not end by SIGTERM with exit code 0, or left something behind.
    """
    compose, run = copied(folder), folder / "run"
    programs = [str(part_folder(part) / "bin") for part in PARTS if is_installed(part)]
    path = {"PATH": os.pathsep.join((*programs, os.environ["PATH"])), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, compose / "up.py", "--free-ports", "--folder", run]
    with running("up.py", command, path, compose) as process:
        process.wait_for(lambda: "up" if "Ctrl-C ends it." in process.printed() else None, PATIENCE)
        pid = process.process.pid
        started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        yield Composed(compose, run, process, json.loads((run / "addresses.json").read_text()))
        if code := process.stop():
            raise process.fail(f"ended with {code} after SIGTERM")
        left = [one for one in started if Path(f"/proc/{one}").exists()]
        if len(started) < 5 or left:
            raise process.fail(f"started {started}, and left {left} behind")

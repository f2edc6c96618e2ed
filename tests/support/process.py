"""Programs a test talks to over loopback: MCP servers, and the sidecar itself.

Each is a process of its own, ends with the ``with`` block that started it, and writes what it prints
into one log, which is shown where it fails to start.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OPENMCP = Path(sys.executable).with_name("openmcp")  # the command, as it was installed

START_SECONDS = 20.0  # generous: a loaded machine starts Node in seconds
STOP_SECONDS = 15.0
_GLANCE = 0.02  # seconds between two looks at a process that is starting; it has no event to wait for

_kept: deque[socket.socket] = deque()
_MOST_KEPT = 256 if sys.platform == "linux" else 0
"""Sockets of `free_ports` that stay open; elsewhere they would keep the port from everybody."""
_LISTENING = re.compile(r"^listening on (https?://127\.0\.0\.1:\d+)$", re.MULTILINE)


class ProcessFailed(AssertionError):
    """A process did not start, or did not stop as it should; its log is in the text."""


@dataclass(frozen=True)
class Running:
    """A process under test."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def printed(self) -> str:
        """Return what it has printed so far, both streams."""
        return self.log.read_text(errors="replace")

    def fail(self, what: str) -> ProcessFailed:
        """Return the error that says ``what`` went wrong, with the end of the log."""
        return ProcessFailed(f"{self.name} {what}\n--- its log ---\n{self.printed()[-8000:]}")

    def wait_for(self, ready: Callable[[], str | None], patience: float = START_SECONDS) -> str:
        """Return what ``ready`` returns once it is not None.

        :raises ProcessFailed: the process ended first, or took longer than ``patience`` seconds.
        """
        deadline = time.monotonic() + patience
        while (found := ready()) is None:
            if self.process.poll() is not None:
                raise self.fail(f"ended with {self.process.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise self.fail(f"was not ready after {patience:.0f} s")
            time.sleep(_GLANCE)
        return found

    def resident(self) -> int:
        """Return what it holds in memory now (RSS), in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) // 1024

    def stop(self) -> int:
        """End it by SIGTERM and return its exit code.

        :raises ProcessFailed: it had to be killed after ``STOP_SECONDS``.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise self.fail(f"was still there {STOP_SECONDS:.0f} s after SIGTERM") from None


@contextmanager
def running(
    name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[Running]:
    """Start ``command`` and stop it at the end; its standard output and error go to one log file."""
    with tempfile.TemporaryDirectory(prefix="openmcp-test-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started = Running(name, process, log)
        try:
            yield started
        except BaseException:
            process.kill()
            process.wait()
            raise
        started.stop()


@contextmanager
def mcp_server(
    name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[str]:
    """Run a server that prints ``listening on URL``, and yield the URL of its MCP endpoint."""
    with running(name, command, env, cwd) as server:

        def address() -> str | None:
            found = _LISTENING.search(server.printed())
            return found[1] if found else None

        yield server.wait_for(address) + "/mcp"


def python_server(module: str, *arguments: str) -> Sequence[str]:
    """Return the command of a fixture server that is a module, under this interpreter."""
    return [sys.executable, "-m", module, *arguments]


@dataclass(frozen=True)
class Sidecar:
    """A running ``openmcp run``; ``url`` and ``admin`` are base URLs without a path."""

    url: str
    admin: str
    running: Running
    folder: Path

    def records(self) -> list[dict[str, Any]]:
        """Return the record without checkpoints, one mapping per line (the configuration sends it to a file).

        All of what the sidecar has answered is in it: the file follows an answer by a moment.

        :raises ProcessFailed: the sidecar could not write it.
        """
        self.running.wait_for(self._written, STOP_SECONDS)
        lines = [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] != "checkpoint"]

    def _written(self) -> str | None:
        if self.running.process.poll() is not None:
            return "ended"
        with suppress(OSError), urllib.request.urlopen(f"{self.admin}/metrics", timeout=STOP_SECONDS) as answer:
            return "written" if b"\nopenmcp_audit_buffered_bytes 0" in answer.read() else None
        return None


@contextmanager
def sidecar(
    config: Mapping[str, Any],
    env: Mapping[str, str] | None = None,
    within: Callable[[Sequence[str | Path], Path], Sequence[str | Path]] = lambda command, _folder: command,
) -> Iterator[Sidecar]:
    """Run the sidecar with ``config`` on free loopback ports, ready when it is yielded.

    ``listen`` and ``telemetry.audit`` are filled in where ``config`` does not have them, ``env`` is added to ours;
    ``within`` makes the command that is run of its command and the folder it needs.

    :raises ProcessFailed: it did not get ready, or did not end by SIGTERM with exit code 0.
    """
    with tempfile.TemporaryDirectory(prefix="openmcp-sidecar-") as name:
        folder = Path(name)
        mcp, admin = free_ports(2)
        listen = {"mcp": f"127.0.0.1:{mcp}", "admin": f"127.0.0.1:{admin}"}
        record = {"telemetry": {"audit": {"output": {"file": str(folder / "audit.jsonl")}}}}
        whole = {"apiVersion": "openmcp.dev/v1alpha1", **record, **config}
        whole["listen"] = {**listen, **config.get("listen", {})}
        file = folder / "gateway.yaml"
        file.write_text(json.dumps(whole, indent=1))  # JSON is YAML
        with running("openmcp run", within([OPENMCP, "run", "-c", file], folder), env, folder) as process:
            scheme = "https" if "tls" in whole["listen"] else "http"
            url, operators = f"{scheme}://{whole['listen']['mcp']}", f"http://{whole['listen']['admin']}"
            process.wait_for(lambda: _ready(operators))
            yield Sidecar(url, operators, process, folder)
            if code := process.stop():
                raise process.fail(f"ended with {code} after SIGTERM")


def _ready(admin: str) -> str | None:
    with suppress(OSError, urllib.error.HTTPError), urllib.request.urlopen(f"{admin}/readyz", timeout=1) as answer:
        return str(answer.status)
    return None


def allow_all(**endpoints: str) -> dict[str, Any]:
    """Return a configuration under which anybody may do everything on these servers, by name and URL."""
    return {
        "identity": {"agents": [{"type": "none"}]},
        "servers": [{"name": name, "endpoints": [url]} for name, url in endpoints.items()],
        "policies": [
            {
                "name": "allow-all",
                "servers": sorted(endpoints),
                "requests": [{"name": "everything", "action": "allow"}],
            }
        ],
    }


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens on, for those who are told the numbers.

    A socket of ours stays bound to each and does not listen: Linux then gives it to nobody else who asks for any port,
    nor to a connection, while a server that names it may listen there (with SO_REUSEADDR, which servers set).
    """
    made = [socket.socket() for _ in range(count)]
    for each in made:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in made]
    _kept.extend(made)
    while len(_kept) > _MOST_KEPT:
        _kept.popleft().close()
    return ports

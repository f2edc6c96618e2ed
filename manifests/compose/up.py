"""Start what compose.yaml describes as plain processes on this machine: no Docker, loopback alone, no root.

    python up.py                 until Ctrl-C; then all of it ends
    python up.py --free-ports    where the usual ports are taken

It needs an environment with openmcp, its extras `redis` and `otlp`, and the MCP SDK (`make setup` at the root makes
one), and redis-server. Prometheus and an OpenTelemetry collector (`otelcol`) are started where they are on the PATH;
Grafana is not. Keys and passwords are made by secrets.sh.

All it knows of the services it reads from compose.yaml: `x-process` and `command`, what is mounted and published. Each
service gets copies of what would be mounted, in which paths of the container are folders below --folder, and
`redis:6379` or `0.0.0.0:15001` are addresses of loopback. A file that was changed is taken over by another start.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
SECRETS = "/run/secrets"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what containers listen on; here it becomes loopback
OPTIONAL = {"prometheus": "prometheus", "collector": "otelcol"}
"""Services that are left out where their program is not there."""
NOT_HERE = {"grafana"}
START_SECONDS = 60.0
STOP_SECONDS = 15.0
_GLANCE = 0.05
_PDEATHSIG = 1  # PR_SET_PDEATHSIG of prctl(2)


class Failed(Exception):
    """The set could not be started, or did not stay; the text says which part and why."""


@dataclass
class Service:
    """One service of compose.yaml, and how it is started here."""

    name: str
    described: Mapping[str, Any]
    mounts: dict[str, Path] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def published(self) -> dict[int, int]:
        """The ports that compose.yaml publishes: of the container to of the machine."""
        found = (entry.split(":") for entry in self.described.get("ports", ()))
        return {int(inside): int(outside) for _, outside, inside in found}


class Ports:
    """Where each port of each service is on this machine."""

    def __init__(self, services: Sequence[Service], free: bool) -> None:
        self._services = {service.name: service for service in services}
        self._free = free
        self._chosen: dict[tuple[str, int], int] = {}

    def of(self, name: str, port: int) -> int:
        """The machine's port for a port of a service: as it is published, unless any free one is wanted."""
        if (name, port) not in self._chosen:
            published = None if self._free else self._services[name].published.get(port)
            self._chosen[name, port] = published or free_port()
        return self._chosen[name, port]

    def known(self, name: str) -> list[int]:
        """The machine's ports of a service that somebody has asked for: those that it is reached at."""
        return sorted(here for (other, _), here in self._chosen.items() if other == name)

    def publisher(self, outside: int) -> tuple[str, int] | None:
        """The service that publishes a port of the machine, and which of its own it is."""
        for service in self._services.values():
            for inside, found in service.published.items():
                if found == outside:
                    return service.name, inside
        return None


class Rewriter:
    """What is written for containers, as it has to be written here."""

    def __init__(self, services: Sequence[Service], ports: Ports) -> None:
        self._ports = ports
        names = "|".join(re.escape(service.name) for service in services)
        self._address = re.compile(rf"(?<![\w.-])(?P<host>{names}|0\.0\.0\.0|127\.0\.0\.1):(?P<port>\d+)\b")
        self._host_and_port = re.compile(r"host: 0\.0\.0\.0, port: (\d+)")

    def text(self, service: Service, text: str) -> str:
        """A text that belongs to `service`: addresses first, then paths, the longest first."""
        text = self._address.sub(lambda found: self._loopback(service, found), text)
        text = self._host_and_port.sub(
            lambda found: f"host: 127.0.0.1, port: {self._ports.of(service.name, int(found[1]))}", text
        )
        if not service.mounts:
            return text
        paths = "|".join(re.escape(path) for path in sorted(service.mounts, key=len, reverse=True))
        return re.sub(rf"(?<![\w.-])({paths})(?![\w.-])", lambda found: str(service.mounts[found[1]]), text)

    def command(self, service: Service) -> list[str]:
        """The words of a command, in which a host and a port may also stand by themselves."""
        words = list(map(str, service.described["command"]))
        ported = EVERYWHERE in words
        made = []
        for word in words:
            if word == EVERYWHERE:
                word = "127.0.0.1"
            elif ported and re.fullmatch(r"[1-9]\d{3,4}", word):
                word = str(self._ports.of(service.name, int(word)))
            made.append(self.text(service, word))
        return made

    def _loopback(self, service: Service, found: re.Match[str]) -> str:
        host, port = found["host"], int(found["port"])
        if host == "127.0.0.1":  # what browsers see of something that is published
            publisher = self._ports.publisher(port)
            return f"127.0.0.1:{self._ports.of(*publisher)}" if publisher else found[0]
        return f"127.0.0.1:{self._ports.of(service.name if host == EVERYWHERE else host, port)}"


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def described(secrets: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The services of compose.yaml, and the file of each of its secrets."""
    composed = yaml.safe_load((HERE / "compose.yaml").read_text(encoding="utf-8"))
    files = {}
    for name, secret in composed["secrets"].items():
        files[name] = Path(re.sub(r"\$\{OPENMCP_SECRETS[^}]*\}", str(secrets), secret["file"]))
    return composed["services"], files


def prepare(folder: Path, free_ports: bool) -> tuple[list[Service], Ports]:
    """The services that can be started, in the order in which they are, with all they read below `folder`."""
    if not (HERE / "secrets").is_dir():
        made = subprocess.run(["/bin/sh", HERE / "secrets.sh"], check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - our own script
        if made.returncode:
            raise Failed("secrets.sh has failed")
    found, secrets = described(HERE / "secrets")
    everything = [Service(name, value) for name, value in found.items()]
    ports = Ports(everything, free_ports)
    rewriter = Rewriter(everything, ports)
    chosen = [service for service in _in_order(everything) if _is_here(service)]
    for port in (port for service in chosen for port in service.published.values() if not free_ports):
        if _answers(port):
            raise Failed(f"something listens on 127.0.0.1:{port} already: end it, or use --free-ports")
    for service in chosen:
        _mount(service, folder / service.name, secrets)
        for path in set(service.mounts.values()):
            _rewrite(path, service, rewriter)
        program = [_program(word) for word in service.described["x-process"]]
        words = rewriter.command(service)
        service.command = [*program, *words] if program else [_program(words[0]), *words[1:]]
        declared = service.described.get("environment", {})
        service.environment = {name: rewriter.text(service, value) for name, value in declared.items()}
    return chosen, ports


def _in_order(services: Sequence[Service]) -> Iterator[Service]:
    """What others depend on comes first."""
    left = {service.name: service for service in services}
    while left:
        ready = [one for one in left.values() if not left.keys() & one.described.get("depends_on", {}).keys()]
        for one in ready:
            yield left.pop(one.name)


def _is_here(service: Service) -> bool:
    if service.name in NOT_HERE:
        print(f"{service.name}: left out, it comes with Docker alone")
        return False
    program = OPTIONAL.get(service.name)
    if program is not None and shutil.which(program) is None:
        print(f"{service.name}: left out, {program} is not on the PATH")
        return False
    return True


def _program(word: str) -> str:
    """Where a program is: of Python and ours, those of the environment that this runs in."""
    if word == "python":
        return sys.executable
    beside = Path(sys.executable).with_name(word)
    found = str(beside) if beside.exists() else shutil.which(word)
    if found is None:
        raise Failed(f"{word} is needed, and is not on the PATH (docs/compose.md says what to install)")
    return found


def _mount(service: Service, folder: Path, secrets: Mapping[str, Path]) -> None:
    """Put below `folder` what the service would find mounted: files are copied, volumes stay from run to run."""
    for entry in service.described.get("volumes", ()):
        source, path, *_ = entry.split(":")
        inside = folder / path.lstrip("/")
        if source.startswith("."):
            shutil.rmtree(inside, ignore_errors=True)
            shutil.copytree(HERE / source, inside, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            inside.mkdir(parents=True, exist_ok=True)
        service.mounts[path] = inside
    for name in service.described.get("secrets", ()):
        service.mounts[f"{SECRETS}/{name}"] = secrets[name]


def _rewrite(path: Path, service: Service, rewriter: Rewriter) -> None:
    """Configuration alone: what a service keeps, a secret or a program of its own stays as it is."""
    if path.is_dir():
        for file in (*path.glob("*.yaml"), *path.glob("*.yml")):
            file.write_text(rewriter.text(service, file.read_text(encoding="utf-8")), encoding="utf-8")


def _dies_with_us() -> None:
    """In the child: it is asked to end where this process is killed. Linux alone has that."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)


class Set:
    """The processes; `stop` ends all that were started, the last one first."""

    def __init__(self, services: Sequence[Service], ports: Ports, folder: Path) -> None:
        self._services = services
        self._ports = ports
        self._folder = folder

    def start(self) -> None:
        """Start one after the other, each when those that it needs answer.

        :raises Failed: one ended, or does not answer.
        """
        for service in self._services:
            log = self.log(service)
            with log.open("wb") as output:
                service.process = subprocess.Popen(  # noqa: S603 - what compose.yaml says
                    service.command,
                    env={**os.environ, **service.environment},
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for us; we end them in order
                    preexec_fn=_dies_with_us if sys.platform == "linux" else None,
                )
            self._await(service)
            print(f"{service.name}: runs, its log is {log}", flush=True)

    def log(self, service: Service) -> Path:
        """What the service prints: of the gateway, also the record."""
        return self._folder / f"{service.name}.log"

    def check(self) -> None:
        """:raises Failed: one of them has ended."""
        for service in self._services:
            if service.process is not None and (code := service.process.poll()) is not None:
                tail = self.log(service).read_text(errors="replace")[-2000:]
                raise Failed(f"{service.name} ended with {code}; it said last:\n{tail}")

    def stop(self) -> None:
        """End them: asked to, and made to where they do not. What asks this process to end has been heard."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for service in reversed(self._services):
            if service.process is None:
                continue
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(service.process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    service.process.wait(STOP_SECONDS)
                    break

    def _await(self, service: Service) -> None:
        """Until all its ports that others know of take connections."""
        until = time.monotonic() + START_SECONDS
        for port in self._ports.known(service.name):
            while not _answers(port):
                self.check()
                if time.monotonic() > until:
                    raise Failed(f"{service.name} does not listen after {START_SECONDS:.0f} s: see {self.log(service)}")
                time.sleep(_GLANCE)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def addresses(services: Sequence[Service], ports: Ports) -> dict[str, str]:
    """The URL of everything that is published, by service, and by service and port where it publishes several."""
    return {
        service.name
        if inside == min(service.published)
        else f"{service.name}-{inside}": f"http://127.0.0.1:{ports.of(service.name, inside)}"
        for service in services
        for inside in service.published
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to end; 0 then, 1 where something could not be started or ended by itself."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=HERE / "run", help="what the services keep, and their logs")
    parser.add_argument("--free-ports", action="store_true", help="take any ports instead of those of compose.yaml")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = options.folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the record is in it, and requests for approval
    started: Set | None = None
    try:
        services, ports = prepare(folder, options.free_ports)
        started = Set(services, ports, folder)
        started.start()
        where = addresses(services, ports)
        (folder / "addresses.json").write_text(json.dumps(where))
        print("\n".join(f"{name:14} {url}" for name, url in where.items()))
        print(
            f"the agent's key is in {HERE / 'secrets/agent_key'}, the approver's token beside it. Ctrl-C ends it.",
            flush=True,
        )
        while True:
            started.check()
            time.sleep(1)
    except KeyboardInterrupt:
        return 0
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if started is not None:
            started.stop()


if __name__ == "__main__":
    sys.exit(main())

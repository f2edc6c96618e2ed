"""Programs run as containers are: each with a root, a user and mounts of its own, and without any capability.

    with network() as pod, running("agent", command(Container(argv, uid=1000), pod)):
        ...

A container sees the programs of this machine, the Python that runs the tests and this project, read-only, and of
everything else only what is mounted into it. Containers that are given the same `Network` are a pod: they share the
loopback interface, which also has the pod's address, and reach nothing else but what `Network.forward` brings in.
There is no runtime and no image; the kernel does it (mount and network namespaces), so this needs root on Linux: see
`unavailable`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "10.1.0.1"
"""Of every pod: they cannot reach each other."""
_SYSTEM = ("bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "dev", "proc", "sys")
_PROGRAMS = ("ip", "mount", "nsenter", "setpriv", "unshare")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine at an absolute path in the container."""

    source: str
    path: str
    read_only: bool = True


@dataclass(frozen=True)
class Container:
    """What is run, as whom, with which environment (there is no other) and what mounted; ``hosts`` are names of
    127.0.0.1 there."""

    command: Sequence[str]
    uid: int
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    folder: str = "/"
    hosts: Sequence[str] = ()


class Network:
    """The network of a pod: a loopback interface, and what is forwarded to it."""

    def __init__(self, pid: int) -> None:
        self.path = f"/proc/{pid}/ns/net"
        self._listeners: list[socket.socket] = []

    def forward(self, port: int, target: int, via: Network | None = None) -> None:
        """Let 127.0.0.1:``port`` of the pod be 127.0.0.1:``target`` of this machine, or of the pod ``via``."""
        listener = self._inside(lambda: socket.create_server(("127.0.0.1", port)))
        self._listeners.append(listener)

        def connect() -> socket.socket:
            def made() -> socket.socket:
                return socket.create_connection(("127.0.0.1", target), timeout=5)

            return made() if via is None else via._inside(made)

        threading.Thread(target=_serve, args=(listener, connect), daemon=True).start()

    def expose(self, port: int, here: int, address: str = ADDRESS) -> int:
        """Let 127.0.0.1:``here`` (0: a free one) of this machine be that port of the pod's address, or of its loopback
        as ``kubectl port-forward`` does; return it."""
        listener = socket.create_server(("127.0.0.1", here))
        self._listeners.append(listener)
        threading.Thread(target=_serve, args=(listener, lambda: self.connect(port, address)), daemon=True).start()
        return int(listener.getsockname()[1])

    def connect(self, port: int, address: str = ADDRESS) -> socket.socket:
        """Connect to a port of the pod's address from outside, as a kubelet does to probe it; to 127.0.0.1 of it, as
        its own containers do.

        :raises OSError: nobody listens there; who listens on loopback alone does not listen at the pod's address.
        """
        return self._inside(lambda: socket.create_connection((address, port), timeout=5))

    def close(self) -> None:
        """Forward no more."""
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _inside(self, make: Any) -> socket.socket:
        """Make a socket in the pod; a socket stays in the network it was made in, a thread goes back."""
        done: list[Any] = []

        def enter() -> None:
            try:
                with open(self.path) as there:
                    _check(ctypes.CDLL(None, use_errno=True).setns(there.fileno(), _NEW_NETWORK))
                done.append(make())
            except OSError as error:
                done.append(error)

        thread = threading.Thread(target=enter)  # a thread of its own: only it enters, and it ends there
        thread.start()
        thread.join()
        if isinstance(done[0], OSError):
            raise done[0]
        return done[0]  # type: ignore[no-any-return]  # what was made


def needed() -> None:
    """Skip the test where there can be no containers, also with ``OPENMCP_REAL=1``: it is nothing to be installed."""
    import pytest  # not above: this file is also the program that becomes a container, and should start at once

    if (why := unavailable()) is not None:
        pytest.skip(f"no containers can be made here, it takes {why}")


def unavailable() -> str | None:
    """What it takes to make containers, where this machine does not have it; None where it has."""
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if sys.platform != "linux" or absent:
        return f"Linux with {', '.join(absent or _PROGRAMS)}"
    if os.getuid() != 0:
        return "root, to run programs as other users"
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "the right to make mount and network namespaces (CAP_SYS_ADMIN)"


@contextmanager
def network() -> Iterator[Network]:
    """Make the network of a pod; it ends with the block."""
    with subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as pause:
        made = Network(pause.pid)
        try:
            while os.readlink(made.path) == os.readlink("/proc/self/ns/net"):
                if pause.poll() is not None:
                    raise AssertionError("no network namespace could be made")
            for words in ("link set lo up", f"address add {ADDRESS}/32 dev lo"):
                subprocess.run(["nsenter", f"--net={made.path}", "ip", *words.split()], check=True)
            yield made
        finally:
            made.close()
            pause.kill()


def command(container: Container, pod: Network | None = None) -> list[str]:
    """Return what starts it: the process that this runs becomes the container's, signals reach it."""
    enter = ["nsenter", f"--net={pod.path}"] if pod else []
    return [*enter, "unshare", "--mount", sys.executable, __file__, json.dumps(asdict(container))]


def relay(near: socket.socket, far: socket.socket) -> None:
    """Pass on what comes from either to the other, and that it ends, until both have ended."""
    for pair in ((near, far), (far, near)):
        pair[0].settimeout(None)
        pair[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or answers wait for 40 ms
        threading.Thread(target=_pump, args=pair, daemon=True).start()


def _serve(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            try:
                relay(near, connect())
            except OSError:
                near.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        source.shutdown(socket.SHUT_RD)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _become(container: Mapping[str, Any]) -> None:
    """In a new mount namespace, as root: make the container's root, enter it, and become its program."""
    _mount("--make-rprivate", "/")
    root = Path("/mnt")  # in this namespace alone
    _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(root))
    for name in _SYSTEM:
        _same(root, Path("/") / name)
    shutil.copytree("/etc", root / "etc", symlinks=True, ignore=shutil.ignore_patterns("*shadow*", "ssl/private"))
    with (root / "etc" / "hosts").open("a") as hosts:
        hosts.writelines(f"127.0.0.1 {name}\n" for name in container["hosts"])
    for path in ("run", "var", "tmp"):
        (root / path).mkdir(mode=0o755)
    (root / "var" / "run").symlink_to("../run")
    for seen in sorted({sys.base_prefix, sys.prefix, str(ROOT)}):
        if not (root / seen[1:]).exists():
            _bind(root, Mount(seen, seen))
    for mount in container["mounts"]:
        _bind(root, Mount(**mount))
    _mount("-o", "remount,ro", str(root))
    os.chroot(root)
    os.chdir(container["folder"])
    uid = str(container["uid"])
    drop = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *drop, *container["command"]]
    os.execvpe("setpriv", words, {"PATH": os.defpath, **container["env"]})


def _same(root: Path, path: Path) -> None:
    """Show a folder of this machine, or a link, where it is here."""
    if path.is_symlink():
        (root / path.name).symlink_to(os.readlink(path))
    elif path.is_dir():
        (root / path.name).mkdir()
        _mount("--rbind", str(path), str(root / path.name))


def _bind(root: Path, mount: Mount) -> None:
    assert mount.path.split("/")[1] not in _SYSTEM, f"{mount.path} would be made on this machine"
    place = (root / mount.path.lstrip("/")).resolve()
    assert place.is_relative_to(root), f"{mount.path} leads out of the container"
    if Path(mount.source).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount("--bind", mount.source, str(place))
    if mount.read_only:
        _mount("-o", "remount,bind,ro", str(place))


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    _become(json.loads(sys.argv[1]))

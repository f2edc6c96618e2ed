"""Real SPIRE over loopback: trust domains of one server and any number of agents, as many as a test asks for.

    with trust_domain("example.org") as domain:
        agent = domain.agent("vm")
        domain.register(agent, "/app", ttl=60)
        ...                                   # agent.address is what `identity.workloadApi` takes

Every agent stands for a machine of its own: what it hands out is decided by the entries under it, so two callers of
one user have two identities. Servers and agents look for changes every second. All ends with the `with` block; what
they warned of is printed then, and shown by pytest where the test failed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.real_parts.install import program
from tests.support.process import ProcessFailed, Running, free_ports, running

Json = Mapping[str, Any]
_PATIENCE = 30.0  # seconds: an agent that has just started fetches what is new within a few
_GLANCE = 0.1  # seconds between two looks at what only a command of SPIRE can tell
_LOG_SHOWN = 40  # lines


class Process:
    """A SPIRE server or agent that can be stopped and started; it is ready as soon as its socket takes connections."""

    def __init__(self, name: str, command: Sequence[str | Path], api: Path) -> None:
        self.name = name
        self.api = api
        self.log = ""
        self._command = command
        self._running: Running | None = None
        self._stack = ExitStack()

    def start(self) -> None:
        """Start it, and wait until it serves.

        :raises ProcessFailed: it does not; its log is in the text.
        """
        process = self._stack.enter_context(running(self.name, self._command))
        process.wait_for(lambda: _connects(self.api))
        self._running = process

    def stop(self) -> None:
        """End it properly; it can be started again."""
        if self._running is not None:
            self._stack.callback(self._keep_log, self._running)
            self._running = None
        self._stack.close()

    def _keep_log(self, process: Running) -> None:
        process.stop()
        self.log += process.printed()

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        warnings = [line for line in self.log.splitlines() if "level=info" not in line]
        print(f"--- warnings of {self.name} ---", *warnings[-_LOG_SHOWN:], sep="\n")


class Agent:
    """A SPIRE agent; `address` is that of its Workload API."""

    def __init__(self, name: str, id: str, process: Process) -> None:
        self.name = name
        self.id = id
        self.process = process
        self.address = f"unix://{process.api}"

    def svids(self) -> list[str]:
        """Return the IDs it has for us, none where there is no entry (yet)."""
        return [svid["spiffe_id"] for svid in self._fetched()]

    def trusts(self, authority: str) -> bool:
        """Return whether the CA of this ID is in the bundle that it hands out; true where it hands out none."""
        return all(bytes.fromhex(authority) in b64decode(svid["bundle"]) for svid in self._fetched())

    def write_svid(self, folder: Path) -> None:
        """Write what it has for us into ``folder``: ``svid.0.pem``, ``svid.0.key``, ``bundle.0.pem``."""
        _run(self._api("fetch", "x509", "-write", folder))

    def jwt_svid(self, audience: str) -> str:
        """Return a JWT-SVID that it has for us."""
        svids = json.loads(_run(self._api("fetch", "jwt", "-audience", audience, "-output", "json")))[0]["svids"]
        return str(svids[0]["svid"])

    def validated(self, audience: str, token: str) -> str | None:
        """Return the subject of a JWT-SVID as SPIRE itself sees it; None where it refuses the token."""
        done = _done(self._api("validate", "jwt", "-audience", audience, "-svid", token, "-output", "json"))
        return str(json.loads(done.stdout)["spiffe_id"]) if done.returncode == 0 else None

    def _fetched(self) -> list[dict[str, Any]]:
        done = _done(self._api("fetch", "x509", "-output", "json"))
        return list(json.loads(done.stdout)["svids"]) if done.returncode == 0 else []

    def _api(self, *command: str | Path) -> list[str | Path]:
        return [program("spire", "spire-agent"), "api", *command, "-socketPath", self.process.api]


class Domain:
    """A trust domain."""

    def __init__(self, name: str, folder: Path, stack: ExitStack, root: tuple[bytes, bytes] | None) -> None:
        self.name = name
        self.folder = folder
        self.root = root
        self.port = free_ports(1)[0]
        self.agents: list[Agent] = []
        self._entries: dict[str, list[str]] = {}
        self._stack = stack
        self.server = Process(f"spire-server of {name}", self._server(), folder / "server.sock")
        stack.enter_context(self.server)

    def id(self, path: str) -> str:
        """Return the SPIFFE ID of a path here."""
        return f"spiffe://{self.name}{path}"

    def run(self, *command: str | Path) -> str:
        """Run a command of ``spire-server`` and return what it prints.

        :raises ProcessFailed: it failed; what it said is in the text.
        """
        return _run([program("spire", "spire-server"), *command, "-socketPath", self.server.api])

    def ask(self, *command: str | Path) -> Any:
        """Run a command of ``spire-server`` and return its JSON."""
        return json.loads(self.run(*command, "-output", "json"))

    def agent(self, name: str) -> Agent:
        """Start an agent that joins with a token, and wait until it serves."""
        token = self.ask("token", "generate", "-ttl", "600")["value"]
        sockets = self.folder / name
        sockets.mkdir()  # with nothing else in it, and open to all users: this is what containers get mounted
        sockets.chmod(0o755)
        api = sockets / "spire-agent.sock"
        process = Process(f"spire-agent {name} of {self.name}", self._agent(name, token, api), api)
        self._stack.enter_context(process)
        agent = Agent(name, self.id(f"/spire/agent/join_token/{token}"), process)
        self.agents.append(agent)
        return agent

    def register(
        self,
        agent: Agent,
        path: str,
        *,
        ttl: int = 3600,
        hint: str = "",
        federates: Sequence[str] = (),
        selector: str | None = None,
    ) -> str:
        """Let ``agent`` hand out an ID to everything of our user (or of ``selector``); return the ID of the entry.

        Waits until the agent has it, unless it is for somebody else.
        """
        command = ["-parentID", agent.id, "-spiffeID", self.id(path), "-hint", hint, "-x509SVIDTTL", str(ttl)]
        command += ["-selector", selector or f"unix:uid:{os.getuid()}"]
        command += [f"-federatesWith=spiffe://{name}" for name in federates]
        (made,) = self.ask("entry", "create", *command)["results"]
        entry = str(made["entry"]["id"])
        self._entries[entry] = command
        if selector is None:
            wait_until(lambda: self.id(path) in agent.svids(), f"{agent.name} to have {self.id(path)}")
        return entry

    def set_ttl(self, entry: str, ttl: int) -> None:
        """Let SVIDs of an entry live as long as this, from the next one on; agents fetch that at once."""
        self.run("entry", "update", "-entryID", entry, *self._entries[entry], "-x509SVIDTTL", str(ttl))

    def unregister(self, entry: str) -> None:
        """Delete an entry."""
        self.run("entry", "delete", "-entryID", entry)

    def mint(self, path: str) -> tuple[bytes, bytes]:
        """Return an SVID that no agent hands out, signed by the CA of this moment: chain and key, PEM."""
        with tempfile.TemporaryDirectory() as folder:
            self.run("x509", "mint", "-spiffeID", self.id(path), "-ttl", "1h", "-write", folder)
            return Path(folder, "svid.pem").read_bytes(), Path(folder, "key.pem").read_bytes()

    def bundle(self) -> str:
        """Return the CA certificates of this domain, PEM."""
        return self.run("bundle", "show", "-format", "pem")

    def spiffe_bundle(self) -> str:
        """Return the bundle of this domain with the keys for JWTs, in SPIFFE's format (JSON)."""
        return self.run("bundle", "show", "-format", "spiffe")

    def trust(self, name: str, bundle: str) -> None:
        """Federate with the domain ``name``, or renew what is known of it: PEM, or SPIFFE's JSON."""
        file = self.folder / f"bundle-of-{name}"
        file.write_text(bundle)
        form = "spiffe" if bundle.lstrip().startswith("{") else "pem"
        self.run("bundle", "set", "-id", f"spiffe://{name}", "-format", form, "-path", file)

    def distrust(self, name: str) -> None:
        """Stop federating with the domain ``name``, in all entries."""
        self.run("bundle", "delete", "-id", f"spiffe://{name}", "-mode", "dissociate")
        for entry, command in self._entries.items():
            self._entries[entry] = [word for word in command if word != f"-federatesWith=spiffe://{name}"]

    def prepare_ca(self) -> str:
        """Make the next CA, add it to the bundle and wait until the agents have that; return its ID."""
        prepared = str(self._authority("prepare")["prepared_authority"]["authority_id"])
        wait_until(lambda: all(agent.trusts(prepared) for agent in self.agents), f"all to trust {prepared}")
        return prepared

    def activate_ca(self, prepared: str) -> str:
        """Sign by the CA ``prepared`` from now on; return the ID of the one before, which stays in the bundle."""
        before = str(self._authority("show")["active"]["authority_id"])
        self._authority("activate", "-authorityID", prepared)
        return before

    def taint_ca(self, old: str) -> None:
        """Have everything signed by the CA ``old`` replaced; wait until the agents have replaced their own SVIDs,
        as without that the CA's end would be theirs."""
        before = self._serials()
        self._authority("taint", "-authorityID", old)
        wait_until(lambda: not before & self._serials(), f"the agents of {self.name} to have left {old}")

    def revoke_ca(self, old: str) -> None:
        """Take the tainted CA ``old`` out of the bundle."""
        self._authority("revoke", "-authorityID", old)

    def _serials(self) -> set[str]:
        return {agent["x509svid_serial_number"] for agent in self.ask("agent", "list")["agents"]}

    def _authority(self, *command: str) -> Any:
        return self.ask("localauthority", "x509", *command)

    def _server(self) -> list[str | Path]:
        plugins: dict[str, Json] = {
            "DataStore": {"sql": {"database_type": "sqlite3", "connection_string": str(self.folder / "data.sqlite3")}},
            "KeyManager": {"memory": {}},
            "NodeAttestor": {"join_token": {}},
        }
        if self.root is not None:
            files = {"cert_file_path": self.folder / "root.pem", "key_file_path": self.folder / "root.key"}
            for file, content in zip(files.values(), self.root, strict=True):
                file.write_bytes(content)
            plugins["UpstreamAuthority"] = {"disk": {key: str(file) for key, file in files.items()}}
        server = {
            "bind_address": "127.0.0.1",
            "bind_port": str(self.port),
            "trust_domain": self.name,
            "data_dir": str(self.folder),
            "socket_path": str(self.folder / "server.sock"),
            "agent_ttl": "1h",  # without it an agent would lose its own identity as soon as a workload
            "experimental": {"cache_reload_interval": "1s"},
        }
        return self._command("spire-server", self.folder / "server.conf", {"server": server}, plugins)

    def _agent(self, name: str, token: str, api: Path) -> list[str | Path]:
        data = self.folder / f"agent-{name}"
        data.mkdir()
        (data / "bundle.pem").write_text(self.bundle())
        plugins: dict[str, Json] = {
            "KeyManager": {"disk": {"directory": str(data)}},  # in memory it could not come back: a token joins once
            "NodeAttestor": {"join_token": {}},
            "WorkloadAttestor": {"unix": {"discover_workload_path": True}},
        }
        agent = {
            "server_address": "127.0.0.1",
            "server_port": str(self.port),
            "trust_domain": self.name,
            "trust_bundle_path": str(data / "bundle.pem"),
            "data_dir": str(data),
            "socket_path": str(api),
            "join_token": token,
            "experimental": {"sync_interval": "1s"},
        }
        return self._command("spire-agent", data / "agent.conf", {"agent": agent}, plugins)

    def _command(self, name: str, file: Path, section: Json, plugins: Mapping[str, Json]) -> list[str | Path]:
        (kind,) = section
        whole = {
            kind: {"log_level": "INFO", **section[kind]},
            "plugins": {
                kind: {plugin: {"plugin_data": data} for plugin, data in chosen.items()}
                for kind, chosen in plugins.items()
            },
        }
        file.write_text(json.dumps(whole, indent=1))  # HCL takes JSON
        return [program("spire", name), "run", "-config", file]


@contextmanager
def trust_domain(name: str, root: tuple[bytes, bytes] | None = None) -> Iterator[Domain]:
    """Run the server of a trust domain; its agents are started by `Domain.agent`.

    ``root`` is the certificate and key (PEM) of a CA that signs the server's own, and is then the bundle: whoever has
    it can make certificates of this domain that SPIRE would not.
    """
    with ExitStack() as stack:
        # Not pytest's folder: the path of a Unix socket has 107 bytes at most.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spire-")))
        yield Domain(name, folder, stack, root)


def federate(one: Domain, other: Domain) -> None:
    """Let two domains know each other's bundle as it is now."""
    one.trust(other.name, other.spiffe_bundle())
    other.trust(one.name, one.spiffe_bundle())


def wait_until(holds: Callable[[], bool], what: str, patience: float = _PATIENCE) -> float:
    """Wait for something outside of this process that has no event; return the seconds it took.

    :raises AssertionError: it did not come.
    """
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + patience, f"waited {patience:.0f} s for {what}"
        time.sleep(_GLANCE)
    return time.monotonic() - began


def _connects(api: Path) -> str | None:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(api))
        return "ready"
    return None


def _run(command: Sequence[str | Path]) -> str:
    done = _done(command)
    if done.returncode != 0:
        said = f"{done.stdout}{done.stderr}"
        raise ProcessFailed(f"{' '.join(map(str, command))} ended with {done.returncode}\n{said}")
    return done.stdout


def _done(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)

"""Only the sidecar can get its SVID: SPIRE's unix attestor, agent and sidecar as the users they are in a pod.

In a cluster SPIRE tells them by the name of the container, here by the user; all else is the same: one network, and a
server that takes calls from the sidecar's ID alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real_parts.install import program
from tests.support.container import ROOT, Container, Mount, Network, command, needed, network
from tests.support.parts import require
from tests.support.process import OPENMCP, Running, free_ports, running
from tests.support.spire import Agent, trust_domain

pytestmark = pytest.mark.real

DOMAIN = "pods.example"
SIDECAR_ID = f"spiffe://{DOMAIN}/ns/support-ai/sa/support-bot"
SIDECAR, AGENT, SERVER = 65532, 1000, 2000
"""Users: the sidecar's is what the injector gives it."""
SOCKETS = "/run/spire/agent-sockets"
ADDRESS = f"unix://{SOCKETS}/spire-agent.sock"
PATIENCE = 60.0
STEAL = """
import os, sys
for what in ("mem", "environ", "maps"):
    try:
        open(f"/proc/{sys.argv[1]}/{what}", "rb").read(1)
        print(what, "read")
    except PermissionError:
        print(what, "refused")
try:
    os.setuid(int(sys.argv[2]))
    print("setuid done")
except PermissionError:
    print("setuid refused")
try:
    os.kill(int(sys.argv[1]), 9)
    print("kill done")
except PermissionError:
    print("kill refused")
"""


@dataclass(frozen=True)
class Setting:
    """A pod with a sidecar, and the MCP server as a service of the cluster, at 127.0.0.1:8443 of the pod."""

    pod: Network
    node: Agent
    sidecar: Running

    def run(self, uid: int, *words: str | Path, socket: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a program in the pod as the user ``uid``, with the Workload API mounted if ``socket``."""
        mounts = [Mount(str(program("spire", "spire-agent").parent), "/opt/spire")]
        mounts += [sockets(self.node)] if socket else []
        env = {"OPENMCP_TICKETS_URL": "http://127.0.0.1:15001/tickets", "SPIFFE_ENDPOINT_SOCKET": ADDRESS}
        container = Container([str(word) for word in words], uid, env, mounts, str(ROOT / "examples" / "kubernetes"))
        return subprocess.run(
            command(container, self.pod), capture_output=True, text=True, check=False, timeout=PATIENCE
        )


def sockets(machine: Agent) -> Mount:
    return Mount(str(machine.process.api.parent), SOCKETS)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    require("spire")
    needed()
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("users")
    folder.chmod(0o755)
    (folder / "gateway.yaml").write_text(json.dumps(configuration()))
    with ExitStack() as stack:
        domain = stack.enter_context(trust_domain(DOMAIN))
        node, tools = domain.agent("node"), domain.agent("tools")
        domain.register(node, "/ns/support-ai/sa/support-bot", selector=f"unix:uid:{SIDECAR}")
        domain.register(tools, "/ns/tools/sa/tickets", selector=f"unix:uid:{SERVER}")
        words = [sys.executable, str(ROOT / "examples" / "vm-spire" / "server.py"), str(port), SIDECAR_ID]
        env = {"SPIFFE_ENDPOINT_SOCKET": ADDRESS}
        server = command(Container(words, SERVER, env, [sockets(tools)]))
        serving = stack.enter_context(running("the MCP server", server))
        serving.wait_for(lambda: "yes" if "serving as" in serving.printed() else None)
        pod = stack.enter_context(network())
        pod.forward(8443, port)
        gateway = Container(
            [str(OPENMCP), "run", "-c", "/etc/openmcp/gateway.yaml"],
            SIDECAR,
            env,
            [sockets(node), Mount(str(folder), "/etc/openmcp")],
        )
        sidecar = stack.enter_context(running("the sidecar", command(gateway, pod)))
        sidecar.wait_for(lambda: ready(pod))
        yield Setting(pod, node, sidecar)


def configuration() -> dict[str, object]:
    rules = [{"name": "work", "tools": ["whoami", "get_ticket_status"], "action": "allow"}]
    auth = {"type": "spiffe", "serverIds": [f"spiffe://{DOMAIN}/ns/tools/sa/tickets"]}
    return {
        "apiVersion": "openmcp.dev/v1alpha1",
        "listen": {"mcp": "127.0.0.1:15001", "admin": "0.0.0.0:15020"},
        "identity": {"agents": [{"type": "workload"}]},
        "servers": [{"name": "tickets", "endpoints": ["https://127.0.0.1:8443/mcp"], "auth": auth}],
        "policies": [{"name": "bot", "agents": [SIDECAR_ID], "servers": ["tickets"], "requests": rules}],
    }


def ready(pod: Network) -> str | None:
    """Ask /readyz as a kubelet does."""
    try:
        with pod.connect(15020) as probe:
            probe.sendall(b"GET /readyz HTTP/1.1\r\nhost: 10.1.0.1:15020\r\nconnection: close\r\n\r\n")
            return "yes" if b" 200 " in probe.recv(1 << 16) else None
    except OSError:
        return None


def fetch(kind: Sequence[str]) -> list[str]:
    return ["/opt/spire/spire-agent", "api", "fetch", *kind, "-socketPath", f"{SOCKETS}/spire-agent.sock"]


KINDS = {"x509": ["x509"], "jwt": ["jwt", "-audience", "anything"]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_sidecars_user_gets_the_svid_and_the_agents_does_not(setting: Setting, kind: str):
    given = setting.run(SIDECAR, *fetch(KINDS[kind]), socket=True)
    assert (given.returncode, SIDECAR_ID in given.stdout) == (0, True), given.stderr
    refused = setting.run(AGENT, *fetch(KINDS[kind]), socket=True)
    assert refused.returncode != 0
    assert "no identity issued" in refused.stdout + refused.stderr
    assert SIDECAR_ID not in refused.stdout + refused.stderr


def test_the_agent_works_through_the_sidecar_and_the_server_sees_the_sidecar(setting: Setting):
    done = setting.run(AGENT, sys.executable, "agent.py")
    assert done.stdout.splitlines() == [
        "tools: whoami, get_ticket_status",
        f"whoami: {SIDECAR_ID}",
        "get_ticket_status: open",
        "delete_ticket: Denied: no policy allows this",
    ], done.stderr


def test_around_the_sidecar_the_agent_has_nothing_to_show(setting: Setting):
    done = setting.run(AGENT, sys.executable, "agent.py", "around", "https://127.0.0.1:8443/mcp")
    assert done.stdout.splitlines() == [
        "around the sidecar: no socket of SPIRE is here",
        "around the sidecar: the server closes the connection",
    ], done.stderr


def test_the_agent_cannot_take_it_from_the_sidecar(setting: Setting):
    pid = setting.sidecar.process.pid
    done = setting.run(AGENT, sys.executable, "-c", STEAL, str(pid), str(SIDECAR))
    assert done.stdout.splitlines() == [
        "mem refused",
        "environ refused",
        "maps refused",
        "setuid refused",
        "kill refused",
    ], done.stderr
    as_itself = setting.run(SIDECAR, sys.executable, "-c", f"open('/proc/{pid}/environ')")
    assert as_itself.returncode == 0, as_itself.stderr

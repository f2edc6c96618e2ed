"""Calls go on, decided by policies that come from Kubernetes, while the API server is killed, hangs and forgets.

    make soak ARGS=apiserver DURATION=120          it is away for two minutes, and then hangs for as long
    python -m tests.soak.apiserver --seconds 10    the short form

The real kube-apiserver on etcd; agents call a server by plain HTTP, 50 times a second. After each disturbance a policy
is changed, and has to take effect. Exit code 1 where a call failed or a change took no effect in time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.real_parts import install
from tests.soak.load import Agents, Tally
from tests.support.container import Container, Mount, command, unavailable
from tests.support.gate import call, modern
from tests.support.kubernetes import KubeApi, kube_api
from tests.support.process import ROOT, Sidecar, mcp_server, python_server, sidecar

CRDS = ROOT / "manifests" / "crds"
RATE = 50
"""Calls a second, by all connections together."""
CONNECTIONS = 8
EDITS = 20
EFFECT = 1.0
"""Seconds in which a changed policy must decide, while the API server is there."""
RECOVERY = 40.0
"""Seconds in which the sidecar must have caught up with an API server that is back."""
ASKED = modern(call("get_ticket", ticket_id="101"))
ANSWER = "101: The card was 4111 1111 1111 1111."
TRIED = modern(call("merge_tickets", ticket_id="101", into="102"))
MERGED = "101 is now 102"


@dataclass
class Report:
    """What was seen. Times are seconds from a change that the API server took to the first call decided by it."""

    seconds: int
    tally: Tally = field(default_factory=Tally)
    edits: list[float] = field(default_factory=list)
    caught_up: dict[str, float] = field(default_factory=dict)
    oldest: float = 0.0
    memory: int = 0
    faults: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return it for people."""
        quantiles = statistics.quantiles([one * 1000 for one in self.tally.latencies], n=1000)
        edits = sorted(self.edits)
        lines = [
            f"an API server that is away for {self.seconds} s, and then hangs for as long",
            f"calls: {self.tally.calls}, median {quantiles[499]:.1f} ms, 99.9 % {quantiles[998]:.1f} ms",
            f"failures: {len(self.tally.failures)}",
            *(f"  {failure}" for failure in self.tally.failures[:20]),
            f"{len(edits)} edits: in effect after {statistics.median(edits):.3f} s (median), at most {edits[-1]:.3f} s",
            *(f"a change took effect {took:.1f} s after {what}" for what, took in self.caught_up.items()),
            f"oldest configuration served: {self.oldest:.0f} s",
            f"memory of the sidecar: {self.memory} MiB",
            *(f"FAULT: {fault}" for fault in self.faults),
        ]
        return "\n".join(lines)

    @property
    def good(self) -> bool:
        """Whether all was as it must be."""
        return not self.faults and not self.tally.failures


@dataclass(frozen=True)
class Governed:
    """A sidecar whose policies come from a namespace."""

    kube: KubeApi
    namespace: str
    sidecar: Sidecar

    def policy(self, name: str, *rules: dict[str, Any], servers: tuple[str, ...] = ("tickets",)) -> dict[str, Any]:
        """Apply a policy of these rules for anybody; return it as it is stored."""
        spec = {"servers": [*servers], "requests": [*rules]}
        return self.kube.apply([custom("MCPPolicy", name, spec)], self.namespace)[0]

    def merging(self, *, allowed: bool) -> None:
        """Let the tool `merge_tickets` be called, or not any more."""
        self.policy("merging", rule("merge", "merge_tickets", action="allow" if allowed else "deny"))

    def agents(self, tally: Tally | None = None, document: dict[str, Any] | None = None, right: str = ANSWER) -> Agents:
        """Agents who call the tool that is always allowed, or another."""
        return Agents(self.sidecar.url, "/tickets", lambda: None, right, tally or Tally(), document=document or ASKED)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all that has these labels; 0 where there is none."""
        with urllib.request.urlopen(f"{self.sidecar.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line) for line in lines]
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        return sum(float(one[2]) for one in found if one and wanted <= set((one[1] or "").split(",")))


def rule(name: str, *tools: str, action: str = "allow") -> dict[str, Any]:
    """A rule for tools."""
    return {"name": name, "tools": [*tools], "action": action}


def custom(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """An object of one of our kinds."""
    return {"apiVersion": "openmcp.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def install_crds(kube: KubeApi) -> None:
    """Install our kinds as they are shipped."""
    for file in sorted(CRDS.glob("*.yaml")):
        kube.apply(file.read_text())


def may_read(kube: KubeApi, namespace: str) -> None:
    """Let the pods of a namespace read our kinds there: what the chart's role says."""
    rbac = "rbac.authorization.k8s.io"
    kinds = ["mcpservers", "mcppolicies", "approvalworkflows"]
    kube.apply(
        [
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": "openmcp-sidecar"},
                "rules": [{"apiGroups": ["openmcp.dev"], "resources": kinds, "verbs": ["get", "list", "watch"]}],
            },
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "openmcp-sidecar", "namespace": namespace},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "openmcp-sidecar"},
                "subjects": [{"apiGroup": rbac, "kind": "Group", "name": f"system:serviceaccounts:{namespace}"}],
            },
        ]
    )


def configuration(**source: Any) -> dict[str, Any]:
    """The sidecar's own part: callers are anonymous, a mesh would name others, and the rest comes from Kubernetes."""
    mesh = {"type": "forwarded", "from": ["192.0.2.1/32"]}
    return {"identity": {"agents": [mesh, {"type": "none"}]}, "source": {"type": "kubernetes", **source}}


@contextmanager
def governed(kube: KubeApi, url: str, *, pod: bool = False, **source: Any) -> Iterator[Governed]:
    """Run a sidecar before the MCP server at `url`, by a namespace of its own with a server and a policy.

    It is told of the API server by a kubeconfig, or as in a `pod` (which is lighter, and needs root).
    """
    namespace = kube.namespace("watched")
    may_read(kube, namespace)
    kube.apply([custom("MCPServer", "tickets", {"endpoints": [url]})], namespace)
    reading = {"servers": ["tickets"], "requests": [rule("read", "get_ticket")]}
    kube.apply([custom("MCPPolicy", "reading", reading)], namespace)
    told = in_pod if pod else by_kubeconfig
    config = configuration(namespace=namespace, **source)
    with tempfile.TemporaryDirectory(prefix="kube-") as folder, told(kube, namespace, Path(folder), config) as running:
        try:
            yield Governed(kube, namespace, running)
        finally:
            print(f"--- log of the sidecar ---\n{running.running.printed()[-8000:]}")


def by_kubeconfig(
    kube: KubeApi, namespace: str, folder: Path, config: dict[str, Any]
) -> AbstractContextManager[Sidecar]:
    """A sidecar that is told of the API server by a kubeconfig."""
    file = kube.kubeconfig(folder / "config", namespace, kube.token_for("default", namespace, seconds=7200))
    return sidecar(config, {"KUBECONFIG": str(file)})


def in_pod(kube: KubeApi, namespace: str, folder: Path, config: dict[str, Any]) -> AbstractContextManager[Sidecar]:
    """A sidecar that finds its service account where a pod has it."""
    env = kube.account_files(folder, "default", namespace)
    account = Mount(str(folder), "/run/secrets/kubernetes.io/serviceaccount")

    def contained(words: Sequence[str | Path], own: Path) -> list[str]:
        mounts = [account, Mount(str(own), str(own), read_only=False)]
        return command(Container([str(word) for word in words], os.getuid(), env, mounts, str(own)))

    return sidecar(config, within=contained)


async def effect(there: Governed, *, allowed: bool, patience: float) -> float:
    """Allow or deny a tool and return how many seconds later a call is decided by that.

    :raises TimeoutError: none was for `patience` seconds.
    """
    await asyncio.to_thread(there.merging, allowed=allowed)
    return await decided(there, allowed=allowed, patience=patience)


async def decided(there: Governed, *, allowed: bool, patience: float) -> float:
    """Call without a pause until the tool `merge_tickets` is allowed, or is not; return how many seconds it took."""
    began = time.monotonic()
    probe = there.agents(document=TRIED, right=MERGED)
    async with probe.connection() as agent:
        while True:
            probe.tally.failures.clear()
            if await probe.served(agent) == "close":
                raise AssertionError("the sidecar closed the connection")
            took = time.monotonic() - began
            if (not probe.tally.failures) is allowed:
                return took
            if took > patience:
                raise TimeoutError(f"a changed policy took no effect in {patience:.0f} s")
            await asyncio.sleep(0.005)


async def run(seconds: int, there: Governed) -> Report:
    """Let agents call while the API server is disturbed."""
    report = Report(seconds)
    callers = there.agents(report.tally)
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(callers.call(CONNECTIONS / RATE))
        try:
            await disturb(there, report)
        except TimeoutError as fault:
            report.faults.append(str(fault))
        finally:
            callers.ending.set()
    report.memory = there.sidecar.running.resident()
    return report


async def disturb(there: Governed, report: Report) -> None:
    """Edit; have the API server away; have it forget while it is away; have it hang: edit after each."""
    kube = there.kube
    for number in range(EDITS):
        report.edits.append(await effect(there, allowed=number % 2 == 0, patience=RECOVERY))
    if sum(took > EFFECT for took in report.edits) > EDITS // 10:  # a machine may stand still for a while
        report.faults.append(f"more than one edit in ten took longer than {EFFECT:.0f} s")
    await asyncio.to_thread(kube.kill)
    await asyncio.sleep(report.seconds)
    report.oldest = await asyncio.to_thread(there.metric, "openmcp_config_age_seconds")
    if report.oldest < report.seconds - 1:
        report.faults.append("the age of the configuration does not tell that the API server was away")
    await asyncio.to_thread(kube.restart)
    report.caught_up["it was back"] = await effect(there, allowed=True, patience=RECOVERY)
    await asyncio.to_thread(kube.kill)
    await asyncio.to_thread(kube.restart)
    await asyncio.to_thread(there.policy, "other", rule("other", "export_everything"))
    await asyncio.to_thread(kube.compact)
    report.caught_up["it was back and had forgotten"] = await effect(there, allowed=False, patience=RECOVERY)
    with kube.paused():
        await asyncio.sleep(report.seconds)
    report.caught_up["it went on"] = await effect(there, allowed=True, patience=RECOVERY)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="without the API server, each time (default: 10)")
    seconds = parser.parse_args().seconds
    if not install.is_installed("kubernetes"):
        parser.error("kube-apiserver is missing: make real-parts ARGS=kubernetes")
    with ExitStack() as stack:
        kube = stack.enter_context(kube_api())
        install_crds(kube)
        url = stack.enter_context(mcp_server("the MCP server", python_server("tests.fixtures.ticket_server")))
        there = stack.enter_context(governed(kube, url, pod=unavailable() is None))
        report = asyncio.run(run(seconds, there))
    print(report.text())
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())

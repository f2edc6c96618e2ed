"""`openmcp approvals serve`: the console in a process of its own, on the store of a sidecar."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from openmcp.config import load
from openmcp.config.model import Approvals, Workflow
from openmcp.sidecar.approvals.making import make_service
from openmcp.sidecar.approvals.service import Pending
from openmcp.sidecar.state.records import Status
from openmcp.sidecar.state.sqlite import SqliteStore
from tests.approvals.console.site import TOKENS, Browser, digest
from tests.approvals.scene import question, spec
from tests.cli.test_approvals import elsewhere
from tests.fakes.kubernetes_api import kubernetes_api
from tests.support.process import OPENMCP, Running, free_ports, running

LEADS = Workflow(name="leads", approvers=("token:ann",))
CONFIGURATION = """
apiVersion: openmcp.dev/v1alpha1
state: {type: sqlite, path: approvals.db}
approvals:
  console: {listen: "127.0.0.1:PORT"}
  tokens: [{name: ann, sha256: DIGEST}]
  workflows: [{name: leads, approvers: ["token:ann"]}]
"""


class Serving:
    """The process, its configuration and the store that a sidecar would use."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.path = folder / "gateway.yaml"
        self.path.write_text(CONFIGURATION.replace("PORT", str(self.port)).replace("DIGEST", digest(TOKENS["ann"])))
        self.store = SqliteStore(folder / "approvals.db")
        self._stack = ExitStack()
        self.process: Running

    def start(self, env: Mapping[str, str] | None = None) -> None:
        command = [OPENMCP, "approvals", "serve", "-c", self.path]
        self.process = self._stack.enter_context(running("approvals serve", command, env, cwd=self.path.parent))
        self.says("approvers decide at")

    def says(self, text: str) -> None:
        self.process.wait_for(lambda: text if text in self.process.printed() else None)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    made = Serving(tmp_path)
    await asyncio.to_thread(made.start)
    yield made
    await asyncio.to_thread(made.close)
    await made.store.close()


async def test_a_request_of_another_process_is_approved_on_the_page(serving: Serving) -> None:
    configuration = load(serving.path).configuration
    service = make_service(configuration.approvals, serving.store, lambda event: None)
    asked = await service.ask(question(), [spec(workflow=LEADS)])
    assert isinstance(asked, Pending)
    ann = Browser(serving)
    answer = await ann.log_in("ann", f"/requests/{asked.record.rid}")
    assert answer.location == f"/requests/{asked.record.rid}"
    assert (await ann.decide(asked.record.rid, "approve", reason="fine")).status == 303
    await ann.close()
    decided = await service.find(asked.record.rid)
    assert decided is not None
    assert (decided.status, decided.votes[0].reason) == (Status.APPROVED, "fine")
    await asyncio.to_thread(serving.says, "approval approved")


async def test_a_changed_token_is_taken_over_and_a_broken_file_is_not(serving: Serving) -> None:
    ann = Browser(serving)
    await ann.log_in("ann")
    assert (await ann.get("/")).status == 200
    good = serving.path.read_text()
    serving.path.write_text("approvals: 7")
    serving.process.process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(serving.says, "what was there before holds")
    assert (await ann.get("/")).status == 200
    serving.path.write_text(good.replace(digest(TOKENS["ann"]), digest("another")))
    serving.process.process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(serving.says, "took over the changed configuration")
    assert (await ann.get("/")).status == 303
    await ann.close()


async def test_sigterm_ends_it(serving: Serving) -> None:
    assert await asyncio.to_thread(serving.process.stop) == 0


async def test_a_port_in_use_is_said(serving: Serving) -> None:
    done = await asyncio.to_thread(elsewhere, serving.path, "serve")
    assert done.returncode == 3
    assert re.search(r"cannot listen: .*address already in use", done.stderr)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("apiVersion: openmcp.dev/v1alpha1\n", "no other process sees"),
        ("apiVersion: openmcp.dev/v1alpha1\nstate: 7\n", "state"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    done: subprocess.CompletedProcess[str] = elsewhere(path, "serve")
    assert done.returncode == 1
    assert said in done.stderr


async def test_workflows_may_be_objects_of_kubernetes(tmp_path: Path) -> None:
    made = Serving(tmp_path)
    text = made.path.read_text().replace('  workflows: [{name: leads, approvers: ["token:ann"]}]\n', "")
    made.path.write_text(f"{text}source: {{type: kubernetes}}\n")
    async with kubernetes_api() as kubernetes:
        kubernetes.put("ApprovalWorkflow", "leads", {"approvers": ["token:ann"]})
        (tmp_path / "kubeconfig").write_text(kubernetes.kubeconfig())
        await asyncio.to_thread(made.start, {"KUBECONFIG": str(tmp_path / "kubeconfig")})
        await asyncio.to_thread(made.says, "took over the changed configuration")
        service = make_service(Approvals(workflows=(LEADS,)), made.store, lambda event: None)
        asked = await service.ask(question(), [spec(workflow=LEADS)])
        assert isinstance(asked, Pending)
        ann = Browser(made)
        await ann.log_in("ann", f"/requests/{asked.record.rid}")
        assert (await ann.decide(asked.record.rid, "approve", reason="fine")).status == 303
        await ann.close()
        decided = await service.find(asked.record.rid)
        assert decided is not None
        assert decided.status is Status.APPROVED
        await asyncio.to_thread(made.close)
    await made.store.close()

"""From gateway.yaml to a message in Slack and a mail, and back to a decision."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openmcp.config import load
from openmcp.config.model import Approvals
from openmcp.sidecar.approvals.channels.making import Outlets
from openmcp.sidecar.approvals.making import configure
from openmcp.sidecar.approvals.values import Event
from openmcp.sidecar.state.records import Status
from tests.approvals.scene import Scene, spec
from tests.fakes.slack import CHANNEL, SECRET, TOKEN, fake_slack, pressed, signed, submitted
from tests.fakes.smtp import AUTHORITY, PASSWORD, USER, mail_server

CONFIGURATION = """
apiVersion: openmcp.dev/v1alpha1
approvals:
  console: {{url: "https://approvals.example"}}
  workflows: [{{name: leads, approvers: ["slack:U0ANN"], channels: [chat, mail]}}]
  channels:
    - name: chat
      type: slack
      channel: {channel}
      token: {{env: TOKEN}}
      signingSecret: {{file: signing}}
      apiUrl: "{url}"
    - name: mail
      type: email
      to: [leads@acme.example]
      from: openmcp@acme.example
      smtp: {{host: localhost, port: {port}, user: {user}, password: {{file: password}}, ca: {{file: ca.pem}}}}
"""


def read(folder: Path, text: str) -> Approvals:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return load(path).configuration.approvals


def write_secrets(folder: Path) -> None:
    (folder / "signing").write_text(f"{SECRET}\n")
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "ca.pem").write_bytes(AUTHORITY.cert_pem.bytes())


class Sidecar(Scene):
    """A service whose events go to the channels of a configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[str, str]] = []
        self.told = asyncio.Event()
        self.outlets = Outlets(
            self.service,
            lambda: self.now,
            lambda: "https://approvals.example",
            self._result,
        )
        self.service._on_event = self._event

    def _result(self, channel: str, result: str) -> None:
        self.results.append((channel, result))
        self.told.set()

    async def until(self, *results: tuple[str, str]) -> None:
        """Wait until all of these have come."""
        async with asyncio.timeout(10):
            while not set(results) <= set(self.results):
                self.told.clear()
                await self.told.wait()

    def _event(self, event: Event) -> None:
        self.outlets.heed(event)


async def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", TOKEN)
    write_secrets(tmp_path)
    sidecar = Sidecar()
    with mail_server() as inbox:
        async with fake_slack() as slack:
            text = CONFIGURATION.format(channel=CHANNEL, url=slack.url, port=inbox.port, user=USER)
            approvals = read(tmp_path, text)
            configure(sidecar.service, approvals)
            await sidecar.outlets.configure(approvals)
            record = (await sidecar.ask(spec(workflow=approvals.workflows[0]))).record
            message = await slack.seen("chat.postMessage")
            link = f"https://approvals.example/requests/{record.rid}"
            assert message["blocks"][-1]["elements"][-1]["url"] == link
            request = signed(pressed("openmcp_approve", record.rid), sidecar.now)
            assert (await sidecar.outlets.slack(request)).status == 200
            view = (await slack.seen("views.open"))["view"]
            assert (await sidecar.outlets.slack(signed(submitted(view), sidecar.now))).status == 200
            found = await sidecar.service.find(record.rid)
            assert found is not None
            assert found.status is Status.APPROVED
            await slack.seen("chat.update")
            await sidecar.until(("chat", "sent"), ("chat", "updated"), ("mail", "sent"))
            assert link in str(inbox.mails[0])
            assert sidecar.outlets.notes() == ()
            await sidecar.outlets.configure(read(tmp_path, text))  # nothing has changed: nothing is told again
            await sidecar.outlets.stop()
    assert ("mail", "updated") not in sidecar.results, "a mail stays as it was sent"


async def test_what_did_not_change_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    text = CONFIGURATION.format(channel=CHANNEL, url="http://127.0.0.1:9/api", port=9, user=USER)
    approvals = read(tmp_path, text)
    sidecar = Sidecar()
    configure(sidecar.service, approvals)
    await sidecar.outlets.configure(approvals)
    await sidecar.ask(spec(workflow=approvals.workflows[0]))
    await sidecar.until(("chat", "failed"))
    fault = "Slack's token: environment variable TOKEN is not set"
    assert sidecar.outlets.faults()["chat"] == fault
    await sidecar.outlets.configure(read(tmp_path, text))
    assert sidecar.outlets.faults()["chat"] == fault
    await sidecar.outlets.configure(read(tmp_path, f"{text}  notificationsPerHour: 7\n"))
    assert sidecar.outlets.faults()["chat"] == ""
    await sidecar.outlets.configure(Approvals())
    assert sidecar.outlets.faults() == {}
    await sidecar.outlets.stop()


async def test_of_two_changes_at_once_the_later_one_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slack app that was taken out is not heeded any more."""
    monkeypatch.setenv("TOKEN", TOKEN)
    write_secrets(tmp_path)
    sidecar, tasks = Sidecar(), asyncio.all_tasks()
    text = CONFIGURATION.format(channel=CHANNEL, url="http://127.0.0.1:9/api", port=9, user=USER)
    await sidecar.outlets.configure(read(tmp_path, text))
    more, none = read(tmp_path, f"{text}  notificationsPerHour: 7\n"), Approvals()
    await asyncio.gather(sidecar.outlets.configure(more), sidecar.outlets.configure(none))
    assert (await sidecar.outlets.slack(signed({}, sidecar.now))).status == 404
    assert asyncio.all_tasks() == tasks
    await sidecar.outlets.stop()


async def test_secrets_are_read_when_they_are_used_and_what_is_missing_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    sidecar = Sidecar()
    async with fake_slack() as slack:
        approvals = read(tmp_path, CONFIGURATION.format(channel=CHANNEL, url=slack.url, port=9, user=USER))
        await sidecar.outlets.configure(approvals)
        assert (await sidecar.outlets.slack(signed({}, sidecar.now))).status == 401
        (note,) = sidecar.outlets.notes()
        assert note.startswith("Slack's buttons do not work: signingSecret: file ")
        write_secrets(tmp_path)
        assert (await sidecar.outlets.slack(signed({}, sidecar.now))).status == 200
        assert sidecar.outlets.notes() == ()
        await sidecar.outlets.stop()
        assert (await sidecar.outlets.slack(signed({}, sidecar.now))).status == 404

"""Console and channels together: an agent asks, a mail goes out, its link opens the page, somebody decides."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import msgspec
import pytest

from openmcp.config.model import Address, Approvals, ApproverToken, Console, EmailChannel, Secret, Smtp, Workflow
from openmcp.sidecar.approvals.making import make_service
from openmcp.sidecar.approvals.side import ApproverSide
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.records import Status
from tests.approvals.console.site import TOKENS, Browser, digest
from tests.approvals.scene import question, spec
from tests.contracts.requests import NOW
from tests.fakes.smtp import mail_server
from tests.support.process import free_ports

LEADS = Workflow(name="leads", approvers=("token:ann",), channels=("mail",))


def approvals(port: int, smtp_port: int) -> Approvals:
    return Approvals(
        console=Console(listen=Address(host="127.0.0.1", port=port)),
        tokens=(ApproverToken(name="ann", sha256=digest(TOKENS["ann"])),),
        workflows=(LEADS,),
        channels=(
            EmailChannel(
                name="mail",
                to=("leads@acme.example",),
                sender="openmcp@acme.example",
                smtp=Smtp(host="localhost", port=smtp_port, start_tls=False),
            ),
        ),
    )


async def test_the_link_of_a_mail_leads_to_the_page_where_it_is_decided() -> None:
    (port,) = free_ports(1)
    told = asyncio.Event()
    with mail_server(tls="none", login=False) as inbox:
        configuration = approvals(port, inbox.port)
        service = make_service(configuration, MemoryStore(), lambda event: side.heed(event), lambda: NOW)
        side = ApproverSide(configuration, service, lambda: NOW, lambda channel, result: told.set())
        await side.start()
        assert side.url == f"http://127.0.0.1:{port}"
        asked = await service.ask(question(), [spec(workflow=LEADS)])
        async with asyncio.timeout(10):
            await told.wait()
        (mail,) = inbox.mails
        body = mail.get_body(("plain",))
        assert body is not None
        (link,) = set(re.findall(r"http://\S+/requests/apr_[a-z0-9]+", body.get_content()))
        assert link == f"{side.url}/requests/{asked.record.rid}"
        ann = Browser(SimpleNamespace(port=port))
        assert (await ann.get(link)).status == 303
        assert (await service.find(asked.record.rid)).status is Status.PENDING
        await ann.log_in("ann", link.removeprefix(side.url))
        assert (await ann.decide(asked.record.rid, "approve")).status == 303
        assert (await service.find(asked.record.rid)).status is Status.APPROVED
        await ann.close()
        await side.stop()


async def test_a_channel_that_does_not_work_is_seen_on_the_pages_until_it_is_gone() -> None:
    port, nobody = free_ports(2)
    told = asyncio.Event()
    configuration = approvals(port, nobody)
    service = make_service(configuration, MemoryStore(), lambda event: side.heed(event), lambda: NOW)
    side = ApproverSide(configuration, service, lambda: NOW, lambda channel, result: told.set())
    await side.start()
    await service.ask(question(), [spec(workflow=LEADS)])
    async with asyncio.timeout(10):
        await told.wait()
    assert list(side.faults()) == ["mail"]
    assert side.faults()["mail"]
    ann = Browser(SimpleNamespace(port=port))
    await ann.log_in("ann")
    assert "mail" in (await ann.get("/")).text.split("<h1>")[0].split("<main")[1]
    without = msgspec.structs.replace(
        configuration, channels=(), workflows=(msgspec.structs.replace(LEADS, channels=()),)
    )
    await side.configure(without)
    assert side.faults() == {}
    assert 'class="note bad"' not in (await ann.get("/")).text
    changed = msgspec.structs.replace(without, tokens=(ApproverToken(name="ann", sha256=digest("new")),))
    await side.configure(changed)
    assert (await ann.get("/")).status == 303
    await ann.close()
    await side.stop()


async def test_without_a_console_there_is_no_page() -> None:
    side = ApproverSide(Approvals(), make_service(Approvals(), MemoryStore(), side_is_deaf), lambda: NOW)
    await side.start()
    assert side.url == ""
    await side.configure(Approvals())
    await side.stop()


def side_is_deaf(_: object) -> None:
    """Nobody listens."""


@pytest.mark.parametrize("secret", [Secret(env="OPENMCP_TEST_NOT_SET")])
async def test_a_secret_that_is_not_there_is_said_at_the_login(
    secret: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    from openmcp.config.model import Oidc
    from openmcp.sidecar.approvals.console.making import settings
    from openmcp.sidecar.approvals.console.settings import LoginFailed

    made = settings(Approvals(oidc=Oidc(issuer="https://idp", client_id="x", client_secret=secret))).oidc
    assert made is not None
    assert made.client_secret is not None
    with pytest.raises(LoginFailed, match="cannot be read"):
        made.client_secret()
    assert "OPENMCP_TEST_NOT_SET" in caplog.text

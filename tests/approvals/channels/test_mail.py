"""Mails: to a real server over TLS, with everything an approver needs to know and nothing that decides."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
import trustme

from openmcp.config.secrets import SecretError
from openmcp.sidecar.approvals.channels import mail as module
from openmcp.sidecar.approvals.channels.channel import ChannelFailed
from openmcp.sidecar.approvals.channels.mail import Mail, Server
from openmcp.sidecar.approvals.mailtickets import Proof, Tickets
from openmcp.sidecar.state.records import Need
from openmcp.sidecar.state.store import StoreUnavailable
from tests.contracts.requests import NOW, request
from tests.fakes.smtp import AUTHORITY, PASSWORD, USER, Inbox, mail_server
from tests.support.process import free_ports

TO = ("leads@acme.example", "boss@acme.example")
CA = AUTHORITY.cert_pem.bytes()
EVIL = '</td></table><script>alert(1)</script><img src=x onerror="x"> http://evil.example\r\nBcc: eve@evil.example'


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with mail_server() as server:
        yield server


@asynccontextmanager
async def to(inbox: Inbox, tickets: Any = None, **changes: Any) -> AsyncIterator[Mail]:
    """The channel that sends to this server."""
    fields: dict[str, Any] = {
        "host": "localhost",
        "port": inbox.port,
        "login": lambda: (USER, PASSWORD),
        "ca": lambda: CA,
    }
    server = Server(**{**fields, **changes})
    addresses = ("openmcp@acme.example", TO)
    mail = Mail("mail", addresses, server, lambda path: f"https://approvals.example{path}", tickets)
    yield mail
    await mail.close()


async def failure(inbox: Inbox, **changes: Any) -> ChannelFailed:
    """How sending fails."""
    async with to(inbox, **changes) as mail:
        with pytest.raises(ChannelFailed) as failed:
            await mail.send(request(), NOW)
    assert PASSWORD not in str(failed.value)
    return failed.value


def parts(inbox: Inbox) -> tuple[str, str]:
    """The text and the HTML of the only mail."""
    (mail,) = inbox.mails
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    return text.get_content().replace("\r\n", "\n"), html.get_content()


async def test_a_request_is_a_mail_with_a_link(inbox: Inbox) -> None:
    record = request(why=("refunds need a human",), agent_reason="please")
    async with to(inbox) as mail:
        reference = await mail.send(record, NOW)
        await mail.update(record, reference, NOW)
    (sent,) = inbox.mails
    assert inbox.encrypted == [True]
    assert inbox.recipients == [list(TO)]
    assert sent["Subject"] == f"Approval wanted: {record.rid}"
    assert (sent["From"], sent["To"]) == ("openmcp@acme.example", ", ".join(TO))
    assert sent["Message-ID"] == reference
    assert sent["Auto-Submitted"] == "auto-generated"
    text, html = parts(inbox)
    link = f"https://approvals.example/requests/{record.rid}"
    assert f"Decide here: {link}\n" in text
    assert '$.ticket_id: "T-7"\n' in text
    assert "The agent says (not verified): please\n" in text
    assert "An approval covers: spiffe://acme.example/ns/support/sa/agent may use tool refund of tickets" in text
    assert re.findall(r'href="([^"]*)"', html) == [link]


class Tags(HTMLParser):
    """The tags and attributes of a document."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_what_an_agent_writes_is_text_and_no_header(inbox: Inbox) -> None:
    evil = {"agent": EVIL, "server": EVIL, "name": EVIL, "agent_reason": EVIL, "why": (EVIL,)}
    async with to(inbox) as mail:
        await mail.send(request(shown=((EVIL, msgspec.json.encode(EVIL).decode()),), **evil), NOW)
    (sent,) = inbox.mails
    assert sent["Bcc"] is None
    assert inbox.recipients == [list(TO)]
    text, html = parts(inbox)
    tags = Tags(html)
    assert tags.found == {
        *("html", "lang", "head", "meta", "name", "content", "title", "body", "style"),
        *("main", "h1", "p", "span", "br", "bdi", "a", "href"),
    }
    assert "<script>alert(1)</script>" in tags.text
    assert "\nBcc" not in text


async def test_approvers_known_by_their_address_get_a_mail_of_their_own(inbox: Inbox) -> None:
    tickets = Tickets(b"k" * 32)

    async def ready() -> Tickets:
        return tickets

    lead = Need(policy="p", rule="r", workflow="w", approvers=("email:boss@acme.example", "email:eve@acme.example"))
    record = request(needs=(lead, lead))
    async with to(inbox, ready) as mail:
        assert await mail.send(record, NOW) == inbox.mails[0]["Message-ID"]
    assert inbox.recipients == [["leads@acme.example"], ["boss@acme.example"], ["eve@acme.example"]]
    shown = [body.get_content() for sent in inbox.mails if (body := sent.get_body(("plain",))) is not None]
    assert "Your code" not in shown[0]
    assert f"https://approvals.example/requests/{record.rid}" in shown[0]
    for text, address in zip(shown[1:], ("boss@acme.example", "eve@acme.example"), strict=True):
        code, link = re.search("Your code: ([0-9]+)", text), re.search(r"/login/mail\?ticket=(\S+)", text)
        assert code is not None
        assert link is not None
        assert tickets.check(link[1], code[1], NOW) == Proof(address, record.rid, record.pending_until)
    html = inbox.mails[1].get_body(("html",))
    assert html is not None
    assert "/login/mail?ticket=" in html.get_content()


async def test_without_the_key_no_link_is_made_and_it_is_tried_again(inbox: Inbox) -> None:
    async def away() -> Tickets:
        raise StoreUnavailable("Redis is away")

    lead = Need(policy="p", rule="r", workflow="w", approvers=("email:boss@acme.example",))
    async with to(inbox, away) as mail:
        with pytest.raises(ChannelFailed, match="no links can be made: Redis is away") as failed:
            await mail.send(request(needs=(lead,)), NOW)
        assert not failed.value.lasting
        await mail.send(request(), NOW)
    assert len(inbox.mails) == 1


async def test_all_arguments_have_a_line_each(inbox: Inbox) -> None:
    async with to(inbox) as mail:
        await mail.send(request(shown=(("$", '{"b":"<b>\\n}\\nNote: fine","a":1}'),), bound=None), NOW)
    text, html = parts(inbox)
    assert '\narguments:\n{\n  "b": "<b>\\n}\\nNote: fine",\n  "a": 1\n}\n' in text
    assert ">{\n  &quot;b&quot;: &quot;&lt;b&gt;\\n}" in html.replace("\r\n", "\n")


async def test_what_is_cut_says_so(inbox: Inbox) -> None:
    async with to(inbox) as mail:
        await mail.send(request(bound=(("$.x", f'["{"x" * 500}"]'),)), NOW)
    assert "Note: Not all of it is shown here: the page shows the whole.\n" in parts(inbox)[0]


async def test_tls_at_once_on_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(tls="implicit") as inbox:
        monkeypatch.setattr(module, "IMPLICIT_TLS", inbox.port)
        async with to(inbox, start_tls=False) as mail:
            await mail.send(request(), NOW)
        assert inbox.encrypted == [True]


async def test_in_the_clear_where_it_is_wanted() -> None:
    with mail_server(tls="none", login=False) as inbox:
        async with to(inbox, start_tls=False, login=None, ca=None) as mail:
            await mail.send(request(), NOW)
        assert inbox.encrypted == [False]


async def test_a_server_without_tls_gets_neither_password_nor_mail() -> None:
    with mail_server(tls="none", login=False) as inbox:
        failed = await failure(inbox)
        assert (str(failed), failed.lasting) == (
            "the mail server cannot do it: STARTTLS extension not supported by server.",
            True,
        )
        assert inbox.mails == []


async def test_a_server_that_is_not_who_it_should_be_gets_nothing() -> None:
    with mail_server(names=("other.example",)) as inbox:
        failed = await failure(inbox)
        assert str(failed).startswith("localhost does not answer: TLS: Hostname mismatch")
        assert inbox.mails == []


async def test_a_server_of_another_authority_gets_nothing(inbox: Inbox) -> None:
    other = trustme.CA().cert_pem.bytes()
    for ca in (lambda: other, None):
        failed = await failure(inbox, ca=ca)
        assert str(failed) == "localhost does not answer: TLS: unable to get local issuer certificate"
    assert inbox.mails == []


async def test_an_authority_that_cannot_be_read_trusts_nobody(inbox: Inbox) -> None:
    for ca in (b"", b"nonsense", b"\xff"):
        failed = await failure(inbox, ca=partial(bytes, ca))
        assert (str(failed), failed.lasting) == ("the mail server's CA is not a PEM certificate", True)
    assert inbox.mails == []


async def test_a_wrong_password_is_told_and_not_repeated(inbox: Inbox) -> None:
    failed = await failure(inbox, login=lambda: (USER, "hunter2"))
    assert (str(failed), failed.lasting) == ("the mail server does not accept the user and password", True)


async def test_a_secret_that_is_missing_is_told(inbox: Inbox) -> None:
    def missing() -> tuple[str, str]:
        raise SecretError("environment variable SMTP_PASSWORD is not set")

    assert str(await failure(inbox, login=missing)) == (
        "the mail server's secrets: environment variable SMTP_PASSWORD is not set"
    )


@pytest.mark.parametrize(("answer", "lasting"), [("451 try later", False), ("552 too large, and private", True)])
async def test_what_the_server_refuses_is_told_by_number(inbox: Inbox, answer: str, lasting: bool) -> None:
    inbox.refuse = answer
    failed = await failure(inbox)
    assert (str(failed), failed.lasting) == (f"the mail server refuses with {answer[:3]}", lasting)


async def test_who_is_not_known_does_not_keep_others_from_it(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    inbox.unknown = {"boss@acme.example"}
    async with to(inbox) as mail:
        await mail.send(request(), NOW)
    assert inbox.recipients == [["leads@acme.example"]]
    assert "takes no mail for boss@acme.example" in caplog.text
    inbox.unknown = set(TO)
    failed = await failure(inbox)
    assert (str(failed), failed.lasting) == ("the mail server takes no mail for these addresses", True)


async def test_a_server_that_is_away_is_tried_again(inbox: Inbox) -> None:
    failed = await failure(inbox, port=free_ports(1)[0])
    assert (str(failed), failed.lasting) == ("localhost does not answer: Connection refused", False)

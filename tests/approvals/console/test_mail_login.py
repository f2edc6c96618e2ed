"""Login by a mail: the link alone does nothing, link and code are somebody, for as long as their request waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from openmcp.config.model import Workflow
from openmcp.sidecar.approvals.console.settings import Person
from openmcp.sidecar.approvals.mailtickets import Proof, Ticket, tickets_of
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Status
from openmcp.sidecar.state.store import StoreUnavailable
from tests.approvals.console.site import Browser, Site
from tests.approvals.scene import spec

ADDRESS = "lead@acme.example"
LEADS = Workflow(name="leads", approvers=(f"email:{ADDRESS}", "token:ann"))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site(mail=True)
    made.scene.service.workflows = {"leads": LEADS.approvers}
    await made.start()
    yield made
    await made.console.stop()


@pytest.fixture
async def browser(site: Site) -> AsyncIterator[Browser]:
    made = Browser(site)
    yield made
    await made.close()


async def ticket(site: Site, record: ApprovalRecord, address: str = ADDRESS) -> Ticket:
    """What the mail for a request holds."""
    tickets = await tickets_of(site.scene.store.hmac_key)()
    return tickets.issue(Proof(address, record.rid, record.pending_until))


async def log_in(browser: Browser, made: Ticket, code: str | None = None) -> Any:
    """Follow the link of a mail, and type in its code."""
    page = await browser.get(f"/login/mail?ticket={made.token}")
    form = page.forms["/login/mail"]
    return await browser.post("/login/mail", form | {"code": made.code if code is None else code})


async def test_who_has_the_mail_decides(site: Site, browser: Browser) -> None:
    record = await site.pending(spec(workflow=LEADS))
    made = await ticket(site, record)
    answer = await log_in(browser, made)
    assert (answer.status, answer.location) == (303, f"/requests/{record.rid}")
    assert (await browser.decide(record.rid, "approve", reason="fine")).status == 303
    found = await site.scene.service.find(record.rid)
    assert found is not None
    assert (found.status, found.votes[0].approver) == (Status.APPROVED, f"email:{ADDRESS}")


async def test_a_mail_decides_once_and_on_its_own_request(site: Site, browser: Browser) -> None:
    two = Workflow(name="leads", approvers=LEADS.approvers, required=2)
    record, other = await site.pending(spec(workflow=two)), await site.pending(spec("other", workflow=two))
    made = await ticket(site, record)
    assert (await log_in(browser, made)).status == 303
    assert set((await browser.get(f"/requests/{record.rid}")).forms) > {
        f"/requests/{record.rid}/approve",
        f"/requests/{record.rid}/deny",
    }
    page = await browser.get(f"/requests/{other.rid}")
    assert "by the mail for another request" in page.words
    assert not any(other.rid in form for form in page.forms)
    assert (await browser.decide(record.rid, "approve")).status == 303
    thief = Browser(site)
    assert (await log_in(thief, made)).status == 303
    page = await thief.get(f"/requests/{record.rid}")
    assert not any(record.rid in form for form in page.forms)
    await thief.close()
    found = await site.scene.service.find(record.rid)
    assert found is not None
    assert [vote.choice for vote in found.votes] == [Choice.APPROVE]


@pytest.mark.parametrize("action", ["approve", "deny", "revoke"])
async def test_a_form_for_another_request_than_the_mails_is_refused(site: Site, action: str) -> None:
    record = await site.pending(spec(workflow=LEADS))
    person = Person(f"email:{ADDRESS}", proof="mail", request="apr_other")
    form = {"reason": "x"}
    with pytest.raises(Conflict, match="another request"):
        await site.console._act(record, person, action, form)


async def test_following_the_link_logs_nobody_in(site: Site, browser: Browser) -> None:
    record = await site.pending(spec(workflow=LEADS))
    made = await ticket(site, record)
    assert (await browser.get(f"/login/mail?ticket={made.token}")).status == 200
    assert (await browser.get(f"/requests/{record.rid}")).status == 303
    assert record.rid not in (await browser.get(f"/login/mail?ticket={made.token}")).words


async def test_where_the_store_is_away_a_stranger_is_not_told_which_it_is(
    site: Site, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> bytes:
        raise StoreUnavailable("Redis at redis.internal:6379: connection refused")

    monkeypatch.setattr(site.console._login, "_tickets", tickets_of(away))
    answer = await browser.get("/login/mail?ticket=x")
    assert answer.status == 503
    assert "The state store is away Try again later." in answer.words
    assert "internal" not in answer.text


async def test_a_wrong_code_is_refused_and_counted(site: Site, browser: Browser) -> None:
    made = await ticket(site, await site.pending(spec(workflow=LEADS)))
    wrong = f"{(int(made.code) + 1) % 10**8:08}"
    for _ in range(10):
        answer = await log_in(browser, made, wrong)
        assert answer.status == 403
        assert "This is not the code of that mail." in answer.words
    assert (await log_in(browser, made)).status == 429
    site.scene.now += 60_000
    assert (await log_in(browser, made)).status == 303


async def test_a_link_that_is_not_ours_is_no_page(site: Site, browser: Browser) -> None:
    for query in ("", "?ticket=", "?ticket=a.b", "?ticket=%00", "?ticket=%C3%A9.%C3%A9"):
        assert (await browser.get(f"/login/mail{query}")).status == 404


async def test_a_ticket_ends_with_its_request(site: Site, browser: Browser) -> None:
    record = await site.pending(spec(workflow=LEADS))
    made = await ticket(site, record)
    site.scene.now = record.pending_until
    answer = await log_in(browser, made)
    assert answer.status == 403
    assert "This link has ended" in answer.words


async def test_who_is_on_no_list_any_more_is_not_let_in(site: Site, browser: Browser) -> None:
    record = await site.pending(spec(workflow=LEADS))
    assert (await log_in(browser, await ticket(site, record, "other@acme.example"))).status == 403


async def test_a_form_of_nowhere_is_refused(site: Site, browser: Browser) -> None:
    made = await ticket(site, await site.pending(spec(workflow=LEADS)))
    answer = await browser.post("/login/mail", {"ticket": made.token, "code": made.code, "csrf": "x"})
    assert answer.status == 403
    assert (await browser.get("/")).status == 303
    stolen = await browser.post(
        "/login/mail", {"ticket": made.token, "code": made.code}, {"Origin": "https://evil.example"}
    )
    assert stolen.status == 403


async def test_where_there_is_no_login_by_mail_no_ticket_is_good(site: Site, browser: Browser) -> None:
    record = await site.pending(spec(workflow=LEADS))
    made = await ticket(site, record)
    assert (await log_in(browser, made)).status == 303
    assert (await browser.get("/")).status == 200
    site.console.configure(type(site.settings)(tokens=site.settings.tokens))
    assert (await browser.get("/")).status == 303, "who came by mail is logged out"
    assert (await browser.get(f"/login/mail?ticket={made.token}")).status == 404
    assert (await browser.post("/login/mail", {"ticket": made.token, "code": made.code})).status == 404

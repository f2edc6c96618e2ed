"""Deciding on the console, as browsers see it."""

from __future__ import annotations

import ssl

import trustme

from openmcp.sidecar.approvals.console.settings import Incoming, Outgoing
from openmcp.sidecar.state.records import Choice, Status
from openmcp.sidecar.state.store import StoreUnavailable
from tests.approvals.console.site import Browser, Site
from tests.approvals.scene import LEADS, of, spec
from tests.contracts.requests import HOUR, MINUTE
from tests.support.process import free_ports


async def test_a_person_logs_in_sees_the_request_and_approves_it(site, browser):
    record = await site.pending(reason="the customer asked for it")
    ann = await browser()
    to_login = await ann.get(f"/requests/{record.rid}")
    assert (to_login.status, to_login.location) == (303, f"/login?next=/requests/{record.rid}")
    answer = await ann.log_in("ann", f"/requests/{record.rid}")
    assert (answer.status, answer.location) == (303, f"/requests/{record.rid}")
    page = await ann.get(answer.location)
    for text in (
        record.agent,
        "SPIFFE certificate",
        "tool refund",
        "on tickets",
        "&#34;T-7&#34;",
        record.arguments_digest,
    ):
        assert text in page.words
    assert "not verified" in page.text
    done = await ann.decide(record.rid, "approve", duration=str(5 * MINUTE), uses="2", reason="go  on\n")
    assert (done.status, done.location) == (303, f"/requests/{record.rid}")
    decided = await site.scene.service.find(record.rid)
    assert decided.status is Status.APPROVED
    assert (decided.grant_until - decided.granted_at, decided.uses_left) == (5 * MINUTE, 2)
    (vote,) = decided.votes
    assert (vote.approver, vote.choice, vote.reason, vote.groups) == ("token:ann", Choice.APPROVE, "go on", ())
    after = await ann.get(done.location)
    assert "Your approval was counted." in after.words
    assert "Your approval was counted." not in (await ann.get(done.location)).words
    assert list(after.forms) == ["/logout", f"/requests/{record.rid}/revoke"]


async def test_the_lists_show_what_waits_holds_and_has_ended(site, browser):
    first, second = await site.pending(), await site.pending(arguments={"ticket_id": "T-8"})
    ann = await browser("ann")
    page = await ann.get("/")
    assert page.text.count('class="card"') == 2
    assert "1 more approval of leads" in page.words
    await ann.decide(first.rid, "approve")
    await ann.decide(second.rid, "deny", reason="no")
    assert "No agent is waiting" in (await ann.get("/")).words
    grants = await ann.get("/grants")
    assert "approved by token:ann" in grants.words
    gone = await ann.post(f"/requests/{first.rid}/revoke", grants.forms[f"/requests/{first.rid}/revoke"])
    assert gone.status == 303
    assert "Nothing is granted" in (await ann.get("/grants")).words
    history = (await ann.get("/history")).words
    assert "denied" in history
    assert "revoked" in history
    assert (await site.scene.service.find(first.rid)).status is Status.REVOKED


async def test_two_people_are_needed_and_one_does_not_count_twice(site, browser):
    workflow = of(LEADS, required=2)
    record = await site.pending(spec(workflow=workflow, duration=7200.0))
    ann, bob = await browser("ann"), await browser("bob")
    await ann.decide(record.rid, "approve", duration=str(HOUR))
    page = await ann.get(f"/requests/{record.rid}")
    assert "you have approved this already" in page.words
    assert f"/requests/{record.rid}/approve" not in page.forms
    assert (await site.scene.service.find(record.rid)).status is Status.PENDING
    seen = await bob.get(f"/requests/{record.rid}")
    assert "token:ann has approved" in seen.words
    assert "2 hours" not in seen.words  # ann has allowed an hour
    await bob.decide(record.rid, "approve")
    granted = await site.scene.service.find(record.rid)
    assert granted.status is Status.APPROVED
    assert granted.grant_until - granted.granted_at == HOUR


async def test_what_is_filled_in_wrongly_is_said_and_kept(site, browser):
    record = await site.pending(spec(max_uses=3))
    ann = await browser("ann")
    for filled in ({"duration": str(24 * HOUR)}, {"uses": "4"}, {"uses": "0"}, {"uses": "many"}, {"reason": "x" * 501}):
        answer = await ann.decide(record.rid, "approve", **filled)
        assert answer.status == 400
        assert 'role="alert"' in answer.text
    answer = await ann.decide(record.rid, "approve", uses="9", reason="my reason")
    assert "my reason" in answer.text
    assert (await site.scene.service.find(record.rid)).votes == ()
    again = await ann.post(
        f"/requests/{record.rid}/approve", answer.forms[f"/requests/{record.rid}/approve"] | {"uses": "3"}
    )
    assert again.status == 303


async def test_a_workflow_may_ask_for_a_reason(site, browser):
    site.scene.service.need_reason = frozenset(("leads",))
    record = await site.pending()
    ann = await browser("ann")
    for action in ("approve", "deny"):
        answer = await ann.decide(record.rid, action, reason="  ")
        assert (answer.status, "A reason is required" in answer.words) == (400, True)
    assert (await ann.decide(record.rid, "deny", reason="not today")).status == 303
    assert (await site.scene.service.find(record.rid)).end_reason == "not today"


async def test_long_lists_have_pages(site, browser):
    for number in range(53):
        await site.pending(arguments={"ticket_id": f"T-{number}"})
    ann = await browser("ann")
    page = await ann.get("/")
    assert page.text.count('class="card"') == 50
    more = page.text.split('<a href="/?cursor=')[1].split('"')[0]
    rest = await ann.get(f"/?cursor={more}")
    assert rest.text.count('class="card"') == 3
    assert (await ann.get("/?cursor=nonsense")).status == 400
    assert (await ann.get("/count")).text == '{"pending": 53}'


async def test_pages_that_stay_open_make_one_look_at_the_store_in_three_seconds(site, browser, monkeypatch):
    looks = []
    read = site.scene.store.list_pending

    async def counted(*arguments: object) -> object:
        looks.append(arguments)
        return await read(*arguments)

    ann, bob = await browser("ann"), await browser("bob")
    monkeypatch.setattr(site.scene.store, "list_pending", counted)
    for _ in range(3):
        assert (await ann.get("/count")).text == '{"pending": 0}'
    looks.clear()
    await site.pending()
    looks.clear()
    assert (await bob.get("/count")).text == '{"pending": 0}'
    assert looks == []
    site.scene.now += 3_000
    assert (await bob.get("/count")).text == '{"pending": 1}'
    assert len(looks) == 1


async def test_over_https_everything_is_for_https_alone():
    authority = trustme.CA()
    context, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(client)
    (port,) = free_ports(1)
    site = Site(url=f"https://localhost:{port}")
    site.port = await site.console.start("127.0.0.1", port, context)
    ann = Browser(site, client)
    record = await site.pending()
    answer = await ann.log_in("ann")
    assert answer.status == 303
    (cookie,) = (one for one in answer.headers.getall("Set-Cookie") if one.startswith("__Host-openmcp="))
    assert {part.strip() for part in cookie.split(";")[1:]} == {"HttpOnly", "Path=/", "SameSite=Lax", "Secure"}
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert (await ann.get("/", headers={"Host": f"127.0.0.1:{port}"})).status == 421
    path, form = await ann.form(record.rid, "approve")
    assert (await ann.post(path, form, {"Origin": f"http://localhost:{port}"})).status == 403
    assert (await ann.post(path, form)).status == 303
    await ann.close()
    await site.console.stop()


async def test_notes_are_shown_to_who_is_logged_in_alone(site, browser):
    site.notes.append("channel leads-slack: not_in_channel <b>")
    assert "leads-slack" not in (await (await browser()).get("/login")).text
    assert "not_in_channel &lt;b&gt;" in (await (await browser("ann")).get("/")).text


async def test_a_store_that_is_away_is_said_and_changes_nothing(site, browser, monkeypatch):
    record = await site.pending()
    ann = await browser("ann")
    path, form = await ann.form(record.rid, "approve")

    async def away(*_: object) -> None:
        raise StoreUnavailable("redis: connection refused")

    monkeypatch.setattr(site.scene.store, "vote", away)
    answer = await ann.post(path, form)
    assert (answer.status, "connection refused" in answer.words) == (503, True)
    assert (await site.scene.service.find(record.rid)).status is Status.PENDING


async def test_others_answer_on_mounted_paths_with_what_came_unread():
    site, seen = Site(), []

    async def handler(incoming: Incoming) -> Outgoing:
        seen.append(incoming)
        return Outgoing(200, b"{}", "application/json")

    site.console.mount("/slack/actions", handler)
    await site.start()
    slack = Browser(site)
    body = b"payload=%7B%7D"
    answer = await slack.send("POST", "/slack/actions?a=b", {"X-Slack-Signature": "v0=1"}, data=body)
    get = await slack.get("/slack/actions")
    await slack.close()
    await site.console.stop()
    assert (answer.status, answer.text, answer.headers["Content-Type"]) == (200, "{}", "application/json")
    (incoming,) = seen
    assert (incoming.method, incoming.path, incoming.query, incoming.body) == ("POST", "/slack/actions", "a=b", body)
    assert incoming.headers["x-slack-signature"] == "v0=1"
    assert get.status == 405


async def test_the_port_in_use_is_an_error_and_a_stopped_console_lets_go_of_it(site):
    second = Site()
    try:
        await second.console.start("127.0.0.1", site.port)
    except OSError:
        pass
    else:
        raise AssertionError("two consoles on one port")
    await site.console.stop()
    assert await second.console.start("127.0.0.1", site.port) == site.port
    await second.console.stop()

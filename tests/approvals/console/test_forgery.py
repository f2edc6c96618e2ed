"""What must not work: forms that are replayed, forged or of others, links that act, texts that are markup."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlencode

import msgspec
import pytest

from openmcp.sidecar.approvals.console.guard import Attempts, Place
from openmcp.sidecar.approvals.console.login import target
from openmcp.sidecar.approvals.console.settings import CannotServe, Oidc, Token
from openmcp.sidecar.state.lifecycle import voted
from openmcp.sidecar.state.records import Status
from tests.approvals.console.site import Browser, Site, digest
from tests.approvals.scene import LEADS, of, spec
from tests.contracts.requests import MINUTE, request, yes


async def status(site: Site, rid: str) -> Status:
    return (await site.scene.service.find(rid)).status


async def test_a_form_is_good_once(site, browser):
    record = await site.pending(spec(workflow=of(LEADS, required=2)))
    ann = await browser("ann")
    path, form = await ann.form(record.rid, "approve")
    assert (await ann.post(path, form)).status == 303
    replayed = await ann.post(path, form)
    assert (replayed.status, "Used already" in replayed.words) == (409, True)
    votes = (await site.scene.service.find(record.rid)).votes
    assert [vote.approver for vote in votes] == ["token:ann"]


@pytest.mark.parametrize("field", ["csrf", "form"])
@pytest.mark.parametrize("value", [None, "", "é", "0" * 43, "of bob"])
async def test_a_form_without_what_this_login_was_given_changes_nothing(site, browser, field, value):
    record = await site.pending()
    ann, bob = await browser("ann"), await browser("bob")
    path, form = await ann.form(record.rid, "approve")
    del form[field]
    if value is not None:
        form[field] = (await bob.form(record.rid, "approve"))[1][field] if value == "of bob" else value
    answer = await ann.post(path, form)
    assert answer.status == (403 if field == "csrf" else 409)
    assert await status(site, record.rid) is Status.PENDING


@pytest.mark.parametrize("other", ["deny", "other request"])
async def test_a_form_is_good_for_what_it_was_made_for_alone(site, browser, other):
    record, second = await site.pending(), await site.pending(arguments={"ticket_id": "T-8"})
    ann = await browser("ann")
    _, form = await ann.form(record.rid, "approve")
    path = f"/requests/{record.rid}/deny" if other == "deny" else f"/requests/{second.rid}/approve"
    assert (await ann.post(path, form)).status == 409
    assert {await status(site, one.rid) for one in (record, second)} == {Status.PENDING}


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", "http://127.0.0.1", "http://localhost:{port}"]
)
async def test_forms_of_other_origins_are_refused(site, browser, origin):
    record = await site.pending()
    ann = await browser("ann")
    path, form = await ann.form(record.rid, "approve")
    headers = {} if origin is None else {"Origin": origin.format(port=site.port)}
    answer = await ann.send("POST", path, headers, data=form)
    assert (answer.status, "Not from here" in answer.words) == (403, True)
    assert await status(site, record.rid) is Status.PENDING
    assert (await ann.post(path, form)).status == 303  # the form itself was good


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_a_link_never_acts(site, browser, method):
    record = await site.pending()
    ann = await browser("ann")
    path, form = await ann.form(record.rid, "approve")
    for action in ("approve", "deny", "revoke"):
        answer = await ann.send(method, path.replace("approve", action), params=form)
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert (await ann.send(method, "/logout", params=form)).status == 405
    assert await status(site, record.rid) is Status.PENDING


async def test_reading_every_page_changes_nothing(site, browser):
    record = await site.pending()
    granted = (await site.scene.granted(arguments={"ticket_id": "T-8"})).record
    ann = await browser("ann")
    before = [await site.scene.service.find(one.rid) for one in (record, granted)]
    for path in (
        "/",
        "/grants",
        "/history",
        "/count",
        "/login",
        "/healthz",
        *(f"/requests/{one.rid}" for one in before),
    ):
        assert (await ann.get(path)).status in (200, 303)
    assert [await site.scene.service.find(one.rid) for one in (record, granted)] == before


async def test_a_link_to_an_older_generation_is_refused(site, browser):
    old = await site.pending()
    ann = await browser("ann")
    path, form = await ann.form(old.rid, "approve")
    site.scene.now = old.pending_until
    new = await site.pending()
    assert new.key == old.key
    assert new.rid != old.rid
    for answer in (await ann.get(f"/requests/{old.rid}"), await ann.post(path, form)):
        assert (answer.status, "asked anew" in answer.words) == (404, True)
    assert await status(site, new.rid) is Status.PENDING


async def test_a_generation_that_ends_while_the_form_is_on_its_way_is_not_approved(site, browser, monkeypatch):
    old = await site.pending()
    ann = await browser("ann")
    path, form = await ann.form(old.rid, "approve")
    site.scene.now = old.pending_until
    new = await site.pending()

    async def as_it_was(_: str) -> object:
        return old

    monkeypatch.setattr(site.scene.service, "find", as_it_was)
    answer = await ann.post(path, form)
    monkeypatch.undo()
    assert (answer.status, "older request" in answer.words) == (409, True)
    assert await status(site, new.rid) is Status.PENDING


async def test_who_is_not_on_the_list_sees_and_cannot_decide(site, browser):
    record = await site.pending()
    eve, ann = await browser("eve"), await browser("ann")
    page = await eve.get(f"/requests/{record.rid}")
    assert "You cannot approve this: token:eve is not on the list of approvers." in page.words
    assert list(page.forms) == ["/logout"]
    for action in ("approve", "deny"):
        session = site.console._site.sessions.find(eve.jar.filter_cookies(eve.base)[f"openmcp-{site.port}"].value)
        form = {"csrf": session.csrf, "form": session.form(record.rid, action)}
        answer = await eve.post(f"/requests/{record.rid}/{action}", form)
        assert (answer.status, "not on the list" in answer.words) == (403, True)
    assert await status(site, record.rid) is Status.PENDING
    await ann.decide(record.rid, "approve")
    form = {"csrf": session.csrf, "form": session.form(record.rid, "revoke")}
    assert (await eve.post(f"/requests/{record.rid}/revoke", form)).status == 403
    assert await status(site, record.rid) is Status.APPROVED


async def test_who_was_taken_off_the_list_decides_no_more(site, browser):
    record = await site.pending()
    ann = await browser("ann")
    path, form = await ann.form(record.rid, "approve")
    site.scene.service.workflows = {"leads": ("token:bob",), "others": ("token:ann",)}
    page = await ann.get(f"/requests/{record.rid}")
    assert "not on the list of approvers any more" in page.words
    assert (await ann.post(path, form)).status == 403
    assert await status(site, record.rid) is Status.PENDING


async def test_nobody_approves_their_own_request(site, browser):
    record = await site.pending(agent="jwt:https://idp.example/#ann")
    ann = await browser("ann")
    page = await ann.get(f"/requests/{record.rid}")
    assert "nobody approves their own request" in page.words
    assert f"/requests/{record.rid}/approve" not in page.forms


HOSTILE = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}</textarea></title>\r\nSet-Cookie: a=b\u202e\u200b"
)


async def test_markup_in_every_field_is_text(site, browser):
    hostile = request(
        agent=f"jwt:https://idp/<b>/#{HOSTILE}",
        identified_by=HOSTILE,
        server=HOSTILE,
        method=HOSTILE,
        name=HOSTILE,
        why=(HOSTILE,),
        shown=((HOSTILE, msgspec.json.encode(HOSTILE).decode()), ("$.é", '"é' + "<b>" + '"')),
        bound=((HOSTILE, msgspec.json.encode([HOSTILE]).decode()),),
        agent_reason=HOSTILE,
        needs=(msgspec.structs.replace(request().needs[0], policy=HOSTILE, rule=HOSTILE, required=2),),
        now=site.scene.now,
    )
    hostile = voted(hostile, hostile.rid, yes("token:bob", reason=HOSTILE), site.scene.now)
    await site.scene.store.open(hostile, site.scene.now)
    site.notes.append(HOSTILE)
    ann = await browser("ann")
    problem = await ann.decide(hostile.rid, "approve", uses=HOSTILE, reason=HOSTILE)
    page = await ann.get(f"/requests/{hostile.rid}")
    listed = await ann.get("/")
    await ann.decide(hostile.rid, "approve", reason=HOSTILE)
    grants = await ann.get("/grants")
    await ann.decide(hostile.rid, "revoke", reason=HOSTILE)
    pages = (problem, page, listed, grants, await ann.get("/history"), await ann.get(f"/requests/{hostile.rid}"))
    for answer in pages:
        assert answer.status == (400 if answer is problem else 200)
        assert "<b>" not in answer.text
        assert "<img" not in answer.text.replace('<img src="/static/icon.svg', "")
        assert set(re.findall(r"<script[^>]*>", answer.text)) == {
            re.search(r'<script src="/static/count.js\?v=\w+" defer>', answer.text)[0]
        }
        assert "{{7*7}}" in answer.text
        assert answer is problem or "\u202e" not in answer.text  # their own words come back to them as they are
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("name", ["a%0d%0aSet-Cookie:%20x=y", "%3Cscript%3E", "..%2f..%2fgateway.yaml", "apr_é"])
async def test_paths_are_not_believed(site, browser, name):
    ann = await browser("ann")
    for path in (f"/requests/{name}", f"/static/{name}", f"/{name}"):
        answer = await ann.get(path)
        assert answer.status == 404
        assert "Set-Cookie" not in answer.headers
        assert "<script>" not in answer.text


@pytest.mark.parametrize(
    "where",
    [
        "//evil.example",
        "https://evil.example/",
        "/\\evil.example",
        "/requests/a/../..//evil",
        "/login/oidc",
        "\r\nx: y",
        "/x",
    ],
)
async def test_a_login_leads_to_pages_of_the_console_alone(site, browser, where):
    assert target(where) == "/"
    ann = await browser()
    page = await ann.send("GET", "/login", params={"next": where})
    form = page.forms["/login"] | {"token": "ann's secret"}
    assert form["next"] == "/"
    assert (await ann.post("/login", form | {"next": where})).location == "/"
    assert (await ann.send("GET", "/login", params={"next": where})).location == "/"


async def test_a_login_makes_a_new_session_and_a_logout_ends_it(site, browser):
    victim = await browser()
    name = f"openmcp-{site.port}"
    victim.jar.update_cookies({name: "fixed-by-somebody"}, victim.base)
    await victim.log_in("ann")
    cookie = victim.jar.filter_cookies(victim.base)[name].value
    assert cookie != "fixed-by-somebody"
    assert (await victim.get("/")).status == 200
    assert (await victim.get("/login?next=/grants")).location == "/grants"
    page = await victim.get("/")
    assert (await victim.post("/logout", {"csrf": "forged"})).status == 403
    out = await victim.post("/logout", page.forms["/logout"])
    assert (out.status, out.location) == (303, "/login")
    thief = await browser()
    thief.jar.update_cookies({name: cookie}, thief.base)
    assert (await thief.get("/")).location == "/login?next=/"
    assert (await thief.get("/count")).status == 401


async def test_who_logs_in_again_as_another_leaves_no_login_behind(site, browser):
    ann = await browser("ann")
    name = f"openmcp-{site.port}"
    cookie = ann.jar.filter_cookies(ann.base)[name].value
    page = await (await browser()).get("/login")
    stranger = await browser()
    form = (await stranger.get("/login")).forms["/login"]
    assert page.forms["/login"]["csrf"] != form["csrf"]
    for one in stranger.jar:
        ann.jar.update_cookies({one.key: one.value}, ann.base)
    await ann.post("/login", form | {"token": "bob's secret"})
    assert len(site.console._site.sessions) == 1
    assert site.console._site.sessions.find(cookie) is None


async def test_a_login_form_of_another_browser_is_refused(site, browser):
    attacker, victim = await browser(), await browser()
    form = (await attacker.get("/login")).forms["/login"] | {"token": "bob's secret"}
    assert (await victim.post("/login", form)).status == 403
    await victim.get("/login")
    assert (await victim.post("/login", form)).status == 403
    assert len(site.console._site.sessions) == 0


async def test_guessing_ends_soon_and_what_is_right_is_refused_then_too(site, browser):
    eve = await browser()
    form = (await eve.get("/login")).forms["/login"]
    for number in range(10):
        answer = await eve.post("/login", form | {"token": f"guess {number}"})
        assert answer.status == 403
        form = answer.forms["/login"]
    assert (await eve.post("/login", form | {"token": "ann's secret"})).status == 429
    site.scene.now += MINUTE
    assert (await eve.log_in("ann")).status == 303


async def test_guesses_that_are_sent_at_once_are_counted_as_well(site, browser):
    """Each of them has begun before any has failed."""
    eve, begun, all_begun = await browser(), 0, asyncio.Event()
    form = (await eve.get("/login")).forms["/login"]

    async def slowly(number):
        nonlocal begun
        body = urlencode(form | {"token": f"guess {number}"}).encode()
        yield body[:10]
        begun += 1
        if begun == 30:
            all_begun.set()
        await all_begun.wait()
        yield body[10:]

    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answers = await asyncio.gather(*(eve.post("/login", slowly(number), kind) for number in range(30)))
    assert sorted(answer.status for answer in answers) == [403] * 10 + [429] * 20


def test_failures_count_by_network_and_are_bounded():
    now = [0]
    attempts = Attempts(lambda: now[0], most=2, addresses=3)
    for address in ("2001:db8::1", "2001:db8::2"):
        attempts.failed(address)
    assert not attempts.allowed("2001:db8::ffff")
    assert attempts.allowed("2001:db8:0:1::1")
    for address in ("10.0.0.1", "::ffff:10.0.0.1"):
        attempts.failed(address)
    assert not attempts.allowed("10.0.0.1")
    for number in range(3):
        attempts.failed(f"10.0.1.{number}")
    assert attempts.allowed("10.0.0.1")
    assert len(attempts._failed) == 3


async def test_a_login_ends_by_time_idleness_and_a_changed_token(site, browser):
    record = await site.pending(spec(workflow=of(LEADS, pending_for=86400.0)))
    ann, bob = await browser("ann"), await browser("bob")
    for _ in range(4):
        site.scene.now += 20 * MINUTE
        assert (await ann.get("/")).status == 200
        await bob.get("/count")  # a page that asks by itself
    assert (await bob.get("/")).status == 303
    path, form = await ann.form(record.rid, "approve")
    changed = (Token("ann", digest("new")), Token("bob", digest("bob's secret")))
    site.console.configure(msgspec.structs.replace(site.settings, tokens=changed))
    answer = await ann.post(path, form)
    assert (answer.status, "Nothing was changed" in answer.words) == (403, True)
    site.console.configure(site.settings)
    ann = await browser("ann")
    for _ in range(30):
        site.scene.now += 20 * MINUTE
        left = (await ann.get("/")).status
    assert left == 303


async def test_who_decides_on_nothing_does_not_get_in(site, browser):
    site.scene.service.workflows = {"leads": LEADS.approvers}
    eve = await browser()
    answer = await eve.log_in("eve")
    assert (answer.status, "token:eve is on no list" in answer.words) == (403, True)
    assert len(site.console._site.sessions) == 0


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "localhost"])
async def test_other_names_are_refused(site, browser, host):
    ann = await browser("ann")
    answer = await ann.get("/", headers={"Host": host.format(port=site.port)})
    assert (answer.status, "Not this console" in answer.words) == (421, True)
    assert "Set-Cookie" not in answer.headers


async def test_a_probe_may_call_it_as_it_likes(site, browser):
    answer = await (await browser()).get("/healthz", headers={"Host": "10.0.0.7:15021"})
    assert (answer.status, answer.text) == (200, "ok\n")


@pytest.mark.parametrize(
    "path", ["/", "/login", "/nothing", "/count", "/static/console.css", "/requests/apr_x", "/healthz"]
)
async def test_every_answer_has_its_headers(site, browser, path):
    headers = (await (await browser("ann")).get(path)).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Server"] == "openmcp"
    assert headers["Cache-Control"] == ("max-age=86400" if "static" in path else "no-store")
    assert "Strict-Transport-Security" not in headers


@pytest.mark.parametrize("name", ["", "ann"])
async def test_pages_hold_no_inline_script_or_style(site, browser, name):
    record = await site.pending()
    ann = await browser(name or None)
    for path in ("/", "/login", "/grants", "/history", f"/requests/{record.rid}"):
        text = (await ann.get(path)).text
        assert not re.search(r"<style|style=|\son\w+=|javascript:", text)


async def test_cookies_are_for_the_browser_alone(site, browser):
    ann = await browser()
    answer = await ann.log_in("ann")
    (cookie,) = (one for one in answer.headers.getall("Set-Cookie") if one.startswith(f"openmcp-{site.port}="))
    assert {part.strip() for part in cookie.split(";")[1:]} == {"HttpOnly", "Path=/", "SameSite=Lax"}


def test_over_https_the_name_of_the_cookie_binds_it_to_the_host():
    place = Place("https://approvals.acme.example/", 15021)
    assert (place.secure, place.session_cookie) == (True, "__Host-openmcp")
    assert place.is_ours("approvals.acme.example")
    assert not place.is_ours("127.0.0.1:15021")
    assert not place.is_ours("approvals.acme.example:443")
    assert place.is_own_form("https://approvals.acme.example", "approvals.acme.example")
    assert not place.is_own_form("http://approvals.acme.example", "approvals.acme.example")
    assert "Strict-Transport-Security" in place.headers


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"csrf=a&csrf=b", "application/x-www-form-urlencoded", 400),
        (b'{"csrf":1}', "application/json", 415),
        (b"", "multipart/form-data; boundary=x", 415),
        (b"a=%ff%fe", "application/x-www-form-urlencoded; charset=utf-8", 403),
        (b"a=b", "application/x-www-form-urlencoded; charset=nonsense", 400),
        (b"a=" + b"x" * 300_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_strange_bodies_are_refused(site, browser, body, kind, expected):
    record = await site.pending()
    ann = await browser("ann")
    answer = await ann.post(f"/requests/{record.rid}/approve", body, {"Content-Type": kind})
    assert answer.status == expected
    assert await status(site, record.rid) is Status.PENDING


async def test_an_error_of_ours_tells_the_log_and_not_the_browser(site, browser, monkeypatch, caplog):
    ann = await browser("ann")

    async def fails(*_: object) -> None:
        raise ValueError("secret detail")

    monkeypatch.setattr(site.scene.store, "list_pending", fails)
    answer = await ann.get("/")
    assert (answer.status, "secret detail" in answer.text) == (500, False)
    assert "secret detail" in caplog.text
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_without_the_library_oidc_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("openmcp.sidecar.approvals.console.server.find_spec", lambda _: None)
    with pytest.raises(CannotServe, match=re.escape("pip install 'openmcp[oidc]'")):
        Site(oidc=Oidc(issuer="https://idp.example", client_id="openmcp"))


async def test_many_browsers_do_not_share_a_login(site):
    first, second = Browser(site), Browser(site)
    await first.log_in("ann")
    assert (await second.get("/")).status == 303
    await first.close()
    await second.close()

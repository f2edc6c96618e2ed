"""The console in a real browser: with scripts and without, on a phone and a desk, light and dark.

With OPENMCP_PICTURES=FOLDER the pages are left there as PNG.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from openmcp.sidecar.approvals.console.settings import Oidc
from openmcp.sidecar.approvals.mailtickets import Proof, tickets_of
from openmcp.sidecar.state.records import Status
from tests.approvals.console.site import Site
from tests.approvals.scene import LEADS, of, spec
from tests.contracts.requests import MINUTE, request
from tests.fakes.oidc_provider import CLIENT, SECRET, Provider
from tests.support.chromium import DESKTOP, PHONE, Chromium

pytestmark = pytest.mark.real


@pytest.fixture
async def chromium(tmp_path: Path) -> AsyncIterator[Chromium]:
    made = await asyncio.to_thread(Chromium, tmp_path / "profile")
    yield made
    await asyncio.to_thread(made.close)


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Chromium]:
    """A browser that runs no scripts."""
    made = await asyncio.to_thread(Chromium, tmp_path / "profile", scripts=False)
    yield made
    await asyncio.to_thread(made.close)


def log_in(browser: Chromium, site: Site, name: str = "ann", where: str = "/") -> None:
    browser.get(f"{site.console.url}/login?next={where}")
    browser.find("#token").send_keys(f"{name}'s secret")
    browser.press("form button")


async def many(site: Site) -> dict[str, str]:
    """Requests and grants of every kind; the paths of some."""
    service, scene = site.scene.service, site.scene
    refunds = spec(
        workflow=of(LEADS, required=2), why="Refunds leave the house: two leads look at each.", max_duration=14400.0
    )
    money = spec(
        "over-100", workflow=of(LEADS, required=2), why="More than 100 EUR.", show=("$.amount", "$.note"), max_uses=5
    )
    whole = {"ticket_id": "T-2041", "amount": 249.5, "currency": "EUR", "note": "Überweisung an Zoë, siehe Ticket"}
    first = await site.pending(
        refunds, money, arguments=whole, reason="The customer was charged twice for order 88-1204."
    )
    await scene.approve(first, "token:bob", reason="checked with billing", duration=30 * MINUTE)
    await site.pending(refunds, arguments=whole, reason="The customer was charged twice for order 88-1204.")
    nasty = "\u202e" + "<script>alert(1)</script>" + "x" * 300
    await site.pending(arguments={"ticket_id": nasty}, name="export_" + "customer_records_" * 6)
    resource = await site.pending(
        spec(bind=None, show=("$.uri",)),
        method="resources/read",
        name="ticket://2041/comments",
        arguments={"uri": "ticket://2041/comments"},
        server="zendesk",
    )
    grant = await site.pending(spec(max_uses=20), arguments={"ticket_id": "T-17"})
    await scene.approve(grant)
    denied = await site.pending(arguments={"ticket_id": "T-99"})
    await scene.deny(denied, reason="not this customer")
    revoked = await site.pending(arguments={"ticket_id": "T-98"})
    await service.revoke(await scene.approve(revoked), "token:ann", (), "wrong ticket")
    asked = {"pending": first, "resource": resource, "granted": grant, "denied": denied}
    return {name: f"/requests/{record.rid}" for name, record in asked.items()}


async def test_every_page_is_good_to_use_on_every_screen(site, chromium):
    paths = {
        "list": "/",
        "grants": "/grants",
        "history": "/history",
        **await many(site),
        "refusal": "/requests/apr_gone",
    }
    site.console.configure(msgspec.structs.replace(site.settings, mail=True))
    made = (await tickets_of(site.scene.store.hmac_key)()).issue(Proof("ann@acme.example", "apr_0", site.scene.now + 1))
    paths["mail"] = f"/login/mail?ticket={made.token}"
    problems = await asyncio.to_thread(look_at_all, chromium, site, paths)
    assert problems == []


def look_at_all(browser: Chromium, site: Site, paths: dict[str, str]) -> list[str]:
    said: list[str] = []
    screens = [(size, scheme) for size in (PHONE, DESKTOP) for scheme in ("light", "dark")]

    def look(name: str, path: str) -> None:
        for size, scheme in screens:
            browser.look(size, scheme)
            browser.get(site.console.url + path)
            where = f"{name}-{'phone' if size == PHONE else 'desktop'}-{scheme}"
            said.extend(f"{where}: {problem}" for problem in browser.problems())
            if folder := os.environ.get("OPENMCP_PICTURES"):
                browser.picture(Path(folder) / f"{where}.png")
        complaints = [one for one in browser.complaints() if "/requests/apr_gone" not in one]
        said.extend(f"{name}: {complaint}" for complaint in complaints)

    look("login", "/login")
    look("mail", paths.pop("mail"))
    log_in(browser, site)
    for name, path in paths.items():
        site.notes[:] = ["Channel leads-slack does not work: not_in_channel"] if name == "history" else []
        look(name, path)
    return said


async def test_deciding_needs_no_script(site, plain):
    record, other = await site.pending(spec(max_uses=9)), await site.pending(arguments={"ticket_id": "T-8"})

    def decide() -> tuple[str, str, str]:
        plain.get(f"{site.console.url}/requests/{record.rid}")
        plain.find("#token").send_keys("ann's secret")
        plain.press("form button")
        assert plain.driver.current_url == f"{site.console.url}/requests/{record.rid}"
        plain.find("#duration option[value='900000']").click()
        plain.find("#uses").send_keys("3")
        plain.find("#reason-approve").send_keys("fine")
        plain.press("button.approve")
        approved = plain.text
        plain.get(f"{site.console.url}/requests/{other.rid}")
        plain.press("form[action$='/deny'] button")
        denied = plain.text
        plain.get(f"{site.console.url}/grants")
        plain.press("button.deny")
        return approved, denied, plain.text

    approved, denied, revoked = await asyncio.to_thread(decide)
    assert "Your approval was counted." in approved
    assert "at most 3 times" in approved
    assert "You have denied this." in denied
    assert "Revoked." in revoked
    found = [await site.scene.service.find(one.rid) for one in (record, other)]
    assert [one.status for one in found] == [Status.REVOKED, Status.DENIED]
    assert found[0].votes[0].duration == 15 * MINUTE


async def test_markup_of_an_agent_is_not_run(site, chromium):
    hostile = "</code></bdi><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    record = request(
        name=hostile, agent_reason=hostile, shown=(("$.a", f'"{hostile}"'.replace('="', "='").replace('">', "'>")),)
    )
    await site.scene.store.open(record, site.scene.now)

    def look() -> tuple[str, int, list[str]]:
        log_in(chromium, site, where=f"/requests/{record.rid}")
        return (
            chromium.driver.title,
            len(chromium.driver.find_elements("css selector", "main img")),
            chromium.complaints(),
        )

    title, images, complaints = await asyncio.to_thread(look)
    assert "owned" not in title.replace(hostile, "")
    assert images == 0
    assert complaints == []


async def test_the_policy_stops_a_script_that_gets_in_all_the_same(site, chromium):
    def inject() -> tuple[str, list[str]]:
        log_in(chromium, site)
        chromium.driver.execute_script(
            "const script = document.createElement('script'); script.textContent = 'document.title = \"owned\"';"
            "document.body.append(script)"
        )
        return chromium.driver.title, chromium.complaints()

    title, complaints = await asyncio.to_thread(inject)
    assert title != "owned"
    assert any("Content Security Policy" in complaint for complaint in complaints)


async def test_another_site_can_neither_post_nor_frame(site, chromium, tmp_path):
    record = await site.pending()
    session_form = {}

    def forge() -> tuple[str, list[str]]:
        log_in(chromium, site, where=f"/requests/{record.rid}")
        for name in ("csrf", "form"):
            session_form[name] = chromium.find(f"form[action$='/approve'] input[name={name}]").get_attribute("value")
        fields = "".join(f'<input name="{name}" value="{value}">' for name, value in session_form.items())
        url = f"{site.console.url}/requests/{record.rid}"
        evil = tmp_path / "evil.html"
        evil.write_text(
            f'<iframe src="{url}"></iframe><form method="post" action="{url}/approve">{fields}<button>x</button></form>'
        )
        chromium.get(evil.as_uri())
        complaints = chromium.complaints()
        chromium.press("button")
        return chromium.text, complaints

    text, complaints = await asyncio.to_thread(forge)
    assert "Not from here" in text
    assert any("frame-ancestors" in complaint for complaint in complaints)
    assert (await site.scene.service.find(record.rid)).status is Status.PENDING


async def test_a_login_by_the_identity_provider_from_a_link_in_a_mail(chromium_oidc):
    chromium, site, provider = chromium_oidc
    record = await site.pending(spec(workflow=of(LEADS, approvers=("oidc:group:leads",))))

    def decide() -> tuple[str, list[str]]:
        chromium.get(f"{site.console.url}/requests/{record.rid}")
        problems = chromium.problems()
        chromium.press("a.button")
        assert chromium.driver.current_url.startswith(provider.issuer)
        chromium.press("button")
        assert chromium.driver.current_url == f"{site.console.url}/requests/{record.rid}"
        chromium.press("button.approve")
        return chromium.text, problems + chromium.complaints()

    text, problems = await asyncio.to_thread(decide)
    assert "oidc:user:ann has approved" in text
    assert [problem for problem in problems if provider.issuer not in problem] == []
    assert (await site.scene.service.find(record.rid)).status is Status.APPROVED


@pytest.fixture
async def chromium_oidc(tmp_path: Path) -> AsyncIterator[tuple[Chromium, Site, Provider]]:
    """A browser, a console, and the identity provider that people log in at."""
    browser = await asyncio.to_thread(Chromium, tmp_path / "profile", flags=("--ignore-certificate-errors",))
    provider = Provider()
    oidc = Oidc(issuer=provider.issuer, client_id=CLIENT, client_secret=lambda: SECRET, ca=lambda: provider.ca)
    site = Site(oidc=oidc)
    site.scene.now = int(time.time() * 1000)  # as the provider has it
    site.scene.service.workflows = {"leads": ("oidc:group:leads",)}
    await site.start()
    provider.client_redirect = f"{site.console.url}/login/oidc/callback"
    yield browser, site, provider
    await asyncio.to_thread(browser.close)
    await site.console.stop()
    await asyncio.to_thread(provider.close)


_COUNT = """
const [done] = arguments, badge = document.getElementById("count"), more = document.getElementById("more");
const tell = () => { if (!badge.hidden) done(badge.textContent + " " + !more.hidden); };
new MutationObserver(tell).observe(badge, {childList: true, attributes: true, characterData: true, subtree: true});
tell();
"""


async def test_the_number_of_pending_requests_is_kept_up_to_date(site, chromium):
    await site.pending()

    def count() -> str:
        return str(chromium.driver.execute_async_script(_COUNT))

    await asyncio.to_thread(log_in, chromium, site)
    assert await asyncio.to_thread(count) == "1 false"
    await site.pending(arguments={"ticket_id": "T-8"})
    site.scene.now += 3_000
    await asyncio.to_thread(chromium.driver.execute_script, "document.dispatchEvent(new Event('visibilitychange'))")
    seen = "1 false"
    while seen != "2 true":
        seen = await asyncio.to_thread(count)

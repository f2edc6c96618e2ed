"""Login by OpenID Connect, against Authlib's own server over TLS: good, broken and hostile."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import msgspec
import pytest
from joserfc.jwk import OctKey, RSAKey

from openmcp.config.model import Workflow
from openmcp.sidecar.approvals.console.settings import Oidc
from openmcp.sidecar.state.records import Status
from tests.approvals.console.site import Answer, Browser, Site
from tests.approvals.scene import spec
from tests.fakes.oidc_provider import CLIENT, SECRET, Provider

GROUP = Workflow(name="leads", approvers=("oidc:group:leads", "oidc:user:zoe", "email:max@acme.example"))


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def provider(running: Provider) -> Provider:
    running.claims = {"sub": "ann", "groups": ["leads", "staff"]}
    running.token, running.metadata, running.sign, running.shared = {}, {}, None, None
    running.auth_methods = []
    return running


Start = Callable[..., Any]


@pytest.fixture
async def start(provider: Provider) -> AsyncIterator[Start]:
    """Make a console for this provider."""
    made: list[Any] = []

    async def begin(**changes: Any) -> Site:
        oidc = {
            "issuer": provider.issuer,
            "client_id": CLIENT,
            "client_secret": lambda: SECRET,
            "ca": lambda: provider.ca,
        }
        site = Site(oidc=Oidc(**{**oidc, **changes}))
        site.scene.now = int(time.time() * 1000)
        site.scene.service.workflows = {"leads": GROUP.approvers}
        await site.start()
        provider.client_redirect = f"{site.console.url}/login/oidc/callback"
        made.append(site.console.stop)
        return site

    yield begin
    for stop in made:
        await stop()


class Visitor:
    """A browser that goes to the provider and comes back."""

    def __init__(self, site: Site, provider: Provider) -> None:
        self.browser = Browser(site)
        self._tls = ssl.create_default_context(cadata=provider.ca.decode())

    async def __aenter__(self) -> Visitor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.browser.close()

    async def at_provider(self, where: str = "/") -> str:
        """Begin, press the provider's button; the callback's URL."""
        answer = await self.browser.get(f"/login/oidc?next={where}")
        assert answer.status == 303, answer.words
        options: Any = {"ssl": self._tls, "allow_redirects": False}
        async with aiohttp.ClientSession() as session, session.post(answer.location, **options) as response:
            return response.headers["Location"]

    async def log_in(self, where: str = "/") -> Answer:
        return await self.browser.get(await self.at_provider(where))


async def test_a_member_of_the_group_logs_in_and_approves(start, provider):
    site = await start()
    record = await site.pending(spec(workflow=GROUP))
    async with Visitor(site, provider) as ann:
        answer = await ann.log_in(f"/requests/{record.rid}")
        assert (answer.status, answer.location) == (303, f"/requests/{record.rid}")
        assert (await ann.browser.decide(record.rid, "approve")).status == 303
    decided = await site.scene.service.find(record.rid)
    assert decided.status is Status.APPROVED
    (vote,) = decided.votes
    assert (vote.approver, vote.groups) == ("oidc:user:ann", ("oidc:group:leads",))
    assert set(provider.auth_methods) == {"client_secret_basic"}


@pytest.mark.parametrize(
    ("claims", "lets_in"),
    [
        ({"sub": "zoe"}, True),
        ({"sub": "x", "groups": "leads"}, True),
        ({"sub": "x", "email": "max@acme.example", "email_verified": True}, True),
        ({"sub": "x", "email": "max@acme.example"}, False),
        ({"sub": "x", "email": "max@acme.example", "email_verified": "true"}, False),
        ({"sub": "Zoe"}, False),
        ({"sub": "x", "groups": ["Leads", 7, None, {"a": "leads"}, ["leads"]]}, False),
        ({"sub": "x", "groups": {"leads": True}}, False),
        ({"sub": "group:leads"}, False),
    ],
)
async def test_who_gets_in(start, provider, claims, lets_in):
    provider.claims = claims
    async with Visitor(await start(), provider) as visitor:
        assert (await visitor.log_in()).status == (303 if lets_in else 403)
        assert (await visitor.browser.get("/")).status == (200 if lets_in else 303)


async def test_other_claims_may_name_users_and_groups(start, provider):
    provider.claims = {"sub": "7f3", "preferred_username": "zoe", "roles": ["staff"]}
    site = await start(user_claim="preferred_username", groups_claim="roles")
    async with Visitor(site, provider) as zoe:
        assert (await zoe.log_in()).status == 303
        assert "oidc:user:zoe" in (await zoe.browser.get("/")).words


@pytest.mark.parametrize(
    ("verified", "lets_in"), [({"email_verified": True}, True), ({"email_verified": False}, False)]
)
async def test_an_address_that_nobody_has_checked_names_no_approver(start, provider, verified, lets_in):
    provider.claims = {"sub": "x", "email": "zoe"} | verified
    async with Visitor(await start(user_claim="email"), provider) as visitor:
        assert (await visitor.log_in()).status == (303 if lets_in else 403)


async def test_what_is_asked_of_the_provider(start, provider):
    site = await start(scopes=("openid", "groups"))
    async with Visitor(site, provider) as ann:
        first, second = [await ann.browser.get("/login/oidc") for _ in range(2)]
    asked, again = (parse_qs(urlsplit(one.location).query) for one in (first, second))
    assert asked["response_type"] == ["code"]
    assert asked["scope"] == ["openid groups"]
    assert asked["redirect_uri"] == [f"{site.console.url}/login/oidc/callback"]
    assert asked["code_challenge_method"] == ["S256"]
    for name in ("state", "nonce", "code_challenge"):
        assert len(asked[name][0]) >= 43
        assert asked[name] != again[name]


async def test_a_public_client_has_pkce_alone(start, provider):
    async with Visitor(await start(client_secret=None), provider) as ann:
        assert (await ann.log_in()).status == 303
    assert set(provider.auth_methods) == {"none"}


async def test_the_secret_goes_into_the_form_where_the_provider_wants_that(start, provider):
    provider.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    async with Visitor(await start(), provider) as ann:
        assert (await ann.log_in()).status == 303
    assert set(provider.auth_methods) == {"client_secret_post"}


async def refused(start: Start, provider: Provider, text: str, **changes: Any) -> None:
    site = await start(**changes)
    async with Visitor(site, provider) as ann:
        answer = await ann.log_in()
        assert answer.status == 403
        assert text in answer.words
        assert (await ann.browser.get("/")).status == 303
    assert len(site.console._site.sessions) == 0


@pytest.mark.parametrize(
    "token",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"iss": "https://evil.example"},
        {"aud": ["another"]},
        {"aud": [CLIENT, "another"]},
        {"aud": ["another"], "azp": CLIENT},
        {"azp": "another"},
        {"aud": None},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"iat": None},
        {"iat": int(time.time()) + 86_400},
        {"nbf": int(time.time()) + 86_400},
        {"sub": None},
        {"at_hash": "bm90IHRoaXMgdG9rZW4"},
    ],
    ids=str,
)
async def test_an_id_token_that_says_something_else_is_refused(start, provider, token):
    provider.token = token
    await refused(start, provider, "ID token is not good")


@pytest.mark.parametrize("how", ["another key", "none", "confused", "symmetric"])
async def test_an_id_token_that_the_provider_has_not_signed_is_refused(start, provider, how):
    other = RSAKey.generate_key(2048, {"kid": "k1"})
    signs = {
        "another key": lambda header, claims: provider.signed(header, claims, other),
        "none": provider.unsigned,
        "confused": provider.confused,
        "symmetric": provider.symmetric,
    }
    provider.sign = signs[how]
    provider.shared = OctKey.generate_key(256, {"kid": "shared"}) if how == "symmetric" else None
    await refused(start, provider, "ID token is not good")


async def test_a_wrong_secret_is_the_providers_refusal(start, provider):
    await refused(start, provider, "refuses the login (HTTP 401)", client_secret=lambda: "wrong")


async def test_a_name_that_cannot_be_on_a_list_is_none(start, provider):
    provider.claims = {"sub": "zoe\u202e", "groups": ["leads"]}
    await refused(start, provider, "no sub, by which approvers are known")


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"issuer": "https://evil.example"}, "calls itself by another name"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "not on https"),
        ({"authorization_endpoint": "http://evil.example/authorize"}, "not on https"),
        ({"token_endpoint": 7}, "metadata cannot be read"),
    ],
)
async def test_a_provider_that_describes_itself_wrongly_is_not_used(start, provider, metadata, text):
    provider.metadata = metadata
    async with Visitor(await start(), provider) as ann:
        answer = await ann.browser.get("/login/oidc")
    assert answer.status == 502
    assert text in answer.words


async def test_a_provider_of_another_ca_is_not_used(start, provider):
    async with Visitor(await start(ca=None), provider) as ann:
        answer = await ann.browser.get("/login/oidc")
    assert (answer.status, "TLS" in answer.words) == (502, True)


async def test_tokens_never_go_over_a_connection_that_others_can_read(start, provider):
    provider.metadata = {"token_endpoint": "http://idp.example/token"}
    await refused(start, provider, "only https is used")


async def test_a_callback_is_good_once_and_in_its_own_browser(start, provider):
    site = await start()
    async with Visitor(site, provider) as ann, Visitor(site, provider) as victim:
        url = await ann.at_provider()
        await victim.at_provider()
        stolen = await victim.browser.get(url)
        assert (stolen.status, "not begun in this browser" in stolen.words) == (403, True)
        assert (await ann.browser.get(url)).status == 303
        assert (await ann.browser.get(url)).status == 403


@pytest.mark.parametrize("query", ["", "?code=x", "?code=x&state=y", "?state=", "?error=access_denied&state=x"])
async def test_a_callback_that_nobody_waits_for_is_refused(start, provider, query):
    async with Visitor(await start(), provider) as ann:
        answer = await ann.browser.get(f"/login/oidc/callback{query}")
    assert (answer.status, "not begun in this browser" in answer.words) == (403, True)


async def test_a_login_takes_no_longer_than_ten_minutes(start, provider):
    site = await start()
    async with Visitor(site, provider) as ann:
        url = await ann.at_provider()
        site.scene.now += 10 * 60_000
        assert (await ann.browser.get(url)).status == 403


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda url: f"{url}&iss=https%3A%2F%2Fevil.example", "another identity provider"),
        (lambda url: url.replace("code=", "error=%3Cb%3Eno%0d%0a&x="), "<b>no"),
        (lambda url: url.replace("code=", "code=x"), "refuses the login"),
    ],
)
async def test_an_answer_that_was_changed_is_refused(start, provider, change, text):
    async with Visitor(await start(), provider) as ann:
        answer = await ann.browser.get(change(await ann.at_provider()))
    assert answer.status == 403
    assert text in answer.words.replace("&lt;", "<").replace("&gt;", ">")
    assert "<b>" not in answer.text


async def test_a_provider_that_names_itself_in_answers_must_do_so(start, provider):
    provider.metadata = {"authorization_response_iss_parameter_supported": True}
    site = await start()
    async with Visitor(site, provider) as ann:
        assert (await ann.log_in()).status == 403
        url = await ann.at_provider()
        assert (await ann.browser.get(f"{url}&iss={provider.issuer}")).status == 303


async def test_the_login_begins_where_it_ends(start, provider):
    """Cookies are of one name: a browser at another of ours is sent to the one that the provider knows."""
    site = await start()
    async with Visitor(site, provider) as ann:
        answer = await ann.browser.get("/login/oidc?next=/grants", headers={"Host": f"localhost:{site.port}"})
    assert answer.location == f"{site.console.url}/login/oidc?next=/grants"


@pytest.mark.parametrize("cookie", ["", "x", "{}", "é", "AAAA" * 40])
async def test_a_cookie_that_we_have_not_sealed_begins_nothing(start, provider, cookie):
    site = await start()
    async with Visitor(site, provider) as ann:
        url = await ann.at_provider()
        ann.browser.jar.clear()
        answer = await ann.browser.get(url, headers={"Cookie": f"openmcp-{site.port}-oidc={cookie}"})
    assert (answer.status, "not begun in this browser" in answer.words) == (403, True)


async def test_a_failed_answer_ends_the_login_that_was_under_way(start, provider):
    async with Visitor(await start(), provider) as ann:
        url = await ann.at_provider()
        assert (await ann.browser.get(url.replace("code=", "code=x"))).status == 403
        assert (await ann.browser.get(url)).status == 403


async def test_the_login_page_in_another_tab_does_not_disturb(start, provider):
    async with Visitor(await start(), provider) as ann:
        url = await ann.at_provider()
        await ann.browser.get("/login")
        assert (await ann.browser.get(url)).status == 303


async def test_who_came_by_a_provider_that_is_gone_is_logged_out(start, provider):
    site = await start()
    async with Visitor(site, provider) as ann:
        await ann.log_in()
        assert (await ann.browser.get("/")).status == 200
        site.console.configure(msgspec.structs.replace(site.settings, oidc=None))
        assert (await ann.browser.get("/")).status == 303
        assert (await ann.browser.get("/login/oidc")).status == 404

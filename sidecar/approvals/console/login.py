"""Logging in and out."""

import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from openmcp.sidecar.approvals.console.guard import Attempts
from openmcp.sidecar.approvals.console.sessions import by_token
from openmcp.sidecar.approvals.console.settings import LoginFailed, Person
from openmcp.sidecar.approvals.console.web import Refusal, Site, fields, see_other
from openmcp.sidecar.approvals.mailtickets import BadTicket, Tickets
from openmcp.sidecar.approvals.safetext import safe

if TYPE_CHECKING:
    from openmcp.sidecar.approvals.console.oidc import OidcLogin

_log = logging.getLogger("openmcp.console")

CALLBACK: Final = "/login/oidc/callback"
_TARGET: Final = re.compile(r"/(requests/[A-Za-z0-9_]{1,64}|grants|history)?", re.ASCII)
_LOGIN_AGE: Final = 600
_MOST_TOKEN: Final = 1_000


def target(path: str | None) -> str:
    """Where a login may lead: to pages of the console, whatever a link says."""
    return path if path is not None and _TARGET.fullmatch(path) else "/"


class Login:
    """The login by token, OpenID Connect and mail; `is_approver` tells whether a person decides on anything."""

    def __init__(
        self,
        site: Site,
        clock: Callable[[], int],
        is_approver: Callable[[Person], bool],
        tickets: Callable[[], Awaitable[Tickets]],
    ) -> None:
        self._site = site
        self._tickets = tickets
        self._is_approver = is_approver
        self._clock = clock
        self._attempts = Attempts(clock)
        self._key = secrets.token_bytes(32)
        self._provider: OidcLogin | None = None

    def routes(self) -> list[web.RouteDef]:
        """What is served here."""
        return [
            web.get("/login", self.show),
            web.post("/login", self.by_token),
            web.get("/login/oidc", self.to_provider),
            web.get(CALLBACK, self.from_provider),
            web.get("/login/mail", self.ask_code),
            web.post("/login/mail", self.by_mail),
            web.post("/logout", self.logout),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        """The page to log in at."""
        if self._site.session(request) is not None:
            return see_other(target(request.query.get("next")))
        return self._page(request, target(request.query.get("next")))

    async def by_token(self, request: web.Request) -> web.StreamResponse:
        """Log in by a token."""
        form = await self._attempted(request)
        where = target(form.get("next"))
        cookie = request.cookies.get(self._site.place.login_cookie, "")
        if not cookie or not hmac.compare_digest(form.get("csrf", "").encode("utf-8", "replace"), self._csrf(cookie)):
            return self._page(request, where, 403, "This page was open for too long. Try again.")
        said = form.get("token", "").strip()
        person = by_token(self._site.sessions.settings.tokens, said) if 0 < len(said) <= _MOST_TOKEN else None
        if person is None:
            self._attempts.failed(request.remote)
            _log.warning("console: a login from %s with an unknown token", request.remote)
            return self._page(request, where, 403, "This token is not known here.")
        return self._logged_in(request, person, where)

    async def ask_code(self, request: web.Request) -> web.StreamResponse:
        """Where the link of a mail leads: following it logs nobody in."""
        self._check_mail()
        ticket = request.query.get("ticket", "")
        if not (await self._tickets()).is_ours(ticket):
            raise Refusal(404, "Not a link of ours", "Open the link of the mail again, whole.")
        return self._code_page(request, ticket)

    async def by_mail(self, request: web.Request) -> web.StreamResponse:
        """Log in by the link and the code of a mail."""
        self._check_mail()
        tickets = await self._tickets()
        form = await self._attempted(request)
        ticket = form.get("ticket", "")
        cookie = request.cookies.get(self._site.place.login_cookie, "")
        if not cookie or not hmac.compare_digest(form.get("csrf", "").encode("utf-8", "replace"), self._csrf(cookie)):
            return self._code_page(request, ticket, 403, "This page was open for too long. Try again.")
        try:
            proof = tickets.check(ticket, form.get("code", ""), self._clock())
        except BadTicket as error:
            self._attempts.failed(request.remote)
            _log.warning("console: a login by mail from %s failed: %s", request.remote, error)
            return self._code_page(request, ticket, 403, str(error))
        person = Person(f"email:{proof.address}", proof="mail", request=proof.rid)
        return self._logged_in(request, person, target(f"/requests/{proof.rid}"))

    async def _attempted(self, request: web.Request) -> dict[str, str]:
        """The form of an attempt to log in. What it says is looked at before any other is, else many that were sent at
        once would all be the first."""
        form = await fields(request)
        if not self._attempts.allowed(request.remote):
            raise Refusal(429, "Too many attempts", "Wait for a minute, then try again.")
        return form

    def _check_mail(self) -> None:
        if not self._site.sessions.settings.mail:
            raise Refusal(404, "Not found", "There is no login by mail here.")

    async def to_provider(self, request: web.Request) -> web.StreamResponse:
        """Send the browser to the identity provider."""
        place = self._site.place
        where = target(request.query.get("next"))
        if request.headers.get("Host", "").lower() != place.host:  # the callback, and so the cookie, is of that name
            return see_other(f"{place.url}/login/oidc?next={where}")
        try:
            url, cookie = await self._oidc().begin(where)
        except LoginFailed as error:
            return self._page(request, where, 502, str(error))
        response = see_other(url)
        self._site.set_cookie(response, place.provider_cookie, cookie, _LOGIN_AGE)
        return response

    async def from_provider(self, request: web.Request) -> web.StreamResponse:
        """Take what the provider says of who has logged in there."""
        oidc, cookie = self._oidc(), self._site.place.provider_cookie
        try:
            person, where = await oidc.finish(request.cookies.get(cookie), request.query)
            response = self._logged_in(request, person, where)
        except LoginFailed as error:
            _log.warning("console: a login failed: %s", error)
            response = self._page(request, "/", 403, str(error))
        self._site.set_cookie(response, cookie, "", 0)
        return response

    async def logout(self, request: web.Request) -> web.StreamResponse:
        """End the login here, whatever the browser keeps."""
        session = self._site.session(request)
        form = await fields(request)
        if session is not None and not session.is_csrf(form.get("csrf", "")):
            raise Refusal(403, "Not from here", "This form is of another login.")
        name = self._site.place.session_cookie
        self._site.sessions.end(request.cookies.get(name))
        response = see_other("/login")
        self._site.set_cookie(response, name, "", 0)
        return response

    def _logged_in(self, request: web.Request, person: Person, where: str) -> web.Response:
        """A new cookie for a new login: one that was there before is worth nothing any more."""
        who = safe(person.approver, 200)[0]
        if not self._is_approver(person):
            _log.warning("console: %s is no approver", who)
            raise Refusal(403, "Not an approver", f"{who} is on no list of approvers (approvals.workflows).")
        place = self._site.place
        self._site.sessions.end(request.cookies.get(place.session_cookie))
        response = see_other(where)
        self._site.set_cookie(response, place.session_cookie, self._site.sessions.begin(person))
        self._site.set_cookie(response, place.login_cookie, "", 0)
        _log.info("console: %s has logged in from %s", who, request.remote)
        return response

    def _page(self, request: web.Request, where: str, status: int = 200, problem: str = "") -> web.Response:
        settings, cookie = self._site.sessions.settings, secrets.token_urlsafe(32)
        values = {"csrf": self._csrf(cookie).decode(), "next": where, "problem": problem}
        response = self._site.page(
            request,
            "login.html",
            status,
            **values,
            tokens=bool(settings.tokens),
            oidc=settings.oidc is not None,
            mail=settings.mail,
        )
        self._site.set_cookie(response, self._site.place.login_cookie, cookie, _LOGIN_AGE)
        return response

    def _code_page(self, request: web.Request, ticket: str, status: int = 200, problem: str = "") -> web.Response:
        cookie = secrets.token_urlsafe(32)
        values = {"csrf": self._csrf(cookie).decode(), "ticket": ticket, "problem": problem}
        response = self._site.page(request, "mail.html", status, **values)
        self._site.set_cookie(response, self._site.place.login_cookie, cookie, _LOGIN_AGE)
        return response

    def _csrf(self, cookie: str) -> bytes:
        return hmac.new(self._key, cookie.encode("utf-8", "replace"), "sha256").hexdigest().encode()

    def _oidc(self) -> "OidcLogin":
        settings = self._site.sessions.settings.oidc
        if settings is None:
            raise Refusal(404, "Not found", "There is no login by an identity provider here.")
        from openmcp.sidecar.approvals.console.oidc import OidcLogin  # Authlib: an extra, for this alone

        if self._provider is None or self._provider.settings is not settings:
            self._provider = OidcLogin(settings, self._site.place.url + CALLBACK, self._clock)
        return self._provider

"""The console: pages where people see what agents ask for, and decide.

They need no script. A GET changes nothing, so that programs which follow links in mails do no harm; every change is a
form of the session that it was made for, used once. What is approved is a generation of a request (`rid`): a link to
an older one is refused.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final

from aiohttp import web

from openmcp.sidecar.approvals.card import CHANNEL, PAGE
from openmcp.sidecar.approvals.console import decisions
from openmcp.sidecar.approvals.console.guard import Place
from openmcp.sidecar.approvals.console.login import Login
from openmcp.sidecar.approvals.console.pages import STATIC, Entry, entry
from openmcp.sidecar.approvals.console.sessions import Session, Sessions
from openmcp.sidecar.approvals.console.settings import CannotServe, Incoming, Outgoing, Person, Settings
from openmcp.sidecar.approvals.console.web import BODY, Refusal, Site, fields, see_other
from openmcp.sidecar.approvals.mailtickets import tickets_of
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Status
from openmcp.sidecar.state.store import Page

_PAGE: Final = 50
_COUNTED: Final = 100
_COUNT_AGE: Final = 3_000
"""Milliseconds that the number of pending requests is kept."""
_PATIENCE: Final = 2.0
"""Seconds that answers under way have when the console is stopped."""
_DONE: Final = {"approve": "Your approval was counted.", "deny": "You have denied this.", "revoke": "Revoked."}
_STALE: Final = (
    "This link is not about a present request. The same question may have been asked anew since then, which has a link "
    "of its own, or it has ended long ago. A request of this very moment is here after a second."
)

Mounted = Callable[[Incoming], Awaitable[Outgoing]]


class Console:
    """The server of these pages. `clock` tells Unix milliseconds; `notes` are lines for everybody who is logged in,
    such as that a channel does not work. Raises `CannotServe`."""

    def __init__(
        self,
        service: ApprovalService,
        settings: Settings,
        clock: Callable[[], int],
        notes: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        if settings.oidc is not None and find_spec("authlib") is None:
            raise CannotServe("approvals.oidc needs the extra: pip install 'openmcp[oidc]'")
        self._service = service
        self._clock = clock
        self._site = Site(Sessions(settings, clock), notes)
        self._login = Login(self._site, clock, self._is_approver, tickets_of(service.store.hmac_key))
        self._counted = (0, 0)
        self._mounted: dict[str, Mounted] = {}
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where browsers find it, once it has been started; without a slash at the end."""
        return self._site.place.url

    def configure(self, settings: Settings) -> None:
        """Other settings from now on; who has logged in by what is gone from them is logged out. `url` stays."""
        self._site.sessions.settings = settings

    def mount(self, path: str, handler: Mounted) -> None:
        """Let others answer POSTs to a path. They check by themselves who has sent what; call it before `start`."""
        self._mounted[path] = handler

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen; the port. Raises `OSError`."""
        app = web.Application(middlewares=[self._site.guarded], client_max_size=BODY)
        app.add_routes(self._routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        bound = int(runner.addresses[0][1])
        shown = f"[{host}]" if ":" in host else host
        own = f"{'https' if tls else 'http'}://{shown}:{bound}"
        self._site.place = Place(self._site.sessions.settings.url or own, bound)
        self._site.mounted = frozenset(self._mounted)
        return bound

    async def stop(self) -> None:
        """Close the listener; answers under way have a moment to end."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._pending),
            web.get("/grants", self._grants),
            web.get("/history", self._history),
            web.get("/count", self._count),
            web.get("/requests/{rid:[A-Za-z0-9_]{1,64}}", self._request),
            web.post("/requests/{rid:[A-Za-z0-9_]{1,64}}/{action:approve|deny|revoke}", self._decide),
            web.get("/static/{name}", _static),
            web.get("/healthz", _healthy),
            *self._login.routes(),
            *(web.post(path, self._others) for path in self._mounted),
        ]

    async def _pending(self, request: web.Request) -> web.StreamResponse:
        return await self._list(request, "pending.html", self._service.pending)

    async def _grants(self, request: web.Request) -> web.StreamResponse:
        return await self._list(request, "grants.html", self._service.grants)

    async def _history(self, request: web.Request) -> web.StreamResponse:
        return await self._list(request, "history.html", self._service.history)

    async def _list(
        self, request: web.Request, template: str, read: Callable[[int, str | None], Awaitable[Page]]
    ) -> web.StreamResponse:
        session = self._site.session(request)
        if session is None:
            return see_other(f"/login?next={request.path}")
        page = await read(_PAGE, request.query.get("cursor"))
        entries = [self._entry(record, session, ("revoke",), CHANNEL) for record in page.records]
        return self._site.page(
            request, template, entries=entries, cursor=page.cursor, first="cursor" not in request.query
        )

    async def _count(self, request: web.Request) -> web.StreamResponse:
        if self._site.session(request, idle=True) is None:
            return web.json_response({}, status=401)
        now = self._clock()
        if now >= self._counted[1]:  # pages that stay open do not each make work for the store
            self._counted = (len((await self._service.pending(_COUNTED)).records), now + _COUNT_AGE)
        return web.json_response({"pending": self._counted[0]})

    async def _request(self, request: web.Request) -> web.StreamResponse:
        session = self._site.session(request)
        if session is None:
            return see_other(f"/login?next={request.path}")
        return self._shown(request, session, await self._found(request))

    async def _decide(self, request: web.Request) -> web.StreamResponse:
        """Take a form: of this login, of this page, for the first time."""
        session = self._site.session(request)
        if session is None:
            raise Refusal(403, "Not logged in", "Your login has ended. Nothing was changed: log in and decide again.")
        form, rid, action = await fields(request), request.match_info["rid"], request.match_info["action"]
        if not session.is_csrf(form.get("csrf", "")):
            raise Refusal(403, "Not from here", "This form is of another login. Nothing was changed.")
        if not session.use(form.get("form", ""), rid, action):
            raise Refusal(409, "Used already", "This form was sent before, or is too old. See how the request stands.")
        record = await self._found(request)
        try:
            await self._act(record, session.person, action, form)
        except decisions.BadForm as error:
            return self._shown(request, session, record, str(error), form)
        except Conflict as conflict:
            status = 403 if conflict.reason in ("not_listed", "self") else 409
            raise Refusal(status, "Not possible", f"Nothing was changed: {conflict}.") from None
        session.notice = _DONE[action]
        return see_other(f"/requests/{rid}")

    async def _act(self, record: ApprovalRecord, person: Person, action: str, form: Mapping[str, str]) -> None:
        decisions.check_mail(record, person)
        required = action != "revoke" and self._service.needs_reason(record)
        reason = decisions.reason_of(form, required=required)
        if action == "revoke":
            await self._service.revoke(record, person.approver, decisions.groups_of(record, person), reason)
        else:
            await self._service.vote(record, decisions.vote_of(record, person, Choice(action), form, reason))

    async def _found(self, request: web.Request) -> ApprovalRecord:
        record = await self._service.find(request.match_info["rid"])
        if record is None:
            raise Refusal(404, "Not a present request", _STALE)
        return record

    def _shown(
        self,
        request: web.Request,
        session: Session,
        record: ApprovalRecord,
        problem: str = "",
        form: Mapping[str, str] | None = None,
    ) -> web.Response:
        refused = ""
        if record.status is Status.PENDING:
            refused = decisions.refusal(record, session.person, self._service.workflows, Choice.APPROVE, self._clock())
        return self._site.page(
            request,
            "request.html",
            400 if problem else 200,
            entry=self._entry(record, session, ("approve", "deny", "revoke")),
            refused=refused,
            problem=problem,
            typed=form or {},
            need_reason=self._service.needs_reason(record),
            most_reason=decisions.REASON,
            notice=session.take_notice(),
        )

    def _entry(self, record: ApprovalRecord, session: Session, wanted: Sequence[str], most: int = PAGE) -> Entry:
        now = self._clock()
        offered = decisions.actions(record, session.person, self._service.workflows, now)
        return entry(record, now, {one: session.form(record.rid, one) for one in offered if one in wanted}, most)

    def _is_approver(self, person: Person) -> bool:
        lists = self._service.workflows.values()
        return any(name in one for one in lists for name in person.names)

    async def _others(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        handler = self._mounted[request.path]
        answer = await handler(Incoming("POST", request.path, request.query_string, headers, await request.read()))
        return web.Response(status=answer.status, body=answer.body, content_type=answer.content_type)


async def _static(request: web.Request) -> web.StreamResponse:
    found = STATIC.get(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    headers = {"Cache-Control": "max-age=86400"}
    return web.Response(body=found[1], content_type=found[0], charset="utf-8", headers=headers)


async def _healthy(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok\n")

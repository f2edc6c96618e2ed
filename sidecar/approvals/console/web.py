"""What all pages share on the side of HTTP: refusals, forms, cookies, the middleware that nothing goes around."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import web

from openmcp.sidecar.approvals.console.guard import HEADERS, Place
from openmcp.sidecar.approvals.console.pages import render
from openmcp.sidecar.approvals.console.sessions import Session, Sessions
from openmcp.sidecar.approvals.safetext import safe
from openmcp.sidecar.state.records import UnknownSchema
from openmcp.sidecar.state.store import BadCursor, StoreUnavailable

_log = logging.getLogger("openmcp.console")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_NOTE: Final = 500
BODY: Final = 256 * 1024
"""Bytes of a request."""


class Refusal(Exception):
    """A page that says why not, and what to do."""

    def __init__(self, status: int, title: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.title = title


_OF_HTTP: Final = {
    404: ("Not found", "There is no such page."),
    405: ("Not possible", "Nothing happens by following a link: open the request and use its buttons."),
    413: ("Too large", "What was sent is too large."),
}


class Site:
    """The console's place and logins, as its pages see them; `notes` are what everybody there should know."""

    def __init__(self, sessions: Sessions, notes: Callable[[], Sequence[str]]) -> None:
        self.sessions = sessions
        self.notes = notes
        self.mounted: frozenset[str] = frozenset()
        self._place: Place | None = None

    @property
    def place(self) -> Place:
        """Where the console is, once it has been started."""
        assert self._place is not None
        return self._place

    @place.setter
    def place(self, place: Place) -> None:
        self._place = place

    def session(self, request: web.Request, *, idle: bool = False) -> Session | None:
        """Who has sent this; `idle` where it was a script."""
        return self.sessions.find(request.cookies.get(self.place.session_cookie), idle=idle)

    def page(self, request: web.Request, template: str, status: int = 200, **values: object) -> web.Response:
        """A page with what is on all of them."""
        session = self.session(request)
        notes = [safe(note, _NOTE)[0] for note in self.notes()] if session else []
        text = render(template, session=session, notes=notes, path=request.path, **values)
        return web.Response(text=text, status=status, content_type="text/html")

    def set_cookie(self, response: web.StreamResponse, name: str, value: str, age: int | None = None) -> None:
        """A cookie that no script reads and no other site's form sends; an age of 0 removes it."""
        secure = self.place.secure
        response.set_cookie(name, value, path="/", max_age=age, httponly=True, secure=secure, samesite="Lax")

    @web.middleware
    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what must not come in, and let nothing out without its headers."""
        response: web.StreamResponse
        try:
            response = await self._answered(request, handler)
        except web.HTTPException as error:
            response = self._told(request, error)
        except Exception:
            _log.exception("a page of the console failed")
            response = self._error(request, Refusal(500, "Something is wrong", "The log of this process says what."))
        for name, value in (self.place.headers if self._place else HEADERS).items():
            if name not in response.headers:
                response.headers[name] = value
        return response

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            return await handler(request)
        except Refusal as refusal:
            return self._error(request, refusal)
        except StoreUnavailable as error:
            return self._fault(request, "The state store is away", f"{error}. Nothing was changed.")
        except UnknownSchema as error:
            return self._fault(request, "A record cannot be read", str(error))
        except BadCursor:
            return self._error(request, Refusal(400, "Not a page of this list", "Begin at its first page."))

    def _told(self, request: web.Request, error: web.HTTPException) -> web.StreamResponse:
        if error.status < 400:
            return error
        title, text = _OF_HTTP.get(error.status, ("Not possible", "This request cannot be answered."))
        response = self._error(request, Refusal(error.status, title, text))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response

    def _check(self, request: web.Request) -> None:
        if request.path == "/healthz":
            return
        if not self.place.is_ours(request.headers.get("Host", "")):
            raise Refusal(421, "Not this console", "This name is not one of the console's: see approvals.console.url.")
        if request.method not in ("GET", "HEAD", "POST") or request.path in self.mounted:
            return
        origin = request.headers.get("Origin")
        if request.method == "POST" and not self.place.is_own_form(origin, request.headers["Host"]):
            raise Refusal(
                403, "Not from here", "This form was not sent by a page of this console. Nothing was changed."
            )

    def _fault(self, request: web.Request, title: str, text: str) -> web.Response:
        """A page that says what is wrong here; where it is, to those alone who have logged in."""
        shown = text if self.session(request) is not None else "Try again later."
        return self._error(request, Refusal(503, title, shown))

    def _error(self, request: web.Request, refusal: Refusal) -> web.Response:
        return self.page(request, "refusal.html", refusal.status, title=refusal.title, text=str(refusal))


async def fields(request: web.Request) -> dict[str, str]:
    """The fields of a form, each given once."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise Refusal(415, "Not a form", "This is not how a form of this console is sent.")
    try:
        posted = await request.post()
    except (ValueError, LookupError):
        raise Refusal(400, "Not a form", "The form cannot be read.") from None
    found = {name: value for name, value in posted.items() if isinstance(value, str)}
    if len(found) != len(posted):
        raise Refusal(400, "Not a form", "A field was sent twice.")
    return found


def see_other(path: str) -> web.Response:
    """Go there; `path` is never what somebody has sent."""
    return web.Response(status=303, headers={"Location": path})

"""Who is logged in: kept in memory, so that a logout ends it, a form is used once, and there is no key to steal.

A restart logs everybody out, and several consoles at one URL need a load balancer that keeps a browser with one of
them. Grants and requests are in the store and know nothing of this. Times are Unix milliseconds.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from openmcp.sidecar.approvals.console.settings import Person, Settings, Token

_SESSIONS: Final = 2_000
_FORMS: Final = 300
"""Of one session, open at a time; more are the oldest's loss."""


class Session:
    """One login. `csrf` is in each of its forms, and each decision's form has a number that is good once."""

    def __init__(self, person: Person, now: int) -> None:
        self.person = person
        self.csrf = secrets.token_urlsafe(32)
        self.began = self.seen = now
        self.notice = ""
        self._forms: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def form(self, rid: str, action: str) -> str:
        """A number for a form that does this to that request."""
        number = secrets.token_urlsafe(16)
        self._forms[number] = (rid, action)
        while len(self._forms) > _FORMS:
            self._forms.popitem(last=False)
        return number

    def use(self, number: str, rid: str, action: str) -> bool:
        """Whether it was given for just this, and not used before."""
        return self._forms.pop(number, None) == (rid, action)

    def is_csrf(self, token: str) -> bool:
        """Whether a form is one of this session's."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.csrf.encode())

    def take_notice(self) -> str:
        """What to tell once, after a redirect."""
        notice, self.notice = self.notice, ""
        return notice


class Sessions:
    """All logins of this console. Cookies are kept as digests."""

    def __init__(self, settings: Settings, clock: Callable[[], int]) -> None:
        self.settings = settings
        self._clock = clock
        self._known: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def begin(self, person: Person) -> str:
        """Log somebody in; the cookie's new value."""
        cookie = secrets.token_urlsafe(32)
        self._known[_digest(cookie)] = Session(person, self._clock())
        while len(self._known) > _SESSIONS:
            self._known.popitem(last=False)
        return cookie

    def find(self, cookie: str | None, *, idle: bool = False) -> Session | None:
        """The login of this cookie, if it still holds: in time, and with a proof that is still accepted.

        `idle`: nobody has done anything, a page asks by itself.
        """
        key = _digest(cookie or "")
        session = self._known.get(key)
        if session is None:
            return None
        now, settings = self._clock(), self.settings
        if now >= session.seen + settings.idle or now >= session.began + settings.lifetime or not self._holds(session):
            del self._known[key]
            return None
        if not idle:
            session.seen = now
        self._known.move_to_end(key)
        return session

    def end(self, cookie: str | None) -> None:
        """Log out."""
        self._known.pop(_digest(cookie or ""), None)

    def _holds(self, session: Session) -> bool:
        person, oidc = session.person, self.settings.oidc
        if person.approver.startswith("token:"):
            return any(
                f"token:{one.name}" == person.approver and one.sha256 == person.proof for one in self.settings.tokens
            )
        if person.approver.startswith("email:"):
            return self.settings.mail
        return oidc is not None and oidc.issuer == person.proof


def by_token(tokens: Iterable[Token], said: str) -> Person | None:
    """Whose token this is. All are compared, in constant time, by their digests."""
    digest = hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()
    found = None
    for token in tokens:
        if hmac.compare_digest(token.sha256, digest):
            found = Person(f"token:{token.name}", proof=token.sha256)
    return found


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()

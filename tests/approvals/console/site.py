"""A console on this machine with requests on it, and people who use it as browsers do."""

from __future__ import annotations

import hashlib
import re
import ssl
from html.parser import HTMLParser
from typing import Any, Protocol

import aiohttp
from yarl import URL

from openmcp.sidecar.approvals.console.server import Console
from openmcp.sidecar.approvals.console.settings import Settings, Token
from tests.approvals.scene import LEADS, Scene

TOKENS = {"ann": "ann's secret", "bob": "bob's secret", "eve": "eve's secret"}
OTHERS = ("token:eve",)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Served(Protocol):
    """What listens on a port of this machine."""

    port: int


class Site:
    """A scene with its console; ann and bob are leads, eve decides on other things."""

    def __init__(self, **settings: Any) -> None:
        self.scene = Scene(open_requests=1000)
        self.scene.service.workflows = {"leads": LEADS.approvers, "others": OTHERS}
        tokens = tuple(Token(name, digest(secret)) for name, secret in TOKENS.items())
        self.settings = Settings(**{"tokens": tokens, **settings})
        self.notes: list[str] = []
        self.console = Console(self.scene.service, self.settings, lambda: self.scene.now, lambda: self.notes)
        self.port = 0

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = await self.console.start("127.0.0.1", 0, tls)

    async def pending(self, *specs: Any, **changes: Any) -> Any:
        """A new request's record."""
        return (await self.scene.ask(*specs, **changes)).record


class Form(HTMLParser):
    """The forms of a page: action to the values of their fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str]] = {}
        self._fields: dict[str, str] = {}
        self._select = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = dict(attrs)
        if tag == "form":
            assert at["method"] == "post"
            self._fields = self.found.setdefault(str(at["action"]), {})
        if tag in ("input", "textarea"):
            self._fields[str(at["name"])] = at.get("value") or ""
        if tag == "select":
            self._select = str(at["name"])
        if tag == "option" and "selected" in at:
            self._fields[self._select] = str(at["value"])


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: Any, text: str) -> None:
        self.status = status
        self.headers = headers
        self.text = text
        self.forms = Form(text).found if "<form" in text else {}

    @property
    def location(self) -> str:
        return str(self.headers["Location"])

    @property
    def words(self) -> str:
        """The text of the page without its marks, blanks as one."""
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", self.text.replace("<wbr>", "")))


class Browser:
    """Keeps cookies, follows nothing by itself, says the origin with each form."""

    def __init__(self, site: Served, tls: ssl.SSLContext | None = None) -> None:
        self.jar = aiohttp.CookieJar(unsafe=True)
        self.base = URL(f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{site.port}")
        self._session = aiohttp.ClientSession(cookie_jar=self.jar, connector=aiohttp.TCPConnector(ssl=tls or True))

    async def close(self) -> None:
        await self._session.close()

    async def send(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> Answer:
        """One request, as it is."""
        url = URL(path) if "://" in path else self.base.join(URL(path))
        async with self._session.request(method, url, headers=headers, allow_redirects=False, **options) as response:
            return Answer(response.status, response.headers, (await response.read()).decode())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.send("GET", path, **options)

    async def post(self, path: str, data: Any, headers: dict[str, str] | None = None) -> Answer:
        """A form, sent by a page of the console."""
        return await self.send("POST", path, {"Origin": str(self.base).rstrip("/"), **(headers or {})}, data=data)

    async def log_in(self, name: str, where: str = "/") -> Answer:
        """As the login page does."""
        page = await self.get(f"/login?next={where}")
        return await self.post("/login", page.forms["/login"] | {"token": TOKENS[name]})

    async def form(self, rid: str, action: str, **filled: str) -> tuple[str, dict[str, str]]:
        """What a button of the request's page would send."""
        page = await self.get(f"/requests/{rid}")
        path = f"/requests/{rid}/{action}"
        return path, page.forms[path] | filled

    async def decide(self, rid: str, action: str, **filled: str) -> Answer:
        """Fill in a form of the request's page, and send it."""
        return await self.post(*await self.form(rid, action, **filled))

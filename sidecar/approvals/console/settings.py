"""What the console is told: who may log in, and how. Plain values; secrets are asked for when they are needed."""

from collections.abc import Callable
from typing import Final

import msgspec

HOUR: Final = 3_600_000


class CannotServe(Exception):
    """A console that cannot be, as it is configured: the text says what to do."""


class LoginFailed(Exception):
    """Nobody is logged in; the text may be shown."""


class Token(msgspec.Struct, frozen=True):
    """The approver `token:<name>`; `sha256` is the lower-case hex digest of what they log in with."""

    name: str
    sha256: str


class Oidc(msgspec.Struct, frozen=True, kw_only=True):
    """Login by OpenID Connect. `user_claim` names `oidc:user:`, `groups_claim` `oidc:group:`. `client_secret` and `ca`
    (PEM) are called for each login: they are re-read on change. Without a secret we are a public client."""

    issuer: str
    client_id: str
    client_secret: Callable[[], str] | None = None
    user_claim: str = "sub"
    groups_claim: str = "groups"
    scopes: tuple[str, ...] = ("openid",)
    ca: Callable[[], bytes] | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that the console is told.

    `url` is how browsers reach it, an origin such as `https://approvals.acme.example`; empty: at the address that it
    listens on. `mail`: approvers log in by the link and the code of a mail, too. `idle` and `lifetime` (milliseconds)
    end a login.
    """

    url: str = ""
    tokens: tuple[Token, ...] = ()
    oidc: Oidc | None = None
    mail: bool = False
    idle: int = HOUR
    lifetime: int = 10 * HOUR


class Person(msgspec.Struct, frozen=True):
    """Who has logged in: `approver` is `token:NAME`, `oidc:user:NAME` or, by a mail, `email:ADDRESS`; `groups` what
    else they are listed as (`oidc:group:NAME`, `email:ADDRESS`), `proof` what vouched for them: a token's digest, the
    issuer, `mail`. `request` is the id of the only request that they decide on, empty: all that name them."""

    approver: str
    groups: tuple[str, ...] = ()
    proof: str = ""
    request: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All that a list of approvers may call them."""
        return (self.approver, *self.groups)


class Incoming(msgspec.Struct, frozen=True):
    """A request to a path that somebody has mounted. Names of headers are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Outgoing(msgspec.Struct, frozen=True):
    """Its answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain"

"""Who decides on requests for approval, and how they are reached: `approvals`."""

from typing import Literal

import msgspec

from openmcp.config.model.basics import Address, Secret


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """Who decides on requests for approval: `approvers` in the forms `oidc:group:NAME`, `oidc:user:NAME`, `slack:ID`,
    `email:ADDRESS`, `token:NAME`; how many of them are `required`; how long a request waits (seconds); the `channels`
    that are told of it; whether a decision needs a reason."""

    name: str
    approvers: tuple[str, ...]
    required: int = 1
    pending_for: float = 1800.0
    channels: tuple[str, ...] = ()
    require_reason: bool = False


class Console(msgspec.Struct, frozen=True, kw_only=True):
    """The page where approvers decide. `url` is how their browsers reach it (an origin, without a path); None: at the
    address of the listener, which is on this machine then."""

    listen: Address = Address(host="127.0.0.1", port=15021)
    url: str | None = None


class Oidc(msgspec.Struct, frozen=True, kw_only=True):
    """Login by OpenID Connect. `user_claim` is what `oidc:user:NAME` is held against, `groups_claim` what
    `oidc:group:NAME` is; without a `client_secret` we are a public client, which has PKCE alone. `ca` is the CA of the
    issuer where it is not one of the system's."""

    issuer: str
    client_id: str
    client_secret: Secret | None = None
    groups_claim: str = "groups"
    user_claim: str = "sub"
    scopes: tuple[str, ...] = ("openid",)
    ca: Secret | None = None


class ApproverToken(msgspec.Struct, frozen=True, kw_only=True):
    """The approver `token:<name>`; `sha256` is the lower-case hex digest of what they log in with."""

    name: str
    sha256: str


class SlackChannel(msgspec.Struct, frozen=True, kw_only=True, tag="slack", tag_field="type"):
    """Messages with buttons in a Slack channel (its id). In `mode` http Slack calls the console, with a
    `signing_secret`; in `mode` socket we connect to Slack, with an `app_token`, and nobody calls us. `token` is the
    bot's; `api_url` is where Slack's Web API is."""

    name: str
    channel: str
    token: Secret
    mode: Literal["http", "socket"] = "http"
    signing_secret: Secret | None = None
    app_token: Secret | None = None
    api_url: str = "https://slack.com/api"


class Smtp(msgspec.Struct, frozen=True, kw_only=True):
    """A mail server. On port 465 TLS begins at once (RFC 8314), on others by STARTTLS, unless `start_tls` is false.
    `ca` is its CA where it is not one of the system's."""

    host: str
    port: int = 587
    start_tls: bool = True
    user: str | None = None
    password: Secret | None = None
    ca: Secret | None = None

    @property
    def encrypted(self) -> bool:
        """Whether nobody on the way reads what is sent."""
        return self.start_tls or self.port == 465


class EmailChannel(msgspec.Struct, frozen=True, kw_only=True, tag="email", tag_field="type"):
    """Mails with a link to the console, to these addresses; `sender` is `from` in YAML."""

    name: str
    to: tuple[str, ...]
    sender: str
    smtp: Smtp


Channel = SlackChannel | EmailChannel


class Approvals(msgspec.Struct, frozen=True, kw_only=True):
    """The approver's side: workflows that rules name, who logs in how, and where approvers are told.

    An agent's call is held for `hold` seconds in the hope of a decision, for `hold_with_progress` where we can report
    progress meanwhile. One agent has at most `max_open` requests open, and channels are told of at most
    `notifications_per_hour` of them. For `cooldown` seconds after a denial the same question is not put again.
    """

    workflows: tuple[Workflow, ...] = ()
    console: Console | None = None
    oidc: Oidc | None = None
    tokens: tuple[ApproverToken, ...] = ()
    channels: tuple[Channel, ...] = ()
    hold: float = 3.0
    hold_with_progress: float = 45.0
    max_open: int = 20
    notifications_per_hour: int = 60
    cooldown: float = 300.0

"""From `approvals` of the configuration to the console, for the sidecar and for `openmcp approvals serve` alike."""

import logging
from collections.abc import Callable
from typing import TypeVar

from openmcp.config import secrets
from openmcp.config.model import Approvals, Secret
from openmcp.sidecar.approvals.console.settings import LoginFailed, Oidc, Settings, Token
from openmcp.sidecar.approvals.making import known_by_mail

_log = logging.getLogger("openmcp.console")
T = TypeVar("T", str, bytes)


def settings(approvals: Approvals) -> Settings:
    """What the console is told. Secrets are read when somebody logs in."""
    console, oidc = approvals.console, approvals.oidc
    return Settings(
        url=(console.url if console is not None else None) or "",
        tokens=tuple(Token(one.name, one.sha256) for one in approvals.tokens),
        oidc=None
        if oidc is None
        else Oidc(
            issuer=oidc.issuer,
            client_id=oidc.client_id,
            client_secret=None if oidc.client_secret is None else _reader(oidc.client_secret, bytes.decode),
            user_claim=oidc.user_claim,
            groups_claim=oidc.groups_claim,
            scopes=oidc.scopes,
            ca=None if oidc.ca is None else _reader(oidc.ca, bytes),
        ),
        mail=known_by_mail(approvals),
    )


def _reader(secret: Secret, read_as: Callable[[bytes], T]) -> Callable[[], T]:
    def read() -> T:
        try:
            return read_as(secrets.read(secret))
        except (secrets.SecretError, UnicodeDecodeError) as error:
            _log.error("approvals.oidc: %s", error)
            raise LoginFailed("What the console needs to talk to the identity provider cannot be read.") from None

    return read
